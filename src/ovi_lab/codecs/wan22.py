"""Wan2.2's video VAE: 16 x 16 pixels and four frames become one latent position; the first frame is a latent frame by
itself.

The network is diffusers' AutoencoderKLWan; this file holds its sizes, its published names, and the way between uint8
frames and the latents that the towers see, (posterior mean - mean) / std per channel.

Shape suffixes: B clips, T frames, H rows, W columns, C channels, F h w latent frames, rows and columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from ovi_eval.common.shapes import on_meta
from ovi_lab.codecs.base import check_frames, check_latents
from ovi_lab.common.fields import CLOSED, Layers, Number, PlainSettings, Width, Widths, YesNo
from ovi_lab.errors import UserError
from ovi_lab.models.rope import from_host
from ovi_lab.weights.torch_files import load_named, read_tensors

# fmt: off
LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on

_RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_OUTSIDE = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    "encoder.conv1": "encoder.conv_in",
    "decoder.conv1": "decoder.conv_in",
    "encoder.head.0": "encoder.norm_out",
    "decoder.head.0": "decoder.norm_out",
    "encoder.head.2": "encoder.conv_out",
    "decoder.head.2": "decoder.conv_out",
}


@dataclass(frozen=True, config=CLOSED)
class Wan22Config(PlainSettings):
    """Sizes of the VAE; the defaults are the published ones (704,688,668 parameters).

    `latent_mean` and `latent_std` have one value for each of the `channels`.
    """

    title = "the Wan2.2 VAE's configuration"

    base_dim: Width = 160
    decoder_base_dim: Width = 256
    channels: Width = 48
    multipliers: Widths = (1, 2, 4, 4)
    res_blocks: Layers = 2
    temporal: tuple[YesNo, ...] = (False, True, True)
    """Which of the three halvings of rows and columns halve the frames too."""
    latent_mean: tuple[Number, ...] = LATENT_MEAN
    latent_std: tuple[Number, ...] = LATENT_STD

    def __post_init__(self) -> None:
        for name in ("latent_mean", "latent_std"):
            if len(getattr(self, name)) != self.channels:
                raise UserError(
                    f"the Wan2.2 VAE's {name} has {len(getattr(self, name))} values, expected one for each of "
                    f"its {self.channels} channels"
                )
        if len(self.multipliers) != 4 or self.temporal != (False, True, True):
            raise UserError(
                f"the Wan2.2 VAE's multipliers {list(self.multipliers)} and temporal {list(self.temporal)}: expected "
                "four widths and [false, true, true], which give strides of 4 frames and 16 pixels"
            )


def diffusers_name(name: str) -> str:
    """diffusers' name for a tensor of the published file; names that follow none of its rules stay.

    Inside a level, the published file counts residual blocks and what resamples in one list, diffusers in two.
    """
    stem, _, leaf = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{leaf}"
    side, _, rest = name.partition(".")
    middle = re.match(r"middle\.([012])\.(.+)", rest)
    if middle:
        return f"{side}.mid_block.{_MIDDLE[middle[1]]}.{_in_block(middle[2])}"
    level = re.match(r"(down|up)samples\.(\d+)\.\1samples\.(\d+)\.(.+)", rest)
    if not level:
        return name
    way, block, position, inner = level.groups()
    if inner.startswith(("resample.", "time_conv.")):
        return f"{side}.{way}_blocks.{block}.{way}sampler.{inner}"
    return f"{side}.{way}_blocks.{block}.resnets.{position}.{_in_block(inner)}"


def _in_block(inner: str) -> str:
    stem, _, leaf = inner.rpartition(".")
    if stem == "shortcut":
        return f"conv_shortcut.{leaf}"
    return f"{_RESIDUAL[stem]}.{leaf}" if stem in _RESIDUAL else inner


def build(config: Wan22Config) -> Any:
    """The network on the meta device: names and shapes, no memory."""
    import diffusers

    with on_meta():
        return diffusers.AutoencoderKLWan(
            base_dim=config.base_dim,
            decoder_base_dim=config.decoder_base_dim,
            z_dim=config.channels,
            dim_mult=list(config.multipliers),
            num_res_blocks=config.res_blocks,
            temperal_downsample=list(config.temporal),
            latents_mean=list(config.latent_mean),
            latents_std=list(config.latent_std),
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
        )


class Wan22VAE:
    """Frozen video codec; 4n + 1 frames of sides that 16 divides become n + 1 latent frames.

    Args:
        model: a loaded AutoencoderKLWan.
        configuration: its sizes.
    """

    kind = "wan22"
    strides = (4, 16, 16)
    first_frame_alone = True

    def __init__(self, model: Any, configuration: Wan22Config) -> None:
        self.model, self.configuration = model, configuration
        self.channels = configuration.channels

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        configuration: Wan22Config | Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Wan22VAE:
        """The codec of a published file (`Wan2.2_VAE.pth`, or the same names as safetensors).

        Raises:
            UserError: the file is missing, damaged, holds code, or another model or size.
        """
        checked = Wan22Config.of(configuration)
        model = build(checked)
        tensors = read_tensors(path, "Wan2.2 VAE")
        load_named(model, tensors, f"{path}, read as the Wan2.2 VAE,", diffusers_name, dtype, device)
        return cls(model, checked)

    def fit(self, batches_BTHWC: Iterable[Tensor]) -> None:
        """Learns nothing, but consumes the batches, on which the audio codec is fitted at the same time."""
        for _ in batches_BTHWC:
            pass

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        """uint8 [B,T,H,W,3] -> float32 latents [B,C,1+(T-1)/4,H/16,W/16], on the frames' device."""
        check_frames(frames_BTHWC)
        pixels = frames_BTHWC.to(self.model.device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        return self.encode_pixels(pixels).to(frames_BTHWC.device)

    def encode_pixels(self, pixels_BCTHW: Tensor) -> Tensor:
        """float [B,3,T,H,W] in [-1,1] -> float32 latents on the network's device.

        Raises UserError for frames that are not 4n + 1 or sides that 16 does not divide.
        """
        _, _, T, H, W = pixels_BCTHW.shape
        t, y, x = self.strides
        if T % t != 1 or H % y or W % x or not H * W:
            raise UserError(
                f"{T} frames of {H}x{W} do not fit the Wan2.2 VAE: expected 4n+1 frames and sides that {y} "
                f"divides; use {T - (T - 1) % t if T else 1} frames of {max(y, H - H % y)}x{max(x, W - W % x)}"
            )
        with torch.no_grad():
            posterior = self.model.encode(pixels_BCTHW.to(self.model.device, self.model.dtype)).latent_dist
            mean_C, std_C = self._scale()
            return (posterior.mode().float() - mean_C) / std_C

    def decode(self, latents_BCFhw: Tensor) -> Tensor:
        """float [B,C,F,h,w] -> uint8 [B,4F-3,16h,16w,3], on the latents' device."""
        pixels = self.decode_pixels(latents_BCFhw)
        frames = ((pixels + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
        return frames.permute(0, 2, 3, 4, 1).contiguous().to(latents_BCFhw.device)

    def decode_pixels(self, latents_BCFhw: Tensor) -> Tensor:
        """float [B,C,F,h,w] -> float32 [B,3,4F-3,16h,16w] in [-1,1] on the network's device."""
        check_latents(latents_BCFhw, "video", self.channels)
        with torch.no_grad():
            mean_C, std_C = self._scale()
            unscaled = latents_BCFhw.to(self.model.device, torch.float32) * std_C + mean_C
            return self.model.decode(unscaled.to(self.model.dtype)).sample.float()

    def config(self) -> dict[str, Any]:
        return asdict(self.configuration)

    def tensors(self) -> dict[str, Tensor]:
        """The network's weights, by diffusers' names, on the CPU."""
        return {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Wan22VAE:
        settings = {name: value for name, value in config.items() if name != "kind"}
        checked = Wan22Config.of(settings)
        model = build(checked)
        load_named(model, tensors, "a saved Wan2.2 VAE")
        return cls(model, checked)

    def _scale(self) -> tuple[Tensor, Tensor]:
        mean_C, std_C = (
            from_host(values, self.model.device, torch.float32).view(-1, 1, 1, 1)
            for values in (self.configuration.latent_mean, self.configuration.latent_std)
        )
        return mean_C, std_C
