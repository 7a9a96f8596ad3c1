"""Where a picture shows text: the detector of PP-OCRv4 (PaddleOCR, Apache-2.0), by the ONNX file that RapidOCR carries.

A differentiable-binarisation network (Liao et al. 2020) gives each pixel a probability that it lies in the middle part
of a line of text; what exceeds 0.3 is text. Frames are BGR, less 127.5, over 127.5, at sides that are multiples of 32.

Shapes: H rows, W columns.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from ovi_eval.backbones.onnx_file import OnnxFile
from ovi_eval.common.weights import PublishedFile

THRESHOLD = 0.3
MULTIPLE = 32
LONGEST = 960
"""Longer side in pixels at which frames are looked at, at most."""

FILE = PublishedFile(
    what="PP-OCRv4 text detection",
    name="ch_PP-OCRv4_det_infer.onnx",
    source="https://github.com/RapidAI/RapidOCR",
    sha256="d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    carried="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
    install="pip install --no-deps rapidocr-onnxruntime",
)


def text_map(network: OnnxFile, frame_HWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each pixel [h, w] of a frame (uint8, RGB), drawn to the network's size, lies within text."""
    height, width = frame_HWC.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    size = [max(1, round(side * scale / MULTIPLE)) * MULTIPLE for side in (height, width)]
    picture = torch.from_numpy(np.ascontiguousarray(frame_HWC[..., ::-1])).permute(2, 0, 1)[None].float()
    if size != [height, width]:
        picture = torch.nn.functional.interpolate(picture, size, mode="bilinear", antialias=True)
    probability = network(((picture - 127.5) / 127.5).numpy())[0][0, 0]
    found: NDArray[np.bool_] = probability > THRESHOLD
    return found
