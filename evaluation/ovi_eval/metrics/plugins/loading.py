"""What the built-in plug-ins share: weights of other packages' networks, and cosines of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ovi_eval.common.files import file_sha256
from ovi_eval.common.torch_files import read_weights
from ovi_eval.common.weights import PublishedFile
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Features, ItemMean


def fill(network: nn.Module, path: Path, file: PublishedFile) -> str:
    """Gives a built network the tensors of the file, all of them and no others; the file's sha256.

    The network is built in full, not as `load_published` does it, because another package's may compute tables while
    it is built. Raises UserError in one line for another file.
    """
    tensors: Any = read_weights(path)
    try:
        network.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = str(error).strip().splitlines()
        fault = lines[1 if len(lines) > 1 else 0].strip() if lines else type(error).__name__
        raise UserError(
            f"{path}: holds no weights of {file.what} ({fault[:160]}); fetch {file.needs()}"
        ) from error
    network.eval().requires_grad_(False)
    return file_sha256(path)


def at_rate(frames_THWC: Tensor, times_T: Tensor, rate: float, count: int) -> Tensor:
    """`count` frames at `rate` a second from the first on: for each moment the last frame that has begun by then."""
    moments = times_T[0] + torch.arange(count, dtype=torch.float64) / rate
    # A moment that is a frame's own to the last digit belongs to that frame.
    places = torch.searchsorted(times_T.contiguous(), moments + 1e-6, right=True) - 1
    return frames_THWC[places]


class CosineOfPairs(ItemMean):
    """The cosine of one feature, of length 1, of a clip and of the reference clip of the same id."""

    compares = "pairs"
    feature: ClassVar[str]

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        assert reference is not None  # as this metric compares pairs
        return [float(features[self.feature].double() @ reference[self.feature].double())]
