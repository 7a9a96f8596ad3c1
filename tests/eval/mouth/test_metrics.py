"""The speaking mouth's metrics: what they make of known syllables, and what is missing and why."""

from dataclasses import replace

import pytest
import torch

from helpers.ball_clips import score
from helpers.mouth_clips import mouth_clips
from ovi_eval.ball.event_sync import EventSync
from ovi_eval.ball.parts import Part, sync_in_parts
from ovi_eval.ball.references import with_others_captions
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import memory_items
from ovi_eval.mouth.error_rates import LipErrors, SyllableErrors
from ovi_eval.mouth.event_sync import MouthEventSync
from ovi_eval.mouth.extractor import syllables_told
from ovi_eval.mouth.speech import SYLLABLES
from ovi_eval.registry import ALIASES, METRICS, find, metrics_of_world
from ovi_eval.scoring.score_clips import _available


def features(told: str = "", heard: str = "", seen: str = "") -> dict[str, torch.Tensor]:
    return {
        "syllables_told": torch.tensor(syllables_told(f"<S>{told}<E>") or []),
        "syllables_heard": torch.tensor([SYLLABLES.index(s) for s in heard.split()], dtype=torch.int64),
        "vowels_seen": torch.tensor(["aeiou".index(v) for v in seen.split()], dtype=torch.int64),
    }


def test_error_rates_count_substitutions_deletions_and_insertions() -> None:
    errors = SyllableErrors()
    assert errors.measure(features("ba di su", "ba di su", "a i u")) == [0, 0, 0]
    assert errors.measure(features("ba di su", "da di su", "a u")) == pytest.approx([1 / 3, 0, 1 / 3])
    assert errors.measure(features("ba di", "ba bo di di", "")) == [1, 1, 1]
    assert errors.measure(features("ba hello", "ba da", "a a")) == [0.5, 0.5, 0.5]
    assert all(value != value for value in errors.measure(features()))
    assert LipErrors().measure(features("", "ba di", "a u")) == [0.5, 0.5]


def test_captions_tell_syllables_or_not() -> None:
    assert syllables_told("a red face deep voice <S>ba SI<E>") == [
        SYLLABLES.index("ba"),
        SYLLABLES.index("si"),
    ]
    assert syllables_told("a face speaks") is None
    assert syllables_told("<S>hello<E>") == [-1]
    applies = SyllableErrors().applies
    assert [applies(c)[0] for c in ("a face speaks", "<S><E>", "<S>ba<E>")] == [False, False, True]


def test_each_value_rests_on_the_clips_it_is_about() -> None:
    clips = mouth_clips()[:40]
    values = score(clips, names=ALIASES["mouth"]).values
    assert {key for key in values} == {spec.key for name in ALIASES["mouth"] for spec in METRICS[name].values}
    for key, found in values.items():
        half = any(kind in key for kind in ("_full", "_vague", "ser_", "ver_"))
        assert (found.n, found.coverage) == (20 if half else 40, 1.0), key
        assert bool(found.variant) == ("sync_" in key), key


def test_broken_clips_are_missing_with_a_reason() -> None:
    clips = mouth_clips()[:4]
    frames, waves = clips.frames_NTHWC.clone(), clips.waves_NS.clone()
    frames[0], waves[1] = 0, 0
    waves[2] = 0.003 * torch.randn(waves.shape[1], generator=torch.Generator().manual_seed(0))
    scored = score(replace(clips, frames_NTHWC=frames, waves_NS=waves), names=ALIASES["mouth"])
    assert scored.reasons[0]["mouth/agreement"] == "no face is seen"
    assert scored.reasons[0]["mouth/lip_errors"] == "no mouth is seen to open"
    assert set(scored.reasons[1].values()) == {"its sound is silence"}
    assert scored.reasons[2] == {"mouth/agreement": "no syllable is heard"}
    assert scored.per_clip[2]["mouth/ser_heard"] == 1.0
    assert scored.per_clip[0]["mouth/onset_f1"] == 0.0


def test_events_of_a_clip_in_parts_and_against_the_real_one() -> None:
    clips = mouth_clips()[:16]
    whole = score(clips, names=["mouth/event_sync"]).values["mouth/onset_f1"].value
    parts = sync_in_parts([Part("all", [(-1, 9)])], MouthEventSync)
    assert (parts.name, parts.extractor) == ("mouth/event_sync_in_parts", MouthEventSync.extractor)
    one = MouthEventSync.extractor().look(clips)[0]
    assert parts().measure(one)[0] == pytest.approx(MouthEventSync().measure(one)[0])
    assert whole > 0.95
    real = score(clips, clips, names=["mouth/real_events"]).values
    assert [value.value for value in real.values()] == [1.0, 1.0]
    assert EventSync.events != MouthEventSync.events


def test_clips_are_scored_by_the_metrics_of_their_world() -> None:
    def named(clips: ClipSet) -> set[str]:
        return {m.name.partition("/")[0] for m in _available(memory_items(clips), False, False)[0]}

    mouth = mouth_clips()[:1]
    assert named(mouth) == {"mouth"}
    assert named(replace(mouth, ids=["bouncing_ball-1-000000"])) == {"ball"}
    assert named(replace(mouth, ids=["anything"])) == {"ball"}
    assert (metrics_of_world("speaking_mouth"), metrics_of_world(None)) == ("mouth", "ball")
    assert find(["mouth"]) == [METRICS[name] for name in ALIASES["mouth"]]


def test_other_captions_are_of_the_same_kind() -> None:
    clips = mouth_clips()
    other = with_others_captions(clips)
    assert sorted(other.captions) == sorted(clips.captions)
    for caption, meta in zip(other.captions, clips.meta, strict=True):
        assert ("<S>" in caption) == (meta["told"] == "syllables")
    told = [n for n, meta in enumerate(clips.meta) if meta["told"] == "syllables"]
    assert sum(clips.captions[n] != other.captions[n] for n in told) > len(told) - 3
