"""S3FD as SyncNet's release ships it: the face detector that published Sync-C and Sync-D were taken with.

Zhang et al. 2017, "S3FD: single shot scale-invariant face detector"; weights `sfd_face.pth`. A VGG-16 whose
six maps, at strides 4 to 128, look for faces of 16 to 512 pixels. The first map has three scores for "no face",
of which the largest counts. The release draws the frame to a quarter of its size by bilinear resize and takes
123, 117 and 104 from red, green and blue, in this order.

Two rounds of suppression: of boxes that score above 0.05, the 5000 best without overlaps above 0.3 and at most
750 of them; of those that score above 0.9, none with overlaps above 0.1.

Shapes: N frames, H x W pixels after the resize, P places on all maps.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ovi_eval.backbones.boxes import suppressed
from ovi_eval.common.weights import PublishedFile
from ovi_eval.errors import UserError

SCALE = 0.25
MEANS_RGB = (123.0, 117.0, 104.0)
STRIDES = (4, 8, 16, 32, 64, 128)
FACE_PER_STRIDE = 4
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
FIRST_SCORE, FIRST_OVERLAP, CANDIDATES, MOST = 0.05, 0.3, 5000, 750
SCORE, OVERLAP = 0.9, 0.1
SMALLEST = 32
"""Pixels after the resize that the trunk's halvings need on either side."""

FILE = PublishedFile(
    what="S3FD",
    name="sfd_face.pth",
    source="https://www.robots.ox.ac.uk/~vgg/software/lipsync/",
)


class _Scaled(nn.Module):
    """Each place's features on a sphere, times a weight for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) * self.weight[:, None, None]


def _trunk() -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 3
    for place, block in enumerate(((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)):
        for out in block:
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU(inplace=True)]
            width = out
        layers.append(nn.MaxPool2d(2, ceil_mode=place == 2))
    # What were VGG's dense layers, as a dilated convolution and one of a single pixel.
    layers += [nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(1024, 1024, 1), nn.ReLU(inplace=True))


class S3FD(nn.Module):
    """Frames [N, 3, H, W], as `network_input` makes them, to scores [N, P] and boxes [N, P, 4] of a frame of 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = _trunk()
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = _Scaled(256), _Scaled(512), _Scaled(512)
        self.extras = nn.ModuleList(
            [
                nn.Conv2d(1024, 256, 1),
                nn.Conv2d(256, 512, 3, 2, padding=1),
                nn.Conv2d(512, 128, 1),
                nn.Conv2d(128, 256, 3, 2, padding=1),
            ]
        )
        widths = (256, 512, 512, 1024, 512, 256)
        self.loc = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in widths)
        self.conf = nn.ModuleList(
            nn.Conv2d(width, 2 if place else 4, 3, padding=1) for place, width in enumerate(widths)
        )

    def forward(self, frames_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = [], []
        for place, x in enumerate(self._maps(frames_N3HW)):
            logits = self.conf[place](x)
            nothing = logits[:, :-1].amax(dim=1)  # the first map has three ways of being no face
            scores.append((logits[:, -1] - nothing).sigmoid().flatten(1))
            offsets_NP4 = self.loc[place](x).permute(0, 2, 3, 1).flatten(1, 2)
            places_P4 = places(STRIDES[place], x.shape[2:], frames_N3HW.shape[2:])
            boxes.append(decoded(offsets_NP4, places_P4.to(x)))
        return torch.cat(scores, 1), torch.cat(boxes, 1)

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        start = 0
        for end, norm in ((16, self.L2Norm3_3), (23, self.L2Norm4_3), (30, self.L2Norm5_3)):
            x = self.vgg[start:end](x)
            # The next layer works in place only on its own output, so `x` is not changed.
            maps.append(norm(x))
            start = end
        maps.append(self.vgg[start:](x))
        for first, second in ((self.extras[0], self.extras[1]), (self.extras[2], self.extras[3])):
            maps.append(second(first(maps[-1]).relu()).relu())
        return maps


def places(stride: int, size: Sequence[int], whole: Sequence[int]) -> Tensor:
    """Centre and size of the boxes of one map [P, 4], row by row, in parts of the frame's width and height.

    `size`: the map's rows and columns, `whole`: those of the frame it sees.
    """
    height, width = whole
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    side = float(stride * FACE_PER_STRIDE)
    centre = torch.stack(((x + 0.5) * stride / width, (y + 0.5) * stride / height), -1).flatten(0, 1)
    return torch.cat((centre, torch.tensor([side / width, side / height]).expand(len(centre), 2)), 1)


def decoded(offsets_NP4: Tensor, places_P4: Tensor) -> Tensor:
    """Left, top, right and bottom [N, P, 4] of boxes that lie `offsets` away from their places."""
    centre = places_P4[:, :2] + offsets_NP4[..., :2] * CENTRE_VARIANCE * places_P4[:, 2:]
    size = places_P4[:, 2:] * (offsets_NP4[..., 2:] * SIZE_VARIANCE).exp()
    return torch.cat((centre - size / 2, centre + size / 2), -1)


def shrunk(frame_HWC: np.ndarray) -> np.ndarray:
    """A frame [H, W, 3] uint8 at a quarter of its size. Raises UserError for one too small for the network."""
    import cv2

    small_HWC = cv2.resize(frame_HWC, (0, 0), fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR)
    if min(small_HWC.shape[:2]) < SMALLEST:
        height, width = frame_HWC.shape[:2]
        least = round(SMALLEST / SCALE)
        raise UserError(f"S3FD needs frames of at least {least}x{least} pixels, got {width}x{height}")
    return small_HWC


def network_input(small_NHWC: np.ndarray) -> Tensor:
    """The network's input [N, 3, H, W] float32 of shrunk RGB frames [N, H, W, 3] uint8."""
    return torch.from_numpy(small_NHWC).permute(0, 3, 1, 2).float() - torch.tensor(MEANS_RGB)[:, None, None]


def faces(scores_P: Tensor, boxes_P4: Tensor, height: int, width: int, score: float = SCORE) -> np.ndarray:
    """The faces of one frame from `score` on, [n, 5] float32: x1, y1, x2, y2 in its pixels and score, best first."""
    found_P5 = torch.cat((boxes_P4, scores_P[:, None]), 1).cpu().numpy()
    found_N5 = found_P5[found_P5[:, 4] > FIRST_SCORE]
    found_N5 = found_N5[np.argsort(found_N5[:, 4], kind="stable")[-CANDIDATES:]]
    found_N5 = suppressed(found_N5, FIRST_OVERLAP)[:MOST]
    found_N5 = found_N5[found_N5[:, 4] > score]
    return suppressed(found_N5 * np.array([width, height, width, height, 1], dtype=np.float32), OVERLAP)
