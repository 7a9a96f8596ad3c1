"""Inception score and KL divergence of what a classifier hears in sounds, from its logits.

Definitions agree with those most video-to-audio papers report: over Cnn14's 527 AudioSet classes, in
float64.

Shapes: N sounds, C classes.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovi_eval.errors import UserError


def inception_score(
    logits_NC: Tensor, splits: int = 10, shuffle_seed: int | None = 2020
) -> tuple[float, float]:
    """Mean and spread (over parts, ddof 0) of exp(mean KL(p(class | sound) || p(class))).

    Salimans et al. 2016, with a softmax over the logits. Sounds are put in the order of numpy's
    `RandomState(shuffle_seed).permutation` (None: left as they are) and cut into `splits` parts, each with
    its own p(class). Raises UserError for fewer sounds than parts, or logits that are not finite.
    """
    scores = [float(_mean_kl(log_p_PC).exp()) for log_p_PC in _parts(logits_NC, splits, shuffle_seed)]
    return float(np.mean(scores)), float(np.std(scores))


def inception_jackknife(
    logits_NC: Tensor, splits: int = 10, shuffle_seed: int | None = 2020
) -> tuple[float, float]:
    """Standard error of the inception score over other sounds, and its small-sample bias (below 0: too low).

    Each sound is left out of its part in turn (Efron and Stein 1981); the parts stay as they are. Raises
    UserError as `inception_score` does, and for fewer than two sounds in a part.
    """
    variance = bias = 0.0
    for log_p_PC in _parts(logits_NC, splits, shuffle_seed):
        count = len(log_p_PC)
        if count < 2:
            raise UserError(
                f"an inception score's error needs two sounds in each part, got {len(logits_NC)} in {splits}"
            )
        p_PC = log_p_PC.exp()
        gap_P = (p_PC * log_p_PC).sum(dim=1)
        # A class that no other sound has left is 0 there, up to rounding, and 0 log 0 counts as 0.
        rest_PC = ((p_PC.sum(dim=0) - p_PC) / (count - 1)).clamp(min=0)
        without_P = ((gap_P.sum() - gap_P) / (count - 1) - torch.xlogy(rest_PC, rest_PC).sum(dim=1)).exp()
        squares = float((without_P - without_P.mean()).square().sum())
        variance += (count - 1) / count * squares / splits**2
        bias += (count - 1) * float(without_P.mean() - _mean_kl(log_p_PC).exp()) / splits
    return variance**0.5, bias


def _parts(logits_NC: Tensor, splits: int, shuffle_seed: int | None) -> list[Tensor]:
    """log p(class | sound) of each part's sounds."""
    logits_NC = _checked(logits_NC, "logits")
    count = len(logits_NC)
    if not 1 <= splits <= count:
        raise UserError(f"an inception score needs 1 to {count} splits for {count} sounds, got {splits}")
    if shuffle_seed is not None:
        logits_NC = logits_NC[torch.from_numpy(np.random.RandomState(shuffle_seed).permutation(count))]
    log_p_NC = logits_NC.log_softmax(dim=1)
    return [log_p_NC[part * count // splits : (part + 1) * count // splits] for part in range(splits)]


def _mean_kl(log_p_PC: Tensor) -> Tensor:
    """Mean KL(p(class | sound) || p(class)) of a part."""
    p_PC = log_p_PC.exp()
    mean_C = p_PC.mean(dim=0)
    return (p_PC * log_p_PC).sum(dim=1).mean() - torch.xlogy(mean_C, mean_C).sum()


def kl_divergences(predicted_NC: Tensor, real_NC: Tensor, over: str = "softmax") -> Tensor:
    """KL(real || predicted) of each pair of sounds from their logits, [N] float64.

    `over`: "softmax" takes the classes as shares of one whole; "sigmoid" sums the same expression over the
    classes' own probabilities, which is no divergence but is reported as one. Raises UserError for other shapes,
    unknown `over`, or logits that are not finite.
    """
    predicted_NC, real_NC = _checked(predicted_NC, "predicted logits"), _checked(real_NC, "real logits")
    if predicted_NC.shape != real_NC.shape:
        raise UserError(
            f"KL compares sounds pair by pair, got logits {list(predicted_NC.shape)} and "
            f"{list(real_NC.shape)}; give as many predicted as real ones"
        )
    if over not in ("softmax", "sigmoid"):
        raise UserError(f"KL is taken over 'softmax' or 'sigmoid', got {over!r}")
    logs = functools.partial(F.log_softmax, dim=1) if over == "softmax" else F.logsigmoid
    log_predicted_NC, log_real_NC = logs(predicted_NC), logs(real_NC)
    return (log_real_NC.exp() * (log_real_NC - log_predicted_NC)).sum(dim=1)


def _checked(logits_NC: Tensor, what: str) -> Tensor:
    if logits_NC.dim() != 2 or not logits_NC.numel():
        raise UserError(
            f"{what} should be [N, C] of N >= 1 sounds and C classes, got {list(logits_NC.shape)}"
        )
    bad = (~torch.isfinite(logits_NC)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise UserError(f"{what} are not finite for {len(bad)} sounds, the first being sound {bad[0]}")
    return logits_NC.detach().cpu().double()
