"""What happens beside training: averaging, checkpoints, samples, progress."""

from ovi_lab.callbacks.checkpoint import RunCheckpoint
from ovi_lab.callbacks.csv_log import ResumableCSVLogger
from ovi_lab.callbacks.ema import EMA
from ovi_lab.callbacks.gradients import GradientNorms
from ovi_lab.callbacks.guard import Guard
from ovi_lab.callbacks.learning_rate import LearningRate
from ovi_lab.callbacks.metrics_in_loop import MetricsInLoop
from ovi_lab.callbacks.preemption import Preemption
from ovi_lab.callbacks.progress import TrainingProgress
from ovi_lab.callbacks.samples import SampleLogger
from ovi_lab.callbacks.spread import Spread
from ovi_lab.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "GradientNorms",
    "Guard",
    "LearningRate",
    "MetricsInLoop",
    "Preemption",
    "ResumableCSVLogger",
    "RunCheckpoint",
    "SampleLogger",
    "Spread",
    "Throughput",
    "TrainingProgress",
]
