"""The chain of training stages: its settings, its runs, and running them in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from ovi_lab.common.command_line import check, composing, read
from ovi_lab.common.own_configuration import own_places
from ovi_lab.common.paths import config_dir
from ovi_lab.errors import UserError
from ovi_lab.sweeps.study import SweepJob

Runner = Callable[[Sequence[SweepJob]], Mapping[str, tuple[str, str]]]
"""Runs independent jobs; gives each one's status ("done", "skipped", "failed") and message by name."""


@dataclass(frozen=True)
class Settings:
    """The chain's settings; any other KEY=VALUE goes to every run (evaluation.KEY to those that are scored).

    Args:
        name: everything is written below runs/<name>.
        seed: seeds, one chain each.
        steps: lengths of stage 3 from pretrained towers.
        scratch_steps: lengths of fusion training without them, as the ablation does it.
        freeze: rules of what stage 3 freezes; a file of conf/freeze each.
        goal: onset F1; the report gives the first run that reaches it.
        workers: runs side by side; 0 takes one per core.
        places: where own configuration is, no setting of the command line; see `own_places`.
    """

    name: str = "stages"
    seed: tuple[int, ...] = (0,)
    steps: tuple[int, ...] = (125, 250)
    scratch_steps: tuple[int, ...] = (125, 250, 500)
    freeze: tuple[str, ...] = ("ffn",)
    goal: float = 0.65
    workers: int = 0
    places: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return Path("runs") / self.name

    def run(self, arm: str, seed: int) -> Path:
        return self.folder / arm / f"seed_{seed}"

    @property
    def main_arm(self) -> str:
        """The stage 3 that is exported and sampled: the first rule of freezing, the longest training."""
        return fused_arm(self.freeze[0], max(self.steps))


def fused_arm(freeze: str, steps: int) -> str:
    """The name of stage 3 from pretrained towers."""
    return f"stage3_{freeze}_{steps}"


def scratch_arm(steps: int) -> str:
    """The name of fusion training without pretrained towers."""
    return f"scratch_{steps}"


def parse(arguments: Sequence[str]) -> tuple[Settings, list[str]]:
    """The chain's settings, and the overrides for every run.

    Raises:
        UserError: a setting that cannot be read, or an override that no run would take.
    """
    defaults = Settings()
    known = {f.name for f in fields(Settings)} - {"places"}
    line = read(arguments)
    chosen: dict[str, Any] = {}
    rest: list[str] = []
    for override in line.overrides:
        key = override.key_or_group
        if key in ("experiment", "run_dir"):
            raise UserError(f"{key} differs from run to run of the chain: leave {override.input_line} out")
        if key not in known:
            if override.is_sweep_override():
                raise UserError(
                    f"{override.input_line} is several values, and every run takes the same: give one"
                )
            rest.append(str(override.input_line))
            continue
        before = getattr(defaults, key)
        kind = type(before[0]) if isinstance(before, tuple) else type(before)
        value = override.value()
        words = list(override.sweep_string_iterator()) if override.is_sweep_override() else value
        words = words if isinstance(words, list) else [words]
        try:
            values = tuple(dict.fromkeys(kind(word) for word in words))
        except (TypeError, ValueError) as error:
            raise UserError(f"{key} is {value!r}: expected {kind.__name__} values, e.g. {before}") from error
        if not values or (len(values) > 1 and not isinstance(before, tuple)):
            raise UserError(f"{key} is {value!r}: expected one value, e.g. {before}")
        if key in ("steps", "scratch_steps") and min(values) < 1:
            raise UserError(f"{key} is {value!r}: expected at least 1 step")
        chosen[key] = values if isinstance(before, tuple) else values[0]
    folder = line.flags.config_dir
    settings = Settings(**chosen, places=tuple(own_places(folder, line.overrides)))
    one = ["experiment=stage3_small", *rest, f"freeze={','.join(settings.freeze)}"]
    check(one if folder is None else [*one, "--config-dir", folder], config_dir(), "train")
    return settings, rest


def waves(settings: Settings, overrides: Sequence[str]) -> list[list[SweepJob]]:
    """The runs, in lists whose members may run side by side once the lists before are done."""
    first: list[SweepJob] = []
    second: list[SweepJob] = []
    third: list[SweepJob] = []

    def job(arm: str, seed: int, experiment: str, *own: str) -> SweepJob:
        run_dir = settings.run(arm, seed)
        common = [f"seed={seed}", f"name={settings.name}", f"arm_name={arm}", "resume=auto", *overrides]
        if arm in ("stage1", "stage2", "video"):
            # a tower by itself is not scored, and has no settings for it
            common = [override for override in common if not override.startswith("evaluation.")]
        config = compose("train", overrides=[f"experiment={experiment}", *common, *own, f"run_dir={run_dir}"])
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        return SweepJob(f"{arm}/seed_{seed}", plain, run_dir)

    with composing(config_dir(), settings.places):
        for seed in settings.seed:
            last = {arm: settings.run(arm, seed) / "last" for arm in ("stage1", "stage2", "video")}
            first += [job("stage1", seed, "stage1_small"), job("video", seed, "video_pretraining")]
            second.append(job("stage2", seed, "stage2_small", f"init_from.all={last['stage1']}"))
            towers = (f"init_from.video={last['video']}", f"init_from.audio={last['stage2']}")
            for steps in sorted(settings.scratch_steps, reverse=True):
                second.append(job(scratch_arm(steps), seed, "fusion", f"trainer.max_steps={steps}"))
            for rule in settings.freeze:
                for steps in sorted(settings.steps, reverse=True):
                    own = (f"trainer.max_steps={steps}", f"freeze={rule}", *towers)
                    third.append(job(fused_arm(rule, steps), seed, "stage3_small", *own))
    return [first, second, third]


def run_chain(settings: Settings, overrides: Sequence[str], runner: Runner) -> list[SweepJob]:
    """Run all unfinished runs; returns the runs that are scored.

    Raises:
        UserError: runs have failed; those that need them were not started.
    """
    ordered = waves(settings, overrides)
    for jobs in ordered:
        outcome = runner(jobs)
        failed = [f"{job.name}: {outcome[job.name][1]}" for job in jobs if outcome[job.name][0] == "failed"]
        if failed:
            raise UserError(
                f"{len(failed)} of {len(jobs)} runs failed; the same command runs them again. {'; '.join(failed)}"
            )
    return [job for jobs in ordered for job in jobs if job.config["evaluation"]["enabled"]]
