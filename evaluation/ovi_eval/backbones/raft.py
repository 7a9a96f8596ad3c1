"""RAFT as published: where each pixel of one frame is in the next (dense optical flow), by the large model.

Teed and Deng 2020, "RAFT: recurrent all-pairs field transforms for optical flow" (ECCV, arXiv 2003.12039); weights
`raft-things.pth` (trained on FlyingChairs and FlyingThings3D) and `raft-sintel.pth` (then on Sintel, KITTI and HD1K
too) of github.com/princeton-vl/RAFT. Names of modules are those of the published files.

Both frames are encoded at an eighth of their size, and the features of every cell of the first are compared with those
of every cell of the second. A recurrent unit then improves a flow that begins at 0: it reads the comparisons around the
place where each cell is thought to be, at four sizes, and the features of the first frame. The last flow is brought to
full size by a weighted mean of nine cells for every pixel.

Shapes: N pairs of frames, H x W pixels, h = H / 8 x w = W / 8 cells, D features.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi_eval.common.weights import LoadedNetwork, PublishedFile, load_published

CELL = 8
"""Pixels of the side of a cell."""
FEATURES, HIDDEN, CONTEXT = 256, 128, 128
LEVELS, RADIUS = 4, 4
SIDE = 2 * RADIUS + 1
LEAST = CELL * 2 ** (LEVELS - 1)
"""Pixels of a side below which the smallest of the four sizes has no cell."""
ITERATIONS = 20
"""Of the recurrent unit, as the published demo has it; its evaluations run 24 (FlyingChairs, KITTI) and 32 (Sintel)."""

SOURCE = "https://github.com/princeton-vl/RAFT (download_models.sh)"
FILES = {
    name: PublishedFile(what=f"RAFT ({trained})", name=f"{name}.pth", source=SOURCE)
    for name, trained in (("raft-things", "FlyingThings3D"), ("raft-sintel", "Sintel"))
}
"""By their names in a recipe."""


class _Residual(nn.Module):
    """Two convolutions and what they are added to; with a stride of 2 the sum has half the rows and columns."""

    def __init__(self, inside: int, out: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.norm1, self.norm2 = norm(out), norm(out)
        self.halved = stride > 1
        if self.halved:
            self.norm3 = norm(out)  # under two names, as the published files have it
            self.downsample = nn.Sequential(nn.Conv2d(inside, out, 1, stride), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y)).relu()
        return ((self.downsample(x) if self.halved else x) + y).relu()


class _Encoder(nn.Module):
    """Frames [N, 3, H, W] in -1 to 1, to features [N, D, h, w]."""

    def __init__(self, features: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 7, 2, padding=3), norm(64)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(_Residual(inside, out, stride, norm), _Residual(out, out, 1, norm))
            for inside, out, stride in ((64, 64, 1), (64, 96, 2), (96, 128, 2))
        )
        self.conv2 = nn.Conv2d(128, features, 1)

    def forward(self, frames_N3HW: Tensor) -> Tensor:
        x = self.norm1(self.conv1(frames_N3HW)).relu()
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class _Seen(nn.Module):
    """What the unit reads of a flow [N, 2, h, w] and the comparisons there: [N, 128, h, w], the flow itself last."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1, self.convc2 = nn.Conv2d(LEVELS * SIDE**2, 256, 1), nn.Conv2d(256, 192, 3, padding=1)
        self.convf1, self.convf2 = nn.Conv2d(2, 128, 7, padding=3), nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(192 + 64, 128 - 2, 3, padding=1)

    def forward(self, flow_N2hw: Tensor, compared: Tensor) -> Tensor:
        near = self.convc2(self.convc1(compared).relu()).relu()
        moved = self.convf2(self.convf1(flow_N2hw).relu()).relu()
        both = self.conv(torch.cat((near, moved), 1)).relu()
        return torch.cat((both, flow_N2hw), 1)


class _Recurrent(nn.Module):
    """A gated recurrent unit of convolutions: one step along the rows (1 x 5), one along the columns (5 x 1)."""

    def __init__(self) -> None:
        super().__init__()
        for number, kernel in enumerate(((1, 5), (5, 1)), 1):
            for gate in "zrq":
                conv = nn.Conv2d(HIDDEN + CONTEXT + 128, HIDDEN, kernel, padding="same")
                setattr(self, f"conv{gate}{number}", conv)

    def forward(self, hidden: Tensor, read: Tensor) -> Tensor:
        for number in "12":
            update, reset, proposal = (getattr(self, f"conv{gate}{number}") for gate in "zrq")
            known = torch.cat((hidden, read), 1)
            share = update(known).sigmoid()
            proposed = proposal(torch.cat((reset(known).sigmoid() * hidden, read), 1)).tanh()
            hidden = (1 - share) * hidden + share * proposed
        return hidden


class _FlowHead(nn.Module):
    """By how many cells [N, 2, h, w] the flow is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv2(self.conv1(hidden).relu())


class _Update(nn.Module):
    """The recurrent unit with what it reads and gives; `mask` has the weights by which a flow becomes finer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru, self.flow_head = _Seen(), _Recurrent(), _FlowHead()
        last = nn.Conv2d(256, 9 * CELL**2, 1)
        self.mask = nn.Sequential(nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), last)


