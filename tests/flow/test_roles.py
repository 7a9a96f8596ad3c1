"""Roles of training clips: shares, what each gives, draws."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from ovi_lab.errors import UserError
from ovi_lab.flow import Roles

LENGTHS: Any = {"video": [8] * 400, "audio": [40] * 400}


def only(role: str, lengths: Any = LENGTHS, **settings: Any) -> Any:
    roles = Roles(**{"joint": 0.0, role: 1.0, **settings})
    return roles.draw(lengths, lambda: torch.Generator().manual_seed(0))


def test_the_paper_s_roles_give_nothing_and_draw_nothing() -> None:
    def none() -> torch.Generator:
        raise AssertionError("nothing is to be drawn")

    drawn = Roles().draw(LENGTHS, none)
    assert set(drawn.names) == {"joint"}
    assert drawn.given.mask("video") is drawn.given.mask("audio") is None


def test_shares_are_those_of_the_clips() -> None:
    roles = Roles(joint=0.5, video_given=0.2, span=0.2, audio_alone=0.1)
    lengths: Any = {"video": [8] * 4000, "audio": [40] * 4000}
    counts = Counter(roles.draw(lengths, lambda: torch.Generator().manual_seed(3)).names)
    for name in roles.names:
        assert counts[name] / 4000 == pytest.approx(roles.shares[name], abs=0.03)
    again = Counter(roles.draw(lengths, lambda: torch.Generator().manual_seed(3)).names)
    assert again == counts


@pytest.mark.parametrize(("leading", "digest"), [(1.0, "d200784636e0d391"), (0.25, "c175b5894db5ca5e")])
def test_a_seed_draws_what_it_drew_in_recorded_runs(leading: float, digest: str) -> None:
    """Digests of the masks as drawn clip by clip, each into its row, before they were made of spans."""
    shares = {name: 0.15 for name in ("video_given", "audio_given", "first_frame", "beginning", "span")}
    roles = Roles(joint=0.1, video_alone=0.1, audio_alone=0.05, leading=leading, **shares)
    lengths: Any = {"video": [5, 7] * 16, "audio": [27, 31] * 16}
    given = roles.draw(lengths, lambda: torch.Generator().manual_seed(0)).given
    masks = (given.video, given.audio, given.no_video, given.no_audio)
    assert all(mask is not None for mask in masks)
    assert (
        hashlib.sha256(b"".join(np.ascontiguousarray(m).tobytes() for m in masks)).hexdigest()[:16] == digest
    )


def test_each_role_gives_what_it_says() -> None:
    whole = only("video_given").given
    assert whole.video.all()
    assert whole.audio is None
    assert only("audio_given").given.audio.all()
    first = only("first_frame").given
    assert first.video.sum(axis=1).tolist() == [1] * 400
    assert first.video[:, 0].all()
    alone = only("video_alone").given
    assert alone.no_audio.all()
    assert alone.no_video is alone.video is None
    assert only("independent").given.video is None


@pytest.mark.parametrize("leading", [1.0, 0.25])
def test_a_beginning_is_the_same_seconds_of_both(leading: float) -> None:
    given = only("beginning", leading=leading).given
    frames, tokens = given.video.sum(axis=1), given.audio.sum(axis=1)
    assert set(frames) == set(range(1, 8))
    for mask, counts in ((given.video, frames), (given.audio, tokens)):
        assert all(row[:n].all() for row, n in zip(mask, counts, strict=True))
    seconds = (frames - 1 + leading) / (7 + leading)
    assert (tokens == np.floor(seconds * 40 + 1e-6)).all()


def test_a_span_is_made_and_all_else_given() -> None:
    given = only("span").given
    kinds: Counter[tuple[bool, bool]] = Counter()
    for video, audio in zip(given.video, given.audio, strict=True):
        assert not (video.all() and audio.all())
        for mask in (video, audio):
            made = np.flatnonzero(~mask)
            assert len(made) == 0 or made[-1] - made[0] + 1 == len(made)
        kinds[bool(video.all()), bool(audio.all())] += 1
    assert len(kinds) == 3
    assert min(kinds.values()) > 80


def test_clips_of_several_lengths_and_of_one_modality() -> None:
    lengths: Any = {"video": [3, 8], "audio": [20, 40]}
    whole = only("video_given", lengths).given.video
    assert whole.tolist() == [[True] * 3 + [False] * 5, [True] * 8]
    alone: Any = {"audio": [20, 40]}
    for role in ("audio_given", "audio_alone", "video_given", "first_frame"):
        drawn = only(role, alone)
        assert drawn.given.audio is None
        assert drawn.given.no_video is None
        assert drawn.names == ("joint", "joint")
    assert only("beginning", alone).given.audio[:, 0].all()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (
            {"video_given": 0.3},
            r"sum to 1.3 \(joint 1, video_given 0.3\); expected 1, as with roles.joint=0.7",
        ),
        ({"joint": 0.0, "span": 0.5}, "sum to 0.5 .*roles.joint=0.5"),
        ({"video_given": 0.9, "span": 0.9}, "smaller shares"),
        ({"joint": -0.1, "span": 1.1}, "roles.joint is -0.1"),
    ],
)
def test_shares_that_do_not_fit_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Roles(**shares)
    assert "\n" not in str(error.value)
