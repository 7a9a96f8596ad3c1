"""A tower of the twin model: its blocks, what surrounds them, and what the blocks read.

Shapes: B batch, L own tokens, M tokens of the other tower, N text tokens, D width, H heads, K head dim,
T distinct timesteps of a clip (1, or 2 where a part of it is given), S spans of equal length that its tokens are
divided into, each with one timestep (1, or F, its frames).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ovi_lab.errors import UserError
from ovi_lab.models.attention import AttentionFunction, CrossAttention, KeyMask, KeyValue, SelfAttention
from ovi_lab.models.clean_tokens import CleanTokens
from ovi_lab.models.config import TowerConfig
from ovi_lab.models.embeddings import (
    AudioPatchEmbedding,
    Head,
    Latents,
    TimeEmbedding,
    VideoPatchEmbedding,
    audio_sequence,
    join_patches,
    merged_text_batch,
    text_batch,
    video_patches,
)
from ovi_lab.models.given import Mask
from ovi_lab.models.norms import AdaptiveLayerNorm, LayerNorm, Modulation, multiply_add
from ovi_lab.models.recomputation import Linear
from ovi_lab.models.rope import Grid, from_host
from ovi_lab.models.some_clips import SomeClips

Call = Callable[..., Any]
"""Calls `block.compute(...)`: (block, ...) to its result."""

LONG_TEXT = 64
"""Tokens of a text from which on sampling merges the keys of its padding, and shares what both passes of guidance have
in common. Both round otherwise than the plain computation, with which the results of small models were recorded."""


@dataclass(frozen=True)
class TextContext:
    """A text as one tower reads it: embedded [B, N, D] and, where prepared, each block's keys and values."""

    modality: str
    embedded: Tensor
    per_block: tuple[KeyValue, ...] | None = None
    bias: Tensor | None = None
    """[B, 1, 1, N], added to the products with its keys; None where every token counts once."""

    @property
    def batch_size(self) -> int:
        """Clips the text is for."""
        return self.embedded.shape[0]

    def of_first(self, count: int) -> TextContext:
        """The texts of the first `count` clips."""
        per_block = self.per_block and tuple((k[:count], v[:count]) for k, v in self.per_block)
        bias = None if self.bias is None else self.bias[:count]
        return replace(self, embedded=self.embedded[:count], per_block=per_block, bias=bias)

    def of_clips(self, clips: SomeClips) -> TextContext:
        """The texts of some of the clips."""
        per_block = self.per_block and tuple((clips.take(k), clips.take(v)) for k, v in self.per_block)
        bias = None if self.bias is None else clips.take(self.bias)
        return replace(self, embedded=clips.take(self.embedded), per_block=per_block, bias=bias)


@dataclass(frozen=True)
class Tokens:
    """A batch of clips as tokens, zero-padded to the longest."""

    x: Tensor
    """[B, L, D]."""
    grids: tuple[Grid, ...]
    """Frames, rows, columns of each clip; an audio clip of n latents is (n, 1, 1)."""
    mask: Tensor | None
    """[B, 1, 1, L], True at real tokens; None where no clip is padded."""
    as_list: bool
    """Whether the latents came as a list, and go back as one."""
    rope_scale: Tensor | None = None
    """[1] in float64, the learned factor of these tokens' positions; None where nothing is learned."""


