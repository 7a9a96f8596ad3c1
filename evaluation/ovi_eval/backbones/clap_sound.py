"""CLAP's preprocessing of sound: 10 seconds of samples and their log-mel spectrogram.

As in laion_clap (Wu et al. 2023, "Large-scale contrastive language-audio pretraining with feature fusion and
keyword-to-caption augmentation"): 48 kHz mono, rounded to 16 bits and back; a shorter sound is repeated as often
as it fits whole and the rest is silence; of a longer one 10 seconds are used. There their start is drawn at
each call; here it is drawn from the clip's content, so that it is the same in any order and process.

Front end: windows of 1024 samples (periodic Hann) every 480, the wave mirrored by 512 samples at both ends, power
spectrum, 64 Slaney mel bands from 50 to 14000 Hz with Slaney's norm, 10 log10 of what is at least 1e-10.

Shapes: N pieces of sound, S samples, P = 480000 samples of a piece, M = 1001 frames, K = 513 bins, B = 64 bands.
"""

import hashlib
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ovi_eval.backbones import mel
from ovi_eval.backbones.clap_keys import TABLES
from ovi_eval.errors import UserError

SAMPLE_RATE = 48000
PIECE = 480000
"""Samples of the 10 seconds that the network takes at once."""
WINDOW, HOP = 1024, 480
BINS = WINDOW // 2 + 1
BANDS, LOWEST_HZ, HIGHEST_HZ = 64, 50.0, 14000.0
SMALLEST_POWER = 1e-10
FULL = 32767

Rounding = Literal["int16", "float"]
Crops = Literal["one", "all"]


def round_to_int16(wave_S: Tensor) -> Tensor:
    """Samples clipped to [-1, 1], cut to whole multiples of 1/32767 towards 0: the same shape, float32."""
    whole_S = (wave_S.float().clamp(-1, 1) * FULL).to(torch.int16)
    return (whole_S / FULL).float()


def fill_piece(wave_S: Tensor) -> Tensor:
    """[P]: a sound of up to 10 s, repeated as often as it fits whole, then silence."""
    repeated = wave_S.repeat(PIECE // len(wave_S))
    return torch.nn.functional.pad(repeated, (0, PIECE - len(repeated)))


def starts(samples: int, crops: Crops, content: str) -> list[int]:
    """The first samples of the pieces of a sound that is longer than one.

    "one": a single piece at a place drawn evenly from the hash of `content`; "all": whole pieces one after
    another from the beginning, and the rest at the end is not used.
    """
    if crops == "all":
        return list(range(0, samples - PIECE + 1, PIECE))
    drawn = hashlib.sha256(f"clap crop {content}".encode()).digest()
    return [int.from_bytes(drawn[:8], "big") % (samples - PIECE + 1)]


def pieces(wave_S: Tensor, content: str, rounding: Rounding = "int16", crops: Crops = "one") -> Tensor:
    """The pieces of a 48 kHz wave that CLAP takes: [N, P] float32.

    `content` identifies the clip, as its start is drawn from it; `rounding` is "int16" (to 16 bits and back) or
    "float" (as decoded); `crops` as in `starts`. Raises UserError for a wave that is not [S] or has no sample.
    """
    if wave_S.dim() != 1 or not len(wave_S):
        raise UserError(f"CLAP needs a wave [S] of at least 1 sample at 48000 Hz, got {list(wave_S.shape)}")
    wave_S = round_to_int16(wave_S) if rounding == "int16" else wave_S.float()
    if len(wave_S) <= PIECE:
        return fill_piece(wave_S)[None]
    return torch.stack([wave_S[first : first + PIECE] for first in starts(len(wave_S), crops, content)])


def log_mel(waves_NP: Tensor) -> Tensor:
    """Log-mel pictures [N, 1, 1001, 64] float32 in dB of pieces [N, P]; computed in float64."""
    mirrored_NS = torch.nn.functional.pad(waves_NP.double(), (WINDOW // 2, WINDOW // 2), mode="reflect")
    hann_W = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64, device=waves_NP.device)
    power_NMK = torch.fft.rfft(mirrored_NS.unfold(1, WINDOW, HOP) * hann_W).abs().square()
    bands_NMB = power_NMK @ mel_matrix().to(power_NMK)
    return 10 * torch.log10(bands_NMB.clamp(min=SMALLEST_POWER)).float()[:, None]


@cache
def mel_matrix() -> Tensor:
    """[513, 64] float64: the weight of each bin in each Slaney band."""
    bins_K = torch.linspace(0, SAMPLE_RATE / 2, BINS, dtype=torch.float64)
    return mel.slaney_bands(bins_K, BANDS, LOWEST_HZ, HIGHEST_HZ)


def transform_tables() -> dict[str, Tensor]:
    """The front end's tables by the names a published file has them under, computed from their definition."""
    return dict(zip(TABLES, (*mel.fourier_tables(WINDOW), mel_matrix().float()), strict=True))
