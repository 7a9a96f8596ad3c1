"""Attention inside a tower, to the text, and between the towers.

Shapes: B batch, L own tokens, M tokens of the other tower, N text tokens, D width, H heads, K head dim.
"""

from __future__ import annotations

import importlib
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi_lab.common.fields import checked
from ovi_lab.errors import UserError
from ovi_lab.models.norms import LayerNorm, RMSNorm
from ovi_lab.models.recomputation import Linear, attention_kernel
from ovi_lab.models.rope import apply_rotation

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each [B, N, H, K]."""


class AttentionFunction(Protocol):
    """Softmax attention of q [B, L, H, K] over k, v [B, M, H, K].

    `mask` [B, 1, 1, M] is True at real keys, or what is added to every query's product with a key.
    """

    def __call__(self, q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: Tensor | None) -> Tensor: ...


def sdpa_attention(q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's scaled dot product attention, [B, L, H, K]."""
    q_BHLK, k_BHMK, v_BHMK = q_BLHK.transpose(1, 2), k_BMHK.transpose(1, 2), v_BMHK.transpose(1, 2)
    with attention_kernel():
        out_BHLK = F.scaled_dot_product_attention(q_BHLK, k_BHMK, v_BHMK, attn_mask=mask)
    return out_BHLK.transpose(1, 2)


def attention_function(backend: str) -> AttentionFunction:
    """The function of `backend`: `sdpa`, or `flash` (package flash-attn, CUDA, bfloat16 or float16).

    Under `flash`, calls with padded keys go through SDPA: the kernel has no key mask. UserError for another
    name and where flash-attn is not installed.
    """
    checked(Literal["sdpa", "flash"], backend, "attention")
    if backend == "sdpa":
        return sdpa_attention
    try:
        kernel = importlib.import_module("flash_attn").flash_attn_func
    except ImportError as error:
        raise UserError(
            "attention is 'flash', but the package flash-attn is missing; install it or use attention=sdpa"
        ) from error

    def flash_attention(q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            return sdpa_attention(q_BLHK, k_BMHK, v_BMHK, mask)
        if q_BLHK.device.type != "cuda" or q_BLHK.dtype not in (torch.bfloat16, torch.float16):
            raise UserError(
                f"attention is 'flash', which takes bfloat16 or float16 on CUDA, not {q_BLHK.dtype} on "
                f"{q_BLHK.device.type}; use attention=sdpa"
            )
        with attention_kernel():
            return kernel(q_BLHK, k_BMHK, v_BMHK)

    return flash_attention


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

    def forward(self, x_BLD: Tensor, rope_BL1P2: Tensor, mask: Tensor | None) -> Tensor:
        """[B, L, D]; `mask` [B, 1, 1, L] is True at real tokens, None where the batch has no padding."""
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

    def forward(
        self,
        x_BLD: Tensor,
        text: KeyValue,
        rope_BL1P2: Tensor | None = None,
        other_BMD: Tensor | None = None,
        other_rope_BM1P2: Tensor | None = None,
        other_mask: Tensor | None = None,
        text_bias: Tensor | None = None,
    ) -> Tensor:
        """[B, L, D]; `other_BMD` is the other tower's stream, None where the block reads the text alone.

        `text_bias` [B, 1, 1, N] is added to the products with the text's keys.
        """
        q_BLHK = self.heads(self.norm_q(self.q(x_BLD)))
        out_BLHK = self.attend(q_BLHK, *text, text_bias)
        if other_BMD is not None and rope_BL1P2 is not None and other_rope_BM1P2 is not None:
            z_BMD = self.pre_attn_norm_fusion(other_BMD)
            k_BMHK = apply_rotation(self.heads(self.norm_k_fusion(self.k_fusion(z_BMD))), other_rope_BM1P2)
            v_BMHK = self.heads(self.v_fusion(z_BMD))
            turned_BLHK = apply_rotation(q_BLHK, rope_BL1P2)
            out_BLHK = out_BLHK + self.attend_other(turned_BLHK, k_BMHK, v_BMHK, other_mask)
        return self.o(out_BLHK.flatten(2))
