"""The most memory that a clip takes under each set of options, and the least drastic set that fits.

The numbers are those of `sampling_parts`: the sampling code run on shapes. Peak memory on the device is all weights and
the part whose work takes most; with offload, the part that takes most with its own weights alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from ovi_lab.checkpoints.presets import ReleasedModel
from ovi_lab.common.sizes import DRIVER, MARGIN
from ovi_lab.flow import SamplerSettings
from ovi_lab.planning import sampling_parts as parts
from ovi_lab.planning.asked import AskedOf
from ovi_lab.planning.sampling_parts import Footprint
from ovi_lab.sampling.bundle import DTYPES
from ovi_lab.sampling.offload import OFFLOADS, Placement
from ovi_lab.sampling.pipeline import Options
from ovi_lab.sampling.sizes import Size

STAGES = {
    "text": "text encoder",
    "towers": "twin towers",
    "picture": "picture decoder",
    "sound": "sound decoder",
}
_OFFLOAD_WORDS = {"none": "false", "parts": "true", "blocks": "blocks"}
# How much each saving costs, in time or in exactness: the least drastic set has the smallest sum.
_COSTS = {
    "vae_tiling": 1,
    "batch_passes": 1,
    "cache_text": 2,
    "cache_given": 2,
    "parts": 3,
    "blocks": 6,
    "weights_8bit": 10,
    "dtype": 8,
}


@dataclass(frozen=True)
class MemoryOptions(Options):
    """All that decides how much memory a clip takes: the options, and three of the sampler's settings."""

    batch_passes: bool = True
    cache_text: bool = True
    cache_given: bool = True

    @classmethod
    def of(cls, options: Options, settings: SamplerSettings) -> MemoryOptions:
        """Of a pipeline's options and its sampler's settings."""
        chosen = {name: getattr(settings, name) for name in ("batch_passes", "cache_text", "cache_given")}
        return cls(**asdict(options), **chosen)


@dataclass(frozen=True)
class Peak:
    """Predicted peak of one set of options, in bytes."""

    options: MemoryOptions
    total: int
    stage: str
    """The part that works when it is reached."""

    def fits(self, memory: int) -> bool:
        """Whether it fits a GPU of so many bytes."""
        return self.total * MARGIN + DRIVER <= memory


class SamplingPlanner:
    """Predicts peaks for one kind of clip; each footprint is computed once.

    Args:
        preset: the model's.
        size: height and width of the picture.
        settings: guidance, solver and skipped layers decide how passes are made.
        asked: what is given, and the windows; None: nothing, and one window.
    """

    def __init__(
        self, preset: ReleasedModel, size: Size, settings: SamplerSettings, asked: AskedOf | None = None
    ) -> None:
        self.preset, self.size, self.settings, self.asked = preset, size, settings, asked or AskedOf()
        self._guided = (settings.video_guidance, settings.audio_guidance) != (1.0, 1.0)
        self._part = cache(lambda part, *sizes, **options: part(preset, *sizes, **options))

    def batches(self, options: MemoryOptions) -> bool:
        """Whether both passes of guidance run as one batch: only where they need the same blocks."""
        return options.batch_passes and self._guided and not self.settings.skip_layers

    @property
    def keeps_given(self) -> bool:
        """Whether `cache_given` has anything to keep: a modality is given whole."""
        lengths = (self.preset.video_latent_frames, self.preset.audio_latents)
        return any(n == all_of for lead in self.asked.leads for n, all_of in zip(lead, lengths, strict=True))

    def footprints(self, options: MemoryOptions) -> dict[str, Footprint]:
        """The footprint of each of `STAGES`."""
        dtype, part = DTYPES[options.dtype], self._part
        settings = replace(
            self.settings,
            skip_layers=(),
            batch_passes=self.batches(options),
            cache_text=options.cache_text,
            cache_given=options.cache_given,
        )
        weights, streamed, widest = part(parts.towers_weights, dtype, options.weights_8bit)
        work = part(parts.towers_work, self.size, dtype, settings, asked=self.asked) + widest
        kept = part(parts.text_kept, dtype, self._guided) if options.cache_text else 0
        unchanging = (
            part(parts.given_kept, self.size, dtype, settings, asked=self.asked) if options.cache_given else 0
        )
        return {
            "text": part(parts.text_footprint),
            "towers": Footprint(weights, work, streamed, kept, unchanging),
            "picture": part(
                parts.picture_footprint,
                self.size,
                dtype,
                tiling=options.vae_tiling,
                asked=self.asked,
            ),
            "sound": part(parts.sound_footprint, asked=self.asked),
        }

    def peak(self, options: MemoryOptions) -> Peak:
        footprints, offload = self.footprints(options), offload_of(options)
        weights = sum(part.weights for part in footprints.values())
        totals = {name: part.work + weights for name, part in footprints.items()}
        if offload != "none":
            for name, part in footprints.items():
                streamed = offload == "blocks" and part.streamed
                totals[name] = part.work + (streamed or part.weights)
        stage = max(totals, key=lambda name: totals[name])
        return Peak(options, totals[stage], stage)

    def host_peak(self, options: MemoryOptions) -> Peak:
        """The same where the device is the CPU: weights in their file's type are read from the mapped file, and
        need no memory of their own; the towers' file is in bf16. Frames are there too (see `frames_held`)."""
        footprints = self.footprints(options)
        converted = footprints["towers"].weights if options.dtype != "bf16" or options.weights_8bit else 0
        given, made = self.frames
        works = {name: part.work + (given if name != "text" else 0) for name, part in footprints.items()}
        works["sound"] += self.pixels
        # of the finished clip nothing is there but its frames
        works["picture"] = max(works["picture"], given + made)
        stage = max(works, key=lambda name: works[name])
        return Peak(options, converted + works[stage], stage)

    @property
    def frames(self) -> tuple[int, int]:
        """Bytes of frames in host memory, of given files and of the finished clip; see `frames_held`."""
        held: tuple[int, int] = self._part(parts.frames_held, self.size, self.asked)
        return held

    @property
    def pixels(self) -> int:
        """Bytes of the finished clip's frames."""
        return self.frames[1] // (2 if self.asked.frames_replaced else 1)


