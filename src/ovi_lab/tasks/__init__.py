"""LightningModules that define what is trained, frozen and logged, chosen by the Hydra group `task`."""

from ovi_lab.tasks.base import AudioPretraining, FlowMatchingTask, FusionTraining, VideoPretraining
from ovi_lab.tasks.judges import JudgeTraining

__all__ = ["AudioPretraining", "FlowMatchingTask", "FusionTraining", "JudgeTraining", "VideoPretraining"]
