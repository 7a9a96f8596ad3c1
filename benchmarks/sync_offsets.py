"""What the sync filter of `ovi-data build` keeps, by how late the sound is; writes sync_offsets.md and a figure.

    python benchmarks/sync_offsets.py               about a minute of one CPU thread
    python benchmarks/sync_offsets.py --clips 8     fewer clips, without touching page and figure unless --out is given

Clips of the ball world, whose sound is in time by construction, with their sound moved by -15 to 15 frames at 25 fps
and silence in place of what is missing. The step `sync` scores each through that world's SyncNet (`judge: ball_world`),
and the bounds decide as in a build. Clips are drawn by the seed alone; nothing else is random.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from ovi_lab.data.build.clip import Candidate
from ovi_lab.data.build.decide import decide
from ovi_lab.data.build.items import moved
from ovi_lab.data.build.steps.faces import LipSyncStep
from ovi_lab.data.displaced import sync_bounds
from ovi_lab.data.worlds.bouncing_ball import BouncingBall

OFFSETS = range(-15, 16)
BOUNDS = (1, 2, 3, 5)
CLIPS, SEED = 64, 2016
ROOT = Path(__file__).resolve().parents[1]


def measured(clips: int, seed: int) -> list[tuple[int, dict[str, Any]]]:
    """The planted offset and the scores of every clip at every offset."""
    step = LipSyncStep(judge="ball_world")
    step.setup()
    world = BouncingBall().render(range(clips), seed)
    found = []
    for offset in track(OFFSETS, "offsets"):
        for n in range(clips):
            clip = Candidate(
                str(n), "ball", 0.0, world.frames_NTHWC[n], world.fps, world.waves_NS[n], world.sample_rate
            )
            clip.wave_S = moved(world.waves_NS[n], {"sync_offset": -offset}, clip)
            found += [(offset, step.process([clip])[0])]
    return found


def kept(rows: list[tuple[int, dict[str, Any]]], bound: int) -> dict[int, float]:
    """The share of clips that a bound of so many frames keeps, by planted offset."""
    keep = sync_bounds(bound)
    decisions: dict[int, list[bool]] = {offset: [] for offset in OFFSETS}
    for offset, scores in rows:
        decisions[offset].append(decide(scores, keep).kept)
    return {offset: sum(each) / len(each) for offset, each in decisions.items()}


def precision_and_recall(shares: dict[int, float], bound: int) -> tuple[float, float]:
    """Of what is kept the share that is in time, and of what is in time (planted within the bound) the share kept."""
    inside = sum(share for offset, share in shares.items() if abs(offset) <= bound)
    total = sum(shares.values())
    within = sum(abs(offset) <= bound for offset in shares)
    return inside / total if total else float("nan"), inside / within


def page(rows: list[tuple[int, dict[str, Any]]], clips: int, seed: int) -> str:
    """The page."""
    errors = torch.tensor(
        [abs(s["sync_offset"] - offset) for offset, s in rows if s["sync_offset"] is not None]
    )
    lines = [
        "# The sync filter against planted offsets",
        "",
        f"`python benchmarks/sync_offsets.py`: {clips} clips of the ball world (seed {seed}), the sound of each moved "
        f"by -15 to 15 frames at 25 fps, {len(rows)} clips in all, as many at each offset. Judged by the world's "
        "SyncNet in the place of the real one (`sync: {judge: ball_world}`), so that the truth is known; it says what "
        "the filter does with a judge that is right, and nothing about real lips.",
        "",
        f"The offset found is within one frame of the planted one for {float((errors <= 1).float().mean()):.1%} of "
        f"the clips; half are off by {float(errors.median()):.2f} frames or less. In time: planted within the bound.",
        "",
        "| bound, frames | kept | precision | recall |",
        "|---|---|---|---|",
    ]
    for bound in BOUNDS:
        shares = kept(rows, bound)
        precision, recall = precision_and_recall(shares, bound)
        lines.append(
            f"| {bound} | {sum(shares.values()) / len(shares):.3f} | {precision:.3f} | {recall:.3f} |"
        )
    return "\n".join(lines) + "\n"


def figure(rows: list[tuple[int, dict[str, Any]]], path: Path) -> None:
    """The share kept by planted offset, and precision and recall by bound."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    fig, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for bound in BOUNDS:
        left.plot(list(OFFSETS), list(kept(rows, bound).values()), marker=".", label=f"within {bound}")
    left.set(xlabel="planted offset, frames at 25 fps", ylabel="share kept", ylim=(-0.03, 1.03))
    left.legend(fontsize=8)
    bounds = range(1, 13)
    pairs = [precision_and_recall(kept(rows, bound), bound) for bound in bounds]
    for values, name in zip(zip(*pairs, strict=True), ("precision", "recall"), strict=True):
        right.plot(list(bounds), values, marker=".", label=name)
    right.set(xlabel="bound, frames at 25 fps", ylim=(-0.03, 1.03))
    right.axvline(3, color="grey", linewidth=0.8, linestyle="--")
    right.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, help="folder for page and figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(arguments.clips, arguments.seed)
    text = page(rows, arguments.clips, arguments.seed)
    print(text)
    whole = (arguments.clips, arguments.seed) == (CLIPS, SEED)
    if arguments.out is not None or whole:
        text_folder = arguments.out or ROOT / "benchmarks"
        (text_folder / "sync_offsets.md").write_text(text)
        figure(rows, (arguments.out or ROOT / "docs" / "images") / "sync_offsets.png")


if __name__ == "__main__":
    main()
