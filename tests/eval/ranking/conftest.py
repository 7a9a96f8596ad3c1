"""One small study, and its leaderboard, for all tests of ranking that only read them."""

import pytest

from helpers.eval_study import CLAIMS, write_study
from ovi_eval.ranking.leaderboard import build_leaderboard


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def board(study):
    return build_leaderboard([study], title="Fusion ablation", claims=CLAIMS)
