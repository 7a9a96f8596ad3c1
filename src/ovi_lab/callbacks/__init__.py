"""Callbacks of training: checkpoints, logs, samples, metrics, guard against bad steps, preemption."""

from ovi_lab.callbacks.checkpoint import RunCheckpoint
from ovi_lab.callbacks.csv_log import ResumableCSVLogger
from ovi_lab.callbacks.gradients import GradientNorms
from ovi_lab.callbacks.guard import Guard
from ovi_lab.callbacks.learning_rate import LearningRate
from ovi_lab.callbacks.preemption import Preemption
from ovi_lab.callbacks.profile import TorchProfile
from ovi_lab.callbacks.rescaled_resume import RescaledResume
from ovi_lab.callbacks.sample_logger import SampleLogger
from ovi_lab.callbacks.throughput import Throughput
from ovi_lab.callbacks.training_progress import TrainingProgress
from ovi_lab.callbacks.validation_metrics import MetricsInLoop
from ovi_lab.strategies.ema import EMA

__all__ = [
    "EMA",
    "GradientNorms",
    "Guard",
    "LearningRate",
    "MetricsInLoop",
    "Preemption",
    "RescaledResume",
    "ResumableCSVLogger",
    "RunCheckpoint",
    "SampleLogger",
    "Throughput",
    "TorchProfile",
    "TrainingProgress",
]
