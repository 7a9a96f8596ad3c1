"""The ball world's metrics through the one scorer: values, what they rest on, what is missing and why."""

import pytest

from helpers.ball_clips import broken_clips, real_clips, score
from ovi_eval.errors import UserError
from ovi_eval.registry import ALIASES, METRICS, find

KEYS = {
    f"ball/{key}"
    for key in (
        *("onset_f1", "onset_iou", "onset_offset_ms", "agreement_full", "agreement_vague"),
        *("caption_colour", "caption_pitch", "caption_landings", "caption_hits"),
        *("frechet_video", "frechet_audio", "sync_c", "sync_d", "sync_d0", "sync_shift_ms"),
    )
}
CAPTION = ("caption_colour", "caption_pitch", "caption_landings", "caption_hits")
HIGHER = ("onset_f1", "onset_iou", "agreement_full", "agreement_vague", "sync_c", *CAPTION)
HALF = ("agreement", "caption_colour", "caption_pitch")  # of captions of one kind
ALL = ", ".join(ALIASES["ball"])


def test_every_value_comes_with_what_it_rests_on() -> None:
    clips = real_clips()
    scored = score(clips[:40], clips[40:])
    assert set(scored.values) == KEYS
    for key, found in scored.values.items():
        assert found.value is not None, key
        assert found.coverage == 1.0
        assert found.n == (20 if any(kind in key for kind in HALF) else 40)
        assert found.version
        assert bool(found.variant) == ("sync_" in key or "frechet" in key)
        assert (found.kind == "frechet") == ("frechet" in key)
        assert found.direction == ("higher" if key.removeprefix("ball/") in HIGHER else "lower")
        assert found.unit == ("ms" if key.endswith("_ms") else "")
    assert scored.provenance["judges"]["sha256"]
    assert not scored.failed
    # The value is the mean of the clips' values, and a set's distance has none.
    for key, found in scored.values.items():
        own = [row[key] for row in scored.per_clip if row.get(key) is not None]
        if found.kind == "mean":
            assert len(own) == found.n
            assert found.value == pytest.approx(sum(own) / len(own), rel=1e-12)
        else:
            assert not own


def test_broken_clips_are_missing_with_a_reason() -> None:
    scored = score(broken_clips(), real_clips())
    assert scored.failed == {
        0: f"{ALL}: its sound is not finite",
        1: f"{ALL}: its sound is silence",
        2: "the solver diverged",
        3: "ball/agreement: no ball is seen",
        4: "ball/event_sync: no landing is seen and no hit is heard; ball/agreement: no ball is seen",
    }
    assert scored.values["ball/sync_c"].coverage == 5 / 8
    assert scored.per_clip[0]["ball/onset_f1"] is None
    nothing = score(broken_clips()[:2], names=["ball/onset_f1"])
    assert (nothing.values["ball/onset_f1"].value, nothing.values["ball/onset_f1"].n) == (None, 0)


def test_same_clips_same_numbers() -> None:
    clips = real_clips()[:40]
    first, second = (score(clips, real_clips()[40:]) for _ in range(2))
    assert first == second


def test_metrics_are_chosen_by_name_or_key() -> None:
    assert set(score(real_clips()[:4], names=["ball/onset_f1"]).values) == {k for k in KEYS if "onset" in k}
    assert find(["ball/sync_c", "ball/sync", "ball/sync_d0"]) == [METRICS["ball/sync"]]
    assert find(["ball"]) == [METRICS[name] for name in ALIASES["ball"]]
    without = score(real_clips()[:4])
    assert set(without.values) == {key for key in KEYS if "frechet" not in key}


def test_bad_wishes_are_refused() -> None:
    clips = real_clips()[:4]
    with pytest.raises(UserError, match=r"did you mean .*ball/onset_f1"):
        find(["onset_f1"])
    with pytest.raises(UserError, match=r"no metric is called 'zzz'.*All metrics: .*ball/event_sync"):
        find(["zzz"])
    with pytest.raises(UserError, match="ball/frechet_video compares with real clips; give a reference"):
        score(clips, names=["ball/frechet_video"])
    with pytest.raises(UserError, match="no clips to score"):
        score(clips[:0])
