"""A modality that is given wholly, as far as its tower's work is the same at every step of sampling.

Its tokens stand at t = 0 whatever the step. Until the tower reads the other one, whose stream is another at each step,
nothing in it changes: with fusion in both directions that is its embedding and the self-attention of its first block,
with fusion from it to the other tower alone it is the whole tower. What the other tower reads of it up to there, keys
and values, is the same too.

Shapes: B clips, or clips times passes; L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ovi_lab.models.attention import KeyValue
from ovi_lab.models.config import Modality
from ovi_lab.models.given import Given
from ovi_lab.models.tower import Conditions, Tokens
from ovi_lab.models.twin_block import TwinBlock


@dataclass(frozen=True)
class GivenContext:
    """What is kept of a modality that is given wholly; `TwinDiT.forward` takes it in place of the latents."""

    modality: Modality
    tokens: Tokens
    conditions: Conditions
    """Of all passes; `read` holds keys and values for the other tower."""
    first: int
    """The first block whose work is another at each step; the number of blocks where there is none that matters."""
    stream: Tensor | None
    """[B, L, D] after the self-attention of block `first`; None where no block needs it."""


def given_context(
    blocks: Sequence[TwinBlock],
    remaining: Sequence[int],
    modality: Modality,
    tokens: Tokens,
    conditions: Conditions,
    passes: int,
) -> GivenContext:
    """The context of a modality.

    Args:
        blocks: of the model.
        remaining: those that run, in order.
        modality: which is given wholly.
        tokens: its tokens, of each clip once.
        conditions: what they read, their texts those of all passes.
        passes: predictions of each clip (see `TwinDiT.forward`).
    """
    other: Modality = "audio" if modality == "video" else "video"
    readers = [i for i in remaining if getattr(blocks[i], other).cross_attn.reads_other]
    reading = [i for i in remaining if getattr(blocks[i], modality).cross_attn.reads_other]
    # Past the last block that reads it, nothing of it is needed.
    needed = [i for i in remaining if readers and i <= readers[-1]]
    first = next((i for i in reading if i in needed), len(blocks))
    stream: Tensor | None = tokens.x
    read: list[KeyValue | None] = [None] * len(blocks)
    for i in [i for i in needed if i <= first]:
        stream = _of(blocks[i].open(*_alone(modality, stream, conditions)), modality)
        if i == remaining[0] and passes > 1:
            stream, conditions = stream.repeat(passes, 1, 1), conditions.repeated(passes)
        if i in readers:
            across = getattr(blocks[i], other).cross_attn
            read[i] = across.other_key_value(stream, conditions.rope)
        if i < first and i != needed[-1]:
            streams = blocks[i](*_alone(modality, stream, conditions), opened=(modality,))
            stream = _of(streams, modality)
    if passes > 1 and not needed:
        conditions = conditions.repeated(passes)
    kept = replace(conditions, read=tuple(read))
    return GivenContext(modality, tokens, kept, first, stream if first < len(blocks) else None)


def _alone(
    modality: Modality, stream: Tensor | None, conditions: Conditions
) -> tuple[Tensor | None, Tensor | None, Conditions | None, Conditions | None]:
    """Arguments of a pair of blocks for one of its towers."""
    if modality == "video":
        return stream, None, conditions, None
    return None, stream, None, conditions


def _of(streams: tuple[Tensor | None, Tensor | None], modality: Modality) -> Tensor:
    """The stream of a modality."""
    stream = streams[0 if modality == "video" else 1]
    assert stream is not None
    return stream


def wholly_given(lengths: Mapping[Modality, Sequence[int]], given: Given) -> Modality | None:
    """Of two modalities, the one of which all is given and whose prediction nobody wants; None in training too.

    In training another process may have a batch that is not given wholly, and all run the same modules.
    """
    if len(lengths) < 2 or torch.is_grad_enabled():
        return None
    return next((m for m, own in lengths.items() if given.all_given(m, own)), None)
