"""Attention inside a tower, to the text, and between the towers.

Shapes: B batch, L own tokens, M tokens of the other tower, N text tokens, D width, H heads, K head dim.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovi_lab.common.fields import checked
from ovi_lab.errors import UserError
from ovi_lab.models.norms import LayerNorm, RMSNorm
from ovi_lab.models.recomputation import Linear, attention_kernel
from ovi_lab.models.rope import apply_rotation
from ovi_lab.models.some_clips import SomeClips

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each [B, N, H, K]."""


@dataclass(frozen=True)
class KeyMask:
    """Which keys of a padded batch are real."""

    real: Tensor
    """[B, 1, 1, M], True at real keys."""
    lengths: tuple[int, ...]
    """Real keys of each clip, its first ones; known without asking the device."""

    def repeated(self, passes: int) -> KeyMask:
        """The mask of the same clips in several passes at once."""
        return KeyMask(self.real.repeat(passes, 1, 1, 1), self.lengths * passes)

    def of_clips(self, clips: SomeClips) -> KeyMask:
        """The mask of some of the clips."""
        return KeyMask(clips.take(self.real), tuple(self.lengths[i] for i in clips.numbers))


class AttentionFunction(Protocol):
    """Softmax attention of q [B, L, H, K] over k, v [B, M, H, K].

    `mask` says which keys are real, or is a Tensor [B, 1, 1, M] that is added to every query's product with a key.
    """

    def __call__(
        self, q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: KeyMask | Tensor | None
    ) -> Tensor: ...


def sdpa_attention(q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: KeyMask | Tensor | None) -> Tensor:
    """PyTorch's scaled dot product attention, [B, L, H, K], by the kernel that PyTorch chooses."""
    q_BHLK, k_BHMK, v_BHMK = q_BLHK.transpose(1, 2), k_BMHK.transpose(1, 2), v_BMHK.transpose(1, 2)
    bias = mask.real if isinstance(mask, KeyMask) else mask
    with attention_kernel():
        out_BHLK = F.scaled_dot_product_attention(q_BHLK, k_BHMK, v_BHMK, attn_mask=bias)
    return out_BHLK.transpose(1, 2)


def attention_function(backend: str) -> AttentionFunction:
    """The function of a back end.

    `auto` leaves the kernel to PyTorch; `cudnn`, `flash`, `efficient` and `math` are its kernels by name; `flash2` and
    `flash3` are of the packages flash-attn and flash-attn-3 (CUDA, bfloat16 or float16). The three flash kernels take
    no mask: keys of a padded batch are cut off clip by clip, and products with a bias (a prompt's merged padding) are
    left to PyTorch's choice.

    UserError for another name, where a package is not installed, and in a call that the kernel cannot do.
    """
    checked(Literal["auto", *_KERNELS, *_PACKAGES], backend, "model.attention_backend")
    if backend == "auto":
        return sdpa_attention
    if backend in _PACKAGES:
        return _without_mask(_packaged(backend))
    named = _named(backend)
    return _without_mask(named) if backend == "flash" else named


_KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_PACKAGES = {"flash2": ("flash_attn", "flash-attn"), "flash3": ("flash_attn_interface", "flash-attn-3")}


def _named(backend: str) -> AttentionFunction:
    kernel = _KERNELS[backend]

    def attend(q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: KeyMask | Tensor | None) -> Tensor:
        try:
            with sdpa_kernel(kernel):
                return sdpa_attention(q_BLHK, k_BMHK, v_BMHK, mask)
        except RuntimeError as error:
            if not str(error).startswith(("No available kernel", "No viable backend")):
                raise
            raise UserError(
                f"model.attention_backend is {backend!r}, which has no kernel for {q_BLHK.dtype} on "
                f"{q_BLHK.device.type} with {q_BLHK.shape[-1]} channels a head; use auto"
            ) from error

    return attend


def _packaged(backend: str) -> AttentionFunction:
    module, package = _PACKAGES[backend]
    try:
        kernel = importlib.import_module(module).flash_attn_func
    except ImportError as error:
        raise UserError(
            f"model.attention_backend is {backend!r}, but the package {package} is missing; install it or use auto"
        ) from error

    def attend(q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: KeyMask | Tensor | None) -> Tensor:
        if q_BLHK.device.type != "cuda" or q_BLHK.dtype not in (torch.bfloat16, torch.float16):
            raise UserError(
                f"model.attention_backend is {backend!r}, which takes bfloat16 or float16 on CUDA, not {q_BLHK.dtype} "
                f"on {q_BLHK.device.type}; use auto"
            )
        with attention_kernel():
            out = kernel(q_BLHK, k_BMHK, v_BMHK)
        return out[0] if isinstance(out, tuple) else out

    return attend


