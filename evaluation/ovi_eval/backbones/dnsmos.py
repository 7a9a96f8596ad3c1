"""DNSMOS: predicted mean opinion scores of noisy speech, by two networks of Microsoft's DNS Challenge.

Reddy et al. 2021 (P.808: one overall score) and Reddy et al. 2022 (P.835: speech SIG, background BAK and
overall OVRL), as their release scores them. 16 kHz mono; sound shorter than 9.01 s is doubled until it is not;
one segment of 9.01 s begins each whole second, floor(seconds) - 9 of them and at least one; scores are means
over segments. A segment's samples end at int((start + 9.01) * 16000): where floating point makes that one
sample short (starts from 7 to 23 s), the release leaves the segment out, and so does this.

P.808's input is a log-mel picture of all but a segment's last 160 samples: FFT of 321 every 160 samples under a
periodic Hann window, centred, zeros beyond the ends; power; 120 Slaney bands from 0 to 8000 Hz, each of area 1;
decibels below the loudest, 80 at most, as (dB + 40) / 40. P.835's input is the segment itself; its three
outputs are mapped by the release's polynomials before they are averaged.

Shapes: S samples, M = 900 frames, K = 161 bins, B = 120 bands.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

from ovi_eval.backbones import mel
from ovi_eval.backbones.onnx_file import OnnxFile
from ovi_eval.common.installation import install_hint
from ovi_eval.common.weights import PublishedFile
from ovi_eval.errors import UserError

SAMPLE_RATE = 16000
SECONDS = 9.01
SEGMENT = int(SECONDS * SAMPLE_RATE)
FFT, HOP, BANDS = 321, 160, 120
FLOOR_POWER, RANGE_DB = 1e-10, 80.0

_RELEASE = "https://github.com/microsoft/DNS-Challenge/tree/master/DNSMOS/DNSMOS"
P808_FILE = PublishedFile(
    what="DNSMOS P.808",
    name="model_v8.onnx",
    source=_RELEASE,
    sha256="9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
    carried="speechmos/dnsmos_models/model_v8.onnx",
    install=install_hint("dnsmos"),
)
P835_FILE = PublishedFile(
    what="DNSMOS P.835",
    name="sig_bak_ovr.onnx",
    source=_RELEASE,
    sha256="269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
    carried="speechmos/dnsmos_models/sig_bak_ovr.onnx",
    install=install_hint("dnsmos"),
)
# Highest power first, in the order of the network's outputs: SIG, BAK, OVRL.
_POLYNOMIALS = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)


def p808(network: OnnxFile, wave_S: np.ndarray) -> float:
    """The overall score, about 1 to 5, of a 16 kHz wave [S] in [-1, 1]. Raises UserError as `segments`."""
    return float(np.mean([_outputs(network, log_mel(part[:-HOP]))[0] for part in segments(wave_S)]))


def p835(network: OnnxFile, wave_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SIG, BAK and OVRL [3], about 1 to 5, and the network's own outputs [3]. Input and errors as `p808`."""
    raw = np.array([_outputs(network, part) for part in segments(wave_S)], dtype=np.float64)
    mapped = np.stack(
        [np.polyval(powers, raw[:, place]) for place, powers in enumerate(_POLYNOMIALS)], axis=1
    )
    return mapped.mean(axis=0), raw.mean(axis=0)


def _outputs(network: OnnxFile, values: np.ndarray) -> np.ndarray:
    """The network's outputs for one input without its batch dimension."""
    return network(values.astype(np.float32)[None])[0][0]


def segments(wave_S: np.ndarray) -> Iterator[np.ndarray]:
    """The stretches of 144160 samples that are scored, float64.

    Raises UserError for a wave that is not [S], has no sample or is not finite.
    """
    if wave_S.ndim != 1 or not len(wave_S) or not np.isfinite(wave_S).all():
        what = "numbers that are not finite" if wave_S.size and wave_S.ndim == 1 else f"{list(wave_S.shape)}"
        raise UserError(f"DNSMOS scores a wave [S] of finite samples at {SAMPLE_RATE} Hz, got {what}")
    sound = wave_S.astype(np.float64)
    while len(sound) < SEGMENT:
        sound = np.concatenate([sound, sound])
    for start in range(max(1, len(sound) // SAMPLE_RATE - 9)):
        part = sound[start * SAMPLE_RATE : int((start + SECONDS) * SAMPLE_RATE)]
        if len(part) == SEGMENT:
            yield part


def log_mel(wave_S: np.ndarray) -> np.ndarray:
    """P.808's input [M, 120] float64 of a 16 kHz wave; M = 1 + (S - 1) // 160."""
    padded = np.pad(wave_S, FFT // 2)
    frames_MW = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
    hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    power_MK = np.abs(np.fft.rfft(frames_MW * hann_W)) ** 2
    power_MB = power_MK @ _bands()
    loudest = max(FLOOR_POWER, float(power_MB.max()))
    db_MB = 10 * np.log10(np.maximum(power_MB, FLOOR_POWER) / loudest)
    return (np.maximum(db_MB, -RANGE_DB) + 40) / 40


@cache
def _bands() -> np.ndarray:
    """[161, 120]: Slaney's bands, rounded to float32."""
    bins_K = torch.from_numpy(np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE))
    return mel.slaney_bands(bins_K, BANDS, 0, SAMPLE_RATE / 2).float().double().numpy()
