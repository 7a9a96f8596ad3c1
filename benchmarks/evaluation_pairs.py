"""What ovi-eval computes beside the same by another package, for evaluation.py: both on the same input.

A pair names who it is compared with, two calls, and how far their results are apart. Packages that are only
compared with (torchvggish, torchlibrosa, python_speech_features) are imported where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from ovi_eval.backbones import i3d, panns, syncnet, vggish
from ovi_eval.backbones.mfcc import mfcc
from ovi_eval.check.generated import clip, wave, weights
from ovi_eval.stats.frechet import frechet_distance
from ovi_eval.stats.inception import inception_score
from ovi_eval.stats.kernel_distance import kernel_distance

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"


@dataclass(frozen=True)
class Pair:
    """Two ways to one result, and how many times each is run (the quickest counts)."""

    what: str
    instead: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    apart: Callable[[Any, Any], str]
    repeats: int = 3


def _relative(ours: Any, theirs: Any) -> str:
    """Largest difference over the largest value."""
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (ours, theirs))
    return f"{float((a - b).abs().max() / b.abs().max()):.1e}"


def _complex_root(ours: float, theirs: tuple[float, bool]) -> str:
    return _relative(ours, theirs[0]) + (", complex" if theirs[1] else "")


def _features(count: int, size: int, seed: int) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=drawn, dtype=torch.float64) / math.sqrt(size)
    return torch.randn(count, size, generator=drawn, dtype=torch.float64) @ mix + 0.1 * seed


def _by_root(x: np.ndarray, y: np.ndarray) -> tuple[float, bool]:
    """The usual way: covariances, their product, scipy's square root of it."""
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y)
    apart = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    return float(apart + np.trace(cov_x + cov_y) - 2 * np.trace(root).real), np.iscomplexobj(root)


def frechet() -> Iterator[Pair]:
    """Fréchet distances of the sizes that FAD, FVD and FD have."""
    for size, count in ((128, 1000), (400, 1024), (400, 64), (2048, 256)):
        x, y = _features(count, size, 1), _features(count, size, 2)
        yield Pair(
            f"Fréchet distance, d={size}, n={count}",
            "covariances and scipy's sqrtm",
            partial(frechet_distance, x, y),
            partial(_by_root, x.numpy(), y.numpy()),
            _complex_root,
            repeats=1 if size > 1000 else 3,
        )


class _Given(nn.Module):
    """Stands where torchmetrics has its network, and hands features on as they are."""

    num_features = 2048

    def forward(self, features: Tensor) -> Tensor:
        return features


def sets() -> Iterator[Pair]:
    """KID and inception score of features that are given."""
    x, y = torch.randn(2, 1000, 2048, generator=torch.Generator().manual_seed(0))
    y = y * 1.1 + 0.05

    def kid_instead() -> float:
        metric = KernelInceptionDistance(feature=_Given(), subsets=100, subset_size=100)
        metric.update(x, real=True)
        metric.update(y, real=False)
        return float(metric.compute()[0])

    def drawn(ours: float, theirs: float) -> str:
        return _relative(ours, theirs) + ", other draws"

    yield Pair(
        "KID, d=2048, n=1000, 100 subsets of 100",
        "torchmetrics, in float32",
        lambda: kernel_distance(x, y)[0],
        kid_instead,
        drawn,
    )
    logits = 3 * torch.randn(5000, 527, generator=torch.Generator().manual_seed(1))

    def score_instead() -> float:
        metric = InceptionScore(feature=_Given(), splits=10)
        metric.update(logits)
        return float(metric.compute()[0])

    yield Pair(
        "Inception score, 5000 clips, 10 splits",
        "torchmetrics, in float32",
        lambda: inception_score(logits)[0],
        score_instead,
        drawn,
    )


