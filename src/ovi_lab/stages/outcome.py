"""The results of the chain: exported weights, clips, a table, and onset F1 against steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from ovi_eval.common.files import write_whole, written_whole
from ovi_eval.common.plain_data import read_json
from ovi_eval.results.reading import read
from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.init_from import initialise_from
from ovi_lab.common.paths import config_dir
from ovi_lab.errors import UserError
from ovi_lab.export.export import export_run
from ovi_lab.models import TwinDiT
from ovi_lab.sampling.command import sample_clips
from ovi_lab.stages.chain import Settings, fused_arm, scratch_arm
from ovi_lab.sweeps.study import SweepJob

PROMPT = "a red ball bounces three times low drum"
METRIC = "ball/onset_f1"


def export_and_check(run: Path, file: Path) -> int:
    """Export a run in the released layout, begin a model from the file, and compare.

    Returns:
        the number of tensors that are equal bit for bit: all of them.

    Raises:
        UserError: a tensor of the file is not the run's.
    """
    export_run(run / "last", file, target="ovi", overwrite=True)
    checkpoint = Checkpoint.open(resolve_checkpoint(run))
    model = TwinDiT(**checkpoint.configuration().model())
    initialise_from(model, None, file)
    loaded = model.state_dict()
    for name, weight in checkpoint.weights("model", ema=checkpoint.has("ema/model.safetensors")).items():
        if not torch.equal(loaded[name], weight):
            raise UserError(f"{file}: {name} is not what {checkpoint.path} holds; export again")
    return len(loaded)


def sample_run(run: Path, out: Path) -> list[Path]:
    """Clips of one prompt and three seeds, as `ovi-sample` makes them from a run."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("sample")
    chosen = {"checkpoint": str(run / "last"), "prompt": PROMPT, "count": 3, "out": str(out)}
    outcome = sample_clips(OmegaConf.merge(config, chosen | {"overwrite": True}))  # type: ignore[arg-type]
    return sorted([*outcome.made, *outcome.kept])


def onset_f1(run: Path) -> float:
    """Onset F1 of a scored run. Raises UserError where no clip of it could be scored."""
    value = read(run).metrics[METRIC].value
    if value is None:
        raise UserError(f"{run / 'results.json'} has no {METRIC}: score more clips (evaluation.num_clips)")
    return value


@dataclass(frozen=True)
class Curve:
    """Onset F1 of one way to train, by number of steps and seed."""

    name: str
    scores: Mapping[int, Sequence[float]]

    def reaches(self, goal: float) -> int | None:
        """Steps of the shortest run whose mean over seeds reaches `goal`."""
        return min((steps for steps, values in self.scores.items() if mean(values) >= goal), default=None)


def curves(settings: Settings) -> list[Curve]:
    """The curves of training from pretrained towers, one for each rule of freezing, then from scratch."""

    def scores(arms: Mapping[int, str]) -> dict[int, list[float]]:
        return {
            steps: [onset_f1(settings.run(arm, seed)) for seed in settings.seed]
            for steps, arm in sorted(arms.items())
        }

    found = [
        Curve(f"pretrained towers, freeze={rule}", scores({s: fused_arm(rule, s) for s in settings.steps}))
        for rule in settings.freeze
    ]
    return [*found, Curve("from scratch", scores({s: scratch_arm(s) for s in settings.scratch_steps}))]


def verdict(found: Sequence[Curve], goal: float) -> str:
    """The steps that each way of training needs for the goal, in words, among the lengths that were run."""

    def need(curve: Curve) -> str:
        steps = curve.reaches(goal)
        return f"{steps} steps" if steps is not None else f"more than {max(curve.scores)} steps"

    *fused, scratch = found
    ways = "; ".join(f"{curve.name}: {need(curve)}" for curve in fused)
    return (
        f"An onset F1 of {goal:g} is first reached in the runs of: {ways}; {scratch.name}: {need(scratch)}."
    )


