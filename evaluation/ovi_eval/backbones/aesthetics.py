"""LAION's aesthetic predictor: how people would rate a picture, about 1 to 10, from CLIP's features of it.

Two heads on the features of CLIP ViT-L/14 (Radford et al. 2021), brought to length 1: the linear one of LAION
(github.com/LAION-AI/aesthetic-predictor), and five linear layers in a row without functions between them, trained on
SAC, Logos and AVA (github.com/christophschuhmann/improved-aesthetic-predictor). CLIP is read from a folder in
transformers' layout. Pictures: short side to the model's size by antialiased bicubic, centre crop, CLIP's mean and
spread.

Shapes: N pictures, H rows, W columns, D features.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovi_eval.backbones.hub_folder import model_from
from ovi_eval.common.files import file_sha256
from ovi_eval.common.needs import PublishedFolder
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import PublishedFile, load_published

MEAN = (0.48145466, 0.4578275, 0.40821073)
SPREAD = (0.26862954, 0.26130258, 0.27577711)
WEIGHTS = "model.safetensors"
WIDTHS = (1024, 128, 64, 16, 1)

CLIP_FOLDER = PublishedFolder(
    what="CLIP ViT-L/14",
    name="clip-vit-large-patch14",
    source="https://huggingface.co/openai/clip-vit-large-patch14",
    files=("config.json", WEIGHTS),
)
HEADS = {
    "linear": PublishedFile(
        what="LAION's aesthetic predictor, linear",
        name="sa_0_4_vit_l_14_linear.pth",
        source="https://github.com/LAION-AI/aesthetic-predictor",
    ),
    "mlp": PublishedFile(
        what="LAION's aesthetic predictor, improved",
        name="sac+logos+ava1-l14-linearMSE.pth",
        source="https://github.com/christophschuhmann/improved-aesthetic-predictor",
    ),
}
"""By their names in a recipe."""


class _Layers(nn.Module):
    """Five linear layers, at the places that dropout leaves them in the published file."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (width, *WIDTHS)
        for place, inside, out in zip(("0", "2", "4", "6", "7"), sizes[:-1], sizes[1:], strict=True):
            setattr(self, place, nn.Linear(inside, out))

    def forward(self, x_ND: Tensor) -> Tensor:
        for layer in self.children():
            x_ND = layer(x_ND)
        return x_ND


class _Improved(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = _Layers(width)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.layers(x_ND)


class AestheticPredictor:
    """`weights`: sha256 by file. `side`: rows and columns that CLIP looks at."""

    def __init__(self, folder: Path, head: Path, kind: str, device: torch.device = CPU) -> None:
        """CLIP's folder and a head's file of the kind `linear` or `mlp`. Raises UserError where one is another."""
        from transformers import CLIPModel

        self.device = device
        self.clip: Any = model_from(CLIPModel, folder, CLIP_FOLDER.what, use_safetensors=True).to(device)
        self.side = int(self.clip.config.vision_config.image_size)
        width = int(self.clip.config.projection_dim)

        def build() -> nn.Module:
            return nn.Linear(width, 1) if kind == "linear" else _Improved(width)

        loaded = load_published(build, head, HEADS[kind])
        self.head: Any = loaded.network.to(device)
        self.weights = {f"{folder.name}/{WEIGHTS}": file_sha256(folder / WEIGHTS), head.name: loaded.sha256}

    @torch.no_grad()
    def __call__(self, frames_NHWC: Tensor) -> Tensor:
        """The rating [N] of frames [N, H, W, 3] uint8, RGB."""
        pixels = prepared(frames_NHWC, self.side).to(self.device)
        seen = self.clip.vision_model(pixel_values=pixels).pooler_output
        features_ND = F.normalize(self.clip.visual_projection(seen), dim=-1)
        return self.head(features_ND)[:, 0].cpu()


def prepared(frames_NHWC: Tensor, side: int) -> Tensor:
    """Frames as CLIP takes them: [N, 3, side, side] float32."""
    height, width = frames_NHWC.shape[1:3]
    scale = side / min(height, width)
    size = [max(side, round(length * scale)) for length in (height, width)]
    small = F.interpolate(
        frames_NHWC.permute(0, 3, 1, 2).float(), size, mode="bicubic", antialias=True, align_corners=False
    )
    top, left = ((length - side) // 2 for length in size)
    cut = small[..., top : top + side, left : left + side].clamp(0, 255) / 255
    mean, spread = (torch.tensor(values)[:, None, None] for values in (MEAN, SPREAD))
    return (cut - mean) / spread
