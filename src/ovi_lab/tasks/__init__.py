"""LightningModules that define what is trained, frozen and logged, chosen by the Hydra group `task`."""

from ovi_lab.tasks.base import FlowMatchingTask
from ovi_lab.tasks.fusion import FusionTraining
from ovi_lab.tasks.judges import JudgeTraining
from ovi_lab.tasks.pretraining import AudioPretraining, VideoPretraining

__all__ = ["AudioPretraining", "FlowMatchingTask", "FusionTraining", "JudgeTraining", "VideoPretraining"]
