"""Quality against time: what a clip costs with each solver, beside what the solver study recorded; writes solvers.md.

    python benchmarks/solvers.py                  the tiny model on this machine's CPU, one thread; 2 minutes
    python benchmarks/solvers.py --rounds 1 --out DIR

Solvers and numbers of steps take turns in one process. Times do not depend on what a model has learned: its weights are
random. Scores are those of experiments/solver/results.json, at one shift.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.progress import track

from ovi_lab.flow import SamplerSettings, Texts, noise_batch, sample
from sampling import PROMPT, build  # beside this file

ROOT = Path(__file__).resolve().parent.parent
SOLVERS = {"unipc": "UniPC", "dpm++": "DPM++", "euler": "Euler"}
SHIFT, ROUNDS, CLIPS = 5.0, 9, 16
METRIC = "ball/onset_f1"

Case = tuple[str, int]
"""A solver and its steps."""


def recorded(path: Path) -> dict[Case, float]:
    """The study's scores at `SHIFT`, without those that it marks as being of some of the clips alone."""
    study = json.loads(path.read_text())
    arms = {arm["name"]: arm["metrics"].get(METRIC) for arm in study["arms"]}
    found: dict[Case, float] = {}
    for point in study["sweep"]["arms"]:
        steps, shift = point["at"]
        cell = arms[point["arm"]]
        if shift == SHIFT and cell is not None and not cell["partial"]:
            found[point["series"].removeprefix("solver="), int(steps)] = cell["value"]
    return found


def measured(cases: list[Case], rounds: int) -> dict[Case, list[float]]:
    """Seconds of the processor for a clip in each round; all cases once in each, each second round backwards."""
    model = build("tiny", "cpu", torch.float32)
    towers, seeds, g = model.tower_configs, list(range(CLIPS)), torch.Generator().manual_seed(0)
    noise = {
        "video": noise_batch(seeds, (towers["video"].in_dim, 16, 2, 2), "video"),
        "audio": noise_batch(seeds, (81, towers["audio"].in_dim), "audio"),
    }
    length = min(PROMPT, towers["video"].text_len)
    texts = Texts([torch.randn(length, towers["video"].text_dim, generator=g) for _ in seeds], None, None)
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    for turn in track(range(-1, rounds), "sampling"):
        for solver, steps in cases if turn % 2 else cases[::-1]:
            begun = time.process_time()
            sample(model, noise, texts, SamplerSettings(solver=solver, steps=steps, shift=SHIFT))
            if turn >= 0:  # the first round makes tables that are kept
                seconds[solver, steps].append((time.process_time() - begun) / CLIPS)
    return seconds


def page(scores: Mapping[Case, float], each: Mapping[Case, list[float]], rounds: int) -> str:
    """The page: a table of steps by solver."""
    seconds = {case: statistics.median(own) for case, own in each.items()}
    lines = [
        "# Solvers: quality against time",
        "",
        "`python benchmarks/solvers.py`: the model of the [solver study](../experiments/solver/README.md) (half a "
        f"million parameters) on a CPU ({platform.machine()}), one thread, {CLIPS} clips at once, no guidance, shift "
        f"{SHIFT:g}; milliseconds of the processor for a clip, medians of {rounds} rounds in which cases take turns. "
        "Onset F1 as the study recorded it; –: too few clips have a score.",
        "",
        "| steps | " + " | ".join(f"{name}, ms | onset F1" for name in SOLVERS.values()) + " |",
        "|--:|" + "--:|" * 2 * len(SOLVERS),
    ]
    for steps in sorted({steps for _, steps in seconds}):
        cells = []
        for solver in SOLVERS:
            score = scores.get((solver, steps))
            cells += [f"{1e3 * seconds[solver, steps]:.1f}", "–" if score is None else f"{score:.3f}"]
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    over = {
        solver: statistics.median(
            a / b
            for n in {n for _, n in each}
            for a, b in zip(each[solver, n], each["euler", n], strict=True)
        )
        for solver in SOLVERS
    }
    lines += [
        "",
        f"A step takes {over['unipc']:.2f} times Euler's with UniPC and {over['dpm++']:.2f} times with DPM++ "
        "(median of the ratios within a round): their own arithmetic, on latents of 2,508 numbers a clip, beside "
        "a pass of the tiny model. The larger the model, the nearer to 1.",
        "",
        "![Onset F1 against milliseconds a clip, one curve a solver](../experiments/solver/time.png)",
    ]
    return "\n".join(lines) + "\n"


def figure(scores: Mapping[Case, float], seconds: Mapping[Case, float], path: Path) -> None:
    """Scores over time, with the number of steps at each point of the first solver."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    fig, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for solver, name in SOLVERS.items():
        points = sorted((1e3 * seconds[case], scores[case], case[1]) for case in scores if case[0] == solver)
        (line,) = axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", label=name)
        if solver in ("unipc", "euler"):
            for x, y, steps in points:
                below = solver == "euler"
                axes.annotate(
                    str(steps), (x, y), xytext=(0, -13 if below else 6), textcoords="offset points", ha="center",
                    fontsize=8, color=line.get_color(),
                )  # fmt: skip
    ticks = [5, 10, 20, 50, 100]
    axes.set(
        xscale="log",
        xlabel="milliseconds of the processor for a clip",
        ylabel="onset F1 within 75 ms",
        xticks=ticks,
    )
    axes.set_xticklabels(map(str, ticks))
    axes.minorticks_off()
    axes.set_title("Quality against time; numbers: steps", fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(y=0.1)
    axes.legend(loc="lower right")
    fig.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="folder for page and figure instead of the repository's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scores = recorded(ROOT / "experiments" / "solver" / "results.json")
    steps = sorted({steps for _, steps in scores})
    each = measured([(solver, n) for n in steps for solver in SOLVERS], arguments.rounds)
    text = page(scores, each, arguments.rounds)
    print(text)
    (arguments.out or ROOT / "benchmarks").joinpath("solvers.md").write_text(text)
    seconds = {case: statistics.median(own) for case, own in each.items()}
    figure(scores, seconds, (arguments.out or ROOT / "experiments" / "solver") / "time.png")


if __name__ == "__main__":
    main()
