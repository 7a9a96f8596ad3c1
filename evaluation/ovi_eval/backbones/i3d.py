"""I3D of Carreira and Zisserman (2017), the network of FVD, with the choices in which implementations differ.

Features are the 400 Kinetics logits, before any softmax, averaged over time. Implementations differ in
two choices, each of which changes the number, so both are part of a variant's name:

    variant       batch norm's eps   frames to 224x224
    stylegan-v    1e-5               short side to 224, centre cut out
    videogpt      1e-5               short side to 224, centre cut out (equal to stylegan-v on 8-bit frames)
    pytorch-i3d   1e-3               short side to 224, centre cut out
    cd-fvd        1e-5               both sides to 224, whatever the shape

Frames are resized bilinearly, without align_corners and without antialiasing, and lie in [-1, 1].

Shapes: N clips, T frames, C channels, F features.
"""

import math
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi_eval.common.weights import LoadedNetwork, PublishedFile, load_published
from ovi_eval.errors import UserError

SIDE = 224
CLASSES = 400
AT_ONCE = 1 << 20
"""Pixels that are resized together: 12 MB of float32."""
SHORTEST = 10
"""Frames from which on FVD is defined; fewer leave the last pooling nothing to pool."""

FILE = PublishedFile(
    what="I3D Kinetics-400",
    name="i3d_pretrained_400.pt",
    source="https://github.com/songweige/TATS (tats/fvd)",
)


class Variant(NamedTuple):
    """One implementation's choices: batch norm's eps, and how frames come to 224x224."""

    eps: float
    fit: Literal["crop", "stretch"]


VARIANTS = {
    "stylegan-v": Variant(1e-5, "crop"),
    "videogpt": Variant(1e-5, "crop"),
    "pytorch-i3d": Variant(1e-3, "crop"),
    "cd-fvd": Variant(1e-5, "stretch"),
}


