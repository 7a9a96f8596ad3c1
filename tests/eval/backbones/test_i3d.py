"""I3D and FVD's preprocessing against the references' numbers."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.rule_made import clip, published_keys, weights
from ovi_eval.backbones import i3d
from ovi_eval.errors import UserError
from ovi_eval.stats.frechet import frechet_distance


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, Tensor]:
    return load_file(goldens / "i3d_golden.safetensors")


@pytest.fixture(scope="module")
def numbers(goldens: Path) -> dict[str, Any]:
    return json.loads((goldens / "i3d_golden.json").read_text())


@pytest.fixture(scope="module")
def file(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("i3d") / "i3d_pretrained_400.pt"
    torch.save(weights(goldens / "i3d_keys.txt.gz"), path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def network(file: Path) -> i3d.I3D:
    return i3d.load_i3d(file).network


def frames(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(clip(count, height, width, seed))[None]


def close(found: Tensor, wanted: Tensor) -> None:
    # Logits reach tens and come from sums of thousands, so the smallest hold fewer digits.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_preprocessing_is_the_published_one(golden: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    wide = frames(16, 96, 160)
    assert hashlib.sha256(wide.numpy().tobytes()).hexdigest() == numbers["clip_16x96x160_sha256"]
    found = i3d.preprocess(wide)[0]
    assert list(found.shape) == numbers["preprocess"]["shape"]
    assert float(found.double().sum()) == pytest.approx(numbers["preprocess"]["styleganv_sum"], rel=1e-5)
    for variant in ("styleganv", "videogpt"):
        torch.testing.assert_close(found[:, ::5, ::37, ::37], golden[f"pre.{variant}.sub"], rtol=0, atol=2e-6)
    upright = i3d.preprocess(wide.transpose(2, 3))[0]
    torch.testing.assert_close(upright.transpose(2, 3), found, rtol=0, atol=2e-6)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_frames_are_resized_some_at_a_time_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, fit: Any
) -> None:
    two = torch.cat([frames(11, 60, 100), frames(11, 60, 100, 1)])
    whole = i3d.preprocess(two, fit)
    for at_once in (1, 4 * 60 * 100 + 1):
        monkeypatch.setattr(i3d, "AT_ONCE", at_once)
        assert i3d.preprocess(two, fit).equal(whole)


def test_cd_fvd_stretches(goldens: Path) -> None:
    wanted = load_file(goldens / "cdfvd_golden.safetensors")["pre.cdfvd.sub"]
    found = i3d.preprocess(frames(16, 96, 160), "stretch")[0]
    torch.testing.assert_close(found[:, ::5, ::37, ::37], wanted, rtol=0, atol=2e-6)
    # A sum over 2.4 million values, each of which may round the other way.
    assert float(found.double().sum()) == pytest.approx(1949.7794497013092, abs=0.1)


def test_architecture_holds_the_published_names_and_shapes(goldens: Path) -> None:
    with torch.device("meta"):
        state = i3d.I3D().state_dict()
    published = {name: shape for name, shape, _ in published_keys(goldens / "i3d_keys.txt.gz")}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published
    assert len(published) == 344


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, 17, 25])
def test_logits_equal_the_reference(network: i3d.I3D, golden: dict[str, Tensor], count: int) -> None:
    found = i3d.features(network, frames(count, 64, 64))
    close(found, golden[f"i3d.videogpt_eps1e-5.logits_T{count}_64x64"])


@pytest.mark.slow
def test_both_eps_equal_their_references(
    network: i3d.I3D, file: Path, golden: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    wide = frames(16, 96, 160)
    close(i3d.features(network, wide, "videogpt"), golden["i3d.videogpt_eps1e-5.logits"])
    other = i3d.load_i3d(file, "pytorch-i3d").network
    seen: dict[str, tuple[list[int], float, float]] = {}
    for name in numbers["endpoint_mean_std_eps1e-3"]:

        def note(_: object, __: object, out: Tensor, name: str = name) -> None:
            seen[name] = (list(out.shape), float(out.double().mean()), float(out.double().std()))

        other.get_submodule(name).register_forward_hook(note)
    close(i3d.features(other, wide, "pytorch-i3d"), golden["i3d.piergiaj_eps1e-3.logits_meantime"])
    for name, (shape, mean, std) in numbers["endpoint_mean_std_eps1e-3"].items():
        assert seen[name][0] == shape, name
        assert seen[name][1:] == pytest.approx((mean, std), rel=1e-4), name


@pytest.mark.slow
def test_fvd_features_equal_the_reference(
    network: i3d.I3D, golden: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    first = frames(16, 64, 64, 0)
    turned = frames(16, 64, 64, 3).flip(2).flip(4)
    found = i3d.features(network, torch.cat([first, turned]))
    close(found, torch.stack([golden["fvd.FA"][0], golden["fvd.FB"][0]]).float())
    distance = frechet_distance(golden["fvd.FA"], golden["fvd.FB"])
    assert distance == pytest.approx(numbers["fvd_hashfill_A_B_exact"], rel=1e-12)


def test_faults_are_told(file: Path) -> None:
    for clips, text in (
        (torch.zeros(1, 9, 8, 8, 3, dtype=torch.uint8), "at least 10 frames, got 9"),
        (torch.zeros(1, 16, 8, 8, 3), r"of uint8, got \[1, 16, 8, 8, 3\] of torch.float32"),
        (torch.zeros(16, 8, 8, 3, dtype=torch.uint8), r"got \[16, 8, 8, 3\]"),
    ):
        with pytest.raises(UserError, match=text):
            i3d.preprocess(clips)
    with pytest.raises(UserError, match="'fvd'; there are stylegan-v, videogpt, pytorch-i3d, cd-fvd"):
        i3d.load_i3d(file, "fvd")
    with pytest.raises(UserError, match=r"eps 0.001, this I3D of 1e-05"):
        i3d.features(i3d.I3D(), frames(10, 8, 8), "pytorch-i3d")
