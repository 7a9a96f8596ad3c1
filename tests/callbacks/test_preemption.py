"""A run that receives a signal to stop: it saves at the next step, is requeued under SLURM, and loses no bit."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from helpers.forks import Fork, command, ranks, run_module
from helpers.run_folders import column, same, tensors
from ovi_lab.callbacks.preemption import Preemption, cluster_environment, slurm_job, was_requeued
from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.common.progress import SilentReporter
from ovi_lab.errors import UserError
from ovi_lab.runs.run import execute

STEPS = 40
SETTINGS = [
    f"trainer.max_steps={STEPS}",
    "checkpoint.every_n_steps=4",
    "task.text_dropout=0.2",
    "optim=adamw",
]


def arguments(run: Path, data_root: Path, *extra: str) -> list[str]:
    small = ["debug=fast", "logger.tensorboard=false", "sampler.steps=2"]
    return [*small, f"run_dir={run}", f"data.root={data_root}", *SETTINGS, *extra]


def wait_for_a_checkpoint(run: Path, *forks: Fork) -> None:
    deadline = time.monotonic() + 120
    while not (run / "last").exists() and time.monotonic() < deadline:
        for fork in forks:
            assert fork.code is None, fork.output
        time.sleep(0.02)


@pytest.fixture(scope="module")
def left(tmp_path_factory, data_root):
    """Two runs that get signals, side by side: one process SIGTERM, and one of two under SLURM SIGUSR1."""
    folder = tmp_path_factory.mktemp("left")
    (folder / "bin").mkdir()
    scontrol = folder / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {folder}/scontrol.txt\n')
    scontrol.chmod(0o755)
    alone = command("ovi_lab.train", *arguments(folder / "alone", data_root, "samples.every_n_steps=0"))
    two = arguments(
        folder / "ranks", data_root, "strategy=ddp", "trainer.devices=2", "samples.every_n_steps=4"
    )
    slurm = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}
    both = ranks(run_module, "ovi_lab.train", two, **slurm)
    wait_for_a_checkpoint(folder / "alone", alone)
    os.kill(alone.pid, signal.SIGTERM)
    wait_for_a_checkpoint(folder / "ranks", *both)
    os.kill(both[1].pid, signal.SIGUSR1)
    codes = [fork.wait() for fork in (alone, *both)]
    return folder, [(fork.output, code) for fork, code in zip((alone, *both), codes, strict=True)]


@pytest.mark.slow
def test_sigterm_saves_and_the_resumed_run_equals_an_undisturbed_one(left, trained, composed, tmp_path):
    folder, ((output, code), *_) = left
    assert code == 143, output
    step = Checkpoint.open(resolve_checkpoint(folder / "alone")).step
    assert 0 < step < STEPS
    assert re.search(
        rf"SIGTERM: step {step} is saved [\d.]+ s after the signal; resume=last resumes there", output
    )
    assert "Traceback" not in output
    alone, settings = folder / "alone", [*SETTINGS, "samples.every_n_steps=0"]
    execute(composed([*settings, "resume=last"], alone), SilentReporter())
    whole = trained(settings, tmp_path / "whole")
    assert same(tensors(whole), tensors(alone))
    losses = [column(run, "train/loss") for run in (whole, alone)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS


@pytest.mark.slow
def test_a_signal_to_one_rank_ends_all_and_the_job_is_requeued(left):
    folder, (_, *ranks) = left
    assert [code for _, code in ranks] == [0, 0], ranks
    assert (folder / "scontrol.txt").read_text() == "requeue 4711\n"
    step = Checkpoint.open(resolve_checkpoint(folder / "ranks")).step
    assert (
        f"SIGUSR1: step {step} is saved; job 4711 is queued again, resume=auto resumes the run" in ranks[0][0]
    )
    assert "SIGUSR1" not in ranks[1][0]
    # three prompts over two ranks, written by the first
    samples = sorted((folder / "ranks" / "samples" / "step_000004").iterdir())
    assert [p.name for p in samples] == ["0.mp4", "1.mp4", "2.mp4"]
    assert 0 < step < STEPS


def test_what_cannot_be_caught_is_refused():
    with pytest.raises(UserError, match=r"preemption.signals names SIGKILL, SIGWHAT"):
        Preemption(None, signals=["SIGTERM", "SIGKILL", "SIGWHAT"])


def signalled_after_training(number: int) -> None:
    with Preemption(None).at_once(first=True):
        os.kill(os.getpid(), number)
        time.sleep(1)


def test_after_training_it_leaves_at_once_and_says_where_requeueing_failed(capsys, monkeypatch, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho job already completing >&2\nexit 1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit) as ended:
        signalled_after_training(signal.SIGUSR1)
    assert ended.value.code == 143
    assert "(scontrol requeue 12_3 failed: job already completing)" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGUSR1) is before


def test_lightning_does_not_requeue_beside_it(monkeypatch):
    for name in [n for n in os.environ if n.startswith("SLURM")]:
        monkeypatch.delenv(name)
    assert cluster_environment() is None
    assert slurm_job() is None
    assert not was_requeued()
    for name, value in {"NTASKS": "1", "JOB_NAME": "train", "JOB_ID": "7", "RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    environment = cluster_environment()
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    assert slurm_job() == "7"
    assert was_requeued()


def test_submitit_is_handed_the_signal_once_all_is_saved(monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(SystemExit) as ended:
            signalled_after_training(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]
    assert ended.value.code == 0