@dataclass(frozen=True)
class Conditions:
    """What every block of one tower reads besides the stream; the same for all blocks of a pass."""

    e: Tensor
    """[B, S, D], the embedding of each clip's timesteps, one a span; with `clean` [B, 2, D], that of t = 0 first."""
    e0: Tensor
    """[B, S, 6, D], or [B, 2, 6, D], its projection."""
    clean: CleanTokens | None
    """Tokens at t = 0 beside those at their clip's; None where spans of equal length have one timestep each."""
    rope: Tensor
    """[1 or B, L, 1, K / 2, 2], cosines and sines."""
    mask: KeyMask | None
    """Real tokens; None without padding."""
    text: TextContext
    """Texts of the clips; before `repeated` is called, of all passes."""
    present: Tensor | None = None
    """[B, 1, 1, 1] of the stream's type, 0 at clips that lack this modality, 1 at others; None where none lacks it."""
    read: tuple[KeyValue | None, ...] | None = None
    """What the other tower reads of this stream, by block, where that is the same at every step (see `GivenContext`);
    None where it is computed of the stream."""

    def repeated(self, passes: int) -> Conditions:
        """What the same clips read in several passes at once; their texts are those of all passes already."""

        def repeat(x: Tensor | None) -> Any:
            return x if x is None or x.shape[0] == 1 else x.repeat(passes, *[1] * (x.dim() - 1))

        parts = {name: repeat(getattr(self, name)) for name in ("e", "e0", "rope", "present")}
        if self.clean is not None:
            # of a batch of one clip too: each clip has rows of its own
            parts |= {name: torch.cat([getattr(self, name)] * passes) for name in ("e", "e0")}
            parts["clean"] = self.clean.repeated(passes)
        return replace(self, **parts, mask=None if self.mask is None else self.mask.repeated(passes))

    def of_clips(self, clips: SomeClips) -> Conditions:
        """What some of the clips read of their own stream's tower."""
        return replace(
            self,
            e=clips.take(self.e),
            e0=clips.take(self.e0),
            rope=clips.take(self.rope),
            clean=None if self.clean is None else self.clean.of_clips(clips),
            mask=None if self.mask is None else self.mask.of_clips(clips),
            text=self.text.of_clips(clips),
            present=None if self.present is None else clips.take(self.present),
        )

    def alone(self, index: int) -> Conditions:
        """What block `index` reads of this: of what is prepared for each block, its own keys and values."""
        if self.text.per_block is None and self.read is None:
            return self
        text, read = self.text, None
        if text.per_block is not None:
            text = replace(text, per_block=text.per_block[index : index + 1])
        if self.read is not None and self.read[index] is not None:
            read = self.read[index : index + 1]
        return replace(self, text=text, read=read)


class TowerBlock(nn.Module):
    """Self-attention, attention to text (and the other tower), feed-forward; modulated by the timestep.

    `forward` is the block of a tower that runs alone. Of two towers, `TwinBlock` calls the three parts.
    """

    def __init__(self, config: TowerConfig, attend: AttentionFunction, other_dim: int | None) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = AdaptiveLayerNorm(eps)
        self.self_attn = SelfAttention(dim, config.num_heads, eps, attend)
        self.norm3 = LayerNorm(dim, eps)
        self.cross_attn = CrossAttention(dim, config.num_heads, eps, attend, other_dim)
        self.norm2 = AdaptiveLayerNorm(eps)
        self.ffn = nn.Sequential(
            Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), Linear(config.ffn_dim, dim)
        )
        self.modulation = Modulation(dim)

    def attend_self(self, x_BLD: Tensor, m: Sequence[Tensor], c: Conditions) -> Tensor:
        """x + SA(LN(x) (1 + m1) + m0) m2."""
        read_BLD = self.self_attn(self.norm1(x_BLD, m[0], m[1], c.clean), c.rope, c.mask)
        return multiply_add(x_BLD, read_BLD, m[2], c.clean)

    def attend_across(
        self, x_BLD: Tensor, text: KeyValue, c: Conditions, other_BMD: Tensor | None, other: Conditions | None
    ) -> Tensor:
        """x + CA(norm3(x)): to the text and, where this block reads it, to the other tower's stream."""
        if not self.cross_attn.reads_other or other is None:
            return x_BLD + self.cross_attn(self.norm3(x_BLD), text, text_bias=c.text.bias)
        read = other.read[0] if other.read is not None else other_BMD
        both = (c.rope, read, other.rope, other.mask, c.text.bias, other.present)
        return x_BLD + self.cross_attn(self.norm3(x_BLD), text, *both)

    def feed_forward(self, x_BLD: Tensor, m: Sequence[Tensor], c: Conditions) -> Tensor:
        """x + FFN(LN(x) (1 + m4) + m3) m5."""
        return multiply_add(x_BLD, self.ffn(self.norm2(x_BLD, m[3], m[4], c.clean)), m[5], c.clean)

    def text_key_value(self, c: Conditions) -> KeyValue:
        """Keys and values of the text for this block, `c` being its own: the prepared ones, else computed."""
        if c.text.per_block is not None:
            return c.text.per_block[0]
        return self.cross_attn.text_key_value(c.text.embedded)

    def open(self, x_BLD: Tensor, c: Conditions) -> Tensor:
        """The stream after this block's self-attention, which no text has reached if the block is the first."""
        return self.attend_self(x_BLD, self.modulation(c.e0), c)

    def forward(
        self, x_BLD: Tensor, c: Conditions, index: int, opened: bool = False, call: Call | None = None
    ) -> Tensor:
        """The stream [B, L, D] after block `index` of a tower that runs alone; `opened`: it comes after `open`.

        `call` computes it in a way of its own (compiled): `call(block, ...)` for `block.compute(...)`.
        """
        args = (x_BLD, c.alone(index), opened)
        return self.compute(*args) if call is None else call(self, *args)

    def compute(self, x_BLD: Tensor, c: Conditions, opened: bool) -> Tensor:
        """`forward` less its hooks."""
        m = self.modulation(c.e0)
        if not opened:
            x_BLD = self.attend_self(x_BLD, m, c)
        x_BLD = self.attend_across(x_BLD, self.text_key_value(c), c, None, None)
        return self.feed_forward(x_BLD, m, c)


