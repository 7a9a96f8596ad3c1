"""Inception score and KL over clips: the metrics fed with logits, and how sure the score is."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ovi_eval.errors import UserError
from ovi_eval.metrics.classifier import IsPanns, KlPanns, KlSigmoidPanns
from ovi_eval.stats.inception import inception_jackknife, inception_score, kl_divergences


def logits(count: int, classes: int = 40, seed: int = 0) -> Tensor:
    """Logits of sounds that look like one of the classes, the later ones more often."""
    drawn = torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))
    return 2 * drawn + torch.linspace(0, 2, classes)


def fed(logits_NC: Tensor) -> IsPanns:
    metric = IsPanns()
    for place, row_C in enumerate(logits_NC):
        metric.update(place, {"logits": row_C})
    return metric


def test_inception_score_of_clips_has_interval_and_bias() -> None:
    given = logits(300)
    metric = fed(given)
    value = float(metric.compute()["is_panns"])
    assert value == pytest.approx(inception_score(given)[0], rel=1e-12)
    beside = metric.details(0, 200)["is_panns"]
    assert beside.interval is not None
    error, bias = inception_jackknife(given)
    assert beside.interval.high - value == pytest.approx(1.96 * error, rel=1e-3)
    assert value - beside.interval.low == pytest.approx(1.96 * error, rel=1e-3)
    assert beside.bias == bias < 0
    assert metric.details(0, 0)["is_panns"].interval is None
    assert metric.have() == {"is_panns": 300}


def test_clips_fed_in_another_order_score_the_same() -> None:
    given, metric = logits(60), IsPanns()
    for place in torch.randperm(60, generator=torch.Generator().manual_seed(1)).tolist():
        metric.update(place, {"logits": given[place]})
    assert metric.compute() == fed(given).compute()


def test_error_is_the_spread_over_other_sounds_and_bias_what_few_lack() -> None:
    scores = [inception_score(logits(400, seed=seed))[0] for seed in range(60)]
    judged = [inception_jackknife(logits(400, seed=seed)) for seed in range(10)]
    errors, biases = zip(*judged, strict=True)
    assert np.mean(errors) == pytest.approx(np.std(scores, ddof=1), rel=0.3)
    endless = inception_score(logits(200_000, seed=100), splits=1)[0]
    lacking = np.mean(scores) - endless
    assert lacking < -0.2
    assert np.mean(biases) == pytest.approx(lacking, rel=0.2)


def test_jackknife_leaves_each_sound_out_in_turn() -> None:
    given = logits(9, 5)
    without = [inception_score(torch.cat([given[:n], given[n + 1 :]]), 1, None)[0] for n in range(9)]
    error, bias = inception_jackknife(given, 1, None)
    assert error == pytest.approx(np.sqrt(8 * np.var(without)), rel=1e-9)
    assert bias == pytest.approx(8 * (np.mean(without) - inception_score(given, 1, None)[0]), rel=1e-9)
    sure = inception_jackknife(1e4 * torch.eye(6), 1, None)
    assert sure[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(UserError, match="two sounds in each part, got 9 in 9"):
        inception_jackknife(given, 9)


def test_few_clips_have_no_score_or_no_interval() -> None:
    metric = fed(logits(9))
    assert metric.compute()["is_panns"].isnan()
    (warning,) = metric.details(0, 200)["is_panns"].warnings
    assert warning == "is the mean over 10 parts of the clips, of which there are 9"
    metric = fed(logits(19))
    assert not metric.compute()["is_panns"].isnan()
    assert metric.details(0, 200) == {}


@pytest.mark.parametrize(("kind", "over"), [(KlPanns, "softmax"), (KlSigmoidPanns, "sigmoid")])
def test_kl_is_taken_pair_by_pair(kind: type[KlPanns], over: str) -> None:
    made, real, metric = logits(7), logits(7, seed=1), kind()
    for place in range(7):
        metric.update(place, {"logits": made[place]}, {"logits": real[place]})
    wanted = kl_divergences(made, real, over)
    assert torch.equal(metric.per_clip(7)[metric.name], wanted)
    assert float(metric.compute()[metric.name]) == pytest.approx(float(wanted.mean()), rel=1e-12)
    assert not torch.allclose(wanted, kl_divergences(real, made, over))  # which side is real matters
