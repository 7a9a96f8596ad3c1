"""Edits of transcripts: the fewest there are, over the units of the reference."""

import itertools
from functools import cache

import numpy as np

from ovi_eval.metrics.error_rates import character_edits, edit_distance, plain, word_edits


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


def test_what_is_not_heard_is_no_error() -> None:
    written, heard = "That\u2019s it, Dad \u2014  we've LOST it!\n", "thats it dad weve lost it"
    assert plain(written) == heard
    assert plain("Stra\ufb02e caf\u00e9 cafe\u0301 \uff11\uff12") == "strafle caf\u00e9 caf\u00e9 12"
    assert plain(" ... ") == ""


def test_words_are_parted_by_white_space_and_characters_include_it() -> None:
    assert word_edits("Hello,  big World", "hello big World") == (1, 3)
    assert character_edits("a b", "ab") == (1, 3)
    assert word_edits("", "noise") == (1, 0)
