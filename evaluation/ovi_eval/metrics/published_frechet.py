"""The field's Fréchet distances: FAD in VGGish, FD in PANNs, and FVD in I3D with each variant's choices.

Features agree with the reference implementations (see `ovi_eval.backbones`); the distance is the one of
`ovi_eval.frechet`. A value's variant names the weights' sha256 and, for sound, who resampled to 16 kHz.
FAD's features are one for each 0.96 s, so a clip gives several; FD's and FVD's are one a clip. Sound is
resampled by FFmpeg; silent clips are left out and counted as missing, which published scripts do not do.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..backbones import i3d, panns, vggish
from ..backbones.published import Loaded, PublishedFile, find_weights
from ..clipset import FAILED, ClipSet
from ..media import resample
from .base import FrechetMetric, ValueSpec

TOO_SHORT = len(FrechetMetric.reasons)


class _Sound(FrechetMetric):
    """What the distances in sound share. `shortest` counts samples at 16 kHz."""

    version = "1"
    reasons = (*FrechetMetric.reasons, "its sound is too short for the network")
    sample_rate: ClassVar[int] = 16000
    shortest: ClassVar[int]

    @classmethod
    def faults(cls, clips: ClipSet) -> Tensor:
        codes_N = FrechetMetric.faults(clips)
        samples = round(clips.waves_NS.shape[1] * cls.sample_rate / clips.sample_rate)
        return torch.where((codes_N == 0) & (samples < cls.shortest), TOO_SHORT, codes_N)

    def use(self, loaded: Loaded[Any]) -> None:
        self.network = loaded.network
        self.variant = f"{loaded.variant}, 16 kHz by FFmpeg"

    def waves(self, clips: ClipSet) -> list[Tensor]:
        return [resample(wave_S, clips.sample_rate, self.sample_rate) for wave_S in clips.waves_NS]


class FadVGGish(_Sound):
    """Fréchet audio distance in VGGish's 128 features, without its last ReLU and without PCA."""

    name = "fad_vggish"
    values = (ValueSpec("fad_vggish", "lower"),)
    needs_weights = vggish.FILE
    shortest = vggish.SHORTEST

    def __init__(self, weights: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use(vggish.load_vggish(weights or find_weights(vggish.FILE, self.name)))

    def features(self, clips: ClipSet) -> Tensor:
        return torch.cat([vggish.embed(self.network, wave_S) for wave_S in self.waves(clips)])


class FdPanns(_Sound):
    """Fréchet distance in Cnn14's 2048 features."""

    name = "fd_panns"
    values = (ValueSpec("fd_panns", "lower"),)
    needs_weights = panns.FILE
    shortest = panns.SHORTEST

    def __init__(self, weights: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use(panns.load_cnn14(weights or find_weights(panns.FILE, self.name)))

    def features(self, clips: ClipSet) -> Tensor:
        heard = [panns.hear(self.network, wave_S[None]).features for wave_S in self.waves(clips)]
        return torch.cat(heard)


class _Fvd(FrechetMetric):
    """Fréchet video distance in I3D's 400 logits. Sound plays no part, so a silent clip counts."""

    version = "1"
    reasons = (*FrechetMetric.reasons, "it has fewer frames than FVD needs")
    needs_weights: ClassVar[PublishedFile | None] = i3d.FILE
    choices: ClassVar[str]

    def __init__(self, weights: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        loaded = i3d.load_i3d(weights or find_weights(i3d.FILE, self.name), self.choices)
        self.network = loaded.network
        self.variant = f"{self.choices}, {loaded.variant}"

    @staticmethod
    def faults(clips: ClipSet) -> Tensor:
        short = TOO_SHORT if clips.frames_NTHWC.shape[1] < i3d.SHORTEST else 0
        return torch.tensor([1 if row.get(FAILED) else short for row in clips.meta], dtype=torch.long)

    def features(self, clips: ClipSet) -> Tensor:
        return i3d.features(self.network, clips.frames_NTHWC, self.choices)


class FvdStyleganV(_Fvd):
    """FVD as StyleGAN-V's code has it."""

    name = "fvd_stylegan_v"
    values = (ValueSpec("fvd_stylegan_v", "lower"),)
    choices = "stylegan-v"


class FvdVideoGPT(_Fvd):
    """FVD as VideoGPT's code has it."""

    name = "fvd_videogpt"
    values = (ValueSpec("fvd_videogpt", "lower"),)
    choices = "videogpt"


class FvdPytorchI3D(_Fvd):
    """FVD in the I3D of pytorch-i3d, with its eps of 1e-3."""

    name = "fvd_pytorch_i3d"
    values = (ValueSpec("fvd_pytorch_i3d", "lower"),)
    choices = "pytorch-i3d"


class FvdCdFvd(_Fvd):
    """FVD of whole frames drawn to 224x224, as content-debiased FVD's code prepares them for I3D."""

    name = "fvd_cd_fvd"
    values = (ValueSpec("fvd_cd_fvd", "lower"),)
    choices = "cd-fvd"
