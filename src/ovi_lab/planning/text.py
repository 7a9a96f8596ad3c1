"""The text encoder's part in training: trained with the towers, or frozen and only run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ovi_lab.planning.activations import META
from ovi_lab.planning.meta_kernels import TrainingMemory, as_trained

_UMT5, _LEARNED = "ovi_lab.text.UMT5Text", "ovi_lab.text.LearnedText"


@dataclass(frozen=True)
class TextEncoder:
    """Built on the meta device, or small."""

    trained: dict[str, nn.Parameter] = field(default_factory=dict)
    weights: int = 0
    """Bytes, of a frozen one."""
    work: Callable[[int], int] = lambda clips: 0
    """Bytes alive while it reads so many captions."""
    flops: Callable[[int], int] = lambda clips: 0
    """Operations over so many captions."""


def text_encoder(config: DictConfig) -> TextEncoder | None:
    """The encoder of a run's `text` configuration; one that is not ours counts as nothing."""
    settings: Any = config.get("text")
    target = None if settings is None else settings.get("_target_")
    if target == _LEARNED:
        from ovi_lab.text import LearnedText

        made = LearnedText(settings.dim, settings.rows, settings.max_words)
        return TextEncoder(dict(made.to(META).named_parameters()))
    if target == _UMT5:
        return _umt5(settings)
    return None


def _umt5(settings: DictConfig) -> TextEncoder:
    from ovi_lab.sampling.quantise import stored_bytes
    from ovi_lab.text import umt5

    sizes: Any = settings.get("configuration")
    sizes = OmegaConf.to_container(sizes) if sizes is not None else None
    encoder = umt5.build(umt5.UMT5Config.of(sizes))
    dtype = torch.float32 if settings.get("dtype") == "float32" else torch.bfloat16
    nn.Module.to(encoder, dtype=dtype)
    tokens = int(settings.max_tokens)
    inside = sum(p.numel() for p in encoder.parameters()) - encoder.shared.weight.numel()

    @cache
    def work(clips: int) -> int:
        ids_BN = torch.zeros(clips, tokens, dtype=torch.long, device=META)
        with torch.no_grad(), as_trained("cuda"), TrainingMemory(META, encoder) as live:
            encoder(input_ids=ids_BN)
        return live.peak

    return TextEncoder(
        weights=stored_bytes(encoder), work=work, flops=lambda clips: 2 * inside * tokens * clips
    )
