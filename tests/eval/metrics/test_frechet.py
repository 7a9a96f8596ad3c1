"""FAD, FD, FVD and what else is taken in their features, over clips, through generated weights in published files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.generated_weights import GeneratedWeights
from ovi_eval.backbones import i3d, panns, vggish
from ovi_eval.check.generated import clip, wave
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import Item, MemoryItem
from ovi_eval.common.files import file_sha256
from ovi_eval.common.weights import WEIGHTS_FOLDER, PublishedFile, load_published
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Details
from ovi_eval.metrics.classifier import IsPanns, KlPanns, KlSigmoidPanns
from ovi_eval.metrics.fad_infinity import FadInfVGGish
from ovi_eval.metrics.frechet import FRECHET, FrechetOfSets
from ovi_eval.metrics.kid import KidPanns
from ovi_eval.metrics.sound_features import PannsFeatures, VGGishFeatures
from ovi_eval.registry import find
from ovi_eval.scoring.feature_cache import FeatureCache
from ovi_eval.scoring.runner import ScoringOptions, score_items
from ovi_eval.stats.frechet import frechet_distance
from ovi_eval.stats.frechet_intervals import small_sample_bias
from ovi_eval.stats.inception import inception_score, kl_divergences
from ovi_eval.stats.intervals import SEED, generator

QUICK = ScoringOptions(resamples=False, workers=0)
MINE = (*FRECHET.values(), FadInfVGGish, KidPanns, IsPanns, KlPanns, KlSigmoidPanns)


@pytest.fixture
def there(generated: GeneratedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of published weight files, which OVI_EVAL_WEIGHTS names."""
    folder = generated.links(tmp_path / "weights", vggish.FILE, panns.FILE, i3d.FILE)
    monkeypatch.setenv(WEIGHTS_FOLDER, str(folder))
    return folder


def clips_of(frames_NTHWC: Tensor, waves_NS: Tensor, sample_rate: int = 16000) -> list[Item]:
    names = [f"c{n}" for n in range(len(frames_NTHWC))]
    clips = ClipSet(names, names, frames_NTHWC, 8.0, waves_NS, sample_rate)
    return [MemoryItem(clips, place) for place in range(len(clips))]


def pictures(first: int, count: int = 8, frames: int = 16) -> Tensor:
    return torch.from_numpy(np.stack([clip(frames, 64, 64, seed) for seed in range(first, first + count)]))


def waves(first: int, count: int = 3, seconds: float = 2.0, sample_rate: int = 16000) -> Tensor:
    made = [wave(sample_rate, seconds, seed) for seed in range(first, first + count)]
    return torch.from_numpy(np.stack(made)).float() / 32768


def sounds(waves_NS: Tensor, sample_rate: int = 16000) -> list[Item]:
    return clips_of(torch.zeros(len(waves_NS), 1, 8, 8, 3, dtype=torch.uint8), waves_NS, sample_rate)


@pytest.mark.slow
def test_fvd_of_two_sets_is_that_of_the_references_features(there: Path, goldens: Path) -> None:
    golden = load_file(goldens / "i3d_golden.safetensors")
    wanted = frechet_distance(golden["fvd.FA"][:4], golden["fvd.FB"][:4])
    silence = torch.zeros(4, 100)
    made, real = clips_of(pictures(0, 4), silence), clips_of(pictures(3, 4).flip(2).flip(4), silence)
    scored = score_items(made, real, [FRECHET["fvd_stylegan_v"]])
    score = scored.values["fvd_stylegan_v"]
    assert score.value == pytest.approx(wanted, rel=1e-4)
    assert (score.n, score.coverage, score.kind, score.dimension) == (4, 1.0, "frechet", 400)
    assert score.variant == f"stylegan-v, weights {file_sha256(there / i3d.FILE.name)[:12]}"
    assert score.weights == {i3d.FILE.name: file_sha256(there / i3d.FILE.name)}
    assert "short side to 224" in score.preprocessing
    assert [line.split(":")[0] for line in score.warnings] == [
        "4 rows of 400 features in the scored set",
        "4 rows of 400 features in the reference set",
    ]
    assert score.ci95 is not None
    assert score.ci95[0] < score.value < score.ci95[1]
    assert score.bias is not None
    assert score.bias > 0
    assert not scored.per_clip[0]


