"""Small whole runs of the ball world on one process or several, in forks."""

from __future__ import annotations

import copy
import json
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import distributed

from helpers.forks import Fork, free_port, ranks, wait_for_all
from helpers.run_folders import column, same, weights
from ovi_lab.common.paths import config_dir

COMMON = (
    "name=several", "trainer.max_steps=4", "data.num_train=20", "data.num_eval=5", "data.batch_size=2",
    "data.prefetch=0", "global_batch_size=8", "trainer.log_every_n_steps=1", "trainer.gradient_clip_val=0.5",
    "model.video.num_layers=2", "model.audio.num_layers=2", "optim=adamw", "optim.factory.lr=3e-3",
    "++optim.factory.eps=1e-6", "schedule.warmup_steps=2", "freeze=ffn", "task.text_dropout=0.2",
    "samples.every_n_steps=0", "logger.tensorboard=false", "checkpoint.every_n_steps=2",
)  # fmt: skip
"""Clipping and accumulation are active: 8 clips a step, 2 at once on each of one or two processes. An epoch of 20 clips
ends within the third of the four steps."""
STEPS = 4


_GROUPS = ("strategy", "optim", "freeze", "roles", "loss")


@cache
def _composed(choices: tuple[str, ...]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=[*COMMON, *choices])


def configuration(overrides: Sequence[str]) -> DictConfig:
    """Composed once for each choice of groups; values are set in it afterwards, as Hydra sets them."""
    choices = [o for o in overrides if o.startswith(("~", "++")) or o.partition("=")[0] in _GROUPS]
    config = copy.deepcopy(_composed(tuple(choices)))
    for override in overrides:
        if override not in choices:
            key, _, value = override.partition("=")
            OmegaConf.update(config, key, yaml.safe_load(value))
    return config


def start(
    runs: Mapping[str, Sequence[str]],
    folder: Path,
    data_root: Path,
    world: int,
    watched: Callable[[], Any] | None = None,
    together: bool = False,
) -> None:
    """Do the runs one after the other, each in `folder/<name>` and `world` processes.

    The message that refuses a run is in `folder/<name>.<rank>.told`. An override that begins with `@1:` is for that
    process only; `@files:200000` lets no file grow past so many bytes, as if the disk were full; `@kill:7` ends the
    processes by SIGKILL in the seventh batch, `@signal:7` tells the last of them in it that the run is to stop,
    and `@lose:7` ends that one alone by SIGKILL. `@validate:PATH` validates that checkpoint and nothing else:
    `<name>/validated.json` has the losses.

    Args:
        watched: makes a callback that every run has besides its own.
        together: in the same processes, but for runs with such an override. What is compared to the last bit needs
            processes of its own (`@alone:yes`): how values are summed depends on where they lie in memory.

    Raises:
        AssertionError: with what a process printed that has not ended as it should.
    """
    shared: list[tuple[DictConfig, dict[str, str], int]] = []
    for name, overrides in runs.items():
        place = [f"run_dir={folder / name}", f"data.root={data_root}", f"trainer.devices={world}"]
        faults = dict(o[1:].split(":") for o in overrides if o[0] == "@")
        config = configuration([*place, *(o for o in overrides if o[0] != "@")])
        if together and not faults.keys() - {"validate"}:
            shared.append((config, faults, free_port()))
        else:
            _in_forks([(config, faults, free_port())], world, watched)
    if shared:
        _in_forks(shared, world, watched)


def _in_forks(cases: list[tuple[DictConfig, dict[str, str], int]], world: int, watched: Any) -> None:
    forks = ranks(_runs, cases, watched, world=world) if world > 1 else [Fork(_runs, cases, watched)]
    faults = cases[0][1]
    first = -signal.SIGKILL if "kill" in faults else 143 if "signal" in faults else 0
    expected = [first, *[0 if "signal" in faults else first] * (world - 1)]
    if "lose" in faults:
        expected[-1] = -signal.SIGKILL
    wait_for_all(forks, expected, 300 + 60 * len(cases))


def _runs(cases: list[tuple[DictConfig, dict[str, str], int]], watched: Any) -> None:
    from ovi_lab.runs import run

    make_trainer = run.make_trainer

    def watched_trainer(*parts: Any) -> Any:
        made = make_trainer(*parts)
        made[0].callbacks.insert(0, watched())
        return made

    if watched is not None:
        run.make_trainer = watched_trainer
    for number, (config, faults, port) in enumerate(cases):
        if number:
            _forget_groups()
        if "WORLD_SIZE" in os.environ:
            os.environ["MASTER_PORT"] = str(port)
        print(f"-- {config.run_dir}", flush=True)
        _run(config, faults)


