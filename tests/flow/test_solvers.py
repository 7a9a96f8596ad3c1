"""The solvers against every stored trajectory of the released sampling code's schedulers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from helpers.twin_goldens import read_golden
from ovi_lab.errors import UserError
from ovi_lab.flow import SOLVERS, build_solver


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, Tensor]:
    return read_golden(goldens / "unipc_flow.safetensors")[0]


def velocity(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(1.3 * x + 0.5) * (0.3 + t / 1000) + 0.7 * torch.sin(2 * x) - 0.2


@pytest.mark.parametrize("steps", [1, 5, 10, 50])
@pytest.mark.parametrize("name", SOLVERS)
def test_trajectories(golden: dict[str, Tensor], name: str, steps: int) -> None:
    stored = f"{name}_{steps}"
    solver = build_solver(name, steps, 5.0)
    torch.testing.assert_close(solver.sigmas, golden[f"{stored}/sigmas"], atol=1e-7, rtol=0)
    assert torch.equal(solver.timesteps, golden[f"{stored}/timesteps"])
    x, trajectory = golden["inputs/noise"], []
    for t in solver.timesteps:
        x = solver.step(velocity(x, t), t, x)
        trajectory.append(x)
    torch.testing.assert_close(x, golden[f"{stored}/final"], atol=2e-5, rtol=0)
    kept = trajectory[::5] if steps == 50 else trajectory
    torch.testing.assert_close(torch.stack(kept), golden[f"{stored}/traj"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 5, 10, 50])
def test_unipc_in_bf16(golden: dict[str, Tensor], steps: int) -> None:
    solver = build_solver("unipc", steps, 5.0)
    x = golden["inputs/noise"].bfloat16()
    for t in solver.timesteps:
        x = solver.step(velocity(x, t), t, x)
    assert x.dtype == torch.bfloat16
    torch.testing.assert_close(x, golden[f"unipc_{steps}/final_bf16"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("steps", "shift"), [(1, 5.0), (2, 3.0), (3, 1.0), (17, 5.0), (40, 2e3)])
def test_unipc_has_the_digits_of_diffusers(steps: int, shift: float, dtype: torch.dtype) -> None:
    theirs = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, num_train_timesteps=1000
    )
    theirs.set_timesteps(sigmas=np.linspace(0.9990000128746033, 0, steps + 1)[:-1])
    theirs.set_begin_index(0)  # two times may round to the same whole number
    solver = build_solver("unipc", steps, shift)
    assert torch.equal(solver.sigmas, theirs.sigmas)
    assert torch.equal(solver.timesteps, theirs.timesteps)
    x = y = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(3)).to(dtype)
    for t in solver.timesteps:
        x, y = solver.step(velocity(x, t), t, x), theirs.step(velocity(y, t), t, y, return_dict=False)[0]
        assert torch.equal(x, y)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_constant_velocity_is_integrated_exactly(name: str) -> None:
    """On a straight path x_1 - x_0 is the velocity everywhere: any number of steps arrives at the data."""
    data, noise = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    for steps in (1, 4, 9):
        solver, x = build_solver(name, steps, 3.0), noise
        for t in solver.timesteps:
            x = solver.step(noise - data, t, x)
        # UniPC starts at sigma 0.9997 where the noise is taken to be that of sigma 1.
        torch.testing.assert_close(x, data, atol=2e-3 if name == "unipc" else 1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "heun"}, r"unipc, dpm\+\+ or euler"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"shift": 0.0}, "shift is 0.0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_solver(**settings)
