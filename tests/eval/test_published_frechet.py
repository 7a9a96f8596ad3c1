"""FAD, FD and FVD as metrics over clips, through rule-made weights loaded under their published names."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rule_made import clip, wave, weights
from safetensors.torch import save_file
from torch import Tensor

from ovi_eval.backbones import i3d, panns, vggish
from ovi_eval.backbones.published import WEIGHTS_FOLDER, file_sha256
from ovi_eval.clipset import ClipSet
from ovi_eval.errors import EvalError
from ovi_eval.frechet import frechet_distance
from ovi_eval.metrics.published_frechet import FadVGGish, FdPanns
from ovi_eval.registry import METRICS, PUBLISHED, build, find
from ovi_eval.score import score_clips


@pytest.fixture(scope="module")
def folder(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weight files under their published names; some 660 MB, removed afterwards."""
    folder = tmp_path_factory.mktemp("weights")
    save_file(weights(goldens / "vggish_keys.txt.gz"), folder / "vggish-10086976.safetensors")
    cnn14 = {**weights(goldens / "panns_cnn14_16k_keys.txt.gz"), **panns.transform_tables()}
    torch.save({"model": cnn14}, folder / panns.FILE.name)
    torch.save(weights(goldens / "i3d_keys.txt.gz"), folder / i3d.FILE.name)
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(folder))
    return folder


def clips_of(frames_NTHWC: Tensor, waves_NS: Tensor, sample_rate: int = 16000) -> ClipSet:
    names = [f"c{n}" for n in range(len(frames_NTHWC))]
    return ClipSet(names, names, frames_NTHWC, 8.0, waves_NS, sample_rate)


def pictures(first: int, count: int = 8, frames: int = 16) -> Tensor:
    made = [torch.from_numpy(clip(frames, 64, 64, seed)) for seed in range(first, first + count)]
    return torch.stack(made)


def sounds(first: int, seconds: float = 2.0, sample_rate: int = 16000) -> ClipSet:
    waves = [torch.from_numpy(wave(sample_rate, seconds, seed)) / 32768 for seed in range(first, first + 3)]
    return clips_of(pictures(0, 3, 1), torch.stack(waves).float(), sample_rate)


@pytest.mark.slow
def test_fvd_of_two_sets_equals_the_reference(there: Path, goldens: Path) -> None:
    wanted = json.loads((goldens / "i3d_golden.json").read_text())["fvd_hashfill_A_B_exact"]
    silence = torch.zeros(8, 100)
    generated, real = clips_of(pictures(0), silence), clips_of(pictures(3).flip(2).flip(4), silence)
    score = score_clips(generated, real, ["fvd_stylegan_v"]).values["fvd_stylegan_v"]
    assert score.value == pytest.approx(wanted, rel=1e-4)
    assert (score.n, score.coverage, score.kind) == (8, 1.0, "frechet")
    assert score.variant == f"stylegan-v, weights {file_sha256(there / i3d.FILE.name)[:12]}"


@pytest.mark.slow
def test_fad_and_fd_are_distances_of_the_networks_features(there: Path) -> None:
    generated, real = sounds(0), sounds(2)
    found = score_clips(generated, real, ["fad_vggish", "fd_panns"]).values
    network = vggish.load_vggish(there / "vggish-10086976.safetensors").network
    sets = [torch.cat([vggish.embed(network, w) for w in clips.waves_NS]) for clips in (generated, real)]
    assert sets[0].shape == (6, 128)  # two patches a clip
    assert found["fad_vggish"].value == pytest.approx(frechet_distance(*sets), rel=1e-6)
    cnn14 = panns.load_cnn14(there / panns.FILE.name).network
    heard = [panns.hear(cnn14, clips.waves_NS).features for clips in (generated, real)]
    # Sounds are heard one by one here and together above: float32 sums in another order.
    assert found["fd_panns"].value == pytest.approx(frechet_distance(*heard), rel=1e-4)
    assert all("16 kHz by FFmpeg" in score.variant and score.n == 3 for score in found.values())


@pytest.mark.slow
def test_clips_that_cannot_be_heard_or_are_too_short_are_missing(there: Path) -> None:
    clips = sounds(0)
    clips.waves_NS[1] = 0
    metric = FadVGGish(there / "vggish-10086976.safetensors")
    metric.update(clips)
    metric.update(sounds(0, 0.9))
    metric.update(sounds(0, 0.98, 8000))
    short = "its sound is too short for the network"
    assert metric.failures() == [None, "its sound is silence", None, short, short, short, None, None, None]
    assert metric.coverage() == {"fad_vggish": (5, 5 / 9)}
    fd = FdPanns(there / panns.FILE.name)
    fd.update(sounds(0, 0.3))
    assert fd.failures() == [short] * 3
    fvd = build(PUBLISHED["fvd_cd_fvd"])
    few = clips_of(pictures(0, 2, 9), torch.zeros(2, 100))
    few.meta[1]["failed"] = "the solver diverged"
    fvd.update(few)
    assert fvd.failures() == ["it has fewer frames than FVD needs", "marked as failed when it was made"]


def test_without_weights_each_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    for name, metric in PUBLISHED.items():
        file = metric.needs_weights
        assert file is not None
        with pytest.raises(EvalError, match=f"{name} needs {file.what} weights: .* from https:") as caught:
            find([name])
        assert str(caught.value).endswith(f"name that in {WEIGHTS_FOLDER}")
        with pytest.raises(EvalError, match=f"{name} needs"):
            build(metric)
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    with pytest.raises(EvalError, match=f"fad_vggish needs .*; put it into {tmp_path}"):
        find(["fad_vggish"])
    (tmp_path / "vggish-10086976.pth").write_bytes(b"nothing")
    assert find(["fad_vggish"]) == [FadVGGish]
    with pytest.raises(EvalError, match="is no readable weight file"):
        build(FadVGGish)


def test_published_metrics_are_taken_by_name_only() -> None:
    assert find() == list(METRICS.values())
    assert not set(PUBLISHED) & set(METRICS)
    for name, metric in PUBLISHED.items():
        assert metric.name == name
        assert metric.kind != "frechet" or metric.values[0].key == name
        assert metric.version
    with pytest.raises(EvalError, match="did you mean fvd_videogpt"):
        find(["fvd_videogp"])
