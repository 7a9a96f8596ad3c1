"""The most memory that a clip takes under each set of options, and the least drastic set that fits.

The numbers are those of `sampling_parts`: the sampling code run on shapes. Peak memory on the device is all weights and
the part whose work takes most; with offload, the part that takes most with its own weights alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

from ovi_lab.checkpoints.presets import ReleasedModel
from ovi_lab.common.sizes import DRIVER, MARGIN
from ovi_lab.flow import SamplerSettings
from ovi_lab.planning import sampling_parts
from ovi_lab.planning.sampling_parts import Footprint
from ovi_lab.sampling.offload import OFFLOADS
from ovi_lab.sampling.parts import DTYPES
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
    "parts": 3,
    "blocks": 6,
    "weights_8bit": 10,
    "dtype": 8,
}


@dataclass(frozen=True)
class MemoryOptions(Options):
    """All that decides how much memory a clip takes: the options, and two of the sampler's settings."""

    batch_passes: bool = True
    cache_text: bool = True

    @classmethod
    def of(cls, options: Options, settings: SamplerSettings) -> MemoryOptions:
        """Of a pipeline's options and its sampler's settings."""
        return cls(**asdict(options), batch_passes=settings.batch_passes, cache_text=settings.cache_text)


@dataclass(frozen=True)
class Peak:
    """Predicted peak of one set of options, in bytes."""

    options: MemoryOptions
    total: int
    stage: str
    """The part that works when it is reached."""

    def fits(self, memory: int) -> bool:
        """Whether a GPU of so many bytes has room for it."""
        return self.total * MARGIN + DRIVER <= memory


class SamplingPlanner:
    """Predicts peaks for one kind of clip; each footprint is computed once.

    Args:
        preset: the model's.
        size: height and width of the picture.
        settings: guidance, solver and skipped layers decide how passes are made.
        first_frame: whether the clip begins with an image.
    """

    def __init__(
        self, preset: ReleasedModel, size: Size, settings: SamplerSettings, first_frame: bool = False
    ) -> None:
        self.preset, self.size, self.settings, self.first_frame = preset, size, settings, first_frame
        self._text = cache(lambda: sampling_parts.text_footprint(preset))
        self._sound = cache(lambda: sampling_parts.sound_footprint(preset))
        self._picture = cache(
            lambda dtype, tiling: sampling_parts.picture_footprint(
                preset, size, DTYPES[dtype], tiling=tiling, first_frame=first_frame
            )
        )
        self._weights = cache(
            lambda dtype, narrow: sampling_parts.towers_weights(preset, DTYPES[dtype], narrow)
        )
        self._guidance = (settings.video_guidance, settings.audio_guidance)
        self._kept = cache(lambda dtype: sampling_parts.text_kept(preset, DTYPES[dtype], self._guidance))
        self._work = cache(
            lambda dtype, batch, keep: sampling_parts.towers_work(
                preset,
                size,
                DTYPES[dtype],
                guidance=self._guidance,
                batch_passes=batch,
                cache_text=keep,
                first_frame=first_frame,
                solver=settings.solver,
            )
        )

    def batches(self, options: MemoryOptions) -> bool:
        """Whether both passes of guidance run as one batch: only where they need the same blocks."""
        guided = self._guidance != (1.0, 1.0)
        return options.batch_passes and guided and not self.settings.skip_layers

    def footprints(self, options: MemoryOptions) -> dict[str, Footprint]:
        """The footprint of each of `STAGES`."""
        weights, streamed, widest = self._weights(options.dtype, options.weights_8bit)
        work = self._work(options.dtype, self.batches(options), options.cache_text) + widest
        kept = self._kept(options.dtype) if options.cache_text else 0
        return {
            "text": self._text(),
            "towers": Footprint(weights, work, streamed, kept),
            "picture": self._picture(options.dtype, options.vae_tiling),
            "sound": self._sound(),
        }

    def peak(self, options: MemoryOptions) -> Peak:
        """The predicted peak on the device."""
        parts, offload = self.footprints(options), offload_of(options)
        if offload == "none":
            stage = max(parts, key=lambda name: parts[name].work)
            return Peak(options, sum(p.weights for p in parts.values()) + parts[stage].work, stage)
        with_weights = {
            name: part.work + (part.streamed if offload == "blocks" and part.streamed else part.weights)
            for name, part in parts.items()
        }
        stage = max(with_weights, key=lambda name: with_weights[name])
        return Peak(options, with_weights[stage], stage)

    def host_peak(self, options: MemoryOptions) -> Peak:
        """The same where the device is the CPU: weights in their file's type are read from the mapped file, and
        need no memory of their own; the towers' file is in bf16."""
        parts = self.footprints(options)
        converted = parts["towers"].weights if options.dtype != "bf16" or options.weights_8bit else 0
        stage = max(parts, key=lambda name: parts[name].work)
        return Peak(options, converted + parts[stage].work, stage)


def offload_of(options: MemoryOptions) -> str:
    """The word of `OFFLOADS` that the options mean."""
    if isinstance(options.offload, bool):
        return "parts" if options.offload else "none"
    return options.offload


def savings(
    options: MemoryOptions, planner: SamplingPlanner, dtypes: Sequence[str] = ()
) -> Iterator[MemoryOptions]:
    """The options and every set that saves more, the least drastic first; the types of `dtypes` are tried too."""
    begin = OFFLOADS.index(offload_of(options))
    choices = itertools.product(
        OFFLOADS[begin:],
        sorted({options.weights_8bit, True}),
        sorted({options.vae_tiling, True}),
        sorted({planner.batches(options), False}, reverse=True),
        sorted({options.cache_text, False}, reverse=True),
        dict.fromkeys((options.dtype, *dtypes)),
    )
    found = []
    for offload, narrow, tiling, batch, keep, dtype in choices:
        cost = _COSTS["vae_tiling"] * (tiling != options.vae_tiling)
        cost += _COSTS["batch_passes"] * (batch != planner.batches(options))
        cost += _COSTS["cache_text"] * (keep != options.cache_text)
        cost += _COSTS["weights_8bit"] * (narrow != options.weights_8bit)
        cost += _COSTS["dtype"] * (dtype != options.dtype)
        cost += _COSTS.get(offload, 0) if offload != offload_of(options) else 0
        kept_word = batch if batch != planner.batches(options) else options.batch_passes
        found.append(
            (
                cost,
                replace(
                    options,
                    offload=offload,
                    weights_8bit=narrow,
                    vae_tiling=tiling,
                    batch_passes=kept_word,
                    cache_text=keep,
                    dtype=dtype,
                ),
            )
        )
    for _, choice in sorted(found, key=lambda pair: pair[0]):
        yield choice


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
    return " ".join(words) or "as it is"