def front_ends() -> Iterator[Pair]:
    """What the networks that hear are given."""
    from python_speech_features import mfcc as mfcc_instead
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram
    from torchvggish.vggish_input import waveform_to_examples

    pcm_S = wave(16000, 10.0)
    wave_S = torch.from_numpy(pcm_S).float() / 32768

    samples = wave_S.double().numpy()
    yield Pair(
        "VGGish log-mel, 10 s",
        "torchvggish",
        lambda: vggish.patches(wave_S),
        lambda: waveform_to_examples(samples, 16000).detach()[:, 0],
        _relative,
        repeats=20,
    )
    network = panns.Cnn14()
    network.load_state_dict(panns.transform_tables(), strict=False)
    spectrogram = Spectrogram(n_fft=512, hop_length=160, win_length=512, freeze_parameters=True)
    bands = LogmelFilterBank(sr=16000, n_fft=512, n_mels=64, fmin=50, fmax=8000, top_db=None)
    yield Pair(
        "Cnn14 log-mel, 10 s",
        "torchlibrosa",
        lambda: network.log_mel(wave_S[None])[0],
        lambda: bands(spectrogram(wave_S[None]))[0, 0],
        _relative,
        repeats=20,
    )
    yield Pair(
        "SyncNet's cepstra, 10 s",
        "python_speech_features",
        lambda: mfcc(pcm_S),
        lambda: mfcc_instead(pcm_S, 16000),
        _relative,
        repeats=20,
    )


def _resized_whole(frames_THWC: Tensor) -> Tensor:
    """All frames float32 at once, then resized and cut."""
    x = frames_THWC.permute(0, 3, 1, 2).float() / 255
    height, width = x.shape[2:]
    size = (224, math.ceil(width * (224 / height)))
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    left = (size[1] - 224) // 2
    return (x[:, :, :, left : left + 224] * 2 - 1).transpose(0, 1)[None]


def video() -> Iterator[Pair]:
    """I3D: frames and network."""
    large = torch.from_numpy(clip(48, 704, 1280))
    yield Pair(
        "I3D frames, 48 of 1280x704",
        "one interpolate of all, float32",
        lambda: i3d.preprocess(large[None]),
        lambda: _resized_whole(large),
        lambda a, b: f"{float((a - b).abs().max()):.0e}",
    )
    plain, ours = i3d.I3D(), i3d.I3D()
    for network in (plain, ours):
        network.load_state_dict(weights(GOLDENS / "i3d_keys.txt.gz"))
        network.eval()
    for weight in ours.parameters():
        if weight.dim() == 5:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    seen = i3d.preprocess(torch.from_numpy(clip(16, 224, 224))[None])
    yield Pair(
        "I3D, 16 frames",
        "channels outermost",
        lambda: i3d.logits_of(ours, seen),
        lambda: i3d.logits_of(plain, seen),
        _relative,
    )


def sync() -> Iterator[Pair]:
    """SyncNet's picture side."""
    network = syncnet.SyncNet()
    network.load_state_dict(weights(GOLDENS / "syncnet_keys.txt.gz"))
    network.eval()
    frames_VHW3F = torch.from_numpy(clip(44, 224, 224)).unfold(0, 5, 1)
    windows_V3FHW = frames_VHW3F.permute(0, 3, 4, 1, 2).float()

    @torch.no_grad()
    def ours() -> Tensor:
        return torch.cat([network.lips(few) for few in windows_V3FHW.split(syncnet.BATCH)])

    @torch.no_grad()
    def layer_by_layer(at_once: int) -> Tensor:
        parts = windows_V3FHW.split(at_once)
        return torch.cat([network.netfclip(network.netcnnlip(few).flatten(1)) for few in parts])

    for at_once in (20, 1):
        yield Pair(
            "SyncNet's picture side, 40 windows",
            f"layers as published, {at_once} at a time",
            ours,
            partial(layer_by_layer, at_once),
            _relative,
        )


SECTIONS = {"frechet": frechet, "sets": sets, "front_ends": front_ends, "video": video, "sync": sync}
