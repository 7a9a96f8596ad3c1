"""The scenes of a clip: cuts as PySceneDetect's ContentDetector finds them.

Its defaults: a cut is where hue, saturation and brightness change by 27 of 255 on average from one frame to the
next, and a scene has at least 15 frames. As its own program does, frames whose longer side is above 256 pixels
are first drawn to 256.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import Package, imported

SCENEDETECT = Package("scenedetect", install_hint("sync"), "to find cuts")
THRESHOLD = 27.0
SHORTEST = 15
SIDE = 256


def shrunk(frame_HWC: np.ndarray) -> np.ndarray:
    """A frame [H, W, 3] uint8, BGR, at the size of the search for cuts."""
    import cv2

    height, width = frame_HWC.shape[:2]
    factor = max(height, width) / SIDE
    if factor <= 1:
        return frame_HWC
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return cv2.resize(frame_HWC, size, interpolation=cv2.INTER_LINEAR)


def scenes(frames: Sequence[np.ndarray], fps: float) -> list[tuple[int, int]]:
    """First frame and the one after the last of each scene, of all shrunk BGR frames of a clip.

    Raises UserError where PySceneDetect is not installed.
    """
    package = imported(SCENEDETECT, "finding cuts")
    detector = package.ContentDetector(threshold=THRESHOLD, min_scene_len=SHORTEST)
    cuts: list[Any] = []
    for number, frame in enumerate(frames):
        cuts += detector.process_frame(package.FrameTimecode(number, float(fps)), frame)
    cuts += detector.post_process(package.FrameTimecode(max(len(frames) - 1, 0), float(fps)))
    edges = [0, *sorted({int(cut.frame_num) for cut in cuts}), len(frames)]
    return [(first, end) for first, end in itertools.pairwise(edges) if end > first]
