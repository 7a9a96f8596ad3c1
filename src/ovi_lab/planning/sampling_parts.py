"""What each part of Ovi takes: its weights, and what its work takes beside them, from the configuration alone.

The parts are built on the meta device and run there by the code that samples, while `LiveMemory` counts; nothing
is loaded and nothing is computed. Repeated work (blocks, frames, tiles) is run a few times and stood in for after.
All sizes are in bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ovi_lab.checkpoints.presets import ReleasedModel
from ovi_lab.codecs import mmaudio, wan22
from ovi_lab.flow import SamplerSettings, Texts, sample
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.planning.live_memory import LiveMemory
from ovi_lab.sampling.quantise import linear_names, stored_bytes
from ovi_lab.text import umt5

META = torch.device("meta")
TEXTS = 3
"""Read together by the text encoder: the prompt and the two negatives."""


@dataclass(frozen=True)
class Footprint:
    """Memory of one part of the pipeline, in bytes."""

    weights: int
    work: int
    """Most that is alive beside the weights while it works, its input and output included."""
    streamed: int = 0
    """Weights that are there at a time when blocks are brought one by one (twin towers)."""
    kept: int = 0
    """The share of `work` that is kept from step to step: keys and values of the texts (twin towers)."""


def text_footprint(
    preset: ReleasedModel, tokens: int = 512, dtype: torch.dtype = torch.bfloat16
) -> Footprint:
    """The text encoder over `TEXTS` texts of so many tokens; its file's type is bf16."""
    encoder = umt5.build(umt5.UMT5Config.of(preset.text_encoder))
    nn.Module.to(encoder, dtype=dtype)
    weights = stored_bytes(encoder)
    ids_BN = torch.zeros(TEXTS, tokens, dtype=torch.long, device=META)
    # Without a mask, whose values would be read to find padding. It is small.
    return Footprint(weights, _peak(lambda: encoder(input_ids=ids_BN).last_hidden_state.float(), encoder))


def towers_weights(
    preset: ReleasedModel, dtype: torch.dtype, weights_8bit: bool = False
) -> tuple[int, int, int]:
    """Bytes of all weights, of those that are there at a time when blocks are streamed, and what widening the
    largest 8-bit weight takes for a moment."""
    model = _on_meta(preset, dtype)
    weights, narrow, widest = stored_bytes(model), 0, 0
    if weights_8bit:
        for name in linear_names(model):
            layer: Any = model.get_submodule(name)
            narrow += _saved(layer)
            widest = max(widest, layer.weight.numel() * dtype.itemsize)
    blocks = [stored_bytes(block) for block in model.sharding_units()]
    of_blocks = sum(blocks)
    largest_pair = max(map(sum, itertools.pairwise(blocks)), default=of_blocks)
    return weights - narrow, weights - of_blocks + largest_pair * (of_blocks - narrow) // of_blocks, widest


def text_kept(preset: ReleasedModel, dtype: torch.dtype, guided: bool) -> int:
    """Keys and values of the texts that are kept with `cache_text`."""
    rows = 2 if guided else 1
    towers = _on_meta(preset, dtype).tower_configs.values()
    return sum(2 * c.num_layers * rows * c.text_len * c.dim * dtype.itemsize for c in towers)


