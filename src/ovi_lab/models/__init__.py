"""The twin diffusion transformer and its parts."""

from ovi_lab.models.config import FusionConfig, RopeConfig, TowerConfig
from ovi_lab.models.given import Given
from ovi_lab.models.initialisation import initialise_parameters
from ovi_lab.models.tower import TextContext
from ovi_lab.models.twin import TwinDiT, TwinOutput

__all__ = [
    "FusionConfig",
    "Given",
    "RopeConfig",
    "TextContext",
    "TowerConfig",
    "TwinDiT",
    "TwinOutput",
    "initialise_parameters",
]
