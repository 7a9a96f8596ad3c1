"""Tracking of a face through the frames of a scene, as SyncNet's release does it.

A track begins with the best face left in the earliest frame; each later frame adds the first of its faces that
overlaps the track's last one by more than 0.5. A track ends where none has for more than 25 frames. It counts
where it has at least 50 faces (the release: more than 100) and these are wider or higher than 100 pixels on
average; frames between its faces take boxes in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovi_eval.backbones.boxes import overlap

OVERLAP = 0.5
MOST_MISSED = 25
SHORTEST = 50
SMALLEST = 100.0


@dataclass(frozen=True)
class Track:
    """A face in frames `first` to `first` + F - 1: `boxes_F4` float64, and in how many of them it was detected."""

    first: int
    boxes_F4: np.ndarray
    detected: int

    @property
    def end(self) -> int:
        """The frame after the last."""
        return self.first + len(self.boxes_F4)


def follow(
    faces: Sequence[np.ndarray],
    scenes: Sequence[tuple[int, int]],
    *,
    shortest: int = SHORTEST,
    smallest: float = SMALLEST,
) -> list[Track]:
    """All tracks in a clip, scene by scene. `faces`: boxes [n, 5] of every frame, the best first.

    `shortest` counts faces, `smallest` is in pixels.
    """
    tracks = []
    for first, end in scenes:
        if end - first < shortest:
            continue
        left = [list(boxes_N5) for boxes_N5 in faces[first:end]]
        while any(left):
            found = _next(left)
            if len(found) < shortest:
                continue
            track = _filled(first, found)
            if max(_sides(track).mean(axis=0)) > smallest:
                tracks.append(track)
    return tracks


def _next(left: list[list[np.ndarray]]) -> list[tuple[int, np.ndarray]]:
    """Takes one track's (frame, box) out of the faces that are left."""
    found: list[tuple[int, np.ndarray]] = []
    for frame, boxes in enumerate(left):
        if found and frame - found[-1][0] > MOST_MISSED:
            break
        for place, box_5 in enumerate(boxes):
            if not found or overlap(box_5[:4], found[-1][1][None, :4])[0] > OVERLAP:
                found.append((frame, boxes.pop(place)))
                break
    return found


def _filled(scene: int, found: Sequence[tuple[int, np.ndarray]]) -> Track:
    numbers = np.array([frame for frame, _ in found])
    boxes_N4 = np.stack([box_5[:4] for _, box_5 in found]).astype(np.float64)
    every = np.arange(numbers[0], numbers[-1] + 1)
    boxes_F4 = np.stack([np.interp(every, numbers, side) for side in boxes_N4.T], axis=1)
    return Track(scene + int(numbers[0]), boxes_F4, len(found))


def _sides(track: Track) -> np.ndarray:
    """Widths and heights [F, 2]."""
    return track.boxes_F4[:, 2:] - track.boxes_F4[:, :2]
