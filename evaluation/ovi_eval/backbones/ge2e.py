"""GE2E's speaker encoder: a voice as 256 numbers, by the weights that Resemblyzer carries.

Wan et al. 2018 ("Generalized end-to-end loss for speaker verification"), trained by Corentin Jemine and given by
Resemblyzer 0.1.4 (Apache-2.0). Sound at 16 kHz, made louder to -30 dB of full scale where it is quieter; power of an
FFT of 400 every 160 samples under a periodic Hann window, centred, zeros beyond the ends; 40 Slaney bands from 0 to
8000 Hz, each of area 1, without a logarithm. A voice is the mean over parts of 160 frames (1.6 s) that begin every 77,
a last one that is filled by less than three quarters left out, brought to length 1.

Resemblyzer's `preprocess_wav` first cuts long silences out by webrtcvad; this does not.

Shapes: S samples, M frames, K = 201 bins, B = 40 bands, P parts, D = 256 features.
"""

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovi_eval.backbones import mel
from ovi_eval.common.weights import PublishedFile

SAMPLE_RATE = 16000
FFT, HOP, BANDS = 400, 160, 40
PART, STEP = 160, 77
"""Frames of a part, and from one part's beginning to the next: 1.3 parts a second."""
COVERED = 0.75
LEVEL_DB = -30.0
SHORTEST = SAMPLE_RATE // 4
"""Samples that are a voice: a quarter of a second, after which a part is mostly zeros."""
FEATURES = 256

FILE = PublishedFile(
    what="GE2E speaker encoder",
    name="resemblyzer/pretrained.pt",
    source="https://github.com/resemble-ai/Resemblyzer",
    inside="model_state",
    sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
    carried="resemblyzer/pretrained.pt",
    install="pip install --no-deps Resemblyzer",
)


class SpeakerEncoder(nn.Module):
    """Parts [P, 160, 40] of a mel picture to features [P, 256] of length 1, none below 0."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, FEATURES, 3, batch_first=True)
        self.linear = nn.Linear(FEATURES, FEATURES)
        # scale and offset of the training's loss, which the file holds and a voice does not depend on
        self.similarity_weight = nn.Parameter(torch.zeros(1))
        self.similarity_bias = nn.Parameter(torch.zeros(1))

    def forward(self, parts_PMB: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(parts_PMB)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=-1)


def voice(network: SpeakerEncoder, wave_S: Tensor) -> Tensor:
    """The voice [256] of length 1 of a 16 kHz wave [S] in [-1, 1] that is not silent."""
    begins = parts(len(wave_S))
    needed = (begins[-1] + PART) * HOP
    picture_MB = mel_picture(F.pad(louder(wave_S.double()), (0, max(0, needed - len(wave_S)))))
    parts_PMB = torch.stack([picture_MB[begin : begin + PART] for begin in begins])
    features_PD = network(parts_PMB.to(network.linear.weight))
    return F.normalize(features_PD.mean(dim=0), dim=-1)


def parts(samples: int) -> list[int]:
    """The first frame of each part of a wave of so many samples."""
    frames = math.ceil((samples + 1) / HOP)
    begins = list(range(0, max(1, frames - PART + STEP + 1), STEP))
    covered = (samples - begins[-1] * HOP) / (PART * HOP)
    return begins[:-1] if covered < COVERED and len(begins) > 1 else begins


def louder(wave_S: Tensor) -> Tensor:
    """The wave [S] with a root mean square of -30 dB of full scale; as it is where it is louder."""
    rms = float(wave_S.square().mean().sqrt())
    return wave_S * max(1.0, 10 ** (LEVEL_DB / 20) / rms)


def mel_picture(wave_S: Tensor) -> Tensor:
    """[M, 40] float32; M = 1 + S // 160."""
    padded_S = F.pad(wave_S.double(), (FFT // 2, FFT // 2))
    frames_MW = padded_S.unfold(0, FFT, HOP)
    power_MK = torch.fft.rfft(frames_MW * torch.hann_window(FFT, dtype=torch.float64)).abs().square()
    return (power_MK @ _bands()).float()


@cache
def _bands() -> Tensor:
    """[201, 40] float64."""
    bins_K = torch.fft.rfftfreq(FFT, 1 / SAMPLE_RATE, dtype=torch.float64)
    return mel.slaney_bands(bins_K, BANDS, 0, SAMPLE_RATE / 2)