def towers_work(
    preset: ReleasedModel,
    size: tuple[int, int],
    dtype: torch.dtype,
    settings: SamplerSettings,
    *,
    tokens: int = 512,
    first_frame: bool = False,
) -> int:
    """Most that the latent loop has alive beside the towers' weights.

    Args:
        preset: its sizes.
        size: height and width of the picture.
        dtype: that the towers compute in.
        settings: of the loop; a few steps replace all, and no block is skipped.
        tokens: of each text.
        first_frame: whether the first frame is given.
    """
    settings = replace(settings, steps=3, skip_layers=())
    model = _on_meta(preset, dtype)
    _run_few_blocks(model)
    towers = model.tower_configs
    video = (1, towers["video"].in_dim, preset.video_latent_frames, size[0] // 16, size[1] // 16)

    def loop() -> Any:
        config = towers["video"]
        texts = [
            torch.empty(min(tokens, config.text_len), config.text_dim, device=META) for _ in range(TEXTS)
        ]
        noise: dict[Modality, Tensor] = {
            "video": torch.empty(video, device=META),
            "audio": torch.empty(1, preset.audio_latents, towers["audio"].in_dim, device=META),
        }
        positive, *negative = ([text] for text in texts)
        given, clean = Given.first_frame(noise["video"]), {"video": torch.empty(video, device=META)}
        begin: dict[str, Any] = {"given": given, "clean": clean} if first_frame else {}
        return sample(model, noise, Texts(positive, *negative), settings, **begin)

    return _peak(loop, model)


def _on_meta(preset: ReleasedModel, dtype: torch.dtype) -> TwinDiT:
    with META:
        model = TwinDiT(**preset.model)
    return model.to(dtype).eval().requires_grad_(False)


def picture_footprint(
    preset: ReleasedModel,
    size: tuple[int, int],
    dtype: torch.dtype,
    *,
    tiling: bool = False,
    first_frame: bool = False,
) -> Footprint:
    """The Wan2.2 VAE: the whole clip's decoding and, where a first frame is given, that frame's encoding."""
    config = wan22.Wan22Config.of(preset.video_codec)
    model = nn.Module.to(wan22.build(config), dtype=dtype)
    weights = stored_bytes(model)
    codec = wan22.Wan22VAE(model, config)
    work = 0
    if tiling:
        model.enable_tiling()
    if first_frame:
        picture_BTHWC = torch.empty(1, 1, *size, 3, dtype=torch.uint8, device=META)
        work = _peak(lambda: codec.encode(picture_BTHWC), model)
    shape = (1, config.channels, preset.video_latent_frames, size[0] // 16, size[1] // 16)
    with torch.no_grad(), _FusedAttention(), LiveMemory(META, model) as live:
        _RepeatedFrames(model, live)
        codec.decode(torch.empty(shape, device=META))
    return Footprint(weights, max(work, live.peak))


def sound_footprint(preset: ReleasedModel) -> Footprint:
    """MMAudio's VAE and vocoder in float32: the whole clip's decoding."""
    config = mmaudio.MMAudioConfig.of(preset.audio_codec)
    codec = mmaudio.MMAudioCodec(mmaudio.build_vae(config), mmaudio.build_vocoder(config), config)
    parts = (codec.vae, codec.vocoder)
    latents_BLC = torch.empty(1, preset.audio_latents, config.channels, device=META)
    return Footprint(sum(map(stored_bytes, parts)), _peak(lambda: codec.decode(latents_BLC), *parts))


def _peak(work: Callable[[], Any], *parts: nn.Module) -> int:
    with torch.no_grad(), _FusedAttention(), LiveMemory(META, *parts) as live:
        work()
    return live.peak


def _saved(layer: Any) -> int:
    """Bytes less of a linear layer in 8 bits: a row keeps a float32 scale and an int8 zero point."""
    return layer.weight.numel() * (layer.weight.element_size() - 1) - 5 * layer.out_features


def _run_few_blocks(model: TwinDiT) -> None:
    """Makes a pass run two blocks only, one of them fused where any is; texts are kept for all."""
    fused = [b for b in model.twin_blocks if b.video.cross_attn.reads_other or b.audio.cross_attn.reads_other]
    model.twin_blocks = [*model.twin_blocks[:1], *fused[-1:]]
    model.num_layers = len(model.twin_blocks)


class _FusedAttention(TorchFunctionMode):
    """Attention as the fused kernels do it, which never have all products at once: their result, and one float32
    a query and head. On the meta device PyTorch would choose the way that has them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = {**dict(zip(("query", "key", "value"), args, strict=False)), **(kwargs or {})}
        query, value = given["query"], given["value"]
        out = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)
        torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        return out


class _RepeatedFrames:
    """Stands in for a VAE's decoder once it has seen the like: one latent frame after the other, tile after tile.

    The decoder's memory during a call depends on how many frames went before, up to the few whose activations it
    keeps, and is in proportion to the tile's area. What it was the first time is counted again; outputs and kept
    activations of the fitting shapes are passed on.
    """

    DISTINCT = 4
    """Calls after which all are equal."""

    def __init__(self, model: Any, live: LiveMemory) -> None:
        self.decoder, self.live = model.decoder.forward, live
        self.known: dict[int, tuple[torch.Size, int, Tensor, list[Any]]] = {}
        self.calls = 0
        model.decoder.forward = self

    def __call__(
        self, x: Tensor, feat_cache: list[Any], feat_idx: list[int], first_chunk: bool = False
    ) -> Tensor:
        self.calls = 0 if all(kept is None for kept in feat_cache) else self.calls + 1
        known = self.known.get(min(self.calls, self.DISTINCT - 1))
        if known is None:
            before, peak = self.live.now, self.live.peak
            self.live.peak = before
            out = self.decoder(x, feat_cache=feat_cache, feat_idx=feat_idx, first_chunk=first_chunk)
            extra = self.live.peak - before
            self.live.peak = max(peak, self.live.peak)
            self.known[self.calls] = (x.shape, extra, _shell(out), [_shell(value) for value in feat_cache])
            return out
        shape, extra, shell, kept = known
        # the first tile is the largest; those at the far edges are parts of one
        here, there = x.shape[-2:], shape[-2:]
        self.live.reach(extra * here.numel() // there.numel())
        for index, (value, held) in enumerate(zip(kept, feat_cache, strict=True)):
            if not isinstance(value, Tensor):
                feat_cache[index] = value
            elif not isinstance(held, Tensor) or held.shape[2] != value.shape[2]:
                feat_cache[index] = _filled(value, here, there)
        return _filled(shell, here, there)


def _shell(value: Any) -> Any:
    """A tensor's shape and type that takes no place."""
    return value.new_empty(()).expand(value.shape) if isinstance(value, Tensor) else value


def _filled(value: Tensor, here: torch.Size, there: torch.Size) -> Tensor:
    """A tensor such as `value`, made of a tile of `here` rows and columns, not of `there`."""
    sides = [n * a // b for n, a, b in zip(value.shape[-2:], here, there, strict=True)]
    return torch.empty(*value.shape[:-2], *sides, dtype=value.dtype, device=value.device)
