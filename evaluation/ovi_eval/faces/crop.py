"""The picture of a tracked face as SyncNet sees it: 224x224, with the surroundings that its release leaves.

A box's centre and half its longer side, s, go through a median over 13 frames (zeros beyond the track's ends, as
scipy's medfilt). The crop reaches from s above the centre to 1.8 s below and 1.4 s to either side, is grey (110)
beyond the frame, and is drawn to 224x224 by bilinear resize.
"""

from collections.abc import Callable, Iterator

import numpy as np

from ovi_eval.faces.tracks import Track

SIDE = 224
WIDER = 0.4
MEDIAN = 13
GREY = 110


def smoothed(values_F: np.ndarray) -> np.ndarray:
    """Each value's median with the six before and after it; zeros beyond the ends."""
    padded = np.pad(values_F, MEDIAN // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN), axis=1)


def crops(track: Track, picture: Callable[[int], np.ndarray]) -> Iterator[np.ndarray]:
    """Each frame's crop [224, 224, 3] uint8; `picture` gives a frame [H, W, 3] uint8 by its number."""
    x1_F, y1_F, x2_F, y2_F = track.boxes_F4.T
    half_F = smoothed(np.maximum(y2_F - y1_F, x2_F - x1_F) / 2)
    x_F, y_F = smoothed((x1_F + x2_F) / 2), smoothed((y1_F + y2_F) / 2)
    for number, (x, y, half) in enumerate(zip(x_F, y_F, half_F, strict=True)):
        yield cut(picture(track.first + number), x, y, half)


def cut(frame_HWC: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """The crop [224, 224, 3] uint8 around a face with that centre and half side, in pixels."""
    import cv2

    height, width = frame_HWC.shape[:2]
    # The release pads the frame by this much and cuts whole pixels from that, so parts of pixels fall there.
    pad = int(half * (1 + 2 * WIDER))
    top = int(y + pad - half)
    bottom = int(y + pad + half * (1 + 2 * WIDER))
    left = int(x + pad - half * (1 + WIDER))
    right = int(x + pad + half * (1 + WIDER))
    # Nothing lies beyond the padding, and a crop has at least one pixel.
    top, bottom = _within(top, bottom, height + 2 * pad)
    left, right = _within(left, right, width + 2 * pad)
    face = np.full((bottom - top, right - left, 3), GREY, dtype=np.uint8)
    rows = slice(max(top - pad, 0), max(min(bottom - pad, height), 0))
    columns = slice(max(left - pad, 0), max(min(right - pad, width), 0))
    inside = frame_HWC[rows, columns]
    down, over = max(pad - top, 0), max(pad - left, 0)
    face[down : down + inside.shape[0], over : over + inside.shape[1]] = inside
    return cv2.resize(face, (SIDE, SIDE))


def _within(first: int, end: int, size: int) -> tuple[int, int]:
    first = min(max(first, 0), max(size - 1, 0))
    return first, max(min(end, size), first + 1)
