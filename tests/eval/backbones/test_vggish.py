"""VGGish against the reference's numbers: front end, architecture, and reading of its published file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.rule_made import hashed, published_keys, wave, weights
from ovi_eval.backbones import vggish
from ovi_eval.clips.writing import resample
from ovi_eval.common.files import file_sha256
from ovi_eval.errors import UserError


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, Tensor]:
    return load_file(goldens / "audio_golden.safetensors")


@pytest.fixture(scope="module")
def file(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("vggish") / "vggish.safetensors"
    save_file(weights(goldens / "vggish_keys.txt.gz"), path)
    yield path
    path.unlink()  # 289 MB


def test_rule_gives_the_wave_the_goldens_were_made_from(golden: dict[str, Tensor]) -> None:
    assert torch.from_numpy(wave(16000, 3.0)).equal(golden["wave16k_int16"])
    assert hashed("x", 5).tolist() == hashed("x", 9)[:5].tolist()
    assert hashed("x", 9)[4:].tolist() == hashed("x", 5, first=4).tolist()


def test_front_end_is_the_published_one(golden: dict[str, Tensor]) -> None:
    wave_S = golden["wave16k_int16"].double() / 32768
    assert torch.allclose(vggish.mel_matrix().float(), golden["vggish.mel_matrix"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(vggish.patches(wave_S), golden["vggish.log_mel_examples"], rtol=0, atol=1e-9)
    torch.testing.assert_close(vggish.log_mel(wave_S).float(), golden["vggish.log_mel_full"])


def test_front_end_after_the_reference_resampler(golden: dict[str, Tensor]) -> None:
    found = vggish.patches(golden["resampy_44k_to_16k"])
    wanted = golden["vggish.log_mel_examples_from44k_resampy"]
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=1e-4)


def test_our_resampler_stays_as_near_as_the_usual_ones(golden: dict[str, Tensor]) -> None:
    wave_S = golden["wave44k_stereo_int16"].float().mean(1) / 32768
    found = vggish.patches(resample(wave_S, 44100, vggish.SAMPLE_RATE))
    away = (found - golden["vggish.log_mel_examples_from44k_resampy"].double()).abs()
    # The goldens' spread over five resamplers: mean 0.0037 to 0.039, at most 0.31 to 1.33 in one band.
    assert float(away.mean()) < 0.04
    assert float(away.max()) < 1.4


def test_architecture_holds_the_published_names_and_shapes(goldens: Path) -> None:
    with torch.device("meta"):
        state = vggish.VGGish().state_dict()
    published = {name: shape for name, shape, _ in published_keys(goldens / "vggish_keys.txt.gz")}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published


@pytest.mark.slow
def test_embedding_equals_the_reference(
    file: Path, golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = vggish.load_vggish(file)
    assert loaded.sha256 == file_sha256(file)
    assert loaded.as_published is False  # these weights are the rule's, and the authors' digest is known
    assert not loaded.network.training
    found = vggish.embed(loaded.network, golden["wave16k_int16"].float() / 32768)
    torch.testing.assert_close(found, golden["vggish.hashfill_embedding_no_relu"][0], rtol=1e-4, atol=1e-4)
    assert bool((found < 0).any())  # the last ReLU is left out
    monkeypatch.setattr(vggish, "AT_ONCE", 2)
    in_pieces = vggish.embed(loaded.network, golden["wave16k_int16"].float() / 32768)
    torch.testing.assert_close(in_pieces, found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [0, 399, 15599])
def test_waves_shorter_than_a_patch_are_told(samples: int) -> None:
    with pytest.raises(UserError, match=r"at least 15600 samples"):
        vggish.patches(torch.zeros(samples))
    assert vggish.patches(torch.zeros(15600)).shape == (1, 96, 64)
    assert vggish.patches(torch.zeros(15600 + 95 * 160)).shape == (1, 96, 64)
    assert vggish.patches(torch.zeros(15600 + 96 * 160)).shape == (2, 96, 64)


def test_a_wave_of_several_channels_is_told() -> None:
    with pytest.raises(UserError, match=r"got \[2, 16000\]"):
        vggish.log_mel(torch.zeros(2, 16000))
