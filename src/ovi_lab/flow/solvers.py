"""Integrators of the learned velocity from noise to data behind one small interface.

UniPC is this project's own (`unipc.py`); the others are diffusers' schedulers.

The schedules are those of the released sampling code: sigmas fall from about 1 to 0 and are shifted towards
noise; UniPC and DPM++ tell the model whole numbers as times, Euler the exact ones.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ovi_lab.common.fields import checked
from ovi_lab.common.values import check_settings
from ovi_lab.flow.unipc import UniPC

SOLVERS = ("unipc", "dpm++", "euler")

_TRAIN_STEPS = 1000


class Solver(Protocol):
    """One integration of one modality, from its first step to its last; make a new one for each sample.

    `sigmas` is float32 [steps + 1] on the host, the last one 0; `timesteps` [steps] is the model's input.
    """

    name: str
    sigmas: Tensor
    timesteps: Tensor

    def step(self, velocity: Tensor, timestep: Tensor, x: Tensor) -> Tensor:
        """The latents after the step that begins at `timestep`; once for each of `timesteps`, in order."""


class ScheduledSolver:
    """A scheduler of diffusers as a `Solver`."""

    def __init__(self, name: str, scheduler: Any) -> None:
        self.name = name
        self._scheduler = scheduler
        # Counting from 0 spares the search for the first step, which would wait for the device.
        scheduler.set_begin_index(0)
        self.sigmas: Tensor = scheduler.sigmas
        self.timesteps: Tensor = scheduler.timesteps

    def step(self, velocity: Tensor, timestep: Tensor, x: Tensor) -> Tensor:
        """See `Solver`."""
        return self._scheduler.step(velocity, timestep, x, return_dict=False)[0]


def build_solver(
    name: str = "unipc", steps: int = 50, shift: float = 5.0, device: torch.device | str | None = None
) -> Solver:
    """The solver `name` with its schedule.

    Args:
        name: `unipc` (Zhao et al., arXiv 2302.04867), `dpm++` (Lu et al., arXiv 2211.01095) or `euler`.
        steps: model evaluations, at least 1.
        shift: of the sigmas towards noise, above 0; 1 leaves them evenly spaced.
        device: of `timesteps`.
    """
    checked(Literal[SOLVERS], name, "sampler.solver")
    check_settings("sampler", {"steps": steps, "shift": shift})
    if name == "unipc":
        return UniPC(steps, shift, device)
    return ScheduledSolver(name, {"dpm++": _dpm, "euler": _euler}[name](steps, shift, device))


def _dpm(steps: int, shift: float, device: torch.device | str | None) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    scheduler: Any = DPMSolverMultistepScheduler(
        num_train_timesteps=_TRAIN_STEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )
    scheduler.set_timesteps(steps, device=device)
    # diffusers starts its flow schedule at 1 - 1/1000; the released code starts at 1.
    even = np.linspace(1, 0, steps + 1)
    sigmas = shift * even / (1 + (shift - 1) * even)
    scheduler.sigmas = torch.from_numpy(sigmas.astype(np.float32))
    scheduler.timesteps = torch.from_numpy((sigmas[:-1] * _TRAIN_STEPS).astype(np.int64)).to(device)
    return scheduler


def _euler(steps: int, shift: float, device: torch.device | str | None) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=_TRAIN_STEPS, shift=shift)
    scheduler.set_timesteps(steps, device=device)
    return scheduler