def _forget_groups() -> None:
    """Let DeepSpeed begin anew with the next run's process group."""
    from deepspeed.comm import comm
    from deepspeed.utils import groups

    if distributed.is_initialized():  # the run was refused
        distributed.destroy_process_group()
    groups._release_process_group_references()
    comm.cdb = None


def _run(config: DictConfig, faults: Mapping[str, str]) -> None:
    from ovi_lab.common.progress import SilentReporter
    from ovi_lab.errors import UserError
    from ovi_lab.runs.run import execute

    rank, run_dir = os.environ.get("RANK", "0"), Path(config.run_dir)
    if rank in faults:
        key, _, value = faults[rank].partition("=")
        OmegaConf.update(config, key, yaml.safe_load(value))
    if "kill" in faults:
        _signal_in_batch(int(faults["kill"]), signal.SIGKILL, None)
    last = int(rank) == int(os.environ.get("WORLD_SIZE", "1")) - 1
    if "lose" in faults and last:
        _signal_in_batch(int(faults["lose"]), signal.SIGKILL, None)
    if "signal" in faults:
        _signal_in_batch(int(faults["signal"]) if last else 0, signal.SIGUSR1, run_dir)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(faults.get("files", limits[0])), limits[1]))
    try:
        if "validate" in faults:
            _validate(config, faults["validate"])
        else:
            execute(config, SilentReporter())
    except UserError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        run_dir.with_name(f"{run_dir.name}.{rank}.told").write_text(str(error))


def _validate(config: DictConfig, checkpoint: str) -> None:
    """The losses of a checkpoint in a trainer that has not trained."""
    from ovi_lab.common.building import build
    from ovi_lab.common.progress import SilentReporter
    from ovi_lab.runs import run

    folder, plain = Path(config.run_dir), run.run_config(config)
    folder.mkdir(exist_ok=True)
    data, task = build(config.data, "data"), build(config.task, "task")
    data.prepare_data()
    trainer, *_ = run.make_trainer(config, plain, folder, "", data, task, None, SilentReporter())
    trainer.validate(task, data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    if trainer.is_global_zero:
        losses = {name.removeprefix("val/"): float(v) for name, v in trainer.callback_metrics.items()}
        (folder / "validated.json").write_text(json.dumps(losses))
    distributed.barrier()


def _signal_in_batch(number: int, name: signal.Signals, run_dir: Path | None) -> None:
    """Send this process a signal in the middle of the loss of that training batch; note in a file how many it saw."""
    from ovi_lab.tasks.base import FlowMatchingTask

    losses, seen = FlowMatchingTask.losses, []

    def signalling(self, batch, sigmas, purpose, train):
        seen.append(train)
        if train and sum(seen) == number:
            os.kill(os.getpid(), name)
        if run_dir is not None:
            run_dir.with_name(f"{run_dir.name}.{os.environ.get('RANK', '0')}.batches").write_text(
                f"{sum(seen)}"
            )
        return losses(self, batch, sigmas, purpose, train)

    FlowMatchingTask.losses = signalling


def assert_trained_alike(
    found: Path, expected: Path, first: int, what: Sequence[str], steps: int = STEPS
) -> None:
    """Within 1e-5 the same numbers at each step from `first`, the same weights and averages at the end."""
    for name in what:
        wanted = {step: value for step, value in column(expected, name).items() if step >= first}
        got = column(found, name)
        assert got.keys() == wanted.keys() == set(range(first, steps))
        assert max(abs(got[step] - value) for step, value in wanted.items()) < 1e-5
    for ema in (False, True):
        wanted_weights, got_weights = weights(expected, ema), weights(found, ema)
        assert got_weights.keys() == wanted_weights.keys()
        assert all((got_weights[n] - w).abs().max() < 1e-5 for n, w in wanted_weights.items())


def assert_same_end(resumed: Path, whole: Path) -> None:
    """To the last bit the same weights, averages and logged numbers as the run that was never stopped."""
    for ema in (False, True):
        assert same(weights(whole, ema), weights(resumed, ema))
    for what in ("train/loss", "val/loss", "grad_norm/total"):
        before, after = column(whole, what), column(resumed, what)
        assert after == {step: value for step, value in before.items() if step in after}
        assert max(after) == max(before)
