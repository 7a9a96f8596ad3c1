"""The reference rows: a ceiling and floors made of real clips."""

import pytest
import torch

from helpers.ball_clips import real_clips, score
from ovi_eval.ball.references import (
    make_references,
    with_late_sound,
    with_others_captions,
    with_others_sound,
)
from ovi_eval.errors import UserError


def test_references_are_a_ceiling_and_floors() -> None:
    rows = make_references(real_clips(), seed=0)
    assert list(rows) == [
        "real",
        *(f"real_shifted_{ms}ms" for ms in (50, 100, 150)),
        "real_shuffled",
        "real_other_captions",
    ]
    f1 = {n: score(c, names=["ball/event_sync"]).values["ball/onset_f1"].value for n, c in rows.items()}
    assert f1["real"] > f1["real_shifted_50ms"] > f1["real_shuffled"] > f1["real_shifted_150ms"]
    assert f1["real_shifted_100ms"] < 0.4


def test_late_sound_is_the_same_sound_later() -> None:
    clips = real_clips()[:2]
    late = with_late_sound(clips, 0.05)
    assert not late.waves_NS[:, :400].any()
    assert torch.equal(late.waves_NS[:, 400:], clips.waves_NS[:, :-400])
    with pytest.raises(UserError, match=r"0 s to the clips' 2\.025 s"):
        with_late_sound(clips, 3.0)


def test_exchanged_sounds_have_as_many_landings_and_no_clip_keeps_its_own() -> None:
    clips = real_clips()
    other = with_others_sound(clips, seed=3)
    source = [
        next(i for i in range(len(clips)) if torch.equal(clips.waves_NS[i], wave)) for wave in other.waves_NS
    ]
    assert sorted(source) == list(range(len(clips)))
    assert all(own != theirs for own, theirs in enumerate(source))
    alike = [clips.meta[i]["count"] == clips.meta[n]["count"] for n, i in enumerate(source)]
    assert sum(alike) >= len(clips) - 3
    assert torch.equal(other.waves_NS, with_others_sound(clips, seed=3).waves_NS)
    assert not torch.equal(other.waves_NS, with_others_sound(clips, seed=4).waves_NS)
    with pytest.raises(UserError, match="got 1"):
        with_others_sound(clips[:1], 0)


def test_another_clips_caption_tells_as_much_and_something_else() -> None:
    """Real clips do what their captions say; with another's caption only by chance, and are as much in time."""
    clips = real_clips()
    other = with_others_captions(clips)
    names = ["ball/caption", "ball/event_sync", "ball/agreement"]
    own, foreign = ({k: v.value for k, v in score(c, names=names).values.items()} for c in (clips, other))
    assert [len(caption.split()) for caption in other.captions] == [len(c.split()) for c in clips.captions]
    assert own["ball/caption_colour"] == own["ball/caption_pitch"] == 1.0
    assert own["ball/caption_landings"] > 0.9
    assert own["ball/caption_hits"] > 0.95
    for key in ("colour", "pitch"):
        assert foreign[f"ball/caption_{key}"] < 0.4
    for key in ("landings", "hits"):
        assert foreign[f"ball/caption_{key}"] < 0.65
    assert all(foreign[key] == value for key, value in own.items() if "caption" not in key)
