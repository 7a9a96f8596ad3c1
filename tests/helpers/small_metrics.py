"""Small real metrics without weights, for the tests of what all metrics share, and clips in files for them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ovi_eval.clips.items import Item
from ovi_eval.clips.writing import write_mp4
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ItemSet, ValueSpec
from ovi_eval.scoring.runner import ScoringOptions
from ovi_eval.stats.frechet import frechet_distance

SIZES = ((32, 48), (48, 32), (40, 40))


class Levels(Extractor):
    """The mean of each colour in each fourth frame, and how loud the sound is."""

    name = "levels"
    preprocessing = "every fourth frame, 16 kHz by FFmpeg"
    runs: ClassVar[list[str]] = []

    def load(self, item: Item) -> tuple[str, Tensor, Tensor]:
        return item.id, item.video().frames_THWC[::4].float(), item.audio(16000).wave_S

    def run(self, loaded: tuple[str, Tensor, Tensor]) -> Features:
        id, frames_THWC, wave_S = loaded
        self.runs.append(id)
        if float(frames_THWC.max()) < 20:
            raise UserError("it is dark")
        return {"colours": frames_THWC.mean(dim=(1, 2)), "loudness": wave_S.square().mean().sqrt()}


class Loudness(ItemMean):
    """How loud the clips are, and how many times louder than half."""

    name = "loudness"
    values = (ValueSpec("loudness", "higher"), ValueSpec("loudness_above_half", "higher"))
    extractor = Levels

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        loud = float(features["loudness"])
        return [loud, loud / 0.5 if loud > 0.5 else float("nan")]


class LouderThan(ItemMean):
    """How much louder each clip is than the real one."""

    name = "louder_than"
    values = (ValueSpec("louder_than", "higher"),)
    extractor = Levels
    compares = "pairs"

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        assert reference is not None
        return [float(features["loudness"] - reference["loudness"])]


class Colours(ItemSet):
    """The Fréchet distance of colours."""

    name = "colours"
    values = (ValueSpec("colours", "lower"),)
    extractor = Levels
    feature = "colours"

    def value(self, scored_RD: Tensor, reference_RD: Tensor | None) -> dict[str, float]:
        assert reference_RD is not None
        return {"colours": frechet_distance(scored_RD, reference_RD)}


METRICS = [Loudness, LouderThan, Colours]
QUICK = ScoringOptions(resamples=False)


def write_clips(folder: Path, count: int, seed: int = 0) -> Path:
    """Clips of several sizes and lengths, in noise of a level of their own."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        level = int(torch.randint(60, 250, (1,), generator=generator))
        shape = (6 + number % 5, height, width, 3)
        frames_THWC = torch.randint(0, level, shape, dtype=torch.uint8, generator=generator)
        wave_S = torch.rand(4000 + 300 * number, generator=generator) * (0.1 + 0.08 * number)
        write_mp4(folder / f"c{number:02}.mp4", frames_THWC, 12.0, wave_S, 16000, enlarge_to=32)
    return folder