class Raft(nn.Module):
    """Frames [N, 3, H, W], 0 to 255, RGB, H and W multiples of 8 from 64 on, to the flow [N, 2, H, W] in pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet = _Encoder(FEATURES, nn.InstanceNorm2d)
        self.cnet = _Encoder(HIDDEN + CONTEXT, nn.BatchNorm2d)
        self.update_block = _Update()

    def forward(self, first_N3HW: Tensor, second_N3HW: Tensor, iterations: int = ITERATIONS) -> Tensor:
        first, second = (2 * (frames / 255) - 1 for frames in (first_N3HW, second_N3HW))
        pyramid = comparisons(*self.fnet(torch.cat((first, second))).chunk(2))
        hidden, context = self.cnet(first).split((HIDDEN, CONTEXT), 1)
        hidden, context = hidden.tanh(), context.relu()
        begin_N2hw = grid(*context.shape[2:]).to(context).expand(len(context), -1, -1, -1)
        places_N2hw = begin_N2hw
        for _ in range(iterations):
            near = around(pyramid, places_N2hw)
            read = torch.cat((context, self.update_block.encoder(places_N2hw - begin_N2hw, near)), 1)
            hidden = self.update_block.gru(hidden, read)
            places_N2hw = places_N2hw + self.update_block.flow_head(hidden)
        flow_N2hw = places_N2hw - begin_N2hw
        # a quarter: the published network was trained with it, for smaller gradients of these weights
        return finer(flow_N2hw, 0.25 * self.update_block.mask(hidden))


class PublishedRaft(nn.Module):
    """RAFT by the names of the published files, which begin with `module.`"""

    def __init__(self) -> None:
        super().__init__()
        self.module = Raft()


def load(path: Path, file: PublishedFile) -> LoadedNetwork[PublishedRaft]:
    """The network with the weights of a published file. Raises UserError as `load_published`."""
    return load_published(PublishedRaft, path, file)


def grid(height: int, width: int) -> Tensor:
    """The column and the row [2, h, w] of each cell."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((column, row)).float()


def comparisons(first_NDhw: Tensor, second_NDhw: Tensor) -> list[Tensor]:
    """Scalar products over sqrt(D) of every cell of the first frame with every cell of the second.

    [N * h * w, 1, h', w'] for each of four sizes; each has half the rows and columns of the one before, by the mean.
    """
    count, features, height, width = first_NDhw.shape
    products = torch.einsum("ndp,ndq->npq", first_NDhw.flatten(2), second_NDhw.flatten(2)) / features**0.5
    pyramid = [products.reshape(count * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def around(pyramid: Sequence[Tensor], places_N2hw: Tensor) -> Tensor:
    """The comparisons [N, 4 * 81, h, w] of each cell with 9 x 9 places around one of the second frame, at each size.

    Between cells they are interpolated, outside of the frame they are 0. Of the 81, the column changes slowest.
    """
    count, _, height, width = places_N2hw.shape
    steps = torch.arange(-RADIUS, RADIUS + 1, device=places_N2hw.device)
    offsets_992 = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)
    centres = places_N2hw.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for level, values in enumerate(pyramid):
        rows, columns = values.shape[2:]
        # one more of zeros, which is what lies outside: -1 and 1 are the middles of the outer cells
        values = F.pad(values, (0, int(columns == 1), 0, int(rows == 1)))
        last = torch.tensor([max(columns, 2) - 1, max(rows, 2) - 1], device=values.device)
        points = centres / 2**level + offsets_992
        inside = F.grid_sample(values, 2 * points / last - 1, align_corners=True)
        found.append(inside.reshape(count, height, width, SIDE**2))
    return torch.cat(found, -1).permute(0, 3, 1, 2)


def finer(flow_N2hw: Tensor, weights_NKhw: Tensor) -> Tensor:
    """A flow in cells as one in pixels [N, 2, H, W]: each pixel's is a mean of the 3 x 3 cells around its own.

    The weights [N, 9 * 64, h, w] are for each of nine cells those of 8 x 8 pixels; their softmax over the nine counts.
    """
    count, _, height, width = flow_N2hw.shape
    shares = weights_NKhw.reshape(count, 9, CELL, CELL, height, width).softmax(1)
    near = F.unfold(CELL * flow_N2hw, 3, padding=1).reshape(count, 2, 9, height, width)
    fine = torch.einsum("nkabhw,nckhw->nchawb", shares, near)
    return fine.reshape(count, 2, CELL * height, CELL * width)


@torch.no_grad()
def flow_between(
    network: PublishedRaft, first_NHWC: Tensor, second_NHWC: Tensor, iterations: int = ITERATIONS
) -> Tensor:
    """The flow [N, H, W, 2] in pixels to the right and down, of RGB frames [N, H, W, 3] uint8 of any size.

    Frames are enlarged on both sides, by their outermost pixels, to multiples of 8 as the published demo does it, and
    to 64 at least.
    """
    height, width = first_NHWC.shape[1:3]
    rows, columns = (max(LEAST, -(-side // CELL) * CELL) - side for side in (height, width))
    left, top = columns // 2, rows // 2
    edges = (left, columns - left, top, rows - top)
    first, second = (
        F.pad(frames.permute(0, 3, 1, 2).float(), edges, mode="replicate")
        for frames in (first_NHWC, second_NHWC)
    )
    flow_N2HW = network.module(first, second, iterations)
    return flow_N2HW[:, :, top : top + height, left : left + width].permute(0, 2, 3, 1)
