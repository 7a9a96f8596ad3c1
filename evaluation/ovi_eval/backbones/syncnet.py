"""SyncNet as published, and the numbers it gives: Sync-C (LSE-C), Sync-D (LSE-D) and offset.

Chung and Zisserman 2016, "Out of time: automated lip sync in the wild"; weights `syncnet_v2.model`.
A face crop of 224x224 at 25 fps, BGR, 0 to 255, in windows of five frames; the sound of the same 0.2 s as
20 frames of 13 cepstra (see `mfcc`), four to a frame of the picture. Of F frames and S samples at 16 kHz
there are min(F, S // 640) - 5 windows.

Each window's embedding is compared with those of the sound up to 15 windows before and after; sound before
the first or after the last window is an embedding of zeros. Of the mean distance over windows, shift by
shift, Sync-D is the smallest, Sync-C the median less the smallest, and the offset, in frames, is positive
where the sound comes before the picture.

Shapes: F frames, H = W = 224, S samples, V windows, E = 1024, R = 31 shifts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi_eval.backbones.mfcc import SAMPLE_RATE, mfcc
from ovi_eval.common.weights import PublishedFile
from ovi_eval.errors import UserError

FPS = 25
SIDE = 224
WINDOW = 5
CEPSTRA_PER_FRAME = 4
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
MAX_SHIFT = 15
BATCH = 20

FILE = PublishedFile(
    what="SyncNet",
    name="syncnet_v2.model",
    source="https://www.robots.ox.ac.uk/~vgg/software/lipsync/",
)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def _conv2(inside: int, out: int, kernel: tuple[int, int] = (3, 3), padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inside, out, kernel, padding=padding), nn.BatchNorm2d(out), nn.ReLU()]


def _conv3(inside: int, out: int, side: int, stride: int, padding: int, long: int = 1) -> list[nn.Module]:
    conv = nn.Conv3d(inside, out, (long, side, side), (1, stride, stride), (0, padding, padding))
    return [conv, nn.BatchNorm3d(out), nn.ReLU()]


def _pool3(padding: int = 0) -> nn.Module:
    return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, padding, padding))


def _folded(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer of two dimensions that gives what a Conv3d and its BatchNorm3d give at one moment.

    What the layer sees of several moments, [C, T], is C * T channels.
    """
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = (conv.bias - norm.running_mean) * scale + norm.bias
    weight = conv.weight.flatten(1, 2) * scale[:, None, None, None]
    return weight.contiguous(memory_format=torch.channels_last), bias


