"""A preset of small sizes for predictions of memory, and what its work takes of the CPU's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import nn

from ovi_lab.checkpoints.presets import ReleasedModel, released_model
from ovi_lab.flow import SamplerSettings
from ovi_lab.planning.live_memory import LiveMemory

GUIDED = SamplerSettings(video_guidance=4.0, audio_guidance=3.0)
CODEC = {"base_dim": 16, "decoder_base_dim": 24, "channels": 12, "res_blocks": 1}
CODEC |= {"latent_mean": [0.0] * 12, "latent_std": [1.0] * 12}
ENCODER = {"vocabulary": 300, "dim": 48, "ffn_dim": 96, "num_heads": 4, "head_dim": 12, "num_layers": 2}


def make_preset(dim: int = 64, layers: int = 3, frames: int = 4, audio: int = 20) -> ReleasedModel:
    tower = {"num_heads": 2, "num_layers": layers, "ffn_dim": 4 * dim, "text_len": 32, "text_dim": 48}
    towers = {name: {**tower, "dim": dim, "in_dim": n} for name, n in (("video", 12), ("audio", 10))}
    return dataclasses.replace(
        released_model("ovi_720x720_5s"),
        name="small",
        model={**towers, "fusion": {"direction": "bidirectional"}, "rope": {}},
        video_latent_frames=frames,
        audio_latents=audio,
        area=(128, 128),
        text_encoder=ENCODER,
        video_codec=CODEC,
        audio_codec={"channels": 10, "hidden": 32, "vocoder_channels": 64},
    )


def alive(work: Callable[[], object], *modules: nn.Module) -> int:
    """The most bytes of storages that were alive at a time, beside the modules'."""
    with torch.no_grad(), LiveMemory("cpu", *modules) as live:
        work()
    return live.peak


def write_preset(folder: Path, **sizes: int) -> Path:
    preset = make_preset(**sizes)
    names = ("file", "video_latent_frames", "audio_latents", "fps", "sample_rate", "audio_tag")
    sizes = ("text_encoder", "video_codec", "audio_codec")
    content = {name: getattr(preset, name) for name in (*names, *sizes)}
    content |= {"name": "small", "model": preset.model, "area": list(preset.area)}
    (folder / "preset.yaml").write_text(yaml.safe_dump(content))
    return folder
