"""Flow matching: the path, its loss, and sampling along it."""

from ovi_lab.flow.guidance import Texts
from ovi_lab.flow.integrate import SampledLatents, first_frame_given, sample
from ovi_lab.flow.loss import FlowLoss, flow_matching_loss
from ovi_lab.flow.noise import noise_batch, noise_for
from ovi_lab.flow.path import MODEL_TIME, TimestepSampler, interpolate, shift_sigma
from ovi_lab.flow.roles import DrawnRoles, Roles
from ovi_lab.flow.settings import SamplerSettings
from ovi_lab.flow.solvers import SOLVERS, Solver, build_solver
from ovi_lab.flow.windows import Windows, sample_windows

__all__ = [
    "MODEL_TIME",
    "SOLVERS",
    "DrawnRoles",
    "FlowLoss",
    "Roles",
    "SampledLatents",
    "SamplerSettings",
    "Solver",
    "Texts",
    "TimestepSampler",
    "Windows",
    "build_solver",
    "first_frame_given",
    "flow_matching_loss",
    "interpolate",
    "noise_batch",
    "noise_for",
    "sample",
    "sample_windows",
    "shift_sigma",
]
