"""One decoded frame as the viewer sees it: RGB of 8 bits, square pixels, upright, not mirrored.

Shapes: H rows, W columns.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter
from torch import Tensor

from ovi_eval.clips.container import check_pixels
from ovi_eval.errors import UserError

SAME_SHAPE = 0.02
"""Share by which the sides of a frame may leave the first one's proportions and still be scaled to its size."""
MOST_STRETCHED = 10
"""How much longer than wide, or wider than long, a pixel may be."""
_MATRICES = {0, 1, 2, 4, 5, 6, 7, 9, 10}
"""Values of H.273 that FFmpeg's scaler knows; reserved ones count as not stated."""
_UNSTATED = 2


class Upright:
    """Converts the frames of one stream to what a viewer sees; all get the first one's size.

    The matrix (BT.601, 709, 2020, ...) and range (video or full) are those that the frame states, BT.601 and video
    range where it states none, as FFmpeg does. Transparent parts are put on black. Where pixels are not square one side
    is enlarged and the other left, so that no row or column is lost. Turned and mirrored by the file's display matrix,
    to quarter turns.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._scaler = VideoReformatter()
        self._stored: tuple[int, int] | None = None
        self._square: tuple[int, int] = (0, 0)
        self.size = (0, 0)

    def __call__(self, frame: Any, pixel_shape: Fraction | None) -> Tensor:
        """[H, W, 3] uint8; `pixel_shape` is a pixel's width by its height, of which the first frame's counts.

        Raises UserError for another shape than the first one's, or one out of bounds.
        """
        if self._stored is None:
            self._stored = (frame.width, frame.height)
            self._square = self._squared(frame.width, frame.height, pixel_shape)
        width, height = self._square
        other = frame.width / frame.height / (self._stored[0] / self._stored[1]) - 1
        if abs(other) > SAME_SHAPE:
            raise UserError(
                f"{self._shown}: its picture changes from {self._stored[0]}x{self._stored[1]} to "
                f"{frame.width}x{frame.height}; write it again in one shape"
            )
        wanted: dict[str, Any] = {}
        if (frame.width, frame.height) != (width, height):
            wanted = {"width": width, "height": height, "interpolation": "BICUBIC"}
        if frame.colorspace not in _MATRICES:
            frame.colorspace = _UNSTATED
        if any(part.is_alpha for part in frame.format.components):
            picture = _on_black(self._scaler.reformat(frame, format="rgba", threads=1, **wanted).to_ndarray())
        else:
            picture = self._scaler.reformat(frame, format="rgb24", threads=1, **wanted).to_ndarray()
        picture = np.ascontiguousarray(_turned(picture, _display_matrix(frame)))
        self.size = (picture.shape[0], picture.shape[1])
        return torch.from_numpy(picture)

    def _squared(self, width: int, height: int, pixel_shape: Fraction | None) -> tuple[int, int]:
        ratio = Fraction(pixel_shape or 1)
        if ratio <= 0:
            ratio = Fraction(1)
        if not Fraction(1, MOST_STRETCHED) <= ratio <= MOST_STRETCHED:
            raise UserError(
                f"{self._shown}: its pixels are {ratio.numerator}:{ratio.denominator}; up to "
                f"{MOST_STRETCHED}:1 are read"
            )
        if ratio >= 1:
            width = round(width * ratio)
        else:
            height = round(height / ratio)
        check_pixels(width, height, self._shown)
        return width, height


def _on_black(picture_HW4: np.ndarray) -> np.ndarray:
    opaque = picture_HW4[..., 3:].astype(np.uint16)
    return ((picture_HW4[..., :3] * opaque + 127) // 255).astype(np.uint8)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """a, b, c, d of ISO 14496-12's matrix: what is stored at (x, y) is seen at (a x + c y, b x + d y)."""
    try:
        # `frame.side_data` would be kept by the frame that it refers to: a cycle, in which every decoded frame stays in
        # memory until Python's garbage collector runs
        side_data = SideDataContainer(frame)  # type: ignore[call-arg]
        found = [bytes(data) for data in side_data if data.type.name == "DISPLAYMATRIX"]
    except ValueError:  # side data of a kind that PyAV has no name of: the angle is all there is
        turns = round(frame.rotation / 90) % 4
        return ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[turns]
    if not found or len(found[0]) < 36:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", found[0][:36])
    return a, b, c, d


def _turned(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        right, down = a, d
    else:
        picture = picture.swapaxes(0, 1)
        right, down = c, b
    if right < 0:
        picture = picture[:, ::-1]
    if down < 0:
        picture = picture[::-1]
    return picture
