"""Runs of one metric without values per clip, and runs as if found on disk."""

from helpers.eval_study import run
from ovi_eval.ranking.leaderboard import collect_leaderboard
from ovi_eval.results.files import MetricValue
from ovi_eval.results.find_runs import FoundRuns


def found(*runs):
    return FoundRuns(list(runs), [], [])


def board_of(*runs, **options):
    """The leaderboard of these runs."""
    return collect_leaderboard(found(*runs), **options)


def metric(value, **fields):
    return MetricValue(value, 40, fields.pop("direction", "higher"), **fields)


def plain(name, seed, value, kind="measured", **fields):
    """A run of one metric without values per clip."""
    return run(name, seed, kind=kind, clips=(), losses={}, metrics={"m/score": metric(value, **fields)})
