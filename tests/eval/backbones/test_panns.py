"""Cnn14 of PANNs: the shortest sound it hears, and shapes that are refused."""

import pytest
import torch

from ovi_eval.backbones import panns
from ovi_eval.errors import UserError


def test_the_shortest_sound_is_heard_and_shorter_ones_are_refused() -> None:
    with torch.device("meta"):
        network = panns.Cnn14()
    network.to_empty(device="cpu").eval()
    assert panns.hear(network, torch.zeros(2, panns.SHORTEST)).features.shape == (2, 2048)
    with pytest.raises(UserError, match=r"at least 4960 samples .*got \[2, 4959\]"):
        panns.hear(network, torch.zeros(2, panns.SHORTEST - 1))
    with pytest.raises(UserError, match=r"got \[16000\]"):
        panns.hear(network, torch.zeros(16000))