class SyncNet(nn.Module):
    """Two encoders into one space: `lips` for the picture, `sound` for the cepstra."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv2(1, 64),
            nn.MaxPool2d(1, 1),
            *_conv2(64, 192),
            nn.MaxPool2d(3, (1, 2)),
            *_conv2(192, 384),
            *_conv2(384, 256),
            *_conv2(256, 256),
            nn.MaxPool2d(3, 2),
            *_conv2(256, 512, (5, 4), 0),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_conv3(3, 96, 7, 2, 0, long=WINDOW),
            _pool3(),
            *_conv3(96, 256, 5, 2, 1),
            _pool3(padding=1),
            *_conv3(256, 256, 3, 1, 1),
            *_conv3(256, 256, 3, 1, 1),
            *_conv3(256, 256, 3, 1, 1),
            _pool3(),
            *_conv3(256, 512, 6, 1, 0),
        )

    def lips(self, windows_V3FHW: Tensor) -> Tensor:
        """Windows [V, 3, 5, 224, 224], BGR, 0 to 255, to embeddings [V, 1024].

        The first layer makes one of five frames and the others see one, so all are run as layers of two
        dimensions with batch norm folded into them, and ReLU after the maximum of the pool, where it has less
        to do: the same sums in another order, about 1.7 times as quickly.
        """
        x = windows_V3FHW.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        layers: list[Any] = list(self.netcnnlip)
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.Conv3d):
                x = F.conv2d(x, *_folded(layer, layers[place + 1]), layer.stride[1:], layer.padding[1:])
                for pool in layers[place + 3 : place + 4]:  # after batch norm and ReLU
                    if isinstance(pool, nn.MaxPool3d):
                        sizes: Any = (pool.kernel_size, pool.stride, pool.padding)
                        x = F.max_pool2d(x, *(size[1:] for size in sizes))
                x = x.relu_()
        return self.netfclip(x.flatten(1))

    def sound(self, cepstra_V1DM: Tensor) -> Tensor:
        """Cepstra [V, 1, 13, 20] to embeddings [V, 1024]."""
        return self.netfcaud(self.netcnnaud(cepstra_V1DM).flatten(1))


@dataclass(frozen=True)
class Sync:
    """SyncNet's scores of one face crop and its sound.

    `distance` is Sync-D, `confidence` Sync-C, `offset` in frames (above 0 where the sound comes first),
    `mean_R` the mean distance at each of 31 shifts, from sound 15 windows early to 15 late.
    """

    distance: float
    confidence: float
    offset: int
    mean_R: Tensor


def windows_of(frames: int, samples: int) -> int:
    """Number of windows of a crop of that many frames and samples. Raises UserError for none."""
    count = min(frames, samples // SAMPLES_PER_FRAME) - WINDOW
    if count < 1:
        raise UserError(
            f"SyncNet needs at least {WINDOW + 1} frames at {FPS} fps and the {(WINDOW + 1) * SAMPLES_PER_FRAME} "
            f"samples of their time at {SAMPLE_RATE} Hz, got {frames} and {samples}; leave shorter clips out"
        )
    return count


@torch.no_grad()
def embeddings(network: SyncNet, frames_FHWC: Tensor, wave_S: np.ndarray) -> tuple[Tensor, Tensor]:
    """Embeddings of picture and sound, [V, 1024] each, float32.

    `frames_FHWC`: a face crop at 25 fps, uint8 [F, 224, 224, 3], BGR; `wave_S`: int16 [S] at 16 kHz.
    Raises UserError for other shapes or types, or a clip shorter than a window and one frame.
    """
    if frames_FHWC.shape[1:] != (SIDE, SIDE, 3) or frames_FHWC.dtype != torch.uint8:
        raise UserError(
            f"SyncNet needs a face crop [F, {SIDE}, {SIDE}, 3] of uint8, got {list(frames_FHWC.shape)} of "
            f"{frames_FHWC.dtype}"
        )
    cepstra_DM = torch.from_numpy(mfcc(wave_S)).T.float()
    count = windows_of(len(frames_FHWC), len(wave_S))
    weight = next(network.parameters())
    seen, heard = [], []
    for start in range(0, count, BATCH):
        at = range(start, min(start + BATCH, count))
        windows_VHW3F = frames_FHWC[at.start : at.stop + WINDOW - 1].unfold(0, WINDOW, 1).contiguous()
        seen.append(network.lips(windows_VHW3F.permute(0, 3, 4, 1, 2).to(weight)))
        first = [v * CEPSTRA_PER_FRAME for v in at]
        pieces = torch.stack([cepstra_DM[None, :, m : m + WINDOW * CEPSTRA_PER_FRAME] for m in first])
        heard.append(network.sound(pieces.to(weight)))
    return torch.cat(seen).cpu(), torch.cat(heard).cpu()


def shift_distances(seen_VE: Tensor, heard_VE: Tensor, max_shift: int = MAX_SHIFT) -> Tensor:
    """Distances [R, V] of each window to the sound of windows `max_shift` before it to as many after.

    Outside the sound an embedding counts as zeros. 1e-6 is added to every difference, as torch's pairwise
    distance does. Raises UserError unless there are as many windows of sound as of picture.
    """
    if seen_VE.shape != heard_VE.shape or seen_VE.dim() != 2 or not len(seen_VE):
        raise UserError(
            f"SyncNet compares embeddings [V, E] window by window, got {list(seen_VE.shape)} and "
            f"{list(heard_VE.shape)}"
        )
    padded = F.pad(heard_VE, (0, 0, max_shift, max_shift))
    rows = [
        F.pairwise_distance(seen_VE, padded[r : r + len(seen_VE)], eps=1e-6) for r in range(2 * max_shift + 1)
    ]
    return torch.stack(rows)


def judge(distance_RV: Tensor) -> Sync:
    """Sync-D, Sync-C and offset from the distances at every shift."""
    mean_R = distance_RV.mean(dim=1)
    smallest, place = mean_R.min(dim=0)
    confidence = float(mean_R.median() - smallest)
    return Sync(float(smallest), confidence, len(mean_R) // 2 - int(place), mean_R)


def measure(network: SyncNet, frames_FHWC: Tensor, wave_S: np.ndarray) -> Sync:
    """Sync-C, Sync-D and offset of one face crop and its sound; see `embeddings` for what these must be."""
    return judge(shift_distances(*embeddings(network, frames_FHWC, wave_S)))
