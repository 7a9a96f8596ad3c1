"""Sound as twelve band energies every 25 ms: what the ball world's codec, detectors and judges all hear.

Shapes: B clips, S samples, L tokens (one every 25 ms), K = 12 bands, N analysis window, F frequency bins.

The short-time transform has windows of 50 ms (Hann) every 25 ms, over the wave with a quarter of a window of
zeros at both ends: window i is centred on token i, the samples from 25 i ms to 25 (i + 1) ms, and 2.025 s
have 81 whole tokens. Energies are divided by the squared sum of the window: a sine of amplitude a inside a
band gives about 0.375 a², whatever the rate, and the world's background noise stays below the floor of the
logarithm.
"""

from functools import lru_cache

import torch
from torch import Tensor

from ovi_eval.errors import UserError

TOKEN_SECONDS = 0.025
FLOOR = 1e-3
BAND_EDGES_HZ = (60, 180, 280, 420, 530, 700, 850, 1150, 1350, 1800, 2200, 2900, 3800)
NUM_BANDS = len(BAND_EDGES_HZ) - 1


def token_samples(sample_rate: int) -> int:
    """Samples in one token of 25 ms. Raises UserError where 80 Hz does not divide the rate."""
    if sample_rate % 80 or sample_rate < 2 * BAND_EDGES_HZ[-1]:
        raise UserError(
            f"band energies need a sample rate of at least {2 * BAND_EDGES_HZ[-1]} Hz that 80 Hz divides, "
            f"got {sample_rate} Hz; resample the sound first, for instance to 8000 Hz"
        )
    return sample_rate // 40


@lru_cache(maxsize=8)
def _analysis(sample_rate: int) -> tuple[Tensor, Tensor]:
    """The window [N] and which bins belong to which band [K, F], the upper edge excluded."""
    size = 2 * token_samples(sample_rate)
    window_N = torch.hann_window(size, dtype=torch.float64)
    hz_F = torch.arange(size // 2 + 1, dtype=torch.float64) * sample_rate / size
    edges = torch.tensor(BAND_EDGES_HZ, dtype=torch.float64)
    bands_KF = (hz_F >= edges[:-1, None]) & (hz_F < edges[1:, None])
    return window_N.float(), (bands_KF.double() / window_N.sum() ** 2).float()


def band_energies(waves_BS: Tensor, sample_rate: int = 8000) -> Tensor:
    """log(E + 1e-3) of twelve bands every 25 ms, [B, S // (samples of 25 ms), 12].

    `waves_BS`: float waves in [-1, 1]; one wave [S] gives [L, 12]. Samples after the last whole token are
    heard only through its window. Raises UserError for a rate that 80 Hz does not divide and for a wave
    shorter than one token.
    """
    if waves_BS.dim() == 1:
        return band_energies(waves_BS[None], sample_rate)[0]
    hop = token_samples(sample_rate)
    if waves_BS.dim() != 2 or waves_BS.shape[1] < hop:
        raise UserError(
            f"band energies need waves of shape [B, S] with S >= {hop} samples at {sample_rate} Hz, "
            f"got {list(waves_BS.shape)}"
        )
    window_N, bands_KF = _analysis(sample_rate)
    window_N, bands_KF = window_N.to(waves_BS.device), bands_KF.to(waves_BS.device)
    length = waves_BS.shape[1] // hop
    padded = torch.nn.functional.pad(waves_BS.float(), (hop // 2, hop // 2))
    spectrum_BFL = torch.stft(padded, 2 * hop, hop, window=window_N, center=False, return_complex=True)
    power_BFL = spectrum_BFL.real.square() + spectrum_BFL.imag.square()
    return torch.log(torch.einsum("kf,bfl->blk", bands_KF, power_BFL[..., :length]) + FLOOR)
