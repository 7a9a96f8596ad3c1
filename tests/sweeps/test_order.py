"""Jobs of a sweep that need the runs of others run after those."""

from pathlib import Path

from ovi_lab.sweeps.order import run_in_order
from ovi_lab.sweeps.study import SweepJob

FOLDER = Path("runs/study").absolute()


def job(name, trained=None, **init_from):
    return SweepJob(name, {"trained": trained, "init_from": init_from or None}, FOLDER / name)


def ran(jobs, failing=()):
    """The names that were run side by side, one time after another, and the outcome."""
    times = []

    def run(ready):
        times.append([one.name for one in ready])
        return {one.name: ("failed", "no memory") if one.name in failing else ("done", "") for one in ready}

    return times, run_in_order(jobs, run)


JOBS = (
    job("fused/seed_0", video="runs/study/video/seed_0/last", audio="elsewhere/last"),
    job("fused/seed_1", video=str(FOLDER / "video" / "seed_1"), audio=None),
    job("video/seed_0"),
    job("video/seed_1"),
    job("sampled/seed_1", trained=str(FOLDER / "fused" / "seed_1")),
    job("video/seed_10"),
)


def test_each_runs_after_those_that_it_begins_from_or_evaluates():
    times, outcome = ran(JOBS)
    assert times == [
        ["video/seed_0", "video/seed_1", "video/seed_10"],
        ["fused/seed_0", "fused/seed_1"],
        ["sampled/seed_1"],
    ]
    assert set(outcome.values()) == {("done", "")}


def test_what_needs_a_failed_run_is_not_run_and_says_so():
    times, outcome = ran(JOBS, failing=["video/seed_1"])
    assert times[1:] == [["fused/seed_0"]]
    assert outcome["fused/seed_1"] == ("failed", "video/seed_1, which it needs, has failed: no memory")
    assert outcome["sampled/seed_1"][0] == "failed"
    assert outcome["fused/seed_0"] == ("done", "")


def test_runs_without_needs_run_together_and_a_circle_ends():
    assert ran(JOBS[2:4])[0] == [["video/seed_0", "video/seed_1"]]
    circle = [
        job("a", all="runs/study/b/last"),
        job("b", all="runs/study/a/last"),
        job("c", all="runs/study/c"),
    ]
    times, outcome = ran(circle)
    assert times == [["c"], ["a", "b"]]
    assert len(outcome) == 3
