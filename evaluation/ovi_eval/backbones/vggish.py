"""VGGish: 128 features for each 0.96 s of sound, the features of FAD and FD_VGG.

Hershey et al. 2017, "CNN architectures for large-scale audio classification"; front end and weights as in
the AudioSet release. What the Fréchet audio distance uses is the layer before its last ReLU, and neither
the release's PCA nor its 8-bit rounding.

Front end: 16 kHz mono, frames of 25 ms every 10 ms under a periodic Hann window, nothing padded at either
end, magnitude of an FFT of 512, 64 triangles on the HTK mel scale from 125 to 7500 Hz, log(x + 0.01), cut
into patches of 96 frames that do not overlap; frames left over at the end are dropped. In float64, then
float32 for the network.

Shapes: S samples, M frames of 10 ms, K = 257 bins, B = 64 bands, P patches, T = 96 frames of a patch.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from ovi_eval.backbones import mel
from ovi_eval.common.weights import PublishedFile
from ovi_eval.errors import UserError

SAMPLE_RATE = 16000
WINDOW, HOP, FFT = 400, 160, 512
BANDS, LOWEST_HZ, HIGHEST_HZ = 64, 125.0, 7500.0
PATCH = 96
LOG_OFFSET = 0.01
AT_ONCE = 32
"""Patches in one batch of the network; each takes about 3 MB."""
SHORTEST = WINDOW + (PATCH - 1) * HOP
"""Samples that one patch takes: 0.975 s."""

FILE = PublishedFile(
    what="VGGish",
    name="vggish-10086976.pth",
    source="https://github.com/harritaylor/torchvggish/releases/tag/v0.1",
    sha256="10086976",  # the file's name states its first digits
)


class VGGish(nn.Module):
    """Patches [P, 96, 64] of log-mel to features [P, 128]; the last ReLU is left out."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for block in ((64,), (128,), (256, 256), (512, 512)):
            for out in block:
                layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
                width = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(6 * 4 * 512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, patches_PTB: Tensor) -> Tensor:
        x = self.features(patches_PTB[:, None])
        # The weights come from TensorFlow, where channels lie innermost.
        return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))


@cache
def mel_matrix() -> Tensor:
    """[257, 64] float64: the weight of each FFT bin in each band; 0 for the bin at 0 Hz."""
    bins_K = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    weights_KB = mel.htk_bands(bins_K, BANDS, LOWEST_HZ, HIGHEST_HZ)
    weights_KB[0] = 0
    return weights_KB


def log_mel(wave_S: Tensor) -> Tensor:
    """Log-mel frames [M, 64] float64 of a 16 kHz wave [S] in [-1, 1], S at least 400; M = 1 + (S - 400) // 160."""
    frames_MW = wave_S.detach().cpu().double().unfold(0, WINDOW, HOP)
    hann_W = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
    spectrum_MK = torch.fft.rfft(frames_MW * hann_W, n=FFT)
    magnitude_MK = torch.from_numpy(np.abs(spectrum_MK.numpy()))  # ten times as quick as torch's on a CPU
    return torch.log(magnitude_MK @ mel_matrix() + LOG_OFFSET)


def patches(wave_S: Tensor) -> Tensor:
    """Patches [P, 96, 64] float64 of a 16 kHz wave [S] in [-1, 1].

    Raises UserError for a wave that is not [S], or shorter than one patch, 0.975 s.
    """
    if wave_S.dim() != 1 or len(wave_S) < SHORTEST:
        raise UserError(
            f"VGGish needs a wave [S] of at least {SHORTEST} samples ({SHORTEST / SAMPLE_RATE} s) at "
            f"{SAMPLE_RATE} Hz, got {list(wave_S.shape)}; leave shorter clips out"
        )
    frames_MB = log_mel(wave_S)
    whole = len(frames_MB) // PATCH
    return frames_MB[: whole * PATCH].unflatten(0, (whole, PATCH))


def embed(network: VGGish, wave_S: Tensor) -> Tensor:
    """Features [P, 128] float32 of a 16 kHz wave in [-1, 1], one row for each 0.96 s."""
    return embed_patches(network, patches(wave_S))


@torch.no_grad()
def embed_patches(network: VGGish, patches_PTB: Tensor) -> Tensor:
    """Features [P, 128] float32 of log-mel patches [P, 96, 64], some at a time so that long sound fits memory."""
    weight = next(network.parameters())
    return torch.cat([network(few.to(weight)) for few in patches_PTB.split(AT_ONCE)])