def _without_mask(attend: AttentionFunction) -> AttentionFunction:
    """`attend` for any mask, of a kernel that takes none."""

    def attend_real(q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: KeyMask | Tensor | None) -> Tensor:
        if mask is None:
            return attend(q_BLHK, k_BMHK, v_BMHK, None)
        if isinstance(mask, Tensor):
            return sdpa_attention(q_BLHK, k_BMHK, v_BMHK, mask)
        clips = [
            attend(q_BLHK[i : i + 1], k_BMHK[i : i + 1, :n], v_BMHK[i : i + 1, :n], None)
            for i, n in enumerate(mask.lengths)
        ]
        return torch.cat(clips)

    return attend_real


class _Projections(nn.Module):
    """Queries, keys and values of every head, the first two normalised over the full width, and the output's map."""

    def __init__(self, dim: int, num_heads: int, eps: float, attend: AttentionFunction) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attend = attend
        self.q = Linear(dim, dim)
        self.k = Linear(dim, dim)
        self.v = Linear(dim, dim)
        self.o = Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def heads(self, x_BLD: Tensor) -> Tensor:
        """[B, L, H, K]."""
        return x_BLD.unflatten(-1, (self.num_heads, -1))


class SelfAttention(_Projections):
    """Attention of a stream to itself, queries and keys turned by their positions."""

    def forward(self, x_BLD: Tensor, rope_BL1P2: Tensor, mask: KeyMask | None) -> Tensor:
        """[B, L, D]; `mask` is None where the batch has no padding."""
        q_BLHK = apply_rotation(self.heads(self.norm_q(self.q(x_BLD))), rope_BL1P2)
        k_BLHK = apply_rotation(self.heads(self.norm_k(self.k(x_BLD))), rope_BL1P2)
        v_BLHK = self.heads(self.v(x_BLD))
        return self.o(self.attend(q_BLHK, k_BLHK, v_BLHK, mask).flatten(2))


class CrossAttention(_Projections):
    """Attention to the text and, in a fused block, to the other tower's stream (arXiv 2510.01284, section 3).

    One set of queries serves both. Towards the text it carries no position; towards the other tower queries
    and keys are turned, each by its own tower's table, which is how the towers exchange timing. The two
    results are added before the one output projection.
    """

    def __init__(
        self, dim: int, num_heads: int, eps: float, attend: AttentionFunction, other_dim: int | None = None
    ) -> None:
        super().__init__(dim, num_heads, eps, attend)
        self.attend_other = attend
        self.reads_other = other_dim is not None
        if other_dim is not None:
            self.pre_attn_norm_fusion = LayerNorm(other_dim, eps)
            self.k_fusion = Linear(other_dim, dim)
            self.v_fusion = Linear(other_dim, dim)
            self.norm_k_fusion = RMSNorm(dim, eps)

    def text_key_value(self, text_BND: Tensor) -> KeyValue:
        """Keys and values of an embedded text; they do not depend on the timestep and may be kept."""
        return self.heads(self.norm_k(self.k(text_BND))), self.heads(self.v(text_BND))

    def other_key_value(self, other_BMD: Tensor, rope_BM1P2: Tensor) -> KeyValue:
        """Keys, turned by their positions, and values of the other tower's stream."""
        z_BMD = self.pre_attn_norm_fusion(other_BMD)
        k_BMHK = apply_rotation(self.heads(self.norm_k_fusion(self.k_fusion(z_BMD))), rope_BM1P2)
        return k_BMHK, self.heads(self.v_fusion(z_BMD))

    def forward(
        self,
        x_BLD: Tensor,
        text: KeyValue,
        rope_BL1P2: Tensor | None = None,
        other: Tensor | KeyValue | None = None,
        other_rope_BM1P2: Tensor | None = None,
        other_mask: KeyMask | None = None,
        text_bias: Tensor | None = None,
        other_present_B111: Tensor | None = None,
    ) -> Tensor:
        """[B, L, D]; `other` is the other tower's stream [B, M, D], or what `other_key_value` gave of it; None where
        the block reads the text alone.

        `text_bias` [B, 1, 1, N] is added to the products with the text's keys; what is read of the other stream is
        multiplied by `other_present_B111`, 0 at clips that have none.
        """
        q_BLHK = self.heads(self.norm_q(self.q(x_BLD)))
        out_BLHK = self.attend(q_BLHK, *text, text_bias)
        if other is not None and rope_BL1P2 is not None and other_rope_BM1P2 is not None:
            read = self.other_key_value(other, other_rope_BM1P2) if isinstance(other, Tensor) else other
            k_BMHK, v_BMHK = read
            turned_BLHK = apply_rotation(q_BLHK, rope_BL1P2)
            read_BLHK = self.attend_other(turned_BLHK, k_BMHK, v_BMHK, other_mask)
            if other_present_B111 is not None:
                read_BLHK = read_BLHK * other_present_B111
            out_BLHK = out_BLHK + read_BLHK
        return self.o(out_BLHK.flatten(2))
