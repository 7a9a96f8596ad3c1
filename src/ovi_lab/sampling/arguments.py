"""The command line of `ovi-sample`: texts as they are typed, sizes, the sampler."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ovi_lab.sampling.sizes import Size, shape_of

if TYPE_CHECKING:
    from ovi_lab.flow import SamplerSettings

TEXTS = (
    "checkpoint", "prompt", "prompts", "weights", "image", "video", "audio", "start", "clip", "redo", "out", "aspect",
    "sampler.negative_video", "sampler.negative_audio", "text.weights", "text.tokenizer",
)  # fmt: skip
"""Keys whose values are taken as they are typed."""


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra reads it.

    Texts are quoted, since commas, colons and brackets of a prompt mean something to Hydra, and a released model, or a
    run sampled with released weights, gets the released sampler where none is named.
    """
    ready = [_quoted(argument) for argument in arguments]
    given = dict(a.split("=", 1) for a in arguments if "=" in a and not a.startswith("-"))
    if "sampler" not in given:
        weights = given.get("weights", "null")
        name = default_sampler(
            given.get("checkpoint", "").strip("'\""), None if weights == "null" else weights
        )
        if name != "unipc":  # which conf/sample.yaml has already
            ready.append(f"sampler={name}")
    return ready


def default_sampler(checkpoint: str | Path, weights: str | Path | None) -> str:
    """The file of conf/sampler/ for what `open_bundle` opens: the released one for released weights, else the small."""
    from ovi_lab.checkpoints.presets import is_released

    return "ovi" if weights is not None or is_released(checkpoint) else "unipc"


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key not in TEXTS or not value or value == "null":
        return argument
    if re.fullmatch(r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\"""", value, re.DOTALL):
        return argument  # quoted for Hydra already
    # as Hydra unquotes: backslashes double where a quote follows them, and no ${…} is looked up
    value = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    value = value.replace("${", "\\${")
    return f"{key}='{value}'"


def requested_shape(config: DictConfig) -> Size | None:
    """Height and width of `size=` or of `aspect=`; None where neither is given. Raises UserError where both are."""
    return shape_of(*(None if value is None else str(value) for value in (config.size, config.aspect)))


def sampler_settings(config: DictConfig) -> SamplerSettings:
    """The configuration's sampler."""
    from ovi_lab.flow import SamplerSettings

    chosen: Any = OmegaConf.to_container(config.sampler, resolve=True)
    passes = {name: config[name] for name in ("batch_passes", "cache_text", "cache_given")}
    return SamplerSettings(**chosen, **passes)
