"""A video codec of the leading principal components of small space-time blocks.

Blocks of 2 frames x 8 x 8 pixels x 3 colours (384 values) are projected onto their leading components. All of
them share one scale: whitening each component would ask the model to spend as much on the faint ones as on
the strong.

Shape suffixes: B clips, T frames, H rows, W columns, F h w latent frames, rows and columns, C components,
P pixels of a block, X blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Strict
from torch import Tensor

from ovi_lab.codecs.base import check_frames, check_latents, check_stored
from ovi_lab.common.fields import Width, checked, signature
from ovi_lab.errors import UserError

_Block = Annotated[tuple[Width, Width, Width], Strict(False)]


class BlockPCA:
    """PCA of blocks; linear, so that any frame size and length that the block divides will do.

    Args:
        channels: components kept.
        block: frames, rows and columns of a block.
    """

    kind = "block_pca"
    first_frame_alone = False

    def __init__(self, channels: Width = 24, block: _Block = (2, 8, 8)) -> None:
        pixels = 3 * block[0] * block[1] * block[2]
        if min(block) < 1 or not 1 <= channels <= pixels:
            raise UserError(
                f"a block of {block} has {pixels} values, so 1 to {pixels} channels, not {channels}"
            )
        self.channels = channels
        self.strides = (int(block[0]), int(block[1]), int(block[2]))
        self.mean_P: Tensor | None = None
        self.components_CP: Tensor | None = None
        self.scale = 1.0
        self.explained = 0.0

    def fit(self, batches_BTHWC: Iterable[Tensor]) -> None:
        """Mean, components and scale of uint8 frames, in float64; each component's largest value is positive.

        Raises:
            UserError: no batch came, or its frames do not divide.
        """
        count = 0
        pixels = 3 * self.strides[0] * self.strides[1] * self.strides[2]
        total_P = torch.zeros(pixels, dtype=torch.float64)
        squares_PP = torch.zeros(pixels, pixels, dtype=torch.float64)
        for frames in batches_BTHWC:
            blocks_XP = self._blocks(frames).reshape(-1, pixels)
            total_P += blocks_XP.sum(0, dtype=torch.float64)
            squares_PP += (blocks_XP.T @ blocks_XP).double()
            count += len(blocks_XP)
        if not count:
            raise UserError("the video codec got no clips to be fitted on")
        mean_P = total_P / count
        values, vectors = torch.linalg.eigh(squares_PP / count - torch.outer(mean_P, mean_P))
        order = values.argsort(descending=True, stable=True)[: self.channels]
        components_CP = vectors[:, order].T.contiguous()
        peak_C1 = components_CP.abs().argmax(1, keepdim=True)
        components_CP *= components_CP.gather(1, peak_C1).sign()
        leading = values[order].clamp(min=0)
        self.mean_P, self.components_CP = mean_P.float(), components_CP.float()
        self.scale = max(float((leading.sum() / self.channels).sqrt()), 1e-6)
        self.explained = float(leading.sum() / values.clamp(min=0).sum().clamp(min=1e-12))

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        """uint8 [B,T,H,W,3] -> float32 [B,C,F,h,w], of variance about 1 over all channels together."""
        mean_P, components_CP = self._fitted()
        blocks_BFhwP = self._blocks(frames_BTHWC)
        latents = (blocks_BFhwP - mean_P) @ (components_CP.T / self.scale)
        return latents.permute(0, 4, 1, 2, 3).contiguous()

    def decode(self, latents_BCFhw: Tensor) -> Tensor:
        """float [B,C,F,h,w] -> uint8 [B,T,H,W,3]; values past the range of a pixel are cut."""
        mean_P, components_CP = self._fitted()
        check_latents(latents_BCFhw, "video", self.channels)
        t, y, x = self.strides
        B, _, F, h, w = latents_BCFhw.shape
        blocks = latents_BCFhw.float().permute(0, 2, 3, 4, 1) @ (components_CP * self.scale) + mean_P
        frames = blocks.reshape(B, F, h, w, t, y, x, 3).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return frames.mul(255).round().clamp(0, 255).to(torch.uint8).reshape(B, F * t, h * y, w * x, 3)

    def config(self) -> dict[str, Any]:
        return {
            "channels": self.channels,
            "block": list(self.strides),
            "scale": self.scale,
            "explained": self.explained,
        }

    def tensors(self) -> dict[str, Tensor]:
        mean_P, components_CP = self._fitted()
        return {"mean": mean_P, "components": components_CP}

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BlockPCA:
        settings = {"channels": config["channels"], "block": config["block"]}
        codec = cls(**checked(signature(cls), settings, "the video codec"))
        pixels = 3 * math.prod(codec.strides)
        shapes = {"mean": (pixels,), "components": (codec.channels, pixels)}
        check_stored(tensors, shapes, "video codec")
        codec.scale, codec.explained = float(config["scale"]), float(config["explained"])
        codec.mean_P, codec.components_CP = tensors["mean"], tensors["components"]
        return codec

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self.mean_P is None or self.components_CP is None:
            raise UserError("the video codec has not been fitted: fit it on clips, or load a saved one")
        return self.mean_P, self.components_CP

    def _blocks(self, frames_BTHWC: Tensor) -> Tensor:
        """uint8 [B,T,H,W,3] -> float [B,F,h,w,P] in [0,1]."""
        t, y, x = self.strides
        check_frames(frames_BTHWC)
        B, T, H, W, _ = frames_BTHWC.shape
        if T % t or H % y or W % x or not T * H * W:
            raise UserError(
                f"{T} frames of {H}x{W} do not divide into the video codec's blocks of {t} frames x {y}x{x}; "
                f"use {max(t, T - T % t)} frames of {max(y, H - H % y)}x{max(x, W - W % x)}"
            )
        parts = frames_BTHWC.reshape(B, T // t, t, H // y, y, W // x, x, 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return parts.reshape(B, T // t, H // y, W // x, t * y * x * 3).float().div(255)
