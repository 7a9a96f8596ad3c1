"""The end of a sweep: its own leaderboard, its own claims or none, and what became of each run."""

import json
from dataclasses import replace

import pytest
import yaml

from helpers.swept_study import FACTORS, write_curve
from ovi_eval.report.markdown import markdown
from ovi_lab.errors import UserError
from ovi_lab.sweeps import study as studies
from ovi_lab.sweeps.study import EndedSweep, StudyCallback, SweepJob

CLAIM = {"metric": "m/score", "trend": "increasing"}


def jobs_in(root, factors, status="done"):
    """The jobs of a made-up sweep over rope.factor, with two seeds."""
    made = []
    for factor in factors:
        for seed in (0, 1):
            arm = f"both,rope.factor={factor:g}"
            run_dir = root / arm / f"seed_{seed}"
            config = {"arm_name": arm, "seed": seed, "samples": {"prompts": []}, "rope": {"factor": factor}}
            made.append(SweepJob(f"{arm}/seed_{seed}", config, run_dir, status))
    return made


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """Ends a sweep in a folder; its leaderboard's file."""
    monkeypatch.setattr(studies, "_score_references", lambda *_: None)  # these runs have no clips

    def end(root, sweep, callback=None):
        studies._sweeps[root] = sweep
        studies._ended.append((root, callback or StudyCallback()))
        studies.finish()

    return end


def varied(factors):
    return {"rope.factor": [f"{factor:g}" for factor in factors], "seed": ["0", "1"]}


def test_a_sweep_over_a_number_ends_with_its_curve_and_the_papers_value(ended, tmp_path, capsys):
    root = write_curve(tmp_path / "factors", seeds=(0, 1))
    ended(
        root,
        EndedSweep(jobs_in(root, FACTORS), varied(FACTORS), False),
        StudyCallback(paper={"rope.factor": 0.2}),
    )
    board = json.loads((root / "results.json").read_text())
    assert board["study"]["title"] == "factors over rope.factor"
    assert [point["at"] for point in board["sweep"]["arms"]] == [[factor] for factor in FACTORS]
    assert board["sweep"]["paper"] == {"rope.factor": 0.2}
    assert "0.2 (paper)" in capsys.readouterr().out


def test_claims_title_and_figure_are_the_studys_on_its_own_sweep_alone(ended, tmp_path):
    root = write_curve(tmp_path / "factors", seeds=(0, 1))
    study = StudyCallback("A study", "its message", [CLAIM], x=["rope.factor"])
    sweep = EndedSweep(jobs_in(root, FACTORS), varied(FACTORS), True)
    ended(root, sweep, study)
    board = json.loads((root / "results.json").read_text())
    assert (board["study"]["title"], board["study"]["message"], len(board["findings"])) == (
        "A study",
        "its message",
        1,
    )
    ended(root, replace(sweep, own=False), study)
    board = json.loads((root / "results.json").read_text())
    assert (board["study"]["title"], board["study"]["message"]) == ("factors over rope.factor", "")
    assert (board["findings"], board["study"]["claims"]) == ([], [])


def test_runs_of_another_sweep_in_the_folder_are_not_ranked(ended, tmp_path):
    root = write_curve(write_curve(tmp_path / "factors", seeds=(0, 1)), direction="none")
    few = FACTORS[1:3]
    ended(root, EndedSweep(jobs_in(root, few), varied(few), False))
    board = json.loads((root / "results.json").read_text())
    assert [arm["name"] for arm in board["arms"]] == [f"both,rope.factor={factor:g}" for factor in few]


def test_a_value_that_failed_is_named_on_the_page_and_the_others_are_drawn(ended, tmp_path):
    root = write_curve(tmp_path / "factors", FACTORS[:3], seeds=(0, 1))
    lost = [
        replace(job, status="failed", message="no luck (see /a/b/traceback.txt)")
        for job in jobs_in(root, [0.4])
    ]
    for job in lost:
        job.run_dir.mkdir(parents=True)
        (job.run_dir / "config.yaml").write_text(yaml.safe_dump({"seed": 0}))
    jobs = [*jobs_in(root, FACTORS[:3]), *lost]
    with pytest.raises(
        UserError, match=r"2 of 8 runs failed; the same command runs them again\. both,rope.factor=0.4"
    ):
        ended(root, EndedSweep(jobs, varied(FACTORS[:4]), False))
    board = json.loads((root / "results.json").read_text())
    failed = [f"both,rope.factor=0.4, seed {seed}: failed: no luck (see traceback.txt)" for seed in (0, 1)]
    assert board["problems"] == failed
    assert len(board["sweep"]["arms"]) == 3
    assert failed[0] in (root / "leaderboard.html").read_text()


def test_where_one_value_alone_is_left_there_is_a_table_and_a_line_that_says_so(ended, tmp_path):
    root = write_curve(tmp_path / "factors", FACTORS[:1], seeds=(0, 1))
    lost = [replace(job, status="failed", message="no luck") for job in jobs_in(root, [0.4])]
    with pytest.raises(UserError, match="2 of 4 runs failed"):
        ended(root, EndedSweep([*jobs_in(root, FACTORS[:1]), *lost], varied((0.05, 0.4)), False))
    board = json.loads((root / "results.json").read_text())
    assert (
        "no curve: rope.factor is 0.05 in all of these runs: a curve needs two values or more"
        in board["problems"]
    )
    assert "sweep" not in board


def test_runs_that_were_not_evaluated_have_no_leaderboard_and_it_says_so(ended, tmp_path, capsys):
    jobs = jobs_in(tmp_path, FACTORS)
    ended(tmp_path, EndedSweep(jobs, varied(FACTORS), False))
    assert "no leaderboard, as no run was evaluated" in capsys.readouterr().out
    ended(tmp_path / "elsewhere", EndedSweep())  # of a launcher that does not hand over its jobs
    assert "elsewhere: no leaderboard" in capsys.readouterr().out
    assert not list(tmp_path.rglob("leaderboard.html"))


def test_an_interrupted_sweep_names_what_has_not_begun(tmp_path):
    root = write_curve(tmp_path / "factors", FACTORS[:3], seeds=(0, 1))
    sweep = EndedSweep(jobs_in(root, FACTORS), varied(FACTORS), False)
    board = studies.board_of(StudyCallback(), sweep, root, [])
    assert "both,rope.factor=0.8, seed 1: has not begun" in board.problems
    assert "- both,rope.factor=0.8, seed 1: has not begun" in markdown(board)
