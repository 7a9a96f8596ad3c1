"""Floating point operations of a training pass, counted by formula from the model's configuration.

Counted are the matrix products: a product of [m, k] and [k, n] is 2 m k n operations. Element-wise work (norms,
activations, rotations, the optimiser) is left out, as is the custom (PaLM, arXiv 2204.02311, appendix B). The
backward pass of a product has two products of the same size, one for each of its factors; either is made only if
something upstream of that factor is trained, so that frozen weights save their share and a frozen beginning saves all.

Shapes: L own tokens, M tokens of the other tower, N text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import nn

from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.models.embeddings import GatedConv
from ovi_lab.models.tower import Tower, TowerBlock
from ovi_lab.planning.clip_shape import ClipShape


@dataclass
class Flops:
    """Floating point operations of some clips, by tower."""

    forward: dict[Modality, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    backward: dict[Modality, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    recomputed: dict[Modality, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    """Made a second time in the backward pass: by activation checkpointing, and the scores inside fused attention."""

    @property
    def model(self) -> int:
        """What the model asks for, however it is run: MFU divides these by the peak."""
        return sum(self.forward.values()) + sum(self.backward.values())

    @property
    def hardware(self) -> int:
        """What is really computed, recomputation included: HFU divides these."""
        return self.model + sum(self.recomputed.values())


def count_flops(
    model: TwinDiT,
    clip: ClipShape,
    *,
    clips: int = 1,
    first_frame_clean: bool = False,
    text_is_trained: bool = False,
) -> Flops:
    """FLOPs of a forward and a backward pass over `clips` clips of one shape.

    Args:
        model: on any device (meta too); what its parameters require decides the backward pass.
        clip: the latents. A padded batch costs what its longest clip costs: count that, or each clip by itself.
        clips: how many.
        first_frame_clean: the first video frame is given, so that clips have two distinct timesteps.
        text_is_trained: the text encoder gets a gradient.
    """
    return _Counter(model, clip, clips, first_frame_clean, text_is_trained).flops


class _Counter:
    """Follows `TwinDiT.forward`. What is passed on is whether a tensor needs a gradient."""

    def __init__(
        self, model: TwinDiT, clip: ClipShape, clips: int, first_frame_clean: bool, text_is_trained: bool
    ) -> None:
        self.flops = Flops()
        self.clips = clips
        self.at: Modality = "video"
        """The tower whose products are counted."""
        self.tokens = clip.tokens(model.tower_configs)
        self.turns = {m: _is_trained(model.tower(m).rope_scale) for m in self.tokens}
        self.words = {m: config.text_len for m, config in model.tower_configs.items()}
        self._linears, self._attentions = dict.fromkeys(MODALITIES, 0), dict.fromkeys(MODALITIES, 0)
        towers = {m: model.tower(m) for m in self.tokens}
        streams: dict[Modality, bool] = {}
        times: dict[Modality, tuple[bool, bool]] = {}
        texts: dict[Modality, bool] = {}
        for self.at, tower in towers.items():
            patch = tower.patch_embedding
            layers = self._chain if any(True for _ in patch.children()) else self._linear
            streams[self.at] = layers(patch, self.tokens[self.at], False)
            distinct = 2 if first_frame_clean and self.at == "video" else 1
            e = self._chain(tower.time_embedding, distinct, False)
            times[self.at] = e, self._chain(tower.time_projection, distinct, e)
            texts[self.at] = self._chain(tower.text_embedding, tower.config.text_len, text_is_trained)
        for index, blocks in enumerate(_pairs(towers, model.num_layers)):
            self._linears, self._attentions = dict.fromkeys(MODALITIES, 0), dict.fromkeys(MODALITIES, 0)
            attended = {}
            for self.at, block in blocks.items():
                attended[self.at] = self._attend_self(block, streams[self.at], times[self.at][1])
            for self.at, block in blocks.items():
                other = next((m for m in attended if m != self.at), None)
                needs = self._attend_across(block, attended, texts[self.at], other)
                streams[self.at] = self._feed_forward(block, needs, times[self.at][1])
            if any(streams.values()):
                linears, attentions = checkpointing(model, index)
                for m in self.flops.recomputed:
                    self.flops.recomputed[m] += linears * self._linears[m] + attentions * self._attentions[m]
        for self.at, tower in towers.items():
            needs = streams[self.at] or times[self.at][0] or tower.head.modulation.requires_grad
            self._linear(tower.head.head, self.tokens[self.at], needs)

    # ---- products

    def _linear(self, layer: nn.Module, rows: int, needs: bool) -> bool:
        """A linear map or convolution (with its adapters) of so many tokens a clip."""
        for weight, upstream in _products(layer, needs):
            product = 2 * self.clips * rows * _size(weight)
            self.flops.forward[self.at] += product
            self._linears[self.at] += product
            self.flops.backward[self.at] += product * (int(upstream) + int(weight.requires_grad))
        return needs or _trained(layer)

    def _chain(self, layers: nn.Module, rows: int, needs: bool) -> bool:
        """Layers one after the other; those without weights pass the need on."""
        for layer in layers.children():
            if isinstance(layer, GatedConv):
                hidden = [self._linear(map_, rows, needs) for map_ in (layer.w1, layer.w3)]
                needs = self._linear(layer.w2, rows, any(hidden))
            elif any(True for _ in layer.parameters()):
                needs = self._linear(layer, rows, needs)
        return needs

    def _attention(self, queries: int, keys: int, dim: int, q: bool, k: bool, v: bool) -> bool:
        """Scores and what is read with them; K x heads = `dim` values a query."""
        product = 2 * self.clips * queries * keys * dim
        self.flops.forward[self.at] += 2 * product
        self._attentions[self.at] += 2 * product
        scores = q or k
        self.flops.backward[self.at] += product * (int(scores) + int(q) + int(k) + int(v))
        if scores or v:
            self.flops.recomputed[self.at] += product
        return scores or v

    # ---- parts of the model

    def _attend_self(self, block: TowerBlock, stream: bool, e0: bool) -> bool:
        rows, attn = self.tokens[self.at], block.self_attn
        modulation = e0 or _trained(block.modulation)
        x = stream or modulation
        turned = self.turns[self.at]
        q = self._linear(attn.q, rows, x) or _trained(attn.norm_q) or turned
        k = self._linear(attn.k, rows, x) or _trained(attn.norm_k) or turned
        v = self._linear(attn.v, rows, x)
        out = self._attention(rows, rows, _width(attn.q), q, k, v)
        return self._linear(attn.o, rows, out) or stream or modulation

    def _attend_across(
        self, block: TowerBlock, streams: dict[Modality, bool], text: bool, other: Modality | None
    ) -> bool:
        rows, attn = self.tokens[self.at], block.cross_attn
        words = self.words[self.at]
        k = self._linear(attn.k, words, text) or _trained(attn.norm_k)
        v = self._linear(attn.v, words, text)
        q = self._linear(attn.q, rows, streams[self.at] or _trained(block.norm3)) or _trained(attn.norm_q)
        dim = _width(attn.q)
        out = self._attention(rows, words, dim, q, k, v)
        if attn.reads_other and other is not None:
            z = streams[other] or _trained(attn.pre_attn_norm_fusion)
            keys = self.tokens[other]
            k = self._linear(attn.k_fusion, keys, z) or _trained(attn.norm_k_fusion) or self.turns[other]
            v = self._linear(attn.v_fusion, keys, z)
            out = self._attention(rows, keys, dim, q or self.turns[self.at], k, v) or out
        return self._linear(attn.o, rows, out) or streams[self.at]

    def _feed_forward(self, block: TowerBlock, stream: bool, e0: bool) -> bool:
        modulation = e0 or _trained(block.modulation)
        inside = self._chain(block.ffn, self.tokens[self.at], stream or modulation)
        return inside or stream or modulation


def checkpointing(model: TwinDiT, index: int) -> tuple[bool, bool]:
    """Whether the backward pass computes the linear maps, and the attention, of block `index` again."""
    choice, every = model.recomputation.choice, model.recomputation.every
    if choice == "none" or index % every:
        return False, False
    return choice in ("full", "attention"), choice == "full"


def _pairs(towers: Mapping[Modality, Tower], count: int) -> Iterator[dict[Modality, TowerBlock]]:
    """The blocks of both towers, side by side."""
    for blocks in islice(zip(*(tower.each_block() for tower in towers.values()), strict=True), count):
        yield dict(zip(towers, blocks, strict=True))


def _products(layer: nn.Module, needs: bool) -> Iterator[tuple[nn.Parameter, bool]]:
    """The weights that a layer multiplies with, and whether what comes in needs a gradient.

    With adapters (LoRA, as PEFT puts them around a layer) there are three: the layer's own, down, and up again.
    """
    base: Any = getattr(layer, "base_layer", layer)
    yield base.weight, needs
    for name, down in getattr(layer, "lora_A", {}).items():
        yield down.weight, needs
        yield layer.lora_B[name].weight, needs or down.weight.requires_grad  # type: ignore[index,union-attr]


def _width(layer: nn.Module) -> int:
    """Channels that a linear map makes."""
    weight: Any = getattr(layer, "base_layer", layer).weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])


def _size(weight: nn.Parameter) -> int:
    """Values of a whole parameter, of which this process may hold a part (ZeRO 3)."""
    return int(getattr(weight, "ds_numel", weight.numel()))


def _is_trained(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