def offload_of(options: MemoryOptions) -> str:
    """The word of `OFFLOADS` that the options mean; UserError where they mean none."""
    return Placement(options.device, options.offload).offload


def savings(
    options: MemoryOptions, planner: SamplingPlanner, dtypes: Sequence[str] = ()
) -> list[MemoryOptions]:
    """The options and every set that saves more, the least drastic first; the types of `dtypes` are tried too."""
    offload, batches = offload_of(options), planner.batches(options)
    # of each option the value that it has, then those that save
    choices: dict[str, tuple[Any, ...]] = {
        "offload": tuple(OFFLOADS[OFFLOADS.index(offload) :]),
        "weights_8bit": (options.weights_8bit, True),
        "vae_tiling": (options.vae_tiling, True),
        "batch_passes": (batches, False),
        "cache_text": (options.cache_text, False),
        "cache_given": (options.cache_given, options.cache_given and not planner.keeps_given),
        "dtype": (options.dtype, *dtypes),
    }
    found = []
    for values in itertools.product(*map(dict.fromkeys, choices.values())):
        chosen = zip(choices, values, strict=True)
        changed = {name: value for name, value in chosen if value != choices[name][0]}
        cost = sum(_COSTS[value if name == "offload" else name] for name, value in changed.items())
        found.append((cost, replace(options, **{"offload": offload, **changed})))
    return [choice for _, choice in sorted(found, key=lambda pair: pair[0])]


def what_fits(planner: SamplingPlanner, options: MemoryOptions, memory: int) -> Peak | None:
    """The least drastic set of options whose peak fits, or None."""
    peaks = (planner.peak(choice) for choice in savings(options, planner))
    return next((peak for peak in peaks if peak.fits(memory)), None)


def in_words(options: MemoryOptions, planner: SamplingPlanner, dtype: bool = False) -> str:
    """The options that save memory, as they are typed."""
    words = [f"dtype={options.dtype}"] if dtype else []
    if offload_of(options) != "none":
        words.append(f"offload={_OFFLOAD_WORDS[offload_of(options)]}")
    words += ["weights_8bit=true"] * options.weights_8bit
    words += ["vae_tiling=true"] * options.vae_tiling
    unbatched = not options.batch_passes and not planner.settings.skip_layers
    words += ["batch_passes=false"] * unbatched
    words += ["cache_text=false"] * (not options.cache_text)
    words += ["cache_given=false"] * (not options.cache_given)
    return " ".join(words) or "as it is"
