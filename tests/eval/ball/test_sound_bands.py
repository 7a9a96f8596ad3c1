"""Band energies against a direct sum, and on sounds whose energies are known."""

import math
from itertools import pairwise

import pytest
import torch

from ovi_eval.ball.sound_bands import BAND_EDGES_HZ, band_energies
from ovi_eval.errors import UserError


def tone(hz: float, sample_rate: int = 8000, samples: int = 16200, amplitude: float = 1.0) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * hz * torch.arange(samples) / sample_rate)


def test_a_clip_of_the_world_has_81_tokens_of_12_bands() -> None:
    assert band_energies(torch.zeros(3, 16200)).shape == (3, 81, 12)
    assert band_energies(torch.zeros(16200)).shape == (81, 12)


def test_equals_the_sum_written_out() -> None:
    wave = torch.randn(16200, generator=torch.Generator().manual_seed(0))
    token, hop, size = 40, 200, 400
    n = torch.arange(size, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * n / size)
    piece = wave[token * hop - 100 : token * hop + 300].double() * window
    expected = []
    for low, high in pairwise(BAND_EDGES_HZ):
        energy = 0.0
        for k in range(size // 2 + 1):
            if low <= k * 8000 / size < high:
                turn = -2 * math.pi * k * n / size
                energy += float((piece * torch.cos(turn)).sum() ** 2 + (piece * torch.sin(turn)).sum() ** 2)
        expected.append(math.log(energy / float(window.sum()) ** 2 + 1e-3))
    assert torch.allclose(band_energies(wave)[token].double(), torch.tensor(expected).double(), atol=1e-5)


def test_silence_is_the_floor() -> None:
    assert torch.allclose(band_energies(torch.zeros(16200)), torch.tensor(math.log(1e-3)))


@pytest.mark.parametrize(("hz", "band"), [(110, 0), (350, 2), (600, 4), (1000, 6), (1600, 8), (3200, 11)])
def test_a_tone_lies_in_its_band_with_the_stated_energy(hz: float, band: int) -> None:
    energies = band_energies(tone(hz, amplitude=0.5))[40].exp() - 1e-3
    assert int(energies.argmax()) == band
    assert float(energies[band]) == pytest.approx(0.375 * 0.25, rel=0.01)


def test_the_rate_does_not_matter() -> None:
    low = band_energies(tone(600))
    high = band_energies(tone(600, 16000, 32400), 16000)
    assert low.shape == high.shape
    assert torch.allclose(low[1:-1, 4], high[1:-1, 4], atol=1e-3)


def test_gradients_flow() -> None:
    wave = tone(600).requires_grad_()
    band_energies(wave)[:, 4].sum().backward()
    assert wave.grad is not None
    assert bool(torch.isfinite(wave.grad).all())
    assert float(wave.grad.abs().sum()) > 0


@pytest.mark.parametrize("rate", [44100, 22050, 4000])
def test_a_rate_that_25_ms_does_not_divide_is_refused(rate: int) -> None:
    with pytest.raises(UserError, match=f"{rate} Hz; resample"):
        band_energies(torch.zeros(1, rate), rate)


def test_too_short_a_wave_is_refused() -> None:
    with pytest.raises(UserError, match="S >= 200"):
        band_energies(torch.zeros(2, 199))
