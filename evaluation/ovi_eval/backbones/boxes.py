"""Boxes around faces: their overlap, and non-maximum suppression.

A box is x1, y1, x2, y2 (left, top, right, bottom) and, where it has one, a score; boxes are rows of [N, 4] or
[N, 5].
"""

import numpy as np


def overlap(one_4: np.ndarray, others_N4: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    """Area shared by a box and each of the others over the area of both together, [N].

    `epsilon` is added to the area of both, as some detectors' code has it.
    """
    left_top_N2 = np.maximum(one_4[:2], others_N4[:, :2])
    right_bottom_N2 = np.minimum(one_4[2:4], others_N4[:, 2:4])
    shared_N = np.clip(right_bottom_N2 - left_top_N2, 0, None).prod(axis=1)
    sides_N2 = np.clip(others_N4[:, 2:4] - others_N4[:, :2], 0, None)
    own = np.clip(one_4[2:4] - one_4[:2], 0, None).prod()
    both_N = own + sides_N2.prod(axis=1) - shared_N + epsilon
    return np.divide(shared_N, both_N, out=np.zeros_like(both_N), where=both_N > 0)


def suppressed(boxes_N5: np.ndarray, most: float, epsilon: float = 0.0) -> np.ndarray:
    """The boxes [M, 5] by falling score, without those that overlap a better one by more than `most`."""
    left_N5 = boxes_N5[np.argsort(boxes_N5[:, 4], kind="stable")[::-1]]
    kept = []
    while len(left_N5):
        best, left_N5 = left_N5[0], left_N5[1:]
        kept.append(best)
        left_N5 = left_N5[overlap(best[:4], left_N5[:, :4], epsilon) <= most]
    return np.stack(kept) if kept else boxes_N5[:0]
