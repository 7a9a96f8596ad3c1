"""Sampling, codecs and text encoder at full size, a section each: on the GPU that is not there, or on one that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ovi_lab.codecs import mmaudio, wan22
from ovi_lab.codecs.pair import LatentCodec
from ovi_lab.common.building import build
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, sample
from ovi_lab.flow.solvers import SOLVERS
from ovi_lab.models import Given, TwinDiT
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.job import RELEASED_CLIP
from ovi_lab.rehearsal.stopped import stopped_or
from ovi_lab.rehearsal.values import NoValues
from ovi_lab.rehearsal.watch import Watch
from ovi_lab.strategies.initial_values import Values, place_whole
from ovi_lab.text import umt5

GPU = torch.device("cuda", 0)
STEPS = 3
"""Of a solver: the first has no history, and the second a short one."""
LATENT_FRAMES = 3
"""That the picture's codec sees: the first one, the one after it, and one like all others."""
SAMPLES = 80_640
"""Of a wave of 5 s."""
Section = tuple[str, Callable[[], str]]
"""What is run, and what calls it and describes its result."""


def _untouched(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Bench:
    """Where sections run, and on what; by default on tensors without data."""

    device: torch.device = GPU
    values: Values = field(default_factory=NoValues)
    """Of the towers' parameters."""
    drawn: Callable[[Tensor], Tensor] = _untouched
    """Puts values into a tensor of the device: inputs, the codecs' weights and the text encoder's."""
    clip: ClipShape = RELEASED_CLIP

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor there."""
        return self.drawn(torch.empty(shape, device=self.device, dtype=dtype))

    def network(self, network: Any, dtype: torch.dtype | None = None) -> Any:
        """A network of the meta device, there."""
        network.to_empty(device=self.device)
        for tensor in (*network.parameters(), *network.buffers()):
            self.drawn(tensor)
        return nn.Module.to(network, dtype=dtype).eval().requires_grad_(False)


def rehearse_inference(config: DictConfig, watch: Watch) -> dict[str, Any]:
    """What each part of sampling does, by its name.

    Args:
        config: of a run whose model is sampled, with both towers.
        watch: entered here.
    """
    found = {}
    with watch.everywhere(), torch.no_grad():
        for name, run in sections(config, Bench()):
            watch.record.clear()
            watch.live.peak = before = watch.live.now
            result = stopped_or(partial(_described, run))
            found[name] = {
                **result,
                "record": watch.record.summary(),
                "peak": watch.live.peak - before,
                "before": before,
            }
    return {"sections": found, "steps": STEPS}


def _described(run: Callable[[], str]) -> dict[str, Any]:
    return {"out": run()}


def sections(config: DictConfig, bench: Bench) -> Iterator[Section]:
    """Each part's networks are freed before those of the next are made, if the caller has let its section go."""
    yield from solvers(config, bench)
    yield from _picture(bench)
    yield from _sound(bench)
    yield from _text(bench)


def solvers(config: DictConfig, bench: Bench) -> Iterator[Section]:
    """Sampling of both towers."""
    sampled = partial(_sampled, _towers(config, bench), bench)
    for solver in SOLVERS:
        yield f"solver {solver}, guided", partial(sampled, solver=solver)
    yield "passes one after the other, a block skipped", partial(sampled, skip_layers=(1,))
    yield "first frame given", partial(sampled, first_frame=True)
    yield "texts not kept", partial(sampled, cache_text=False)


def released_codec() -> LatentCodec:
    """The released models' codecs, on the GPU that is not there."""
    return LatentCodec(_video_codec(Bench()), _audio_codec(Bench()), 24.0)


def _video_codec(bench: Bench) -> wan22.Wan22VAE:
    sizes = wan22.Wan22Config()
    return wan22.Wan22VAE(bench.network(wan22.build(sizes), torch.bfloat16), sizes)


def _audio_codec(bench: Bench) -> mmaudio.MMAudioCodec:
    sizes = mmaudio.MMAudioConfig()
    vae, vocoder = bench.network(mmaudio.build_vae(sizes)), bench.network(mmaudio.build_vocoder(sizes))
    return mmaudio.MMAudioCodec(vae, vocoder, sizes)


def _picture(bench: Bench) -> Iterator[Section]:
    vae = _video_codec(bench)
    _, rows, columns = bench.clip.video or (0, 0, 0)
    latents = (1, vae.channels, LATENT_FRAMES, rows, columns)
    frames = (1, 1 + 4 * (LATENT_FRAMES - 1), 16 * rows, 16 * columns, 3)
    yield "Wan2.2 VAE, decode", lambda: _shape(vae.decode(bench.empty(*latents)))
    pixels = bench.empty(*frames, dtype=torch.uint8)
    yield "Wan2.2 VAE, encode", lambda: _shape(vae.encode(pixels))


def _sound(bench: Bench) -> Iterator[Section]:
    codec = _audio_codec(bench)
    latents = (1, bench.clip.audio or 1, codec.channels)
    yield "MMAudio and BigVGAN, decode", lambda: _shape(codec.decode(bench.empty(*latents)))
    yield "MMAudio, encode", lambda: _shape(codec.encode(bench.empty(1, SAMPLES)))


def _text(bench: Bench) -> Iterator[Section]:
    encoder = bench.network(umt5.build(umt5.UMT5Config()), torch.bfloat16)
    ids = torch.zeros(2, 77, dtype=torch.long)
    mask = torch.ones_like(ids)
    yield "umT5-XXL", lambda: _shape(umt5.encode(encoder, ids, mask)[0])


def _towers(config: DictConfig, bench: Bench) -> TwinDiT:
    """Both towers in bf16."""
    with torch.device("meta"):
        model: TwinDiT = build(config.model, "model")()
    if len(model.tower_configs) < 2:
        raise UserError("the sampling of a model of one tower is not rehearsed: give an experiment of both")
    place_whole(model, bench.values, bench.device, torch.bfloat16)
    return model.requires_grad_(False)


def _sampled(model: TwinDiT, bench: Bench, first_frame: bool = False, **settings: Any) -> str:
    """Two clips."""
    towers = model.tower_configs
    clips, width = 2, towers["video"].text_dim
    video, audio = bench.clip.video or (), bench.clip.audio or 1
    noise = {
        "video": bench.empty(clips, towers["video"].in_dim, *video),
        "audio": bench.empty(clips, audio, towers["audio"].in_dim),
    }
    most = min(config.text_len for config in towers.values())
    texts = Texts(*([bench.empty(min(n, most), width) for n in one] for one in ((50, 60), (9,), (12,))))
    given = Given.first_frame(noise["video"]) if first_frame else None
    chosen = SamplerSettings(**{"steps": STEPS, "video_guidance": 4.0, "audio_guidance": 3.0, **settings})
    made = sample(model, noise, texts, chosen, given=given, clean=noise)  # type: ignore[arg-type]
    return f"{_shape(made.video)}, {_shape(made.audio)}"


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{'x'.join(map(str, tensor.shape))} on {tensor.device}"
