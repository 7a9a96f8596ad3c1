"""The field's Fréchet distances: FAD in VGGish, FD in PANNs, and FVD in I3D with each variant's choices.

Features agree with the reference implementations (see `ovi_eval.backbones`); the distance is the one of
`ovi_eval.frechet`. A value's variant names the weights' sha256 and, for sound, who resampled to 16 kHz.
FAD's features are one for each 0.96 s, so a clip gives several; FD's and FVD's are one a clip. Sound is
resampled by FFmpeg; silent clips are left out and counted as missing, which published scripts do not do.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..backbones import i3d, panns, vggish
from ..backbones.published import Loaded
from ..errors import EvalError
from ..extractors import CPU, Extractor, Features
from ..frechet import frechet_distance
from ..items import Item
from ..needs import find_weights
from .items import ItemSet, ValueSpec

SILENT = 1e-4
"""Largest absolute sample below which sound counts as none at all (about 3 steps of 16 bits)."""


class SoundExtractor(Extractor):
    """What the networks that hear at 16 kHz share. `shortest` counts samples at 16 kHz."""

    sample_rate: ClassVar[int] = 16000
    shortest: ClassVar[int]
    preprocessing = "mono by the channels' mean, 16 kHz by FFmpeg's resampler"
    network: Any

    def use(self, loaded: Loaded[Any]) -> None:
        self.network = loaded.network.to(self.device)
        self.variant = f"{loaded.variant}, 16 kHz by FFmpeg"
        self.weights = {loaded.path.name: loaded.sha256}

    def load(self, item: Item) -> Tensor:
        wave_S = item.audio(self.sample_rate).wave_S
        if not bool(torch.isfinite(wave_S).all()):
            raise EvalError("its sound is not finite")
        if float(wave_S.abs().max()) < SILENT:
            raise EvalError("its sound is silence")
        if len(wave_S) < self.shortest:
            raise EvalError(
                f"its sound is too short for the network: {len(wave_S) / self.sample_rate:.3f} s of "
                f"{self.shortest / self.sample_rate:.3f} s"
            )
        return wave_S


class VGGishFeatures(SoundExtractor):
    """128 features of each 0.96 s."""

    name = "vggish"
    needs = (vggish.FILE,)
    shortest = vggish.SHORTEST

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        self.use(vggish.load_vggish(find_weights(vggish.FILE, self.name)))

    def run(self, loaded: Tensor) -> Features:
        return {"features": vggish.embed(self.network, loaded)}


class PannsFeatures(SoundExtractor):
    """2048 features and 527 logits of a clip."""

    name = "panns"
    needs = (panns.FILE,)
    shortest = panns.SHORTEST

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        self.use(panns.load_cnn14(find_weights(panns.FILE, self.name)))

    def run(self, loaded: Tensor) -> Features:
        heard = panns.hear(self.network, loaded[None].to(self.device))
        return {"features": heard.features, "logits": heard.logits}


class FrechetOfSets(ItemSet):
    """The Fréchet distance of all scored clips' features to all reference clips'."""

    feature = "features"

    def value(self, scored_RD: Tensor, reference_RD: Tensor | None) -> dict[str, float]:
        key = self.values[0].key
        count = 0 if reference_RD is None else len(reference_RD)
        if reference_RD is None or count < 2:
            raise EvalError(
                f"{key} compares with real clips and got {count} rows of features; give a reference"
            )
        return {key: frechet_distance(scored_RD, reference_RD) if len(scored_RD) > 1 else float("nan")}


class FadVGGish(FrechetOfSets):
    """Fréchet audio distance in VGGish's 128 features, without its last ReLU and without PCA."""

    name = "fad_vggish"
    values = (ValueSpec("fad_vggish", "lower"),)
    extractor = VGGishFeatures


class FdPanns(FrechetOfSets):
    """Fréchet distance in Cnn14's 2048 features."""

    name = "fd_panns"
    values = (ValueSpec("fd_panns", "lower"),)
    extractor = PannsFeatures


class I3DFeatures(Extractor):
    """I3D's 400 logits of a clip. Sound plays no part, so a silent clip counts."""

    needs = (i3d.FILE,)
    choices: ClassVar[str]

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        loaded = i3d.load_i3d(find_weights(i3d.FILE, self.name), self.choices)
        self.network = loaded.network.to(device)
        self.variant = f"{self.choices}, {loaded.variant}"
        self.weights = {loaded.path.name: loaded.sha256}

    def load(self, item: Item) -> Tensor:
        frames_THWC = item.video().frames_THWC
        if len(frames_THWC) < i3d.SHORTEST:
            raise EvalError(f"it has {len(frames_THWC)} frames, FVD needs {i3d.SHORTEST}")
        return frames_THWC

    def run(self, loaded: Tensor) -> Features:
        return {"features": i3d.features(self.network, loaded[None], self.choices)}


class StyleganVFeatures(I3DFeatures):
    name, choices = "i3d_stylegan_v", "stylegan-v"


class VideoGPTFeatures(I3DFeatures):
    name, choices = "i3d_videogpt", "videogpt"


class PytorchI3DFeatures(I3DFeatures):
    name, choices = "i3d_pytorch_i3d", "pytorch-i3d"


class CdFvdFeatures(I3DFeatures):
    name, choices = "i3d_cd_fvd", "cd-fvd"


class FvdStyleganV(FrechetOfSets):
    """FVD as StyleGAN-V's code has it."""

    name = "fvd_stylegan_v"
    values = (ValueSpec("fvd_stylegan_v", "lower"),)
    extractor = StyleganVFeatures


class FvdVideoGPT(FrechetOfSets):
    """FVD as VideoGPT's code has it."""

    name = "fvd_videogpt"
    values = (ValueSpec("fvd_videogpt", "lower"),)
    extractor = VideoGPTFeatures


class FvdPytorchI3D(FrechetOfSets):
    """FVD in the I3D of pytorch-i3d, with its eps of 1e-3."""

    name = "fvd_pytorch_i3d"
    values = (ValueSpec("fvd_pytorch_i3d", "lower"),)
    extractor = PytorchI3DFeatures


class FvdCdFvd(FrechetOfSets):
    """FVD of whole frames drawn to 224x224, as content-debiased FVD's code prepares them for I3D."""

    name = "fvd_cd_fvd"
    values = (ValueSpec("fvd_cd_fvd", "lower"),)
    extractor = CdFvdFeatures
