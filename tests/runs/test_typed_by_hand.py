"""A slip while typing, and Ctrl-C."""

import signal
import subprocess
import sys
import time

import pytest

from helpers.forks import Fork, run_module


@pytest.mark.slow
def test_a_mistyped_line_is_refused_before_anything_heavy_is_imported():
    code = (
        "import sys; sys.argv[1:] = ['experiment=fusio']\n"
        "from ovi_lab.train import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, {'torch', 'scipy.stats'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2 set()\n", done.stderr


def interruptible(arguments):
    """A run that Ctrl-C reaches, which a shell's background job would ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_module("ovi_lab.train", arguments)


@pytest.mark.slow
def test_an_interrupted_run_says_how_it_goes_on(tmp_path):
    """Lightning ends its process without a word; the command keeps its own line and exit code."""
    arguments = [
        "experiment=fusion", "evaluation=none", "samples.every_n_steps=0", "data.num_train=16", "data.num_eval=8",
        "trainer.max_steps=100000", "logger.tensorboard=false", f"run_dir={tmp_path}/run", f"data.root={tmp_path}",
    ]  # fmt: skip
    run = Fork(interruptible, arguments, cwd=tmp_path)
    log = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 200
    while (
        not (log.is_file() and log.stat().st_size > 200) and time.monotonic() < deadline and run.code is None
    ):
        time.sleep(0.05)
    run.signal(signal.SIGINT)
    assert run.wait() == 2, run.output
    assert "interrupted; resume=last resumes from the last checkpoint" in run.output
