"""Detectors, event sync and agreement: what they must read from clips whose truth is known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.ball_clips import broken_clips, real_clips, score
from ovi_eval.ball import detectors
from ovi_eval.ball.agreement import is_vague
from ovi_eval.ball.extractor import BallEvents
from ovi_eval.ball.references import with_late_sound, with_others_sound
from ovi_eval.clips.clip import read_clip
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.writing import write_mp4


def sync(clips: ClipSet) -> list[float | None]:
    return [each.value for each in score(clips, names=["ball/event_sync"]).values.values()]


def agreement(clips: ClipSet) -> list[float | None]:
    return [each.value for each in score(clips, names=["ball/agreement"]).values.values()]


# --- detectors ---


def test_landings_and_onsets_are_where_the_rule_put_them() -> None:
    clips = real_clips()
    for found, tolerance in (
        (detectors.landings(detectors.seen(clips), clips.fps), 0.5 / clips.fps + 0.002),
        (detectors.onsets(detectors.heard(clips)), 0.026),
    ):
        hits = truths = wrong = 0
        for times, meta in zip(found, clips.meta, strict=True):
            pairs = detectors.matched(times, meta["landings_s"], tolerance)
            hits, truths, wrong = hits + pairs, truths + meta["count"], wrong + len(times) - pairs
        assert hits / truths > 0.95
        assert wrong / truths < 0.03


def test_colour_and_pitch_are_read_from_every_clip() -> None:
    clips = real_clips()
    truth = [detectors.COLOURS.index(meta["colour"]) for meta in clips.meta]
    assert detectors.colour(detectors.seen(clips)).tolist() == truth
    assert detectors.pitch(detectors.heard(clips)).tolist() == truth


def test_events_close_to_one_another_count_once() -> None:
    events = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 1, 1, 1]], dtype=torch.bool)
    assert detectors.first_of_each(events, 4).nonzero()[:, 1].tolist() == [0, 4, 8]
    assert detectors.first_of_each(events, 1).equal(events)


def test_matching_is_one_to_one_and_closest_first() -> None:
    assert detectors.matched([0.0, 0.1], [0.05], 0.075) == 1
    assert (
        detectors.matched([0.0, 0.06], [0.05, 0.12], 0.075) == 1
    )  # 0.06 takes 0.05, nothing is left for 0.0
    assert detectors.matched([0.0], [0.076], 0.075) == 0
    assert detectors.matched([], [0.1], 0.075) == 0


def test_offsets_are_to_the_nearest_and_capped() -> None:
    assert detectors.nearest_offsets([0.0, 1.0], [0.1], 0.4) == pytest.approx([0.1, 0.4, 0.1])
    assert detectors.nearest_offsets([0.2], [], 0.4) == [0.4]


def test_quiet_hum_and_darkness_show_nothing() -> None:
    clips = broken_clips()[[4]]
    assert detectors.colour(detectors.seen(clips)).tolist() == [-1]
    assert detectors.pitch(detectors.heard(clips)).tolist() == [-1]
    assert detectors.landings(detectors.seen(clips), clips.fps) == [[]]
    assert detectors.onsets(detectors.heard(clips)) == [[]]


@pytest.mark.slow
def test_a_clip_enlarged_to_mp4_and_read_back_is_judged_alike(tmp_path: Path) -> None:
    clips = real_clips()[:6]
    read = [
        read_clip(write_mp4(tmp_path / f"{i}.mp4", clips.frames_NTHWC[i], clips.fps, clips.waves_NS[i], 8000))
        for i in range(len(clips))
    ]
    back = replace(
        clips,
        frames_NTHWC=torch.stack([clip.frames_THWC for clip in read]),
        fps=read[0].fps,
        waves_NS=torch.stack([clip.wave_S for clip in read]),
        sample_rate=read[0].sample_rate,
    )
    assert back.frames_NTHWC.shape[2:4] == (256, 256)
    assert back.sample_rate == 16000
    assert float((detectors.seen(back) - detectors.seen(clips)).abs().mean()) < 0.01
    before, after = (detectors.landings(detectors.seen(c), c.fps) for c in (clips, back))
    assert [pytest.approx(times) for times in before] == after
    assert sync(back)[0] == pytest.approx(sync(clips)[0], abs=0.05)
    assert agreement(back) == [1.0, 1.0]


# --- event sync: the figures measured on this world before ---


def test_real_clips_are_in_time() -> None:
    f1, iou, offset = sync(real_clips())
    assert f1 == pytest.approx(0.988, abs=0.012)
    assert iou == pytest.approx(0.980, abs=0.02)
    assert offset == pytest.approx(22, abs=4)


@pytest.mark.parametrize(
    ("ms", "expected"), [(25, 0.988), (50, 0.946), (75, 0.608), (100, 0.215), (150, 0.0)]
)
def test_late_sound_lowers_f1_as_measured_before(ms: int, expected: float) -> None:
    f1, _, offset = sync(with_late_sound(real_clips(), ms / 1000))
    assert f1 == pytest.approx(expected, abs=0.06)
    assert ms != 100 or offset == pytest.approx(105, abs=6)


def test_another_clips_sound_is_out_of_time() -> None:
    f1, iou, offset = sync(with_others_sound(real_clips(), seed=0))
    assert f1 == pytest.approx(0.253, abs=0.08)
    assert iou == pytest.approx(0.173, abs=0.07)
    assert offset == pytest.approx(169, abs=25)


def test_one_side_without_events_scores_zero_and_both_are_missing() -> None:
    scored = score(broken_clips(), names=["ball/event_sync"])
    f1 = [row.get("ball/onset_f1") for row in scored.per_clip]
    assert f1[3] == 0.0  # black, but drumming
    assert scored.per_clip[3]["ball/onset_offset_ms"] == pytest.approx(400.0)
    assert [f1[place] for place in (0, 1, 2, 4)] == [None] * 4
    assert min(f1[5:]) > 0.5
    assert [why.get("ball/event_sync") for why in scored.reasons] == [
        "its sound is not finite",
        "its sound is silence",
        "the solver diverged",
        None,
        "no landing is seen and no hit is heard",
        None,
        None,
        None,
    ]
    value = scored.values["ball/onset_f1"]
    assert (value.n, value.coverage) == (4, 0.5)
    assert value.value == pytest.approx(sum(f1[place] for place in (3, 5, 6, 7)) / 4)


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score(real_clips(), names=["ball/event_sync", "ball/agreement"])
    monkeypatch.setattr(BallEvents, "batch", 20)
    assert score(real_clips(), names=["ball/event_sync", "ball/agreement"]) == whole


# --- agreement ---


def test_real_clips_agree_and_those_with_other_sound_only_by_chance() -> None:
    assert agreement(real_clips()) == [1.0, 1.0]
    full, vague = agreement(with_others_sound(real_clips(), seed=0))
    assert full < 0.45
    assert vague < 0.45


def test_the_caption_is_only_for_the_split() -> None:
    clips = real_clips()[:8]
    lied = replace(clips, captions=["a red ball bounces two times low drum"] * 8, meta=[])
    full, vague = score(lied, names=["ball/agreement"]).values.values()
    assert (full.value, full.n, full.coverage) == (1.0, 8, 1.0)
    assert (vague.value, vague.n, vague.coverage) == (None, 0, 0.0)


def test_captions_without_a_colour_are_vague() -> None:
    clips = real_clips()
    assert [is_vague(caption) for caption in clips.captions] == [meta["vague"] for meta in clips.meta]


def test_each_clip_counts_in_one_of_the_two_values() -> None:
    scored = score(broken_clips(), names=["ball/agreement"])
    full, vague = scored.values.values()
    assert all(None in row.values() for row in scored.per_clip)
    assert scored.reasons[3]["ball/agreement"] == "no ball is seen"
    # Clips 0 to 4 fail; of 5, 6 and 7 the odd ones are vague. Four of each kind should have a value.
    assert (full.n, full.coverage) == (1, 0.25)
    assert (vague.n, vague.coverage) == (2, 0.5)
