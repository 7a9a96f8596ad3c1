"""What each part of Ovi takes: its weights, and what its work takes beside them, from the configuration alone.

The parts are built on the meta device and run there by the code that samples, while `LiveMemory` counts; nothing
is loaded and nothing is computed. Repeated work (blocks, frames, tiles) is run a few times and stood in for after.
All sizes are in bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ovi_lab.checkpoints.presets import ReleasedModel
from ovi_lab.codecs import mmaudio, wan22
from ovi_lab.flow import SamplerSettings, Texts, sample
from ovi_lab.flow.guidance import GuidedVelocity
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.models.given import frames_of
from ovi_lab.models.twin_block import TwinBlock
from ovi_lab.planning.asked import AskedOf, Lengths
from ovi_lab.planning.live_memory import LiveMemory
from ovi_lab.sampling.long_clips import shared_again
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
    kept_given: int = 0
    """Likewise of a modality that is given whole: what no step changes of it."""


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
    asked: AskedOf | None = None,
) -> int:
    """Most that the latent loop has alive beside the towers' weights.

    Args:
        preset: its sizes.
        size: height and width of the picture.
        dtype: that the towers compute in.
        settings: of the loop; a few steps replace all, and no block is skipped.
        tokens: of each text.
        asked: what is given, and the windows of a longer clip; None: nothing, and one window.
    """
    asked = asked or AskedOf()
    settings = replace(settings, steps=3, skip_layers=())
    model = _on_meta(preset, dtype)
    _run_few_blocks(model)
    most = 0
    for lead in asked.leads:
        noise, texts, given = _inputs(preset, model, size, tokens, lead)
        work = _peak(partial(sample, model, noise, texts, settings, given=given, clean=noise), model)
        if settings.cache_given and not _kept_of_first(model, noise, given):
            # and what is kept of the blocks that did not run
            whole = _on_meta(preset, dtype)
            few, all_blocks = (_kept(one, noise, texts, given, settings) for one in (model, whole))
            work += max(0, all_blocks - few)
        most = max(most, work)
    if asked.total is None:
        return most
    # the noise of all windows, and their latents, which are joined at the end
    frames, _ = asked.total
    cells = math.prod((model.tower_configs["video"].in_dim, size[0] // 16, size[1] // 16))
    return most + 4 * cells * (asked.windows * preset.video_latent_frames + 2 * frames)


def given_kept(
    preset: ReleasedModel,
    size: tuple[int, int],
    dtype: torch.dtype,
    settings: SamplerSettings,
    *,
    asked: AskedOf,
) -> int:
    """What `cache_given` keeps from step to step; 0 where no modality is given whole. Arguments as of `towers_work`."""
    settings, most = replace(settings, skip_layers=()), 0
    for lead in asked.leads:
        model = _on_meta(preset, dtype)
        inputs = _inputs(preset, model, size, 1, lead)
        if _kept_of_first(model, inputs[0], inputs[2]):
            _run_few_blocks(model)
        most = max(most, _kept(model, *inputs, settings))
    return most


def _given_whole(noise: dict[Modality, Tensor], given: Given) -> list[Modality]:
    return [m for m, x in noise.items() if given.all_given(m, frames_of(x, m))]


def _kept_of_first(model: TwinDiT, noise: dict[Modality, Tensor], given: Given) -> bool:
    """Whether nothing is kept of blocks after the first: it is the first that reads the other tower."""
    first = model.twin_blocks[0]
    return all(getattr(first, m).cross_attn.reads_other for m in _given_whole(noise, given))


def _kept(
    model: TwinDiT,
    noise: dict[Modality, Tensor],
    texts: Texts,
    given: Given,
    settings: SamplerSettings,
) -> int:
    """Bytes that a call of the velocity leaves alive, beyond those that it leaves without `cache_given`."""
    if not _given_whole(noise, given):
        return 0
    left = []
    for keep in (True, False):
        with torch.no_grad(), _FusedAttention(), LiveMemory(META, model) as live:
            velocity = GuidedVelocity(
                model, list(noise), 1, texts, replace(settings, cache_given=keep), given
            )
            velocity(noise, torch.zeros((), device=META))
            left.append(live.now)
    return left[0] - left[1]


def _inputs(
    preset: ReleasedModel, model: TwinDiT, size: tuple[int, int], tokens: int, lead: Lengths
) -> tuple[dict[Modality, Tensor], Texts, Given]:
    """Noise, texts and what is given of a window."""
    towers = model.tower_configs
    shape = (1, towers["video"].in_dim, preset.video_latent_frames, size[0] // 16, size[1] // 16)
    noise: dict[Modality, Tensor] = {
        "video": torch.empty(shape, device=META),
        "audio": torch.empty(1, preset.audio_latents, towers["audio"].in_dim, device=META),
    }
    config = towers["video"]
    positive, *negative = (
        [torch.empty(min(tokens, config.text_len), config.text_dim, device=META)] for _ in range(TEXTS)
    )
    masks = [
        np.arange(n)[None] < own if own else None
        for n, own in zip((preset.video_latent_frames, preset.audio_latents), lead, strict=True)
    ]
    return noise, Texts(positive, *negative), Given(*masks)


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
    asked: AskedOf | None = None,
) -> Footprint:
    """The Wan2.2 VAE: the whole clip's decoding, the encoding of what is given of the picture, and of what two windows
    share.
    """
    asked = asked or AskedOf()
    config = wan22.Wan22Config.of(preset.video_codec)
    model = nn.Module.to(wan22.build(config), dtype=dtype)
    weights = stored_bytes(model)
    codec = wan22.Wan22VAE(model, config)
    if tiling:
        model.enable_tiling()
    again = shared_again(codec)

    def latents(frames: int) -> Tensor:
        return torch.empty(1, config.channels, frames, size[0] // 16, size[1] // 16, device=META)

    def encode(frames: int) -> Any:
        return codec.encode(torch.empty(1, frames, *size, 3, dtype=torch.uint8, device=META))

    works: list[Callable[[], Any]] = []
    works += [partial(encode, 1)] if asked.image else []
    works += [partial(encode, asked.frames)] if asked.frames else []
    if asked.shared and again is not None:
        works.append(lambda: again(latents(preset.video_latent_frames), asked.shared))
    works.append(lambda: codec.decode(latents(asked.total[0] if asked.total else preset.video_latent_frames)))
    most = 0
    for work in works:
        with (
            torch.no_grad(),
            _FusedAttention(),
            LiveMemory(META, model) as live,
            _RepeatedFrames(model.encoder, live),
            _RepeatedFrames(model.decoder, live),
        ):
            work()
        most = max(most, live.peak)
    return Footprint(weights, most)


def sound_footprint(preset: ReleasedModel, *, asked: AskedOf | None = None) -> Footprint:
    """MMAudio's VAE and vocoder in float32: the whole clip's decoding, and the encoding of what is given."""
    asked = asked or AskedOf()
    config = mmaudio.MMAudioConfig.of(preset.audio_codec)
    codec = mmaudio.MMAudioCodec(mmaudio.build_vae(config), mmaudio.build_vocoder(config), config)
    parts = (codec.vae, codec.vocoder)
    tokens = asked.total[1] if asked.total else preset.audio_latents
    work = _peak(lambda: codec.decode(torch.empty(1, tokens, config.channels, device=META)), *parts)
    if asked.samples:
        encoding = _peak(lambda: codec.encode(torch.empty(1, asked.samples, device=META)), *parts)
        work = max(work, encoding)
    return Footprint(sum(map(stored_bytes, parts)), work)


def frames_held(preset: ReleasedModel, size: tuple[int, int], asked: AskedOf) -> tuple[int, int]:
    """Bytes of frames in host memory: those of given files, from before the clip is sampled to its end, and those of
    the finished clip, of which a part is replaced in a copy."""
    latents = asked.total[0] if asked.total else preset.video_latent_frames
    a_frame = 3 * size[0] * size[1]
    made = (1 + wan22.Wan22VAE.strides[0] * (latents - 1)) * a_frame
    return asked.frames * a_frame + 4 * asked.samples, made * (2 if asked.frames_replaced else 1)


def _peak(work: Callable[[], Any], *parts: nn.Module) -> int:
    with torch.no_grad(), _FusedAttention(), LiveMemory(META, *parts) as live:
        work()
    return live.peak


def _saved(layer: Any) -> int:
    """Bytes less of a linear layer in 8 bits: a row keeps a float32 scale and an int8 zero point."""
    return layer.weight.numel() * (layer.weight.element_size() - 1) - 5 * layer.out_features


def _run_few_blocks(model: TwinDiT) -> None:
    """Makes a pass run three blocks only, the last two fused where any are; texts are kept for all."""
    first, *rest = model.twin_blocks
    fused = [b for b in rest if b.video.cross_attn.reads_other or b.audio.cross_attn.reads_other]
    # of the last block a modality that is given whole needs no more than what the other tower reads
    few = [first, *fused[-2:]]
    model.twin_blocks = [TwinBlock(block.video, block.audio, index) for index, block in enumerate(few)]
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
    """Stands in for a VAE's decoder, or encoder, once it has seen the like: one latent frame after the other, tile
    after tile. A context, at whose end the network is itself again.

    Its memory during a call depends on how many frames went before, up to the few whose activations it
    keeps, and is in proportion to the tile's area. What it was the first time is counted again; outputs and kept
    activations of the fitting shapes are passed on.
    """

    DISTINCT = 4
    """Calls after which all are equal."""

    def __init__(self, network: Any, live: LiveMemory) -> None:
        self.network, self.forward, self.live = network, network.forward, live
        self.known: dict[int, tuple[torch.Size, int, Tensor, list[Any]]] = {}
        self.calls = 0

    def __enter__(self) -> None:
        self.network.forward = self

    def __exit__(self, *_: object) -> None:
        self.network.forward = self.forward

    def __call__(self, x: Tensor, feat_cache: list[Any], feat_idx: list[int], **first: bool) -> Tensor:
        self.calls = 0 if all(kept is None for kept in feat_cache) else self.calls + 1
        known = self.known.get(min(self.calls, self.DISTINCT - 1))
        if known is None:
            before, peak = self.live.now, self.live.peak
            self.live.peak = before
            out: Tensor = self.forward(x, feat_cache=feat_cache, feat_idx=feat_idx, **first)
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
