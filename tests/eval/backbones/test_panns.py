"""Cnn14 of PANNs, inception score and KL against the reference's numbers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.rule_made import gaussian, published_keys, weights
from ovi_eval.backbones import panns
from ovi_eval.errors import UserError
from ovi_eval.stats.inception import inception_score, kl_divergences


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, Tensor]:
    return load_file(goldens / "audio_golden.safetensors")


@pytest.fixture(scope="module")
def file(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("panns") / panns.FILE.name
    state = weights(goldens / "panns_cnn14_16k_keys.txt.gz")
    torch.save({"iteration": 1, "model": {**state, **panns.transform_tables()}}, path)
    yield path
    path.unlink()  # 325 MB


def test_mel_bands_are_the_published_ones(golden: dict[str, Tensor]) -> None:
    assert torch.allclose(panns.mel_matrix().float(), golden["panns.melW"], rtol=1e-5, atol=1e-8)


def test_architecture_holds_the_published_names_and_shapes(goldens: Path) -> None:
    with torch.device("meta"):
        state = panns.Cnn14().state_dict()
    published = {name: shape for name, shape, _ in published_keys(goldens / "panns_cnn14_16k_keys.txt.gz")}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published
    assert {name: published[name] for name in panns.transform_tables()} == {
        name: tuple(table.shape) for name, table in panns.transform_tables().items()
    }


@pytest.mark.slow
def test_features_and_logits_equal_the_reference(file: Path, golden: dict[str, Tensor]) -> None:
    network = panns.load_cnn14(file).network
    waves_NS = golden["wave16k_int16"].float()[None] / 32768
    with torch.no_grad():
        mel_NMB = network.log_mel(waves_NS)
    torch.testing.assert_close(mel_NMB[0], golden["panns.logmel_16k"], rtol=1e-4, atol=1e-3)
    heard = panns.hear(network, waves_NS)
    torch.testing.assert_close(heard.features, golden["panns.hashfill_2048"], rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(heard.logits, golden["panns.hashfill_logits"], rtol=1e-4, atol=2e-3)
    assert panns.hear(network, torch.zeros(2, panns.SHORTEST)).features.shape == (2, 2048)
    with pytest.raises(UserError, match=r"at least 4960 samples .*got \[2, 4959\]"):
        panns.hear(network, torch.zeros(2, panns.SHORTEST - 1))
    with pytest.raises(UserError, match=r"got \[16000\]"):
        panns.hear(network, torch.zeros(16000))


def logits(name: str, count: int = 503) -> Tensor:
    drawn = torch.from_numpy(gaussian(name, count * 527)).reshape(count, 527)
    return (3 * drawn).float()


def test_inception_score_equals_the_reference(goldens: Path) -> None:
    wanted = json.loads((goldens / "isc_kl_golden.json").read_text())["isc_av_benchmark"]
    predicted = logits("is_pred")
    for name, (splits, seed) in {
        "splits10_shuffle_seed2020": (10, 2020),
        "splits1_noshuffle": (1, None),
        "splits10_noshuffle": (10, None),
    }.items():
        mean, spread = inception_score(predicted, splits, seed)
        assert mean == pytest.approx(wanted[name]["inception_score_mean"], rel=1e-9)
        assert spread == pytest.approx(wanted[name]["inception_score_std"], rel=1e-7, abs=1e-12)


def test_inception_score_of_extremes() -> None:
    assert inception_score(torch.zeros(20, 7), 1)[0] == pytest.approx(1)
    assert inception_score(1e4 * torch.eye(7), 1)[0] == pytest.approx(7)
    assert inception_score(1e4 * torch.eye(9)[:7], 1)[0] == pytest.approx(7)  # two classes are never heard


def test_kl_equals_the_reference(goldens: Path) -> None:
    wanted = json.loads((goldens / "isc_kl_golden.json").read_text())["kl_av_benchmark"]
    predicted, real = logits("is_pred"), logits("is_gt")
    for over in ("softmax", "sigmoid"):
        found = float(kl_divergences(predicted, real, over).mean())
        assert found == pytest.approx(wanted[f"kl_{over}"], rel=1e-6)
    assert float(kl_divergences(real, real).abs().max()) < 1e-3


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
