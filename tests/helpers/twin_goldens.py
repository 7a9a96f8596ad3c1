"""The reference's tiny models as ours: what the tests of the model and of sampling are built on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from ovi_lab.flow import SamplerSettings, Texts, first_frame_given, sample
from ovi_lab.models import TwinDiT, TwinOutput

Twin = TypeVar("Twin", bound=TwinDiT)

KEYS = ("dim", "ffn_dim", "freq_dim", "num_heads", "num_layers", "in_dim", "out_dim")
KEYS += ("text_len", "text_dim", "eps", "patch_size")


def read_golden(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of one golden file."""
    with safe_open(path, "pt") as f:
        return {key: f.get_tensor(key) for key in f.keys()}, dict(f.metadata() or {})  # noqa: SIM118


def tower_settings(reference: dict[str, Any]) -> dict[str, Any]:
    """Our keys of the reference's configuration."""
    return {key: reference[key] for key in KEYS}


def stored(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def mean_squares(out: TwinOutput) -> Tensor:
    """A loss of both predictions."""
    return out.video.square().mean() + out.audio.square().mean()


def golden_twin(
    goldens: Path, dtype: torch.dtype = torch.float32, kind: type[Twin] = TwinDiT, **options: Any
) -> Twin:
    """The model of fusion_tiny with its weights."""
    tensors, metadata = read_golden(goldens / "fusion_tiny.safetensors")
    config = json.loads(metadata["config"])
    model = kind(tower_settings(config["video"]), tower_settings(config["audio"]), **options)
    model.load_state_dict(stored(tensors, "weights/"), strict=True)
    return model.to(dtype)


def begun_with(frame: Tensor, video: Tensor) -> dict[str, Any]:
    """Arguments of `sample` by which clips of this video noise begin with a given latent frame."""
    given, clean = first_frame_given(frame, video)
    return {"given": given, "clean": clean}


def sampled_golden(
    model: TwinDiT, golden: dict[str, Tensor], first_frame: bool = True, **settings: Any
) -> dict[str, Tensor]:
    """The latents of the released loop's stored case (sampling_tiny) as our sampler makes them, a block skipped."""
    texts = ([golden[f"inputs/text_{name}"]] for name in ("pos", "video_neg", "audio_neg"))
    noise: dict[Any, Tensor] = {m: golden[f"inputs/{m}_noise"][None] for m in ("video", "audio")}
    out = sample(
        model,
        noise,
        Texts(*texts),
        SamplerSettings(steps=6, video_guidance=4.0, audio_guidance=3.0, skip_layers=[1], **settings),
        **(begun_with(golden["inputs/image_latent"][None], noise["video"]) if first_frame else {}),
    )
    assert out.video is not None
    assert out.audio is not None
    return {"video": out.video[0], "audio": out.audio[0]}


def hold_the_golden(found: dict[str, Tensor], golden: dict[str, Tensor], case: str = "unipc_6_i2v") -> None:
    """The latents are the stored ones."""
    for modality, latents in found.items():
        torch.testing.assert_close(latents, golden[f"out/{case}.{modality}"], atol=2e-5, rtol=1e-5)


TINY_TOWER: dict[str, Any] = {"dim": 64, "ffn_dim": 96, "num_heads": 2, "num_layers": 3, "freq_dim": 16}
TINY_TOWER |= {"text_len": 6, "text_dim": 10}
TINY_VIDEO = TINY_TOWER | {"in_dim": 4}
TINY_AUDIO = TINY_TOWER | {"in_dim": 3, "patch_kernel_size": 3, "patch_hidden_dim": 32}


def tiny_twin(*, spread: float = 0.0, kind: type[Twin] = TwinDiT, **options: Any) -> Twin:
    """A twin of the ball world's shape (head dim 32).

    A fresh model predicts zero; `spread` adds that much noise to every parameter, so that each one matters.
    """
    model = kind(TINY_VIDEO, TINY_AUDIO, **options)
    if spread:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model


def tiny_batch(batch: int = 2, seed: int = 0, frames: int = 4, tokens: int = 11) -> dict[str, Any]:
    """Arguments of `forward` for `tiny_twin`: latents, times and texts."""
    g = torch.Generator().manual_seed(seed)
    text = torch.randn(batch, 5, 10, generator=g)
    return {
        "video": torch.randn(batch, 4, frames, 4, 4, generator=g),
        "audio": torch.randn(batch, tokens, 3, generator=g),
        "t_video": 1000 * torch.rand(batch, generator=g),
        "t_audio": 1000 * torch.rand(batch, generator=g),
        "text_video": text,
        "text_audio": text,
    }
