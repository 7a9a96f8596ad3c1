"""How far the sound of a clip of the ball world is off, by that world's own SyncNet: the truth of it is known."""

from __future__ import annotations

from ovi_eval.ball.networks import MAX_SHIFT
from ovi_eval.ball.sound_bands import TOKEN_SECONDS
from ovi_eval.ball.sync import ShiftDistances
from ovi_eval.errors import UserError as NotJudgedError
from ovi_lab.data.build.clip import Candidate, Scores
from ovi_lab.data.build.steps.networks import as_item

FPS = 25
"""Of the frames that SyncNet's offsets count."""


class BallSyncJudge:
    """Scores of the step `sync` for a clip of the ball world; `weights`: sha256 by file name."""

    def __init__(self) -> None:
        self._distances = ShiftDistances()
        self.weights = dict(self._distances.weights)

    def scores(self, clip: Candidate) -> Scores:
        """`sync_offset` in whole frames at 25 fps, as SyncNet's; a ball counts as one face track, silence as none."""
        try:
            found = self._distances.run(self._distances.load(as_item(clip)))["distances"]
        except NotJudgedError:
            return {"face_tracks": 0.0}
        smallest, best = found.min(dim=0)
        return {
            "face_tracks": 1.0,
            "sync_confidence": float(found.median() - smallest),
            "sync_offset": float(round((int(best) - MAX_SHIFT) * TOKEN_SECONDS * FPS)),
        }
