"""Lip-sync through a SyncNet of the speaking mouth: the ball world's measures and network, trained on this world."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ovi_eval.ball.judges import JudgeSet
from ovi_eval.ball.networks import BallSyncNet
from ovi_eval.ball.sync import BallSync, ShiftDistances
from ovi_eval.metrics.base import ValueSpec


@dataclass
class MouthJudges(JudgeSet):
    """What knows whether mouth and sound are in time; the detectors of this world need no training."""

    sync: BallSyncNet = field(default_factory=BallSyncNet)

    file = Path(__file__).parent / "weights" / "mouth_judge.safetensors"
    format = "ovi_eval.mouth_judge/1"
    experiment = "mouth_judge"

    def parts(self) -> dict[str, nn.Module]:
        return {"sync": self.sync}


class MouthShiftDistances(ShiftDistances):
    """`distances` [51] float64, of the world's own SyncNet."""

    name = "mouth_shifts"
    kind = MouthJudges


class MouthSync(BallSync):
    """Sync-C, Sync-D, distance at shift 0 and predicted shift (ms, without its sign)."""

    name = "mouth/sync"
    values = (
        ValueSpec("mouth/sync_c", "higher"),
        ValueSpec("mouth/sync_d", "lower"),
        ValueSpec("mouth/sync_d0", "lower"),
        ValueSpec("mouth/sync_shift_ms", "lower", "ms"),
    )
    extractor = MouthShiftDistances
