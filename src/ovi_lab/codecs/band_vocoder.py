"""A sound codec of twelve band energies at 40 Hz, decoded by a vocoder of noise and tones.

Encoding is analysis: log(E + 1e-3) of twelve bands every 25 ms, standardised per band. Decoding is synthesis
by carriers: every band has band-limited noise and, where the world's instruments have partials, sinusoids at
them; their gains move along raised cosines between the tokens' centres (so nothing clicks), and are corrected
a few times by an analysis of the sound so far, so that analysing the decoded sound gives the
latents back.

How much of a band is noise is read off the bands that hold no partial: a stroke's burst shows in them as it
does in all the others, a ringing tone does not.

Shape suffixes: B clips, S samples, L tokens, K bands, J segments between token centres (L + 1), P samples a
token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any

import torch
from annotated_types import Len
from torch import Tensor

from ovi_eval.ball.sound_bands import BAND_EDGES_HZ, FLOOR, NUM_BANDS, band_energies, token_samples
from ovi_eval.clips.clip import fit_length
from ovi_lab.codecs.base import check_latents, check_stored
from ovi_lab.common.fields import Count, Number, checked, signature, whole
from ovi_lab.errors import UserError

TONE_ENERGY = 0.375  # band energy of a sine of amplitude 1 (Hann window, main lobe inside the band)

MAX_SAMPLE_RATE, MAX_PARTIALS = 768_000, 10_000

GATE = 0.5  # standard deviations of a band, as energy above the floor, below which it fades out


class BandVocoder:
    """Twelve standardised log band energies a token; a seeded, deterministic synthesis back.

    Args:
        sample_rate: Hz; 80 must divide it and it must be at least 7600.
        partials_hz: frequencies of sustained tones; the bands that hold none are synthesised from noise
            alone.
        iterations: corrections of the gains by re-analysis.
        seed: seed of the noise carriers.
    """

    kind = "band_vocoder"
    channels = NUM_BANDS

    def __init__(
        self,
        sample_rate: Annotated[int, whole(1, MAX_SAMPLE_RATE)] = 8000,
        partials_hz: Annotated[Sequence[Number], Len(0, MAX_PARTIALS)] = (),
        iterations: Annotated[int, whole(0, 1000)] = 12,
        seed: Count = 0,
    ) -> None:
        try:
            self.token_samples = token_samples(sample_rate)
        except UserError as error:
            raise UserError(f"the band vocoder: {error}") from error
        self.sample_rate = sample_rate
        self.partials_hz = tuple(sorted(float(hz) for hz in partials_hz))
        self.iterations, self.seed = iterations, seed
        self.mean_K: Tensor | None = None
        self.std_K: Tensor | None = None

    def fit(self, batches_BS: Iterable[Tensor]) -> None:
        """Mean and deviation of each band over all tokens, in float64.

        Raises UserError where no batch came.
        """
        count = 0
        total_K = torch.zeros(NUM_BANDS, dtype=torch.float64)
        squares_K = torch.zeros(NUM_BANDS, dtype=torch.float64)
        for waves_BS in batches_BS:
            levels = self._levels(waves_BS).double().flatten(0, 1)
            total_K += levels.sum(0)
            squares_K += levels.square().sum(0)
            count += len(levels)
        if not count:
            raise UserError("the audio codec got no clips to be fitted on")
        mean_K = total_K / count
        # A band that is always silent would otherwise be divided by nothing.
        self.std_K = (squares_K / count - mean_K.square()).clamp(min=0).sqrt().clamp(min=0.05).float()
        self.mean_K = mean_K.float()

    def encode(self, waves_BS: Tensor) -> Tensor:
        """float [B,S] in [-1,1] -> float32 [B,L,12], each band of mean 0 and variance 1 over the clips fitted
        on.
        """
        mean_K, std_K = self._fitted()
        return (self._levels(waves_BS) - mean_K) / std_K

    def decode(self, latents_BLC: Tensor, num_samples: int | None = None) -> Tensor:
        """float [B,L,12] -> float32 waves [B,S] in [-1,1]; S is `num_samples` where given, else L tokens'
        worth.

        The same latents give the same wave (to rounding), whatever else is in the batch.
        """
        mean_K, std_K = self._fitted()
        check_latents(latents_BLC, "audio", NUM_BANDS)
        length = latents_BLC.shape[1]
        level_BLK = (latents_BLC.float() * std_K + mean_K).clamp(max=math.log(1 + FLOOR))  # full scale
        energy_BLK = (level_BLK.exp() - FLOOR).clamp(min=0)
        # Close to the floor a small error of a latent reads as a faint tone: faded out.
        energy_BLK *= 1 - torch.exp(-(energy_BLK / (GATE * FLOOR * std_K)).square())
        target_BLK = torch.log(energy_BLK + FLOOR)
        carriers = _carriers(self.sample_rate, length, self.partials_hz, self.seed)
        gains_BLK2 = carriers.first_gains(energy_BLK)
        for _ in range(self.iterations):
            heard_BLK = band_energies(carriers.play(gains_BLK2), self.sample_rate)
            gains_BLK2 = gains_BLK2 * (0.4 * (target_BLK - heard_BLK)).clamp(-2, 2).exp()[..., None]
        waves_BS = carriers.play(gains_BLK2).clamp(-1, 1)
        return waves_BS if num_samples is None else fit_length(waves_BS, num_samples)

    def config(self) -> dict[str, Any]:
        return {
            "sample_rate": self.sample_rate,
            "partials_hz": list(self.partials_hz),
            "iterations": self.iterations,
            "seed": self.seed,
        }

    def tensors(self) -> dict[str, Tensor]:
        mean_K, std_K = self._fitted()
        return {"mean": mean_K, "std": std_K}

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BandVocoder:
        settings = {name: config[name] for name in ("sample_rate", "partials_hz", "iterations", "seed")}
        codec = cls(**checked(signature(cls), settings, "the audio codec"))
        check_stored(tensors, dict.fromkeys(("mean", "std"), (NUM_BANDS,)), "audio codec")
        codec.mean_K, codec.std_K = tensors["mean"], tensors["std"]
        return codec

    def _levels(self, waves_BS: Tensor) -> Tensor:
        try:
            return band_energies(waves_BS, self.sample_rate)
        except UserError as error:
            raise UserError(f"the band vocoder: {error}") from error

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self.mean_K is None or self.std_K is None:
            raise UserError("the audio codec has not been fitted: fit it on clips, or load a saved one")
        return self.mean_K, self.std_K


class _Carriers:
    """A tone and a noise for every band, cut into the segments between token centres.

    Args:
        sample_rate: Hz. length: tokens. partials_hz: of the tones. seed: of the noise.
    """

    def __init__(self, sample_rate: int, length: int, partials_hz: tuple[float, ...], seed: int) -> None:
        hop = token_samples(sample_rate)
        segments, samples = length + 1, (length + 1) * hop
        seconds_S = torch.arange(samples, dtype=torch.float64) / sample_rate
        hz_F = torch.fft.rfftfreq(samples, 1 / sample_rate).double()
        generator = torch.Generator().manual_seed(seed)
        spectrum_F = torch.fft.rfft(torch.randn(samples, generator=generator, dtype=torch.float64))
        tones, noises = [], []
        for low, high in pairwise(BAND_EDGES_HZ):
            inside = [hz for hz in partials_hz if low <= hz < high]
            tone_S = torch.zeros(samples, dtype=torch.float64)
            for hz in inside:
                tone_S += torch.sin(2 * math.pi * hz * seconds_S) / math.sqrt(TONE_ENERGY * len(inside))
            noise_S = torch.fft.irfft(spectrum_F * ((hz_F >= low) & (hz_F < high)), samples)
            # Two thirds of the square sum over the window is its mean weight on a wave's power.
            noise_S *= math.sqrt(1 / (2 * TONE_ENERGY)) / noise_S.square().mean().sqrt()
            tones.append(tone_S)
            noises.append(noise_S)
        carriers_JKP = (
            torch.stack(tones + noises).float().reshape(2 * NUM_BANDS, segments, hop).transpose(0, 1)
        )
        rise_P = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(hop) + 0.5) / hop)
        self.segments_JKP = torch.cat([carriers_JKP * (1 - rise_P), carriers_JKP * rise_P], 1).contiguous()
        self.hop, self.length = hop, length
        # The sound begins and ends within 5 ms, so that it does not click.
        ramp = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(hop // 5) + 0.5) / (hop // 5))
        self.ends_S = torch.ones(length * hop)
        self.ends_S[: len(ramp)] *= ramp
        self.ends_S[-len(ramp) :] *= ramp.flip(0)
        edges = torch.tensor(BAND_EDGES_HZ, dtype=torch.float32)
        self.widths_K = edges[1:] - edges[:-1]
        self.has_tone_K = torch.tensor([bool(tone.abs().max() > 0) for tone in tones])

    def first_gains(self, energy_BLK: Tensor) -> Tensor:
        """Gains [B,L,K,2] of tone and noise from the bands' energies, before any correction."""
        noise_BLK = energy_BLK
        if bool(self.has_tone_K.any()) and not bool(self.has_tone_K.all()):
            density_BL1 = (energy_BLK / self.widths_K)[..., ~self.has_tone_K].amin(-1, keepdim=True)
            noise_BLK = torch.minimum(energy_BLK, density_BL1 * self.widths_K)
        noise_BLK = torch.where(self.has_tone_K, noise_BLK, energy_BLK)
        return torch.stack([energy_BLK - noise_BLK, noise_BLK], -1).sqrt()

    def play(self, gains_BLK2: Tensor) -> Tensor:
        """Waves [B, L x samples a token]: carriers times gains, the outermost gains held at the ends."""
        gains_JBK = gains_BLK2.permute(1, 0, 3, 2).flatten(2)
        held_JBK = torch.cat([gains_JBK[:1], gains_JBK, gains_JBK[-1:]])
        pairs_JBK = torch.cat([held_JBK[:-1], held_JBK[1:]], 2)
        segments_JBP = torch.bmm(pairs_JBK, self.segments_JKP)
        waves_BS = segments_JBP.transpose(0, 1).flatten(1)
        return waves_BS[:, self.hop // 2 : self.hop // 2 + self.length * self.hop] * self.ends_S


@lru_cache(maxsize=4)
def _carriers(sample_rate: int, length: int, partials_hz: tuple[float, ...], seed: int) -> _Carriers:
    return _Carriers(sample_rate, length, partials_hz, seed)
