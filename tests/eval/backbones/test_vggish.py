"""VGGish: reading of its published file, sounds in pieces and sounds that are too short."""

import pytest
import torch

from helpers.generated_weights import GeneratedWeights
from ovi_eval.backbones import vggish
from ovi_eval.check.generated import wave
from ovi_eval.common.files import file_sha256
from ovi_eval.common.weights import load_published
from ovi_eval.errors import UserError


@pytest.mark.slow
def test_embeddings_in_pieces_are_those_of_the_whole(
    generated: GeneratedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = generated.path(vggish.FILE)
    loaded = load_published(vggish.VGGish, file, vggish.FILE)
    assert loaded.sha256 == file_sha256(file)
    assert loaded.as_published is False  # these weights are generated, and the authors' digest is known
    assert not loaded.network.training
    sound_S = torch.from_numpy(wave(16000, 3.0)).float() / 32768
    found = vggish.embed(loaded.network, sound_S)
    assert bool((found < 0).any())  # the last ReLU is left out
    monkeypatch.setattr(vggish, "AT_ONCE", 2)
    torch.testing.assert_close(vggish.embed(loaded.network, sound_S), found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [0, 399, 15599])
def test_waves_shorter_than_a_patch_are_reported(samples: int) -> None:
    with pytest.raises(UserError, match=r"at least 15600 samples"):
        vggish.patches(torch.zeros(samples))
    assert vggish.patches(torch.zeros(15600)).shape == (1, 96, 64)
    assert vggish.patches(torch.zeros(15600 + 95 * 160)).shape == (1, 96, 64)
    assert vggish.patches(torch.zeros(15600 + 96 * 160)).shape == (2, 96, 64)


def test_a_wave_of_several_channels_is_reported() -> None:
    with pytest.raises(UserError, match=r"got \[2, 16000\]"):
        vggish.patches(torch.zeros(2, 16000))
