"""Inception score and KL of extremes, and logits that are refused."""

import pytest
import torch

from ovi_eval.errors import UserError
from ovi_eval.stats.inception import inception_score, kl_divergences


def test_inception_score_of_extremes() -> None:
    assert inception_score(torch.zeros(20, 7), 1)[0] == pytest.approx(1)
    assert inception_score(1e4 * torch.eye(7), 1)[0] == pytest.approx(7)
    assert inception_score(1e4 * torch.eye(9)[:7], 1)[0] == pytest.approx(7)  # two classes are never heard


def test_kl_of_sounds_with_themselves_is_nothing() -> None:
    logits_NC = 3 * torch.randn(50, 527, generator=torch.Generator().manual_seed(0))
    assert float(kl_divergences(logits_NC, logits_NC).abs().max()) < 1e-3


def test_faults_are_told() -> None:
    sounds = torch.zeros(4, 3)
    for call, text in (
        (lambda: inception_score(sounds, 5), "1 to 4 splits for 4 sounds, got 5"),
        (lambda: inception_score(torch.zeros(0, 3)), r"got \[0, 3\]"),
        (lambda: inception_score(torch.full((4, 3), torch.nan)), "not finite for 4 sounds, the first being"),
        (lambda: kl_divergences(sounds, torch.zeros(3, 3)), "pair by pair"),
        (lambda: kl_divergences(sounds, sounds, "max"), "got 'max'"),
    ):
        with pytest.raises(UserError, match=text):
            call()
