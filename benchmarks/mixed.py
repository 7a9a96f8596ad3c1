"""Batches of clips that lack a modality: alone, with a placeholder in the other tower, or padded with masks.

    python benchmarks/mixed.py

Three ways to train both towers on clips that have sound or picture alone: the other tower does not run (then its
parameters have no gradient, which ZeRO does not allow); it runs on a placeholder of one token a clip, as `tasks.absent`
has it; or it runs on latents of full size that are masked out, as a batch of several kinds would need. Forward and
backward pass, in turn, so that what else the machine does falls on all alike. Writes mixed.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from rich.progress import track
from training_loops import BALL, SIZES, compose_train

from ovi_lab.flow import flow_matching_loss
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.flops import count_flops
from ovi_lab.planning.job import RELEASED_CLIP
from ovi_lab.tasks.absent import absence, nothing_of

HERE = Path(__file__).resolve().parent
WAYS = ("alone", "placeholder", "padded")
OTHER: dict[Modality, Modality] = {"video": "audio", "audio": "video"}
KINDS: dict[Modality, str] = {"audio": "sound", "video": "silent video"}


class Pass:
    """The forward and backward pass of a batch of clips with one modality."""

    def __init__(self, model: TwinDiT, has: Modality, clips: int) -> None:
        self.model, self.has, self.clips = model, has, clips
        generator = torch.Generator().manual_seed(0)
        self.latents: dict[str, torch.Tensor] = {}
        for modality, config in model.tower_configs.items():
            shape: tuple[int, ...] = (BALL.audio or 0, config.in_dim)
            if modality == "video":
                shape = (config.in_dim, *(BALL.video or ()))
            self.latents[modality] = torch.randn(clips, *shape, generator=generator)
        width = model.tower_configs[has].text_dim
        self.text = [torch.randn(8, width, generator=generator) for _ in range(clips)]

    def arguments(self, modality: Modality) -> dict[str, Any]:
        return {
            modality: self.latents[modality],
            f"t_{modality}": torch.full((self.clips,), 500.0),
            f"text_{modality}": self.text,
        }

    def run(self, way: str) -> torch.Tensor:
        """The gradients; the loss of what the clips have."""
        self.model.zero_grad(set_to_none=True)
        own, other = self.arguments(self.has), OTHER[self.has]
        given = Given()
        if way == "placeholder":
            more, given = absence(self.model, [other], given, self.clips, torch.device("cpu"))
            own |= more
        elif way == "padded":
            own |= self.arguments(other)
            lacks = np.ones(self.clips, dtype=bool)
            given = Given(no_video=lacks) if other == "video" else Given(no_audio=lacks)
        output = self.model(**own, given=given)
        loss = flow_matching_loss(getattr(output, self.has), torch.zeros_like(self.latents[self.has])).mean
        total = loss if way == "alone" else loss + nothing_of(getattr(output, other))
        total.backward()
        return loss.detach()


def measured(run: Callable[[str], torch.Tensor], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way in turn; the first round, in which all is new, is left out."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        losses = []
        for way in WAYS:
            began = time.process_time()
            losses.append(float(run(way)))
            if number:
                seconds[way].append(time.process_time() - began)
        if max(losses) - min(losses) > 1e-5:
            raise SystemExit(f"the losses differ ({losses}): it is not the same work")
    return seconds


def rows_of(size: str, rounds: int) -> list[str]:
    """A row for each kind of clips."""
    clips, overrides = SIZES[size]
    config = compose_train(overrides)
    model = instantiate(config.model)()
    tower, rows = model.tower_configs["video"], []
    for has, kind in KINDS.items():
        seconds = measured(Pass(model, has, clips).run, rounds)
        cells = []
        for way in WAYS[1:]:
            ratios = [a / b for a, b in zip(seconds[way], seconds["alone"], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        rows.append(
            f"| {size}: dim {tower.dim}, {tower.num_layers} blocks, {clips} clips | {kind} "
            f"| {1e3 * statistics.median(seconds['alone']):.1f} | {' | '.join(cells)} |"
        )
    return rows


def counted() -> list[str]:
    """Rows of what a clip of the released model takes."""
    config = compose_train(["model=ovi_11b"])
    with torch.device("meta"):
        model = instantiate(config.model)()
    placeholder: dict[str, Any] = {"video": (1, 2, 2), "audio": 1}
    rows = []
    for has, kind in KINDS.items():
        alone = ClipShape(**{has: getattr(RELEASED_CLIP, has)})
        beside = replace(alone, **{OTHER[has]: placeholder[OTHER[has]]})
        own, small, padded = (count_flops(model, clip).model for clip in (alone, beside, RELEASED_CLIP))
        rows.append(f"| {kind} | {small / own:.2f} | {padded / own:.2f} |")
    return rows


def page(sizes: Sequence[str], rounds: int) -> str:
    """The page of this machine."""
    cases = [row for size in track(sizes, "measuring", transient=True) for row in rows_of(size, rounds)]
    return f"""# Clips that lack a modality

`python benchmarks/mixed.py`: {os.cpu_count()} cores ({platform.machine()}), no GPU, one thread, float32, PyTorch \
{torch.__version__.split("+")[0]}.

Forward and backward pass of a batch of ball-world clips (64 tokens of picture, 81 of sound) that have one modality: \
the processor's own seconds, in turn, medians of {rounds} rounds and in brackets the least and the largest. Alone: \
the other tower does not run, and its parameters have no gradient. Placeholder: it runs on one token a clip, whose \
gradient is 0, as training does it. Padded: it runs on latents of full size, masked out.

| model and batch | clips | alone, ms | placeholder / alone | padded / alone |
|---|---|--:|--:|--:|
{chr(10).join(cases)}

By count of operations (`planning.flops`), at the released model's size and clip ({RELEASED_CLIP}), against the tower \
alone:

| clips | placeholder / alone | padded / alone |
|---|--:|--:|
{chr(10).join(counted())}

So batches are of one kind, with a placeholder for what they lack. Of short clips it costs the reading of the other \
tower's weights and the writing of its gradients, of long ones little but the text that the other tower embeds.
"""


def main() -> None:
    """Measures, and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE / "mixed.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = page(args.sizes, args.rounds)
    print(text)
    args.out.write_text(text)


if __name__ == "__main__":
    main()