class Tower(nn.Module):
    """Embeddings, blocks and head of one modality. Its parameters carry the released checkpoint's names."""

    def __init__(
        self,
        config: TowerConfig,
        attend: AttentionFunction,
        other_dim: int | None = None,
        fused_blocks: frozenset[int] = frozenset(),
        learned_rope: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.merges_padding = config.text_len >= LONG_TEXT
        dim = config.dim
        embedding = VideoPatchEmbedding if config.modality == "video" else AudioPatchEmbedding
        self.patch_embedding: VideoPatchEmbedding | AudioPatchEmbedding = embedding(config)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = TimeEmbedding(config.freq_dim, dim)
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(
            TowerBlock(config, attend, other_dim if i in fused_blocks else None)
            for i in range(config.num_layers)
        )
        self.head = Head(config)
        self.rope_scale = nn.Parameter(torch.empty(1)) if learned_rope else None

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters and of the stream."""
        # By iteration: ZeRO 3 gathers a parameter that is read by name, and from then on expects its reader to need it.
        return next(self.head.head.parameters()).dtype

    def each_block(self) -> Iterator[TowerBlock]:
        """The blocks in order."""
        yield from cast("Iterator[TowerBlock]", iter(self.blocks))

    def forward(self, latents: Latents) -> Tokens:
        """Latents of this modality as tokens; UserError for a wrong shape.

        A tower is called as a module here and nowhere else, since ZeRO gathers a module's own parameters, here the
        learned factor of positions, while its `forward` runs and at no other time.
        """
        as_list = not isinstance(latents, Tensor)
        if len(latents) == 0:
            raise UserError(f"the batch of {self.config.modality} latents is empty; give at least one clip")
        if isinstance(self.patch_embedding, VideoPatchEmbedding):
            patches_BLP, grids = video_patches(latents, self.config)
            real_BL = _real_tokens([f * h * w for f, h, w in grids], patches_BLP)
            x_BLD = self.patch_embedding(patches_BLP.to(self.dtype))
        else:
            latents_BLC, lengths = audio_sequence(latents, self.config)
            grids = [(n, 1, 1) for n in lengths]
            real_BL = _real_tokens(lengths, latents_BLC)
            real_BL1 = None if real_BL is None else real_BL[..., None]
            # A convolution gives channels first: laid out anew, all blocks read and write one layout.
            x_BLD = self.patch_embedding(latents_BLC.to(self.dtype), real_BL1)
            x_BLD = x_BLD.clone(memory_format=torch.contiguous_format)
        mask = None if real_BL is None else real_BL[:, None, None]
        scale = None if self.rope_scale is None else self.rope_scale.to(torch.float64)
        return Tokens(x_BLD, tuple(grids), mask, as_list, scale)

    def frames(self, tokens: Tokens) -> list[int]:
        """Latent frames, or audio tokens, of each clip."""
        patch = (self.config.patch_size or (1,))[0]
        return [patch * f for f, _, _ in tokens.grids]

    def embed_time(self, t_BT: Tensor) -> tuple[Tensor, Tensor]:
        """e [B, T, D] and its projection e0 [B, T, 6, D] of each clip's distinct timesteps, 0 to 1000."""
        e_BTD = self.time_embedding(t_BT)
        return e_BTD, self.time_projection(e_BTD).unflatten(-1, (6, -1))

    def embed_text(self, text: Latents | TextContext, merge_padding: bool = False) -> TextContext:
        """The text embedded, without keys and values; a prepared one passes.

        With `merge_padding` the padding, whose tokens are all equal, becomes two keys with its joint weight.
        """
        modality, sizes = self.config.modality, (self.config.text_len, self.config.text_dim)
        if isinstance(text, TextContext):
            if text.modality != modality:
                raise UserError(
                    f"the text was prepared for the {text.modality} tower, not for {modality}; "
                    "prepare it for each tower"
                )
            return text
        if merge_padding:
            batch_BNE, bias = merged_text_batch(text, *sizes, self.dtype)
        else:
            batch_BNE, bias = text_batch(text, *sizes), None
        return TextContext(modality, self.text_embedding(batch_BNE.to(self.dtype)), bias=bias)

    def prepare_text(self, text: Latents, key_values: bool = True) -> TextContext:
        """The text embedded for sampling, its padding merged where that pays, and every block's keys and values.

        Without `key_values` the blocks compute these in every pass.
        """
        context = self.embed_text(text, self.merges_padding)
        if not key_values:
            return context
        kv = tuple(block.cross_attn.text_key_value(context.embedded) for block in self.each_block())
        return replace(context, per_block=kv)

    def read_out(self, x_BLD: Tensor, tokens: Tokens, c: Conditions) -> Tensor | list[Tensor]:
        """The prediction in the form of the latents that came in."""
        out_BLP = self.head(x_BLD, c.e, c.clean)
        if self.config.modality == "audio":
            clips = [out[:n] for out, (n, _, _) in zip(out_BLP, tokens.grids, strict=True)]
            return clips if tokens.as_list else out_BLP
        patch = self.config.patch_size or (1, 2, 2)
        if not tokens.as_list:
            return join_patches(out_BLP, tokens.grids[0], patch)
        return [
            join_patches(out_BLP[i : i + 1, : f * h * w], (f, h, w), patch)[0]
            for i, (f, h, w) in enumerate(tokens.grids)
        ]


def _real_tokens(lengths: Sequence[int], like: Tensor) -> Tensor | None:
    """[B, L], True at real tokens; None where no clip is shorter than the batch."""
    longest = like.shape[1]
    if all(n == longest for n in lengths):
        return None
    return torch.arange(longest, device=like.device) < from_host(lengths, like.device)[:, None]


def token_mask(mask_BN: Mask, grids: Sequence[Grid], length: int) -> Mask:
    """[B, L] of a mask over token frames: the same for all tokens of a frame."""
    if len(set(grids)) == 1 and math.prod(grids[0]) == length:
        whole_BL: Mask = mask_BN.repeat(length // mask_BN.shape[1], axis=1)
        return whole_BL
    mask_BL = np.zeros((len(grids), length), dtype=bool)
    for row_L, mask_N, (f, h, w) in zip(mask_BL, mask_BN, grids, strict=True):
        row_L[: f * h * w] = mask_N[:f].repeat(h * w)
    return mask_BL