def preprocess(frames_NTHWC: Tensor, fit: Literal["crop", "stretch"] = "crop") -> Tensor:
    """Frames [N, T, H, W, 3] uint8 RGB to I3D's input [N, 3, T, 224, 224] float32 in [-1, 1].

    Raises UserError for other shapes or types, or fewer than 10 frames.
    """
    shape = list(frames_NTHWC.shape)
    if len(shape) != 5 or shape[4] != 3 or frames_NTHWC.dtype != torch.uint8 or 0 in shape:
        raise UserError(f"I3D needs frames [N, T, H, W, 3] of uint8, got {shape} of {frames_NTHWC.dtype}")
    if shape[1] < SHORTEST:
        raise UserError(
            f"FVD needs clips of at least {SHORTEST} frames, got {shape[1]}; leave shorter ones out"
        )
    height, width = shape[2:4]
    if fit == "stretch":
        size = (SIDE, SIDE)
    elif height < width:
        size = (SIDE, math.ceil(width * (SIDE / height)))
    else:
        size = (math.ceil(height * (SIDE / width)), SIDE)
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    seen_NCTHW = torch.empty(shape[0], 3, shape[1], SIDE, SIDE)
    # Large frames are never all float32 at once: each is resized by itself, so some at a time give the same.
    step = max(1, AT_ONCE // (height * width))
    for clip_THWC, seen_CTHW in zip(frames_NTHWC, seen_NCTHW, strict=True):
        for first in range(0, shape[1], step):
            few = clip_THWC[first : first + step].permute(0, 3, 1, 2).float() / 255
            few = F.interpolate(few, size=size, mode="bilinear", align_corners=False)
            few = few[:, :, top : top + SIDE, left : left + SIDE]
            seen_CTHW[:, first : first + step] = ((few - 0.5) * 2).transpose(0, 1)
    return seen_NCTHW


def _pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros so that every stride gives a result, the odd one at the end: TensorFlow's "same" padding."""
    padding: list[int] = []
    for size, reach, step in zip(x.shape[2:], kernel, stride, strict=True):
        lacking = max((math.ceil(size / step) - 1) * step + reach - size, 0)
        padding = [lacking // 2, lacking - lacking // 2, *padding]
    return F.pad(x, padding)


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        inside: int,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        eps: float = 1e-5,
        bare: bool = False,
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inside, out, kernel, stride=stride, bias=bare)
        self.bn = None if bare else nn.BatchNorm3d(out, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class _Pool(nn.Module):
    """The largest of each neighbourhood; the padding's zeros count, as nothing after a ReLU is below them."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class _Mixed(nn.Module):
    """Four parallel branches: 1; 1 then 3; 1 then 3; pooled then 1."""

    def __init__(self, inside: int, out: tuple[int, int, int, int, int, int], eps: float) -> None:
        super().__init__()
        self.b0 = _Unit(inside, out[0], eps=eps)
        self.b1a = _Unit(inside, out[1], eps=eps)
        self.b1b = _Unit(out[1], out[2], 3, eps=eps)
        self.b2a = _Unit(inside, out[3], eps=eps)
        self.b2b = _Unit(out[3], out[4], 3, eps=eps)
        self.pool = _Pool((3, 3, 3), (1, 1, 1))
        self.b3b = _Unit(inside, out[5], eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        ways = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.pool(x)))
        return torch.cat(ways, dim=1)


_MIXED = {
    "3b": (192, (64, 96, 128, 16, 32, 32)),
    "3c": (256, (128, 128, 192, 32, 96, 64)),
    "4b": (480, (192, 96, 208, 16, 48, 64)),
    "4c": (512, (160, 112, 224, 24, 64, 64)),
    "4d": (512, (128, 128, 256, 24, 64, 64)),
    "4e": (512, (112, 144, 288, 32, 64, 64)),
    "4f": (528, (256, 160, 320, 32, 128, 128)),
    "5b": (832, (256, 160, 320, 32, 128, 128)),
    "5c": (832, (384, 192, 384, 48, 128, 128)),
}


class I3D(nn.Module):
    """Output of `preprocess` [N, 3, T, 224, 224] to logits [N, 400]."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.logits = _Unit(1024, CLASSES, bare=True)
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, 2, eps=eps)
        self.MaxPool3d_2a_3x3 = _Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = _Unit(64, 64, eps=eps)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3, eps=eps)
        self.MaxPool3d_3a_3x3 = _Pool((1, 3, 3), (1, 2, 2))
        for name, (inside, out) in _MIXED.items():
            if name == "4b":
                self.MaxPool3d_4a_3x3 = _Pool((3, 3, 3), (2, 2, 2))
            if name == "5b":
                self.MaxPool3d_5a_2x2 = _Pool((2, 2, 2), (2, 2, 2))
            self.add_module(f"Mixed_{name}", _Mixed(inside, out, eps))

    def pooled(self, x_NCTHW: Tensor) -> Tensor:
        """The 1024 features under the logits, [N, 1024, T', 1, 1]; T' falls to about T / 8 - 1."""
        for name, stage in self.named_children():
            if name != "logits":
                x_NCTHW = stage(x_NCTHW)
        return F.avg_pool3d(x_NCTHW, (2, 7, 7), stride=1)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return self.logits(self.pooled(x_NCTHW)).flatten(3).squeeze(3).mean(dim=2)


def load_i3d(path: str | Path, variant: str = "stylegan-v") -> LoadedNetwork[I3D]:
    """I3D with a variant's eps and the weights of a published file. Raises UserError as `load_published` does."""
    loaded = load_published(lambda: I3D(VARIANTS[variant].eps), path, FILE)
    # Channels innermost is the order that convolutions on a CPU work in; the sums stay the same.
    for weight in loaded.network.parameters():
        if weight.dim() == 5:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    return loaded


def features(network: I3D, frames_NTHWC: Tensor) -> Tensor:
    """FVD's features [N, 400] of clips, cropped, one at a time to spare memory. Input and errors as `preprocess`."""
    return torch.cat([logits_of(network, preprocess(clip[None])) for clip in frames_NTHWC])


@torch.no_grad()
def logits_of(network: I3D, seen_NCTHW: Tensor) -> Tensor:
    """Logits [N, 400] of the output of `preprocess`."""
    return network(seen_NCTHW.to(network.logits.conv3d.weight))
