"""A few hundred spoiled files and command lines: each ends in a clean line, a reason or a valid result.

Nothing of them may run code, show a secret, end in a traceback, kill the process or hang it. `python -m tests.fuzz`
runs more of them, and a failing one again.
"""

from collections import Counter

import pytest

from .child import KINDS, generator
from .mutations import any_value, spoiled_bytes, spoiled_json, spoiled_yaml
from .running import run, table

SEED = 11
CASES = {
    "shards": 60,
    "indices": 60,
    "captions": 60,
    "media": 60,
    "checkpoints": 16,
    "presets": 3,
    "results": 6,
    "overrides": 16,
}
"""Of each kind as many as a minute and a half allows in all."""


@pytest.mark.slow
def test_spoiled_files_and_command_lines_end_cleanly():
    assert CASES.keys() == KINDS.keys()
    tallies = run([(kind, number) for kind, count in CASES.items() for number in range(count)], SEED)
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    assert not failures, "\n\n".join([table(tallies), *failures])
    told = sum((tally.counts for tally in tallies.values()), Counter())
    # the mutations bite, and do not only break what is read first
    assert told["line"] + told["reason"] > 100
    assert told["valid"] > 20


def test_a_case_is_the_same_whenever_it_is_drawn():
    value = {"a": [1, {"b": "c"}]}
    for make in (
        any_value,
        lambda rng: spoiled_json(rng, value),
        lambda rng: spoiled_yaml(rng, value),
        lambda rng: spoiled_bytes(rng, b"0123456789" * 50),
    ):
        first, again = (repr([make(generator("shards", 7, n)) for n in range(20)]) for _ in range(2))
        assert first == again
        assert len({repr(make(generator("shards", 7, n))) for n in range(20)}) > 8
