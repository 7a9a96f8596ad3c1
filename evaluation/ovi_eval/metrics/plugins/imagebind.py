"""ImageBind score: the cosine of ImageBind's features of a clip's picture and of its sound.

Girdhar et al. 2023 ("ImageBind: One embedding space to bind them all"), prepared as its release prepares files. The
network is that of the package imagebind and has not run where this was written: neither it nor its weights could be
had; what prepares the sound is tested against the arithmetic it names.

Picture: 5 stretches of 2 s spread over the clip, of each its first and last frame, short side to 224 (bilinear),
three crops. Sound: 3 stretches of 2 s at 16 kHz, Kaldi's filter banks (25 ms Hann every 10 ms, 128 bands from 20 Hz)
cut or filled up to 204 frames. The release hears the first channel, resampled by torchaudio; this the channels'
mean, resampled by FFmpeg.

Shapes: N stretches, X = 3 crops.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovi_eval.backbones import mel
from ovi_eval.clips.items import Item
from ovi_eval.common.needs import Package, imported
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import PublishedFile, find_weights
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec
from ovi_eval.metrics.plugins.loading import fill
from ovi_eval.metrics.sound_features import audible

FILE = PublishedFile(
    what="ImageBind",
    name="imagebind_huge.pth",
    source="https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
)
PACKAGE = Package("imagebind", "pip install git+https://github.com/facebookresearch/ImageBind")
SECONDS = 2.0
PICTURES, SOUNDS = 5, 3
SAMPLE_RATE, SIDE, BANDS, SPECTRUM = 16000, 224, 128, 204
MEAN, SPREAD = -4.268, 9.138
COLOUR_MEAN = (0.48145466, 0.4578275, 0.40821073)
COLOUR_SPREAD = (0.26862954, 0.26130258, 0.27577711)


class ImageBindFeatures(Extractor):
    """Features: `picture` and `sound` [1024]."""

    name = "imagebind"
    needs = (PACKAGE, FILE)
    preprocessing = "5 x 2 frames in 3 crops of 224x224; 3 x 2 s of mono sound, 16 kHz by FFmpeg"

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        path = find_weights(FILE, self.name)
        models = imported(PACKAGE, self.name, "imagebind.models.imagebind_model")
        network: Any = models.imagebind_huge(pretrained=False)
        digest = fill(network, path, FILE)
        self.network = network.to(device)
        self.variant = f"weights {digest[:12]}, 16 kHz by FFmpeg"
        self.weights = {path.name: digest}

    def load(self, item: Item) -> tuple[Tensor, Tensor]:
        """Pictures [N * 3, 3, 2, 224, 224] and spectra [N, 1, 128, 204], as the network takes them."""
        video = item.video().constant()
        wave_S = audible(item, SAMPLE_RATE, 400)
        crops = []
        for start in starts(len(video.frames_THWC) / video.fps, PICTURES):
            first = min(math.ceil(start * video.fps), len(video.frames_THWC) - 1)
            last = max(first, min(math.ceil((start + SECONDS) * video.fps), len(video.frames_THWC)) - 1)
            crops += _crops(video.frames_THWC[[first, last]])
        spectra = []
        for start in starts(len(wave_S) / SAMPLE_RATE, SOUNDS):
            piece_S = wave_S[int(start * SAMPLE_RATE) : int((start + SECONDS) * SAMPLE_RATE)]
            spectra.append(spectrum(piece_S)[None])
        return torch.stack(crops), torch.stack(spectra)

    def run(self, loaded: Any) -> Features:
        pictures, spectra = (part[None].to(self.device) for part in loaded)
        found = self.network({"vision": pictures, "audio": spectra})
        return {"picture": found["vision"][0].float(), "sound": found["audio"][0].float()}


class ImageBindScore(ItemMean):
    """Cosine of picture and sound in ImageBind."""

    name = "imagebind_score"
    values = (ValueSpec("imagebind_score", "higher"),)
    extractor = ImageBindFeatures

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        picture, sound = features["picture"].double(), features["sound"].double()
        return [float(F.cosine_similarity(picture, sound, dim=0))]


def starts(seconds: float, count: int) -> list[float]:
    """When `count` stretches of 2 s begin, evenly spread over a clip; all at 0 in a shorter one."""
    step = max(seconds - SECONDS, 0.0) / (count - 1)
    return [step * number for number in range(count)]


def spectrum(wave_S: Tensor) -> Tensor:
    """Kaldi's log filter banks [128, 204] of at most 2 s of 16 kHz sound, scaled as ImageBind's."""
    from transformers.audio_utils import spectrogram, window_function

    log_BT = spectrogram(
        (wave_S - wave_S.mean()).double().numpy(),
        window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=_bands(),
        log_mel="log",
        mel_floor=float(np.finfo(np.float32).eps),
        remove_dc_offset=True,
    )
    found_BT = torch.from_numpy(np.asarray(log_BT, dtype=np.float32))[:, :SPECTRUM]
    return (F.pad(found_BT, (0, SPECTRUM - found_BT.shape[1])) - MEAN) / SPREAD


@cache
def _bands() -> np.ndarray:
    """[257, 128]: Kaldi's triangles in mel. Some of the lowest are narrower than a bin and stay empty, as there."""
    bins_K = torch.linspace(0, SAMPLE_RATE / 2, 257, dtype=torch.float64)
    return mel.htk_bands(bins_K, BANDS, 20, SAMPLE_RATE / 2).numpy()


def _crops(frames_THWC: Tensor) -> list[Tensor]:
    """Both ends and the middle of the long side: three of [3, T, 224, 224]."""
    frames_TCHW = frames_THWC.permute(0, 3, 1, 2).float() / 255
    high, wide = frames_TCHW.shape[2:]
    size = (SIDE, math.floor(wide / high * SIDE)) if wide >= high else (math.floor(high / wide * SIDE), SIDE)
    drawn_TCHW = F.interpolate(frames_TCHW, size=size, mode="bilinear", align_corners=False)
    mean_C11, spread_C11 = (torch.tensor(x).view(3, 1, 1) for x in (COLOUR_MEAN, COLOUR_SPREAD))
    drawn_CTHW = ((drawn_TCHW - mean_C11) / spread_C11).transpose(0, 1)
    spare = max(size) - SIDE
    found = []
    for offset in (0, math.ceil(spare / 2), spare):
        rows, columns = (offset, 0) if size[0] > size[1] else (0, offset)
        found.append(drawn_CTHW[:, :, rows : rows + SIDE, columns : columns + SIDE])
    return found
