"""Error rates of transcripts: the fewest edits, and what is missing stays missing."""

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ovi_eval.errors import UserError
from ovi_eval.metrics.error_rates import character_error_rate, edit_distance, plain, word_error_rate


def test_marks_and_case_make_no_difference_where_both_texts_have_the_same(goldens: Path) -> None:
    golden = json.loads((goldens / "face_vbench_wer.json").read_text(encoding="utf-8"))["jiwer"]
    texts = [[pair[key] for pair in golden["pairs"]] for key in ("ref", "hyp")]
    for rate, unit in ((word_error_rate, "word"), (character_error_rate, "character")):
        spaced, plainly = rate(*texts, "spaced"), rate(*texts, "plain")
        assert plainly == replace(spaced, variant=f"{unit}, plain")
        assert (plainly.n, plainly.coverage) == (5, 1.0)


def test_edits_are_the_fewest_there_are() -> None:
    @cache
    def fewest(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(
            fewest(a[1:], b) + 1, fewest(a, b[1:]) + 1, fewest(a[1:], b[1:]) + (a[0] != b[0])
        )  # the definition itself

    texts = ["".join(letters) for n in range(5) for letters in itertools.product("ab", repeat=n)]
    generator = np.random.default_rng(0)
    texts += ["".join(generator.choice(list("abc"), int(n))) for n in generator.integers(5, 9, 12)]
    for a, b in itertools.product(texts, texts):
        assert edit_distance(a, b) == fewest(a, b)


def test_what_is_not_heard_is_no_error_and_what_stands_is_kept_when_asked() -> None:
    written, heard = "That\u2019s it, Dad \u2014  we've LOST it!\n", "thats it dad weve lost it"
    assert plain(written) == heard
    assert plain("Stra\ufb02e caf\u00e9 cafe\u0301 \uff11\uff12") == "strafle caf\u00e9 caf\u00e9 12"
    assert word_error_rate([written], [heard]).pooled == 0
    assert word_error_rate(["Hello,  big World"], ["hello big World"], "spaced").pooled == 1 / 3
    assert word_error_rate(["Hello,  big World"], ["hello big World"]).pooled == 0


def test_a_clip_without_words_is_missing_and_changes_no_total() -> None:
    rate = word_error_rate(["a b", " ... "], ["a", "noise"])
    assert rate.per_clip == (0.5, None)
    assert (rate.pooled, rate.mean, rate.n, rate.coverage) == (0.5, 0.5, 1, 0.5)
    nothing = character_error_rate(["", "!"], ["a", ""])
    assert (nothing.pooled, nothing.mean, nothing.n) == (None, None, 0)


@pytest.mark.parametrize(
    ("references", "heard", "normalise", "named"),
    [
        ([], [], "plain", "0 references"),
        (["a"], ["a", "b"], "plain", "1 references and 2 transcripts"),
        ("abc", ["a"], "plain", "a single text"),
        (["a"], [None], "plain", "transcript 0 should be text, got None"),
        (["a"], ["a"], "whisper", "'whisper' is unknown; there are spaced, plain"),
    ],
)
def test_faults_are_told_in_one_line(references: object, heard: object, normalise: str, named: str) -> None:
    with pytest.raises(UserError, match=named) as error:
        word_error_rate(references, heard, normalise)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
