"""Sound latents: what is decoded is heard as it was encoded, listens smoothly, and keeps the hits' times."""

from dataclasses import replace

import pytest
import torch

from ovi_eval.ball import detectors
from ovi_eval.ball.sound_bands import band_energies
from ovi_lab.codecs.band_vocoder import BandVocoder
from ovi_lab.data.worlds import get_world
from ovi_lab.errors import UserError

WORLD = get_world("bouncing_ball")


@pytest.fixture(scope="module")
def clips():
    return WORLD.render(range(48), seed=2)


@pytest.fixture(scope="module")
def codec() -> BandVocoder:
    codec = BandVocoder(8000, WORLD.partials_hz)
    codec.fit([WORLD.render(range(96), seed=1).waves_NS])
    return codec


def onset_f1(clips) -> float:
    seen = detectors.landings(detectors.seen(clips), clips.fps)
    heard = detectors.onsets(detectors.heard(clips))
    pairs = sum(detectors.matched(a, b, 0.075) for a, b in zip(seen, heard, strict=True))
    return 2 * pairs / (sum(map(len, seen)) + sum(map(len, heard)))


def test_latents_are_standardised_band_energies(codec, clips) -> None:
    latents = codec.encode(clips.waves_NS)
    assert latents.shape == (48, 81, 12)
    learned = codec.encode(WORLD.render(range(96), seed=1).waves_NS).flatten(0, 1)
    assert learned.mean(0).abs().max() < 1e-3
    assert (learned.std(0) - 1).abs().max() < 1e-3
    levels = latents * codec.std_K + codec.mean_K
    torch.testing.assert_close(levels, band_energies(clips.waves_NS, 8000), atol=1e-4, rtol=0)


def test_decoded_sound_is_heard_as_it_was_encoded(codec, clips) -> None:
    latents = codec.encode(clips.waves_NS)
    waves = codec.decode(latents, 16200)
    assert waves.shape == (48, 16200)
    assert float(waves.abs().max()) <= 1
    again = codec.encode(waves)
    loud = latents * codec.std_K + codec.mean_K > -5
    assert float((again - latents)[loud].square().mean().sqrt()) < 0.02
    assert float((again - latents).square().mean().sqrt()) < 0.15


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_hits_keep_their_times_and_pitches(codec, clips, noise) -> None:
    """Also with errors of the size that a trained model leaves in its latents."""
    generator = torch.Generator().manual_seed(0)
    latents = codec.encode(clips.waves_NS)
    latents = latents + noise * torch.randn(latents.shape, generator=generator)
    decoded = replace(clips, waves_NS=codec.decode(latents, 16200))
    assert onset_f1(clips) > 0.97
    assert onset_f1(decoded) > 0.97
    assert torch.equal(detectors.pitch(detectors.heard(decoded)), detectors.pitch(detectors.heard(clips)))


def test_a_steady_sound_does_not_click_between_tokens(codec) -> None:
    """A lasting tone's samples step no further at the borders of tokens or segments than anywhere else."""
    time = torch.arange(16000) / 8000
    wave = 0.3 * torch.sin(2 * torch.pi * 350 * time)[None]
    decoded = codec.decode(codec.encode(wave))[0, 800:-800]
    # A second difference silences slow waves and shows kinks.
    kinks = decoded.diff().diff().abs()
    expected = 0.3 * (2 * torch.pi * 350 / 8000) ** 2
    assert float(kinks.max()) < 1.3 * expected
    spectrum = torch.fft.rfft(decoded * torch.hann_window(len(decoded))).abs()
    peak = int(spectrum.argmax()) * 8000 / len(decoded)
    assert peak == pytest.approx(350, abs=2)


def test_silence_stays_silent(codec) -> None:
    decoded = codec.decode(codec.encode(torch.zeros(1, 16200)))
    assert float(decoded.abs().max()) < 1e-3


def test_small_errors_in_silence_are_faded_out(codec) -> None:
    """Noise of 0.2 standard deviations on silence stays 30 dB below a hit's 0.6."""
    generator = torch.Generator().manual_seed(1)
    quiet = codec.encode(torch.zeros(8, 16200)) + 0.2 * torch.randn(8, 81, 12, generator=generator)
    assert float(codec.decode(quiet).square().mean().sqrt()) < 0.6 * 10 ** (-30 / 20)


def test_the_same_latents_give_the_same_sound_in_any_batch(codec, clips) -> None:
    latents = codec.encode(clips.waves_NS[:8])
    together, alone = codec.decode(latents), codec.decode(latents[3:4])
    torch.testing.assert_close(together[3:4], alone, atol=1e-4, rtol=0)
    assert torch.equal(codec.decode(latents), together)


@pytest.mark.parametrize(
    ("tokens", "samples"), [(81, 16200), (81, 16000), (81, 16500), (122, None), (3, None)]
)
def test_lengths(codec, tokens, samples) -> None:
    waves = codec.decode(torch.zeros(2, tokens, 12), samples)
    assert waves.shape == (2, samples or tokens * 200)
    assert bool(torch.isfinite(waves).all())


def test_another_rate_and_no_partials() -> None:
    """16 kHz and noise alone, for sounds that are no drum: the bands still come back."""
    generator = torch.Generator().manual_seed(3)
    swell = torch.linspace(0, 1, 32000) * torch.randn(4, 32000, generator=generator) * 0.2
    codec = BandVocoder(16000)
    codec.fit([swell])
    latents = codec.encode(swell)
    assert latents.shape == (4, 80, 12)
    again = codec.encode(codec.decode(latents))
    assert float((again - latents).square().mean().sqrt()) < 0.15


def test_wrong_input_is_refused(codec) -> None:
    with pytest.raises(UserError, match="11025 Hz"):
        BandVocoder(11025)
    with pytest.raises(UserError, match="has not been fitted"):
        BandVocoder().encode(torch.zeros(1, 8000))
    with pytest.raises(UserError, match=r"expected \[B,L,12\]"):
        codec.decode(torch.zeros(1, 81, 20))
    with pytest.raises(UserError, match="band vocoder"):
        codec.encode(torch.zeros(1, 10))
