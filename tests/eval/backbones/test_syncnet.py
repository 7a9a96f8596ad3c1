"""SyncNet as published against the reference's numbers: cepstra, both embeddings, distances and offset."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.rule_made import clip, published_keys, wave, weights
from ovi_eval.backbones import syncnet
from ovi_eval.backbones.mfcc import mfcc
from ovi_eval.errors import UserError


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, Tensor]:
    return load_file(goldens / "syncnet_golden.safetensors")


@pytest.fixture(scope="module")
def numbers(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "syncnet_golden.json").read_text())


@pytest.fixture(scope="module")
def network(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[syncnet.SyncNet]:
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.save(weights(goldens / "syncnet_keys.txt.gz"), path)
    yield syncnet.load_syncnet(path).network
    path.unlink()


def test_cepstra_equal_the_reference(golden: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    sound = golden["mfcc.wave16k_int16"].numpy()
    assert np.array_equal(sound, wave(16000, 3.0))
    wanted = golden["mfcc.python_speech_features"].numpy()
    np.testing.assert_allclose(mfcc(sound), wanted, rtol=1e-9, atol=1e-9)
    assert np.log(32768.0**2) == pytest.approx(numbers["mfcc_float_input_differs_maxabs"], abs=1e-3)


def test_cepstra_of_silence_and_of_little(golden: dict[str, Tensor]) -> None:
    assert np.isfinite(mfcc(np.zeros(1000, np.int16))).all()
    assert [len(mfcc(np.ones(n, np.int16))) for n in (1, 400, 401, 560, 561)] == [1, 1, 2, 2, 3]
    sound = golden["mfcc.wave16k_int16"].numpy()
    for bad, text in (
        (sound[:0], r"got \[0\] of int16"),
        (sound / 32768, "of float64"),
        (sound.reshape(2, -1), r"got \[2, 24000\]"),
    ):
        with pytest.raises(UserError, match=text):
            mfcc(bad)


def test_architecture_holds_the_published_names_and_shapes(goldens: Path) -> None:
    with torch.device("meta"):
        state = syncnet.SyncNet().state_dict()
    published = {name: shape for name, shape, _ in published_keys(goldens / "syncnet_keys.txt.gz")}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published


def test_distances_equal_the_reference(golden: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    distance_RV = syncnet.shift_distances(golden["lip_feat"], golden["aud_feat"])
    torch.testing.assert_close(distance_RV, golden["pdist"], rtol=1e-6, atol=0)
    sync = syncnet.judge(distance_RV)
    wanted = numbers["synthetic_hashfill"]
    torch.testing.assert_close(sync.mean_R, golden["mdist"], rtol=1e-6, atol=0)
    assert sync.distance == pytest.approx(wanted["min_dist_LSE_D"], rel=1e-6)
    assert sync.confidence == pytest.approx(wanted["conf_LSE_C"], abs=0.02)  # a difference of 27 thousands
    assert sync.offset == wanted["offset"]


def test_judging_the_references_mean_distances(golden: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    for key, wanted in (
        ("planted", numbers["planted"]),
        ("evaluate.lrs3_strict_crop", numbers["evaluate_hashfill.lrs3_strict_crop"]),
        ("evaluate.ovi_two_men_fixedcrop224", numbers["evaluate_hashfill.ovi_two_men_fixedcrop224"]),
    ):
        sync = syncnet.judge(golden[f"{key}.mdist"][:, None])
        assert sync.offset == wanted["offset"]
        assert sync.distance == pytest.approx(wanted["min_dist"], rel=1e-6)
        # A difference of distances that the reference takes in float32.
        assert sync.confidence == pytest.approx(wanted["conf"], abs=1e-6 * wanted["min_dist"])
        if "n_windows" in wanted:
            assert syncnet.windows_of(wanted["frames"], wanted["audio_samples"]) == wanted["n_windows"]


@pytest.mark.parametrize("offset", [-15, -4, 0, 4, 15])
def test_a_planted_offset_is_found(offset: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sound = torch.randn(90, 64, generator=generator)
    # What the picture shows is heard `offset` windows before it.
    seen, heard = 0.9 * sound[15 - offset : 75 - offset], sound[15:75]
    sync = syncnet.judge(syncnet.shift_distances(seen, heard))
    assert sync.offset == offset
    assert sync.confidence > 3


@pytest.mark.slow
def test_embeddings_equal_the_reference(
    network: syncnet.SyncNet, golden: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    pictures = clip(50, 224, 224)
    assert hashlib.sha256(pictures.tobytes()).hexdigest() == numbers["clip_50x224x224_sha256"]
    sound = golden["mfcc.wave16k_int16"].numpy()
    seen_VE, heard_VE = syncnet.embeddings(network, torch.from_numpy(pictures), sound)
    for found, wanted in ((seen_VE, golden["lip_feat"]), (heard_VE, golden["aud_feat"])):
        assert found.shape == (numbers["synthetic_hashfill"]["n_windows"], 1024)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    sync = syncnet.measure(network, torch.from_numpy(pictures[:20]), sound[: 18 * 640 + 639])
    assert sync.mean_R.shape == (31,)
    torch.testing.assert_close(
        sync.mean_R, syncnet.shift_distances(seen_VE[:13], heard_VE[:13]).mean(1), rtol=1e-5, atol=0
    )


def test_faults_are_told() -> None:
    with torch.device("meta"):
        network = syncnet.SyncNet()
    crop, sound = torch.zeros(6, 224, 224, 3, dtype=torch.uint8), np.zeros(6 * 640, np.int16)
    for frames, wave_S, text in (
        (crop[:5], sound, "at least 6 frames .* got 5 and 3840"),
        (crop, sound[:-1], "got 6 and 3839"),
        (crop[:, :200], sound, r"got \[6, 200, 224, 3\] of torch.uint8"),
        (crop.float(), sound, "of torch.float32"),
        (crop, sound.astype(np.float32), "of float32"),
    ):
        with pytest.raises(UserError, match=text):
            syncnet.embeddings(network, frames, wave_S)
    with pytest.raises(UserError, match="window by window"):
        syncnet.shift_distances(torch.zeros(3, 4), torch.zeros(4, 4))
