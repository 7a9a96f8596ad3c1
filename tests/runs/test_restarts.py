"""Starts of a run by torchrun or SLURM: counted, forgiven where there is progress, ended where there is none."""

import json

import pytest

from ovi_lab.callbacks.preemption import Preempted
from ovi_lab.errors import UserError
from ovi_lab.runs.processes import is_first_process
from ovi_lab.runs.restarts import counted

LIMIT = 2


@pytest.fixture
def again(monkeypatch):
    """Whether the next start is one of the launcher's."""

    def make(name="SLURM_RESTART_COUNT", number="1"):
        monkeypatch.setenv(name, number)

    for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return make


def failed_start(run, step, error=RuntimeError):
    with pytest.raises(error), counted(run, step, LIMIT):
        raise error


def facts(run):
    return json.loads((run / "restarts.json").read_text())


def test_starts_without_progress_are_ended_with_one_line_and_progress_begins_the_count_anew(tmp_path, again):
    failed_start(tmp_path, 10)
    again("TORCHELASTIC_RESTART_COUNT")
    for number in range(1, LIMIT + 1):
        failed_start(tmp_path, 10)
        assert facts(tmp_path)["without_progress"] == number
    failed_start(tmp_path, 20)
    assert (facts(tmp_path)["without_progress"], facts(tmp_path)["restarts"]) == (0, LIMIT + 1)
    for _ in range(LIMIT):
        failed_start(tmp_path, 20)
    words = r"failed 3 times after step 20 without another checkpoint \(restarts.without_progress=2\): look at its log"
    with pytest.raises(UserError, match=words), counted(tmp_path, 20, LIMIT):
        pass
    # torchrun starts it once more; the line is in the log
    with pytest.raises(SystemExit) as ended, counted(tmp_path, 20, LIMIT):
        pass
    assert ended.value.code == 2


def test_a_start_by_hand_and_one_after_a_preemption_count_as_nothing(tmp_path, again, monkeypatch):
    failed_start(tmp_path, 0)
    again()
    for _ in range(2 * LIMIT):
        failed_start(tmp_path, 5, Preempted)
        assert facts(tmp_path)["without_progress"] == 0
    for _ in range(LIMIT + 1):
        failed_start(tmp_path, 5)
    with pytest.raises(UserError), counted(tmp_path, 5, LIMIT):
        pass
    again(number="0")
    with counted(tmp_path, 5, LIMIT):
        assert facts(tmp_path) == {"step": 5, "restarts": 0, "without_progress": 0, "stopped": False}
    again()
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "restarts.json").unlink()
    failed_start(tmp_path, 5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "3"}, True),  # torchrun within a task of SLURM
        ({"RANK": "8", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, False),
        ({"SLURM_PROCID": "0"}, True),  # srun, which sets no LOCAL_RANK
        ({"SLURM_PROCID": "8"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # Lightning's own processes in one task
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
    ],
)
def test_one_process_speaks_under_every_launcher(environment, first, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first
