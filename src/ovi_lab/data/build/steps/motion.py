"""How much a clip moves: dense optical flow, and the share of frames that stand still.

Shapes: T frames, H rows, W columns.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ovi_eval.backbones import raft
from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import Need, Package, imported
from ovi_eval.common.weights import find_weights
from ovi_lab.data.build.clip import SMALL_SIDE, Candidate, Scores, shrunk
from ovi_lab.data.build.step import BuildStep, ScoreSpec
from ovi_lab.data.build.steps.networks import digests_of, missing_of
from ovi_lab.errors import UserError

CV2 = Package("cv2", install_hint("build"), "to measure motion")
FARNEBACK = "farneback"
FLOWS = (FARNEBACK, *raft.FILES)
STILL = 0.5
"""Of 255: frames that differ by less on average show the same picture."""


class Motion(BuildStep):
    """Mean length of the flow from frame to frame, by Farnebäck's method as OpenCV has it (2003), or by RAFT (2020).

    Flow is measured on frames whose longer side is `side` pixels, from every `every`-th frame to the next, and given
    as a share of the longer side a second, so that neither the size nor the rate of a clip changes it.

    Args:
        every: frames from one pair to the next.
        flow: `farneback`, or `raft-things` or `raft-sintel`, whose file is looked for in OVI_EVAL_WEIGHTS.
        side: pixels; a clip that is smaller is not enlarged.
        iterations: of RAFT's recurrent unit (None: 20).
    """

    name = "motion"
    needs: ClassVar = frozenset({"picture"})
    scores = (
        ScoreSpec("motion", "mean flow", "longer sides a second"),
        ScoreSpec("still_share", "frames equal to the one before", "share"),
    )

    def __init__(
        self, every: int = 8, flow: str = FARNEBACK, side: int = SMALL_SIDE, iterations: int | None = None
    ) -> None:
        if flow not in FLOWS:
            raise UserError(f"step motion: flow is {flow!r}; expected one of {', '.join(FLOWS)}")
        if iterations is not None and flow == FARNEBACK:
            raise UserError(f"step motion: iterations are RAFT's; leave them out, or name {FLOWS[1]} as flow")
        iterations = raft.ITERATIONS if iterations is None else iterations
        for name, value, least, unit in (
            ("every", every, 1, "frames"),
            ("side", side, 32, "pixels"),
            ("iterations", iterations, 1, "iterations"),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"step motion: {name} is {value!r}; expected a whole number of {unit} from {least}"
                )
        self.every, self.flow, self.side, self.iterations = every, flow, side, iterations

    @property
    def _needs(self) -> tuple[Need, ...]:
        return (CV2,) if self.flow == FARNEBACK else (CV2, raft.FILES[self.flow])

    def missing(self) -> str | None:
        return missing_of(self._needs, "the step motion")

    def digests(self) -> dict[str, str]:
        if self.flow == FARNEBACK:
            return {}
        return digests_of([find_weights(raft.FILES[self.flow], "the step motion")])

    def setup(self) -> None:
        self._cv2: Any = imported(CV2, "measuring motion")
        self._cv2.setNumThreads(1)  # one thread a worker; more would add up in another order
        if self.flow != FARNEBACK:
            file = raft.FILES[self.flow]
            self._raft = raft.load(find_weights(file, "the step motion"), file).network

    def measure(self, clip: Candidate) -> Scores:
        grey = [self._grey(frame) for frame in clip.small()]
        steps = [np.abs(b.astype(np.int16) - a).mean() for a, b in itertools.pairwise(grey)]
        still = float(np.mean([step < STILL for step in steps])) if steps else 1.0
        lengths, longer = [], 1
        for place in range(0, len(grey) - 1, self.every):
            first_HWC, second_HWC = (self._sized(clip, place + later) for later in (0, 1))
            flow_HW2 = self._flow(first_HWC, second_HWC)
            lengths.append(float(np.linalg.norm(flow_HW2, axis=-1).mean()))
            longer = max(first_HWC.shape[:2])
        speed = float(np.mean(lengths)) * clip.fps / longer if lengths else 0.0
        return {"motion": speed, "still_share": still}

    def _sized(self, clip: Candidate, place: int) -> NDArray[np.uint8]:
        """A frame [H, W, 3], its longer side at most `side` pixels."""
        if self.side == SMALL_SIDE or clip.frames_THWC is None:
            return clip.small()[place]
        return shrunk(clip.frames_THWC[place].numpy(), self.side)

    def _grey(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        grey_HW: NDArray[np.uint8] = self._cv2.cvtColor(frame_HWC, self._cv2.COLOR_RGB2GRAY)
        return grey_HW

    def _flow(self, first_HWC: NDArray[np.uint8], second_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """By how many pixels [H, W, 2] the picture moves from the first frame to the second."""
        if self.flow == FARNEBACK:
            first_HW, second_HW = self._grey(first_HWC), self._grey(second_HWC)
            settings = (0.5, 3, 15, 3, 5, 1.2, 0)
            farneback: NDArray[np.float32] = self._cv2.calcOpticalFlowFarneback(
                first_HW, second_HW, None, *settings
            )
            return farneback
        first, second = (torch.from_numpy(frame)[None] for frame in (first_HWC, second_HWC))
        found: NDArray[np.float32] = raft.flow_between(self._raft, first, second, self.iterations)[0].numpy()
        return found