@pytest.mark.slow
def test_one_look_of_each_network_serves_all_its_metrics(there: Path, tmp_path: Path) -> None:
    made = waves(0, 10)
    real = made[1:]
    panns_metrics = [FRECHET["fd_panns"], KidPanns, IsPanns, KlPanns, KlSigmoidPanns]
    metrics = [FRECHET["fad_vggish"], *panns_metrics, FadInfVGGish]
    cache = FeatureCache(tmp_path)
    scored = score_items(sounds(made), sounds(real), metrics, ScoringOptions(cache=cache))
    found = scored.values
    # One file of features for each sound and network, whatever the number of metrics; some sounds are in both sets.
    files = [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.safetensors")]
    assert {name: files.count(name) for name in files} == {"vggish": 10, "panns": 10}
    network = load_published(vggish.VGGish, there / vggish.FILE.name, vggish.FILE).network
    patches = torch.cat([vggish.embed(network, w) for w in made])
    assert patches.shape == (20, 128)  # two patches a clip
    sets = [patches, patches[2:]]
    assert found["fad_vggish"].value == pytest.approx(frechet_distance(*sets), rel=1e-6)
    cnn14 = load_published(panns.Cnn14, there / panns.FILE.name, panns.FILE).network
    # One by one, as the metrics hear them: float32 sums of a batch go in another order.
    heard = [panns.hear(cnn14, w[None]) for w in made]
    features = [torch.cat([h.features for h in each]) for each in (heard, heard[1:])]
    logits = [torch.cat([h.logits for h in each]) for each in (heard, heard[1:])]
    assert found["fd_panns"].value == pytest.approx(frechet_distance(*features), rel=1e-6)
    assert found["is_panns"].value == pytest.approx(inception_score(logits[0])[0], rel=1e-9)
    for key, over in (("kl_panns", "softmax"), ("kl_sigmoid_panns", "sigmoid")):
        pairs = kl_divergences(logits[0][:9], logits[1], over)
        assert found[key].value == pytest.approx(float(pairs.mean()), rel=1e-9)
        assert [row[key] for row in scored.per_clip[:9]] == pytest.approx(pairs.tolist(), rel=1e-9)
        assert found[key].n == 9
        assert scored.per_clip[9][key] is None
        assert "the reference has no clip of this id" in scored.reasons[9][key]
    clips = [torch.arange(len(s) // 2).repeat_interleave(2) for s in sets]
    bias = small_sample_bias(
        *sets, generator(SEED, "fad_vggish", "bias"), scored_clips_N=clips[0], reference_clips_M=clips[1]
    )
    assert found["fad_vggish"].bias == pytest.approx(bias, rel=1e-6)
    assert all("16 kHz by FFmpeg" in score.variant for score in found.values())
    assert found["fad_inf_vggish"].value is None
    assert found["fad_inf_vggish"].warnings == (
        "extrapolates from more than 500 rows of features and got 20; take fad_vggish",
    )
    assert found["kid_panns"].value is None
    assert "subsets of 100 clips and the smaller set has 9" in found["kid_panns"].warnings[0]


@pytest.mark.slow
def test_clips_that_cannot_be_heard_or_are_too_short_are_missing(there: Path) -> None:
    spoiled = waves(0, 4, 1.0)
    spoiled[1] = 0
    spoiled[2, 5] = torch.nan
    short = sounds(waves(0, 1, 0.9)) + sounds(waves(0, 2, 0.3))
    items = sounds(spoiled) + short + sounds(waves(5, 1, 1.0, 8000), 8000)
    for place, item in enumerate(items):
        item.id = f"c{place}"
    metrics = [FRECHET["fad_vggish"], FRECHET["fd_panns"]]
    scored = score_items(items, sounds(waves(2, 2, 1.0)), metrics, QUICK)
    assert [row.get("fad_vggish") for row in scored.reasons] == [
        None,
        "its sound is silence",
        "its sound is not finite",
        None,
        "its sound is too short for the network: 0.900 s of 0.975 s",
        "its sound is too short for the network: 0.300 s of 0.975 s",
        "its sound is too short for the network: 0.300 s of 0.975 s",
        None,
    ]
    assert scored.reasons[4].keys() == {"fad_vggish"}
    assert "0.300 s of 0.310 s" in scored.reasons[5]["fd_panns"]
    assert scored.values["fad_vggish"].coverage == 3 / 8
    assert scored.values["fd_panns"].coverage == 4 / 8


@pytest.mark.slow
@pytest.mark.usefixtures("there")
def test_clips_of_few_frames_are_missing_and_silent_ones_are_seen(tmp_path: Path) -> None:
    few = clips_of(pictures(0, 1, 9), torch.zeros(1, 100))
    made = few + clips_of(pictures(0, 2, 10), torch.zeros(2, 100))
    for place, item in enumerate(made):
        item.id = f"c{place}"
    cached = replace(QUICK, cache=FeatureCache(tmp_path / "cache"))  # the reference is two of the clips again
    scored = score_items(made, made[1:], [FRECHET["fvd_cd_fvd"]], cached)
    assert [row.get("fvd_cd_fvd") for row in scored.reasons] == ["it has 9 frames, FVD needs 10", None, None]
    assert scored.values["fvd_cd_fvd"].n == 2
    assert scored.values["fvd_cd_fvd"].value is not None


def details(
    metric: FrechetOfSets | KidPanns | FadInfVGGish, scored: Tensor, reference: Tensor
) -> tuple[float, Details]:
    for place, row in enumerate(scored):
        metric.update(place, {"features": row})
    for place, row in enumerate(reference):
        metric.update(place, {"features": row}, reference=True)
    key = metric.values[0].key
    return float(metric.compute()[key]), metric.details(0, 50)[key]


def normal(count: int, size: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) + shift


def test_kid_and_extrapolation_have_values_where_clips_suffice() -> None:
    value, beside = details(KidPanns(), normal(120, 32, 1, 0.3), normal(110, 32, 2))
    assert beside.interval is not None
    assert beside.interval.low < value < beside.interval.high
    assert beside.warnings == ()
    value, beside = details(FadInfVGGish(), normal(60, 1280, 1).reshape(60, 10, 128), normal(600, 128, 2))
    assert beside.interval is None
    assert beside.dimension == 128
    assert 0 < value < frechet_distance(normal(60, 1280, 1).reshape(600, 128)[:500], normal(600, 128, 2))


def test_too_few_clips_have_no_distance_and_say_so() -> None:
    for scored, reference, which in ((1, 5, "scored"), (5, 1, "reference")):
        value, beside = details(FRECHET["fad_vggish"](), normal(scored, 4, 1), normal(reference, 4, 2))
        assert value != value
        assert beside.warnings == (f"a distance needs two rows of features or more, the {which} set has 1",)
    value, beside = details(FadInfVGGish(), normal(600, 4, 1), normal(1, 4, 2))
    assert value != value
    assert "the reference set has 1" in beside.warnings[0]
    value, beside = details(KidPanns(), normal(600, 4, 1), normal(0, 4, 2))
    assert value != value
    assert "the smaller set has 0" in beside.warnings[0]


def test_without_weights_each_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    for metric in MINE:
        (file,) = metric.extractor.needs
        assert isinstance(file, PublishedFile)
        with pytest.raises(
            UserError, match=f"{metric.name} needs {file.what} weights: .* from https:"
        ) as caught:
            find([metric.name])
        assert str(caught.value).endswith(f"name that in {WEIGHTS_FOLDER}")
        with pytest.raises(UserError, match=f"{metric.extractor.name} needs"):
            metric.extractor()
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    with pytest.raises(UserError, match=f"fad_vggish needs .*; put it into {tmp_path}"):
        find(["fad_vggish"])
    (tmp_path / "vggish-10086976.pth").write_bytes(b"nothing")
    assert find(["fad_vggish"]) == [FRECHET["fad_vggish"]]
    with pytest.raises(UserError, match=r"is not a whole file of torch.save"):
        VGGishFeatures()


def test_what_features_depend_on_is_in_their_key() -> None:
    kinds = {metric.extractor for metric in MINE}
    assert len(kinds) == 6
    assert all(kind.version and kind.preprocessing for kind in kinds)
    assert PannsFeatures.preprocessing != VGGishFeatures.preprocessing
    assert len({metric.name for metric in MINE}) == len(MINE) == 11
    assert all(metric.values[0].key == metric.name for metric in MINE)
    assert FRECHET["fvd_stylegan_v"].extractor.preprocessing != FRECHET["fvd_cd_fvd"].extractor.preprocessing
