"""UltraFace RFB-320: a face detector of 0.3 million weights, in plain torch, or by its ONNX file.

Linzaer's "Ultra-Light-Fast-Generic-Face-Detector-1MB". The frame is drawn to 320x240 by bilinear resize, less
127, over 128, RGB. Four maps of 40x30, 20x15, 10x8 and 5x4 places look for faces of 10, 16, 24; 32, 48; 64, 96;
128, 192, 256 pixels: 4420 boxes, each with a score by softmax and an offset from its place, of variances 0.1
and 0.2. Faces are those that score above 0.7, without those that overlap a better one by more than 0.3.

Shapes: N frames, H = 240, W = 320, P = 4420 places.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from ovi_eval.backbones.boxes import suppressed
from ovi_eval.backbones.onnx_file import OnnxFile
from ovi_eval.common.weights import PublishedFile

WIDTH, HEIGHT = 320, 240
MEAN, SPREAD = 127.0, 128.0
MAPS = ((40, 30), (20, 15), (10, 8), (5, 4))
"""Columns and rows of the maps."""
SIZES = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
"""Sides in pixels of the faces that each map looks for."""
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
SCORE, OVERLAP, EPSILON, CANDIDATES = 0.7, 0.3, 1e-5, 200

_RELEASE = "https://github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB/tree/master/models"
FILE = PublishedFile(
    what="UltraFace RFB-320",
    name="version-RFB-320.pth",
    source=f"{_RELEASE}/pretrained",
    sha256="c722b4427cc71642768baef6e15c659931b56f07425e5d2b0ec033ad41b145b3",
)
ONNX_FILE = PublishedFile(
    what="UltraFace RFB-320",
    name="version-RFB-320.onnx",
    source=f"{_RELEASE}/onnx",
    sha256="34cd7e60aeff28744c657de7a3dc64e872d506741de66987f3426f2b79f88017",
)


def _conv(inside: int, out: int, side: int, stride: int = 1, padding: int = 0, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, out, side, stride, padding, groups=groups, bias=False)


def _separable(inside: int, out: int, stride: int = 1) -> nn.Sequential:
    """Each channel by itself, then across channels, each with batch norm."""
    return nn.Sequential(
        _conv(inside, inside, 3, stride, 1, groups=inside),
        nn.BatchNorm2d(inside),
        nn.ReLU(),
        _conv(inside, out, 1),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


def _head(inside: int, out: int, stride: int = 1) -> nn.Sequential:
    """Each channel by itself, then across channels, without batch norm."""
    return nn.Sequential(
        nn.Conv2d(inside, inside, 3, stride, 1, groups=inside), nn.ReLU(), nn.Conv2d(inside, out, 1)
    )


class _Normed(nn.Module):
    """A convolution with batch norm, and a ReLU where `active`; `wide` is its dilation."""

    def __init__(self, inside: int, out: int, side: int = 1, wide: int = 1, active: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, out, side, padding=wide * (side // 2), dilation=wide, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x.relu() if self.active else x


class _ReceptiveFields(nn.Module):
    """Three branches that see 5, 7 and 13 pixels and more around a place, joined, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width // 8
        self.branch0 = nn.Sequential(
            _Normed(width, w), _Normed(w, 2 * w, 3, active=True), _Normed(2 * w, 2 * w, 3, wide=2)
        )
        self.branch1 = nn.Sequential(
            _Normed(width, w), _Normed(w, 2 * w, 3, active=True), _Normed(2 * w, 2 * w, 3, wide=3)
        )
        self.branch2 = nn.Sequential(
            _Normed(width, w),
            _Normed(w, 3 * w // 2, 3, active=True),
            _Normed(3 * w // 2, 2 * w, 3, active=True),
            _Normed(2 * w, 2 * w, 3, wide=5),
        )
        self.ConvLinear = _Normed(6 * w, width)
        self.shortcut = _Normed(width, width)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat((self.branch0(x), self.branch1(x), self.branch2(x)), 1)
        return (self.ConvLinear(joined) + self.shortcut(x)).relu()


class UltraFace(nn.Module):
    """Frames [N, 3, 240, 320], of `network_input`, to scores [N, P] and boxes [N, P, 4] of a frame of 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.base_net = nn.Sequential(
            nn.Sequential(_conv(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            _separable(16, 32),
            _separable(32, 32, 2),
            _separable(32, 32),
            _separable(32, 64, 2),
            _separable(64, 64),
            _separable(64, 64),
            _ReceptiveFields(64),
            _separable(64, 128, 2),
            _separable(128, 128),
            _separable(128, 128),
            _separable(128, 256, 2),
            _separable(256, 256),
        )
        self.extras = nn.Sequential(
            nn.Sequential(nn.Conv2d(256, 64, 1), nn.ReLU(), _head(64, 256, 2), nn.ReLU()),
        )
        self.classification_headers = self._headers(2)
        self.regression_headers = self._headers(4)

    @staticmethod
    def _headers(numbers: int) -> nn.ModuleList:
        return nn.ModuleList(
            [
                _head(64, 3 * numbers),
                _head(128, 2 * numbers),
                _head(256, 2 * numbers),
                nn.Conv2d(256, 3 * numbers, 3, padding=1),
            ]
        )

    def forward(self, frames_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        maps = [self.base_net[:8](frames_N3HW)]
        maps.append(self.base_net[8:11](maps[-1]))
        maps.append(self.base_net[11:](maps[-1]))
        maps.append(self.extras(maps[-1]))
        logits_NP2 = self._by_place(self.classification_headers, maps, 2)
        offsets_NP4 = self._by_place(self.regression_headers, maps, 4)
        return logits_NP2.softmax(dim=2)[..., 1], _boxes(offsets_NP4, places().to(offsets_NP4))

    @staticmethod
    def _by_place(headers: nn.ModuleList, maps: list[Tensor], numbers: int) -> Tensor:
        found = [header(x).permute(0, 2, 3, 1).flatten(1) for header, x in zip(headers, maps, strict=True)]
        return torch.cat(found, 1).unflatten(1, (-1, numbers))


@cache
def places() -> Tensor:
    """Centre and size of each of the 4420 boxes [P, 4] in parts of the frame's width and height."""
    rows = [
        ((column + 0.5) / columns, (row + 0.5) / lines, size / WIDTH, size / HEIGHT)
        for (columns, lines), sizes in zip(MAPS, SIZES, strict=True)
        for row in range(lines)
        for column in range(columns)
        for size in sizes
    ]
    return torch.tensor(rows).clamp(0, 1)


def _boxes(offsets_NP4: Tensor, places_P4: Tensor) -> Tensor:
    centre = offsets_NP4[..., :2] * CENTRE_VARIANCE * places_P4[:, 2:] + places_P4[:, :2]
    size = (offsets_NP4[..., 2:] * SIZE_VARIANCE).exp() * places_P4[:, 2:]
    return torch.cat((centre - size / 2, centre + size / 2), -1)


def onnx_faces(network: OnnxFile, frames_N3HW: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [N, P] and boxes [N, P, 4] by the published ONNX file, as `UltraFace` gives them."""
    found = [network(frame[None].numpy()) for frame in frames_N3HW.cpu()]
    scores_NP2, boxes_NP4 = (torch.from_numpy(np.concatenate(part)) for part in zip(*found, strict=True))
    return scores_NP2[..., 1], boxes_NP4


def shrunk(frame_HWC: np.ndarray) -> np.ndarray:
    """A frame [H, W, 3] uint8 at the size the network takes, [240, 320, 3] uint8."""
    import cv2

    return cv2.resize(frame_HWC, (WIDTH, HEIGHT))


def network_input(small_NHWC: np.ndarray) -> Tensor:
    """The network's input [N, 3, 240, 320] float32 of shrunk RGB frames [N, 240, 320, 3] uint8."""
    return (torch.from_numpy(small_NHWC).permute(0, 3, 1, 2).float() - MEAN) / SPREAD


def faces(scores_P: Tensor, boxes_P4: Tensor, height: int, width: int) -> np.ndarray:
    """The faces of one frame, [n, 5] float32: x1, y1, x2, y2 in its pixels and the score, the best first."""
    found_P5 = torch.cat((boxes_P4, scores_P[:, None]), 1).cpu().numpy()
    found_N5 = found_P5[found_P5[:, 4] > SCORE]
    found_N5 = found_N5[np.argsort(found_N5[:, 4])[-CANDIDATES:]]
    # Overlap is computed in parts of the frame, where `EPSILON` weighs more than in pixels.
    kept_N5 = suppressed(found_N5, OVERLAP, EPSILON)
    return kept_N5 * np.array([width, height, width, height, 1], dtype=np.float32)