def draw(found: Sequence[Curve], goal: float, real: float, path: Path) -> None:
    """The figure of onset F1 against steps, a line a curve, a circle a seed; `real`: that of real clips."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ovi_eval.report.palette import colour

    figure = Figure(figsize=(7.0, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, curve in enumerate(found):
        steps = list(curve.scores)
        means = [mean(values) for values in curve.scores.values()]
        dashed = "--" if place == len(found) - 1 else "-"
        axis.plot(steps, means, dashed, color=colour(place), marker="o", ms=3, label=curve.name)
        for step, values in curve.scores.items() if max(map(len, curve.scores.values())) > 1 else ():
            axis.plot([step] * len(values), values, "o", ms=5, mfc="none", mec=colour(place), mew=0.8)
    for level, style, label, below in ((goal, ":", f"{goal:g}", 2), (real, "-", "real clips", -10)):
        axis.axhline(level, color="0.6", lw=0.8, ls=style)
        axis.annotate(
            label, (0, level), xytext=(2, below), textcoords="offset points", color="0.4", fontsize=8
        )
    axis.set(xlabel="steps of fusion training", ylabel="onset F1 within 75 ms", ylim=(0, 1.04))
    axis.set_xlim(left=0)
    axis.legend(loc="lower right", fontsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")


def _row(settings: Settings, arm: str, begins: str) -> str:
    done = [read_json(settings.run(arm, seed) / "done.json") for seed in settings.seed]

    def loss(modality: str) -> str:
        values = [d["losses"].get(f"loss_{modality}") for d in done]
        return "" if None in values else f"{mean(values):.3f}"

    f1 = ""
    if (settings.run(arm, settings.seed[0]) / "results.json").is_file():
        f1 = f"{mean(onset_f1(settings.run(arm, seed)) for seed in settings.seed):.3f}"
    steps, trained = done[0]["steps"], done[0]["trained_parameters"]
    return f"| {arm} | {begins} | {steps} | {trained:,} | {loss('video')} | {loss('audio')} | {f1} |"


def _table(settings: Settings) -> str:
    """The table of runs: initial weights, length, trained parameters, mean losses and scores."""
    fused = [fused_arm(rule, steps) for rule in settings.freeze for steps in settings.steps]
    rows = [("stage1", "nothing"), ("stage2", "stage1"), ("video", "nothing")]
    rows += [(arm, "stage2, video") for arm in fused]
    rows += [(scratch_arm(steps), "nothing") for steps in settings.scratch_steps]
    head = (
        "| run | starts from | steps | trained | video loss | audio loss | onset F1 |\n"
        "|---|---|--:|--:|--:|--:|--:|"
    )
    return "\n".join([head, *(_row(settings, arm, begins) for arm, begins in rows)])


def report(settings: Settings, scored: Sequence[SweepJob]) -> str:
    """Export and sample the main run, rank the scored ones, draw them against their steps; returns the page's text.

    Written to `runs/<name>`: `report/stages.md`, `report/steps.png` and the leaderboard, `export` and `clips`.
    """
    from ovi_eval.ranking.leaderboard import build_leaderboard
    from ovi_eval.report import write_all
    from ovi_lab.runs.evaluate import evaluate_references

    main_run = settings.run(settings.main_arm, settings.seed[0])
    file = settings.folder / "export" / "model.safetensors"
    equal = export_and_check(main_run, file)
    clips = sample_run(main_run, settings.folder / "clips")
    folder, references = settings.folder / "report", settings.folder / "references"
    evaluate_references(OmegaConf.create(dict(scored[0].config)), references)
    found = curves(settings)
    sentence = verdict(found, settings.goal)
    arms = list(dict.fromkeys(str(job.config["arm_name"]) for job in scored))
    title = "The three stages on the bouncing ball"
    board = build_leaderboard(
        [*(job.run_dir for job in scored), references],
        first=settings.main_arm,
        title=title,
        message=sentence,
        order=sorted(arms, key=lambda arm: arm != settings.main_arm),
    )
    write_all(board, folder, progress=True)
    draw(found, settings.goal, onset_f1(references / "real"), folder / "steps.png")
    text = "\n\n".join(
        [
            f"# {title}",
            f"Means over seeds {', '.join(map(str, settings.seed))}. Losses: averaged weights, validation clips.",
            _table(settings),
            sentence,
            "![onset F1 against steps](steps.png)",
            f"Exported from `{main_run}/last`: `{file}`; all {equal} tensors loaded back are the checkpoint's.",
            "Sampled from it: " + ", ".join(f"`{path}`" for path in clips) + ".",
            "All metrics, each with its interval and paired test: [leaderboard.html](leaderboard.html), "
            "[leaderboard.md](leaderboard.md).",
        ]
    )
    write_whole(folder / "stages.md", text + "\n")
    return text
