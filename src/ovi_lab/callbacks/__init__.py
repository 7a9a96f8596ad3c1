"""What happens beside training: averaging, checkpoints, samples, progress."""

from ovi_lab.callbacks.checkpoint import RunCheckpoint
from ovi_lab.callbacks.csv_log import ResumableCSVLogger
from ovi_lab.callbacks.ema import EMA
from ovi_lab.callbacks.progress import TrainingProgress
from ovi_lab.callbacks.samples import SampleLogger

__all__ = ["EMA", "ResumableCSVLogger", "RunCheckpoint", "SampleLogger", "TrainingProgress"]
