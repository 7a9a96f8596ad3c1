"""Where the scenes of a film begin and end: PySceneDetect's content detector, or the network TransNetV2.

A detector reads small frames one by one and holds no more of them than it needs at once.

Shapes: T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovi_eval.backbones import transnet
from ovi_eval.common.needs import Need, imported
from ovi_eval.common.weights import find_weights, load_published
from ovi_eval.faces.scenes import SCENEDETECT, SHORTEST, THRESHOLD

Frames = Iterable[NDArray[np.uint8]]
Changes = list[tuple[int, int]]
"""Of each change of scene the frame after the last one before it, and the first one of the next scene: the same at a
cut; what lies between them, of a slow transition, belongs to neither."""


def by_content(frames: Frames) -> Changes:
    """PySceneDetect's ContentDetector with its defaults: a cut is where the picture changes by more than 27 of 255."""
    package = imported(SCENEDETECT, "finding cuts")
    detector = package.ContentDetector(threshold=THRESHOLD, min_scene_len=SHORTEST)
    rate, number = 25.0, -1  # the rate is of the detector's clock alone: cuts are counted in frames
    cuts: set[int] = set()
    for number, frame_HWC in enumerate(frames):
        bgr = np.ascontiguousarray(frame_HWC[..., ::-1])
        cuts |= {
            int(cut.frame_num) for cut in detector.process_frame(package.FrameTimecode(number, rate), bgr)
        }
    found: Any = detector.post_process(package.FrameTimecode(max(number, 0), rate))
    cuts |= {int(cut.frame_num) for cut in found}
    return [(cut, cut) for cut in sorted(cuts) if 0 < cut <= number]


def by_transnet(frames: Frames) -> Changes:
    """TransNetV2 on frames of 48 by 27 pixels."""
    return transnet.transitions(transnet.probabilities(_transnet(), map(_tiny, frames)))


@cache
def _transnet() -> transnet.ShotBoundaries:
    path = find_weights(transnet.FILE, "the scene detector transnetv2")
    return load_published(transnet.ShotBoundaries, path, transnet.FILE, sha256=transnet.FILE.sha256).network


def _tiny(frame_HWC: NDArray[np.uint8]) -> Tensor:
    picture = torch.from_numpy(np.ascontiguousarray(frame_HWC)).permute(2, 0, 1)[None].float()
    tiny = torch.nn.functional.interpolate(picture, (transnet.HEIGHT, transnet.WIDTH), mode="area")
    return tiny[0].permute(1, 2, 0).round().to(torch.uint8)


DETECTORS: dict[str, tuple[Callable[[Frames], Changes], Need]] = {
    "content": (by_content, SCENEDETECT),
    "transnetv2": (by_transnet, transnet.FILE),
}
"""By their names in a recipe: the function, and what it needs."""


def scenes(times: list[float], length: float, changes: Changes) -> list[tuple[float, float]]:
    """Begin and end of each scene in seconds, of the frames' times and the film's length."""
    inner = [(end, begin) for end, begin in changes if 0 < end <= begin < len(times)]
    begins = [0.0, *(times[begin] for _, begin in inner)]
    ends = [*(times[end] for end, _ in inner), length]
    return list(_within(begins, ends))


def _within(begins: list[float], ends: list[float]) -> Iterator[tuple[float, float]]:
    for begin, end in zip(begins, ends, strict=True):
        if end > begin:
            yield begin, end
