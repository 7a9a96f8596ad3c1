"""Cnn14 at 16 kHz of PANNs: 2048 features and 527 AudioSet logits of a sound, for FD_PANNs, IS and KL.

Kong et al. 2020, "PANNs: Large-scale pretrained audio neural networks for audio pattern recognition".
Features are those after the ReLU of `fc1`; logits are those before the sigmoid.

Front end: 16 kHz mono, windows of 512 samples (periodic Hann) every 160, the wave mirrored by 256 samples
at both ends, power spectrum, 64 Slaney mel bands from 50 to 8000 Hz with Slaney's norm, 10 log10 of what is
at least 1e-10. The published file holds the transform's tables beside the weights; they are used as found.

Shapes: N sounds, S samples, M frames of 10 ms, K = 257 bins, B = 64 bands, C channels, F = 2048 features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi_eval.backbones import mel
from ovi_eval.common.weights import PublishedFile
from ovi_eval.errors import UserError

SAMPLE_RATE = 16000
WINDOW, HOP = 512, 160
BINS = WINDOW // 2 + 1
BANDS, LOWEST_HZ, HIGHEST_HZ = 64, 50.0, 8000.0
SMALLEST_POWER = 1e-10
SHORTEST = 31 * HOP
"""Samples that give 32 frames, of which five halvings leave one."""

FILE = PublishedFile(
    what="PANNs Cnn14 16 kHz",
    name="Cnn14_16k_mAP=0.438.pth",
    source="https://zenodo.org/record/3987831",
    inside="model",
)


class Heard(NamedTuple):
    """Cnn14's output for N sounds: `features` [N, 2048], at least 0, and `logits` [N, 527]."""

    features: Tensor
    logits: Tensor


class _Block(nn.Module):
    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x_NCMB: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_NCMB))))))


class Cnn14(nn.Module):
    """Waves [N, S] in [-1, 1] at 16 kHz to features and logits. Its tables are empty until a file fills them."""

    def __init__(self) -> None:
        super().__init__()
        # A Fourier transform as two convolutions, and the mel bands: tables that are part of the published file.
        parts = {f"conv_{part}": nn.Conv1d(1, BINS, WINDOW, HOP, bias=False) for part in ("real", "imag")}
        self.spectrogram_extractor = nn.ModuleDict({"stft": nn.ModuleDict(parts)})
        self.logmel_extractor = nn.ParameterDict({"melW": torch.empty(BINS, BANDS)})
        self.bn0 = nn.BatchNorm2d(BANDS)
        widths = (1, 64, 128, 256, 512, 1024, 2048)
        for place in range(1, 7):
            self.add_module(f"conv_block{place}", _Block(widths[place - 1], widths[place]))
        self.fc1 = nn.Linear(2048, 2048)
        self.fc_audioset = nn.Linear(2048, 527)

    def log_mel(self, waves_NS: Tensor) -> Tensor:
        """[N, M, 64] in dB; M = 1 + S // 160."""
        mirrored_N1S = F.pad(waves_NS[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")
        real_NKM, imaginary_NKM = (
            part(mirrored_N1S) for part in self.spectrogram_extractor["stft"].children()
        )
        power_NKM = real_NKM.square() + imaginary_NKM.square()
        bands_NMB = power_NKM.transpose(1, 2) @ self.logmel_extractor["melW"]
        return 10 * torch.log10(bands_NMB.clamp(min=SMALLEST_POWER))

    def forward(self, waves_NS: Tensor) -> Heard:
        frames_NMB = self.log_mel(waves_NS)
        x = self.bn0(frames_NMB.transpose(1, 2)[..., None]).permute(0, 3, 2, 1)
        for place in range(1, 7):
            x = self.get_submodule(f"conv_block{place}")(x)
            if place < 6:
                x = F.avg_pool2d(x, 2)
        over_bands_NCM = x.mean(dim=3)
        pooled_NC = over_bands_NCM.amax(dim=2) + over_bands_NCM.mean(dim=2)
        features_NF = F.relu(self.fc1(pooled_NC))
        return Heard(features_NF, self.fc_audioset(features_NF))


@torch.no_grad()
def hear(network: Cnn14, waves_NS: Tensor) -> Heard:
    """Features and logits, float32, of waves in [-1, 1] at 16 kHz, all of one length.

    Raises UserError for waves that are not [N, S], or shorter than 0.31 s.
    """
    if waves_NS.dim() != 2 or waves_NS.shape[1] < SHORTEST:
        raise UserError(
            f"Cnn14 needs waves [N, S] of at least {SHORTEST} samples ({SHORTEST / SAMPLE_RATE} s) at "
            f"{SAMPLE_RATE} Hz, got {list(waves_NS.shape)}; leave shorter clips out"
        )
    return network(waves_NS.to(network.fc1.weight))


def transform_tables() -> dict[str, Tensor]:
    """The front end's tables by their published names, computed from their definition.

    A published file holds its own, which are used; these show what they should be.
    """
    names = [f"spectrogram_extractor.stft.conv_{part}.weight" for part in ("real", "imag")]
    tables = dict(zip(names, mel.fourier_tables(WINDOW), strict=True))
    return {**tables, "logmel_extractor.melW": mel_matrix().float()}


def mel_matrix() -> Tensor:
    """[257, 64] float64: the weight of each bin in each Slaney band."""
    bins_K = torch.linspace(0, SAMPLE_RATE / 2, BINS, dtype=torch.float64)
    return mel.slaney_bands(bins_K, BANDS, LOWEST_HZ, HIGHEST_HZ)
