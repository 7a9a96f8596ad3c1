"""Optimisers, parameter groups and learning-rate schedules."""

from ovi_lab.optim.fused import fused_where_possible
from ovi_lab.optim.groups import parameter_groups
from ovi_lab.optim.muon import Muon
from ovi_lab.optim.schedule import warmup_flat_decay

__all__ = ["Muon", "fused_where_possible", "parameter_groups", "warmup_flat_decay"]
