"""What each tower reads of a caption, and an encoder of its own for each."""

import logging

import pytest
import torch

from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.pipeline import embed_captions
from ovi_lab.text import LearnedText, SeparateText
from ovi_lab.text.parts import TextParts, vectors_by_tower

BALL = "a red ball bounces three times low drum"
OVI = "A man says <S>Hello.<E> and sits. <AUDCAP>Soft voice, rain.<ENDAUDCAP>"
TOWERS = ("video", "audio")


@pytest.mark.parametrize(
    ("caption", "sound_after", "picture", "sound"),
    [
        (BALL, "times", "a red ball bounces three times", "low drum"),
        (BALL, "seconds", BALL, ""),
        (OVI, None, "A man says  and sits.", "<S>Hello.<E> <AUDCAP>Soft voice, rain.<ENDAUDCAP>"),
        ("a dog runs. Audio: barks <S>Sit!<E>", None, "a dog runs.", "<S>Sit!<E> Audio: barks"),
        (BALL, None, BALL, ""),
        ("", "times", "", ""),
    ],
)
def test_a_caption_is_what_is_seen_and_what_is_heard(caption, sound_after, picture, sound):
    parts = TextParts({"video": "picture", "audio": "sound"}, sound_after)
    assert [parts(caption, tower) for tower in TOWERS] == [picture, sound]
    assert TextParts({"video": "none"}, sound_after)(caption, "video") == ""
    assert TextParts({"video": "none"}, sound_after)(caption, "audio") == caption


@pytest.mark.parametrize(
    ("reads", "sound_after", "words"),
    [
        ({"video": "none", "audio": "none"}, None, "none for both towers"),
        ({"video": "pictures"}, None, "text.reads.video"),
        ({"sound": "all"}, None, "text.reads"),
        ({}, "", "text.sound_after"),
    ],
)
def test_what_cannot_be_read_is_refused(reads, sound_after, words):
    with pytest.raises(UserError, match=words):
        TextParts(reads, sound_after)


def test_a_caption_without_the_word_is_named_once(caplog):
    text = SeparateText(8, sound_after="seconds", reads={"audio": "sound"})
    with caplog.at_level(logging.WARNING):
        vectors = [vectors_by_tower(text, [BALL, "a ball"]) for _ in range(2)]
    assert [len(v) for v in vectors[0]["audio"]] == [0, 0]
    (record,) = caplog.records
    assert "low drum' has no 'seconds' (text.sound_after)" in record.getMessage()


def test_each_tower_has_an_encoder_of_its_own_that_begins_as_the_one_for_both():
    one, two = LearnedText(8, init_seed=3), SeparateText(8, init_seed=3, reads={"video": "picture"})
    both = vectors_by_tower(one, [BALL, ""])
    assert both["video"] is both["audio"]
    separate = vectors_by_tower(two, [BALL, ""])
    for tower in TOWERS:
        torch.testing.assert_close(separate[tower], both["video"])
    separate["audio"][0].sum().backward()
    grads = {name: parameter.grad for name, parameter in two.named_parameters()}
    assert sorted(grads) == [f"encoders.{m}.{n}" for m in ("audio", "video") for n in ("positions", "words")]
    assert grads["encoders.audio.words"].any()
    assert grads["encoders.video.words"] is None


def test_a_tower_without_text_has_no_encoder_and_reads_nothing():
    text = SeparateText(8, reads={"video": "none"})
    assert sorted(text.state_dict()) == ["encoders.audio.positions", "encoders.audio.words"]
    found = embed_captions(text, [BALL], SamplerSettings(negative_video="jitter", negative_audio="echo"))
    assert [v.shape for v in found.positive] == [(0, 8)]
    assert [v.shape for v in found.negative_video] == [(0, 8)]
    assert [v.shape for v in found.positive_of("audio")] == [(8, 8)]
    # a negative text is the tower's own, and read whole
    assert [v.shape for v in found.negative_audio] == [(1, 8)]
