"""Face detectors: boxes in pixels with scores for each frame.

A detector works in two steps, as decoding threads do the first: `shrink` brings a frame to the size that the
network looks at, `look` is the network on a few of them. Another detector is a class with these two and `found`.

Shapes: N frames, n faces in a frame: rows of x1, y1, x2, y2 (left, top, right, bottom, in pixels) and score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from ovi_eval.backbones import s3fd, ultraface
from ovi_eval.backbones.onnx_file import OnnxFile
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import find_weights, load_published
from ovi_eval.faces.frame_store import Pictures

BATCH = 4


class Detector(ABC):
    """`network` gives scores [N, P] and boxes [N, P, 4] of each place it looks at.

    `variant` names the detector and its weights in results, `weights` is their sha256 by file name.
    """

    name: ClassVar[str]

    def __init__(self, network: Any, path: Path, sha256: str, device: torch.device = CPU) -> None:
        self.network, self.device = network, device
        self.variant = f"{self.name} {sha256[:12]}"
        self.weights = {path.name: sha256}

    @classmethod
    @abstractmethod
    def found(cls, for_what: str, device: torch.device = CPU) -> Self:
        """The detector with the weights in OVI_EVAL_WEIGHTS. Raises UserError with what `for_what` needs."""

    @abstractmethod
    def shrink(self, frame_HWC: np.ndarray) -> np.ndarray:
        """A frame [H, W, 3] uint8, RGB, as `look` takes it. Raises UserError for one that is too small."""

    @abstractmethod
    def look(self, small_NHWC: np.ndarray, height: int, width: int) -> list[np.ndarray]:
        """The faces [n, 5] in each of some shrunk frames of `height` x `width` pixels, the best first."""


class _TorchDetector(Detector):
    """A detector whose file, network, preparation of frames and choice of faces are those of one module."""

    module: ClassVar[Any]
    build: ClassVar[type[nn.Module]]

    @classmethod
    def found(cls, for_what: str, device: torch.device = CPU) -> Self:
        loaded = load_published(cls.build, find_weights(cls.module.FILE, for_what), cls.module.FILE)
        return cls(loaded.network.to(device), loaded.path, loaded.sha256, device)

    def shrink(self, frame_HWC: np.ndarray) -> np.ndarray:
        return self.module.shrunk(frame_HWC)

    def look(self, small_NHWC: np.ndarray, height: int, width: int) -> list[np.ndarray]:
        with torch.no_grad():
            scores_NP, boxes_NP4 = self.network(self.module.network_input(small_NHWC).to(self.device))
        return [self.module.faces(*one, height, width) for one in zip(scores_NP, boxes_NP4, strict=True)]


class S3FDDetector(_TorchDetector):
    """S3FD on frames of a quarter of the size, as SyncNet's release has it."""

    name = "s3fd"
    module: ClassVar[Any] = s3fd
    build = s3fd.S3FD


class UltraFaceDetector(_TorchDetector):
    """UltraFace RFB-320 in plain torch."""

    name = "ultraface-rfb320"
    module: ClassVar[Any] = ultraface
    build = ultraface.UltraFace


class UltraFaceOnnxDetector(UltraFaceDetector):
    """UltraFace RFB-320 by its ONNX file, on the CPU."""

    name = "ultraface-rfb320-onnx"

    @classmethod
    def found(cls, for_what: str, device: torch.device = CPU) -> Self:
        path = find_weights(ultraface.ONNX_FILE, for_what)
        network = OnnxFile(path, ultraface.ONNX_FILE, "sync")
        return cls(partial(ultraface.onnx_faces, network), path, network.sha256)


def faces_in(detector: Detector, frames: Pictures, height: int, width: int) -> list[np.ndarray]:
    """The faces [n, 5] in each of the shrunk frames of a clip of `height` x `width` pixels, a few at a time."""
    found: list[np.ndarray] = []
    for start in range(0, len(frames), BATCH):
        few = [frames[place] for place in range(start, min(start + BATCH, len(frames)))]
        found += detector.look(np.stack(few), height, width)
    return found
