"""Integrators of the learned velocity from noise to data: diffusers' schedulers behind one small interface.

The schedules are those of the released sampling code: sigmas fall from about 1 to 0 and are shifted towards
noise; UniPC and DPM++ tell the model whole numbers as times, Euler the exact ones.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ovi_lab.common.fields import checked
from ovi_lab.common.values import check_settings

SOLVERS = ("unipc", "dpm++", "euler")

_TRAIN_STEPS = 1000
_UNIPC_LARGEST_SIGMA = 0.9990000128746033
"""1 - 1/1000 in float32: where the released UniPC schedule begins before it is shifted."""


class Solver:
    """One integration of one modality, from its first step to its last; make a new one for each sample.

    `sigmas` is float32 [steps + 1], the last one 0; `timesteps` [steps] is the model's input.
    """

    def __init__(self, name: str, scheduler: Any) -> None:
        self.name = name
        self._scheduler = scheduler
        # Counting from 0 spares the search for the first step, which would wait for the device.
        scheduler.set_begin_index(0)
        self.sigmas: Tensor = scheduler.sigmas
        if name == "unipc":
            # it works with them on the device, and would send several there in every step and wait for that
            scheduler.sigmas = self.sigmas.to(scheduler.timesteps.device)
        self.timesteps: Tensor = scheduler.timesteps

    def step(self, velocity: Tensor, timestep: Tensor, x: Tensor) -> Tensor:
        """The latents after the step that begins at `timestep`; once for each of `timesteps`, in order."""
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
    return Solver(name, {"unipc": _unipc, "dpm++": _dpm, "euler": _euler}[name](steps, shift, device))


def _unipc(steps: int, shift: float, device: torch.device | str | None) -> Any:
    from diffusers import UniPCMultistepScheduler

    scheduler: Any = UniPCMultistepScheduler(
        num_train_timesteps=_TRAIN_STEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )
    scheduler.set_timesteps(sigmas=np.linspace(_UNIPC_LARGEST_SIGMA, 0, steps + 1)[:-1], device=device)
    return scheduler


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
