"""How many faces a clip shows, and whether its sound fits their lips."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ovi_eval.errors import UserError as NotJudgedError
from ovi_eval.faces.detection import (
    Detector,
    S3FDDetector,
    UltraFaceDetector,
    UltraFaceOnnxDetector,
    faces_in,
)
from ovi_eval.faces.frame_store import Pictures
from ovi_eval.metrics.lip_sync import SyncNetTracks, SyncNetTracksUltraFace
from ovi_lab.data.build.clip import Candidate, Scores
from ovi_lab.data.build.step import BuildStep, ScoreSpec
from ovi_lab.data.build.steps.ball_judge import BallSyncJudge
from ovi_lab.data.build.steps.networks import as_item, missing_of
from ovi_lab.errors import UserError

DETECTORS: dict[str, type[Detector]] = {
    "ultraface": UltraFaceDetector,
    "ultraface_onnx": UltraFaceOnnxDetector,
    "s3fd": S3FDDetector,
}


JUDGES = ("syncnet", "ball_world")


class Faces(BuildStep):
    """Faces in frames that are evenly spaced over a clip, by a detector of `ovi_eval` (its weights in
    OVI_EVAL_WEIGHTS).

    `faces` is the median over the frames, `face_share` the share of frames with any, `face_size` the mean height of the
    largest as a share of the picture's.
    """

    name = "faces"
    needs: ClassVar = frozenset({"picture"})
    scores = (
        ScoreSpec("faces", "people in the picture"),
        ScoreSpec("face_share", "frames with a face", "share"),
        ScoreSpec("face_size", "height of the largest face", "share"),
    )

    def __init__(self, detector: str = "ultraface", frames: int = 8) -> None:
        if detector not in DETECTORS:
            raise UserError(f"step faces: detector is {detector!r}; expected one of {', '.join(DETECTORS)}")
        if not isinstance(frames, int) or frames < 1:
            raise UserError(f"step faces: frames is {frames!r}; expected a whole number from 1")
        self.detector, self.frames = detector, frames

    def missing(self) -> str | None:
        try:
            DETECTORS[self.detector].found("the step faces")
        except NotJudgedError as error:
            return str(error)
        return None

    def digests(self) -> dict[str, str]:
        return dict(DETECTORS[self.detector].found("the step faces").weights)

    def setup(self) -> None:
        self._detector = DETECTORS[self.detector].found("the step faces")

    def measure(self, clip: Candidate) -> Scores:
        if clip.frames_THWC is None:
            raise TypeError("the clip has no picture")
        places = np.unique(np.linspace(0, len(clip.frames_THWC) - 1, self.frames).round().astype(int))
        height, width = clip.frames_THWC.shape[1:3]
        small = Pictures()
        for place in places:
            small.append(self._detector.shrink(clip.frames_THWC[int(place)].numpy()))
        found = faces_in(self._detector, small, height, width)
        heights = [float((boxes[:, 3] - boxes[:, 1]).max()) / height for boxes in found if len(boxes)]
        return {
            "faces": float(np.median([len(boxes) for boxes in found])),
            "face_share": float(np.mean([len(boxes) > 0 for boxes in found])),
            "face_size": float(np.mean(heights)) if heights else 0.0,
        }


class LipSyncStep(BuildStep):
    """SyncNet's confidence and offset of the face track with the highest confidence, as `ovi_eval`'s `sync` has them.

    A clip without a face track, or whose sound is silence, has none of the scores but `face_tracks`, which is 0.
    `sync_offset` is in frames at 25 fps; positive: the sound is late. With `judge: ball_world` clips of the ball world
    are judged by that world's own SyncNet instead, which the package holds.
    """

    name = "sync"
    needs: ClassVar = frozenset({"picture", "sound"})
    scores = (
        ScoreSpec("face_tracks", "faces followed over two seconds"),
        ScoreSpec("sync_confidence", "SyncNet's confidence"),
        ScoreSpec("sync_offset", "SyncNet's offset", "frames at 25 fps"),
    )

    def __init__(self, detector: str = "s3fd", judge: str = "syncnet") -> None:
        kinds: dict[str, type[SyncNetTracks]] = {"s3fd": SyncNetTracks, "ultraface": SyncNetTracksUltraFace}
        for name, value, known in (("detector", detector, kinds), ("judge", judge, JUDGES)):
            if value not in known:
                raise UserError(f"step sync: {name} is {value!r}; expected one of {', '.join(known)}")
        self._kind = kinds[detector]
        self._ball_world = judge == "ball_world"

    def missing(self) -> str | None:
        return None if self._ball_world else missing_of(self._kind.needs, "the step sync")

    def digests(self) -> dict[str, str]:
        return dict(BallSyncJudge().weights if self._ball_world else self._kind().weights)

    def setup(self) -> None:
        if self._ball_world:
            self._ball_judge = BallSyncJudge()
        else:
            self._extractor: Any = self._kind()

    def measure(self, clip: Candidate) -> Scores:
        if self._ball_world:
            return self._ball_judge.scores(clip)
        try:
            features = self._extractor.run(self._extractor.load(as_item(clip)))
        except NotJudgedError:
            return {"face_tracks": 0.0}
        best = int(features["confidence"].argmax())
        return {
            "face_tracks": float(len(features["confidence"])),
            "sync_confidence": float(features["confidence"][best]),
            "sync_offset": float(features["offset"][best]),
        }
