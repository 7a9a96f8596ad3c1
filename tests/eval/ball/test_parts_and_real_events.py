"""Onset F1 of parts of a clip, and events held against those of the real clip."""

import pytest
import torch

from helpers.ball_clips import broken_clips, real_clips, score
from ovi_eval.ball.extractor import BallEvents
from ovi_eval.ball.parts import Part, sync_in_parts
from ovi_eval.ball.references import with_late_sound, with_others_sound
from ovi_eval.clips.items import memory_items
from ovi_eval.errors import UserError
from ovi_eval.registry import ALIASES
from ovi_eval.scoring.runner import ScoringOptions, score_items

OPTIONS = ScoringOptions(resamples=False)


def of_events(parts, landings, hits):
    features = {"landings": torch.tensor(landings), "onsets": torch.tensor(hits)}
    return sync_in_parts(parts)().measure(features)


def test_a_pair_is_not_cut_by_a_border_and_events_count_where_they_are():
    first, second, seam = Part("a", [(0, 1)]), Part("b", [(1, 2)]), Part("seams", [(0.9, 1.1), (1.9, 2.0)])
    events = ([0.5, 0.99, 1.6], [0.2, 0.51, 1.02])
    # 0.5 with 0.51 and 0.99 with 1.02 are pairs; 0.2 and 1.6 are alone
    assert of_events([first, second, seam], *events) == pytest.approx([3 / 4, 1 / 2, 1])
    assert [part.title.partition("ms, ")[2] for part in (first, seam)] == ["a (0.00 to 1.00 s)", "seams"]


def test_a_part_that_is_the_whole_clip_has_its_onset_f1_and_an_empty_one_none():
    clips = with_others_sound(real_clips()[:12], seed=0)
    parts = sync_in_parts([Part("all", [(0, 9)]), Part("never", [(9, 10)])])
    found = score_items(memory_items(clips), None, [parts], OPTIONS)
    whole = score(clips, names=["ball/event_sync"])
    assert [row["ball/onset_f1_all"] for row in found.per_clip] == pytest.approx(
        [row["ball/onset_f1"] for row in whole.per_clip]
    )
    assert 0 < found.values["ball/onset_f1_all"].value < 1
    never = found.values["ball/onset_f1_never"]
    assert (never.value, never.n) == (None, 0)
    assert parts.extractor is BallEvents


def test_values_of_other_parts_under_one_name_are_of_another_version():
    versions = {sync_in_parts([Part("continued", [(begin, 2)])]).version for begin in (0.5, 1.0)}
    assert len(versions) == 2


def test_events_are_held_against_the_real_clips_of_the_same_id():
    real = real_clips()[:12]
    for clips, bounds in (
        (real, ((1, 1), (1, 1))),
        (with_late_sound(real, 0.15), ((1, 1), (0, 0.05))),
        (with_late_sound(real, 0.05), ((1, 1), (0.8, 1))),
    ):
        found = score(clips, real, ["ball/real_events"]).values
        for key, (low, high) in zip(("ball/real_landings_f1", "ball/real_hits_f1"), bounds, strict=True):
            assert low <= found[key].value <= high
    unseen = score(broken_clips(), real_clips()[:8], ["ball/real_events"]).per_clip
    assert [unseen[i]["ball/real_landings_f1"] for i in (3, 5)] == [0, 1]


def test_real_events_are_scored_only_where_they_are_named():
    assert "ball/real_events" not in ALIASES["ball"]
    with pytest.raises(UserError, match="compares with real clips"):
        score(real_clips()[:2], names=["ball/real_events"])
