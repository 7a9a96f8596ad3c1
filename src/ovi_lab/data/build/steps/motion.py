"""How much a clip moves: dense optical flow, and the share of frames that stand still.

Shapes: T frames, H rows, W columns.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np

from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import Package, imported
from ovi_lab.data.build.clip import Candidate, Scores
from ovi_lab.data.build.step import BuildStep, ScoreSpec, lacking
from ovi_lab.errors import UserError

CV2 = Package("cv2", install_hint("build"), "to measure motion")
STILL = 0.5
"""Of 255: frames that differ by less on average show the same picture."""


class Motion(BuildStep):
    """Mean length of the flow from frame to frame, by Farnebäck's method as OpenCV has it (2003).

    Flow is measured on frames whose longer side is 256 pixels, from every `every`-th frame to the next, and given as
    a share of the longer side a second, so that neither the size nor the rate of a clip changes it.
    """

    name = "motion"
    needs: ClassVar = frozenset({"picture"})
    scores = (
        ScoreSpec("motion", "mean flow", "longer sides a second"),
        ScoreSpec("still_share", "frames equal to the one before", "share"),
    )

    def __init__(self, every: int = 8) -> None:
        if not isinstance(every, int) or every < 1:
            raise UserError(f"step motion: every is {every!r}; expected a whole number of frames from 1")
        self.every = every

    def missing(self) -> str | None:
        return lacking(CV2)

    def setup(self) -> None:
        self._cv2: Any = imported(CV2, "measuring motion")
        self._cv2.setNumThreads(1)  # one thread a worker; more would add up in another order

    def measure(self, clip: Candidate) -> Scores:
        frames_THWC = clip.small()
        grey = [self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2GRAY) for frame in frames_THWC]
        steps = [np.abs(b.astype(np.int16) - a).mean() for a, b in itertools.pairwise(grey)]
        lengths = []
        for place in range(0, len(grey) - 1, self.every):
            flow_HW2 = self._cv2.calcOpticalFlowFarneback(
                grey[place], grey[place + 1], None, 0.5, 3, 15, 3, 5, 1.2, 0
            )
            lengths.append(float(np.linalg.norm(flow_HW2, axis=-1).mean()))
        side = max(frames_THWC.shape[1:3])
        still = float(np.mean([step < STILL for step in steps])) if steps else 1.0
        speed = float(np.mean(lengths)) * clip.fps / side if lengths else 0.0
        return {"motion": speed, "still_share": still}
