"""UniPC for flow matching, of second order with B(h) = e^h - 1 (Zhao et al., arXiv 2302.04867).

Notation as there: the data prediction is m = x - sigma v, alpha = 1 - sigma, lambda = log(alpha / sigma), and a step
goes from s to t with h = lambda_t - lambda_s. Coefficients depend on the schedule alone. They are computed on the host,
as numbers that kernels take by value, so that no step copies to the device or waits for it; on a CPU the operations,
and so the digits, are those of diffusers' UniPCMultistepScheduler.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

_TRAIN_STEPS = 1000
_LARGEST_SIGMA = 0.9990000128746033
"""1 - 1/1000 in float32: where the released schedule begins before it is shifted."""


class UniPC:
    """One integration: each step corrects where the last one arrived, then predicts the next.

    Args:
        steps: model evaluations.
        shift: of the sigmas towards noise; 1 leaves them evenly spaced.
        device: of `timesteps`.
    """

    name = "unipc"

    def __init__(self, steps: int, shift: float, device: torch.device | str | None = None) -> None:
        sigmas = np.linspace(_LARGEST_SIGMA, 0, steps + 1)[:-1]
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        if sigmas[0] > 1 - 1e-6:
            sigmas[0] -= 1e-6  # the logarithm of alpha = 0 would be infinite
        times = torch.from_numpy((sigmas * _TRAIN_STEPS).astype(np.int64))
        self.sigmas = torch.from_numpy(np.append(sigmas, 0).astype(np.float32))
        self.timesteps: Tensor = times.to(device)
        self._done = 0
        self._predicted: deque[Tensor] = deque(maxlen=2)
        """The data as predicted at the last two points, the newer one last."""
        self._from: Tensor | None = None
        """Where the last step began."""

    def step(self, velocity: Tensor, timestep: Tensor, x: Tensor) -> Tensor:
        """The latents after the step that begins at `timestep`; once for each of `timesteps`, in order."""
        at = self._done
        data = x - self.sigmas[at] * velocity
        if self._from is not None:
            # the order is that of the last prediction
            x = self._update(at - 1, len(self._predicted), self._from, x.dtype, data)
        self._predicted.append(data)
        self._from = x
        self._done += 1
        # the last step is of first order
        order = min(len(self._predicted), len(self.timesteps) - at)
        return self._update(at, order, x, x.dtype, None)

    def _update(self, at: int, order: int, x: Tensor, dtype: torch.dtype, arrived: Tensor | None) -> Tensor:
        """From point `at` of the schedule to the next: the predictor, or with the data `arrived` at, the corrector."""
        s, t = self.sigmas[at], self.sigmas[at + 1]
        lambda_s = _half_log_snr(s)
        h = _half_log_snr(t) - lambda_s
        phi = torch.expm1(-h)
        alpha_t = 1 - t
        m = self._predicted[-1]
        base = t / s * x - alpha_t * phi * m
        before, weight = None, torch.ones(1, dtype=dtype) * 0.5
        if order == 2:
            r = (_half_log_snr(self.sigmas[at - 1]) - lambda_s) / h
            before = (self._predicted[-2] - m) / r
            if arrived is not None:
                weight = _corrector_weights(r, -h, phi).to(dtype)
        if arrived is not None:
            change = weight[-1] * (arrived - m)
            if before is not None:
                change = weight[0] * before + change
        elif before is not None:
            change = weight[0] * before
        else:
            return base.to(dtype)
        return (base - alpha_t * phi * change).to(dtype)


def _half_log_snr(sigma: Tensor) -> Tensor:
    """log(alpha / sigma)."""
    return torch.log(1 - sigma) - torch.log(sigma)


def _corrector_weights(r: Tensor, h: Tensor, phi: Tensor) -> Tensor:
    """[2]: of the difference at r h and of that at h; the solution of R weights = b of the paper's second order.

    Args:
        h: negative, as for data prediction.
        phi: e^h - 1.
    """
    phi_2 = phi / h - 1
    phi_3 = phi_2 / h - 0.5
    rows = torch.stack([r, torch.ones(())])
    system = torch.stack([torch.pow(rows, 0), torch.pow(rows, 1)])
    return torch.linalg.solve(system, torch.stack([phi_2 / phi, phi_3 * 2 / phi]))
