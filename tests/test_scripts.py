"""What runs training elsewhere: the torchrun script for real on two processes, SLURM's and Docker's files as read."""

import csv
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

from helpers.forks import command
from ovi_lab.callbacks.preemption import Preemption
from ovi_lab.checkpoints import Checkpoint
from ovi_lab.runs.processes import LostProcessError
from ovi_lab.sweeps.submitit import SubmititLauncher, Submitted

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
DOCKERFILE = ROOT / "docker" / "Dockerfile"
SMALL = ["debug=fast", "logger.tensorboard=false", "optim=adamw"]


def run(*command, **settings):
    """What the command printed and its exit code."""
    environment = os.environ | settings.pop("env", {})
    defaults = {"capture_output": True, "text": True, "timeout": 280, "env": environment}
    return subprocess.run([*map(str, command)], **defaults, **settings)


@pytest.mark.parametrize("script", ["train_torchrun.sh", "train_slurm.sbatch"])
def test_scripts_are_good_bash_and_executable(script):
    subprocess.run(["bash", "-n", str(SCRIPTS / script)], check=True, timeout=60)
    assert os.access(SCRIPTS / script, os.X_OK)


def children(pid):
    """Process ids of what a process has started, by their rank."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    environments = ((int(one), Path(f"/proc/{one}/environ").read_bytes().split(b"\0")) for one in found)
    ranks = {one: [v for v in values if v.startswith(b"RANK=")] for one, values in environments}
    return {int(values[0][5:]): one for one, values in ranks.items() if values}


@pytest.mark.slow
def test_torchrun_trains_on_two_processes_samples_with_both_and_starts_them_again_where_one_dies(tmp_path):
    pytest.importorskip("deepspeed")
    environment = {"NPROC_PER_NODE": "2", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    place = [f"run_dir={tmp_path / 'run'}", f"data.root={tmp_path / 'data'}"]
    # under ZeRO 3 no process has the whole model: one that sampled alone would wait for ever
    command = [SCRIPTS / "train_torchrun.sh", *SMALL, "strategy=zero3", "checkpoint.every_n_steps=1", *place]
    with (tmp_path / "log").open("w+") as log:
        agent = subprocess.Popen(
            [*map(str, command)],
            cwd=tmp_path,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 200
        while (
            not (tmp_path / "run" / "last").exists() and time.monotonic() < deadline and agent.poll() is None
        ):
            time.sleep(0.01)
        os.kill(children(agent.pid)[1], signal.SIGKILL)
        code = agent.wait(280)
        log.seek(0)
        printed = log.read()
    assert code == 0, printed[-4000:]
    counted = json.loads((tmp_path / "run" / "restarts.json").read_text())
    assert counted["restarts"] == 1
    assert counted["without_progress"] == 0
    assert Checkpoint.open(tmp_path / "run" / "last").step == 2
    rows = [row for row in csv.DictReader((tmp_path / "run" / "metrics.csv").open()) if row.get("train/loss")]
    assert len(rows) == 2
    assert len(list((tmp_path / "run" / "samples" / "step_000002").glob("*.mp4"))) == 3


def test_torch_knows_the_settings_of_its_own_that_scripts_make():
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    texts = [(SCRIPTS / name).read_text() for name in ("train_torchrun.sh", "train_slurm.sbatch")]
    names = {name for text in texts for name in re.findall(r"^export (TORCH_(?:FR|NCCL)\w+)=", text, re.M)}
    assert len(names) == 4
    # of a build without NCCL the header alone has NCCL's
    header = Path(torch.__file__).parent / "include/torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp"
    of_nccl = header.read_text()
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        assert [n for n in names if n not in of_nccl and content.find(n.encode()) < 0] == []


def test_several_machines_need_a_place_to_meet(monkeypatch, tmp_path):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    two = {"NPROC_PER_NODE": "2", "NNODES": "2", "PYTHON": "false"}
    done = run(SCRIPTS / "train_torchrun.sh", env=two, cwd=tmp_path)
    assert done.returncode != 0
    assert "MASTER_ADDR: name the first machine" in done.stderr


def directives() -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", (SCRIPTS / "train_slurm.sbatch").read_text(), re.M)
    return dict(lines)


def test_slurm_warns_in_time_with_a_signal_that_the_run_listens_to():
    found = directives()
    name, seconds = found["signal"].split("@")
    # to the tasks: with B: only the batch script would hear of it
    assert f"SIG{name}" in {s.name for s in Preemption(None).signals}
    assert int(seconds) >= 120
    assert "requeue" in found
    assert found["open-mode"] == "append"
    assert found["ntasks-per-node"] == found["gpus-per-node"]


def slurm_job(folder: Path, srun: str, *arguments: str) -> subprocess.CompletedProcess:
    """The SLURM script with an srun of these lines; what it asks of scontrol is in a file."""
    for name, lines in (("srun", srun), ("scontrol", f'echo "$@" >> {folder}/scontrol.txt')):
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS_PER_NODE": "8(x4)", "SLURM_JOB_ID": "4711"}
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **slurm}
    return run(SCRIPTS / "train_slurm.sbatch", *arguments, env=environment, cwd=folder)


@pytest.mark.parametrize(
    ("code", "again"),
    [(0, False), (2, False), (143, False), (1, True), (LostProcessError.exit_code, True), (137, True)],
)
def test_the_slurm_job_is_queued_again_where_a_task_dies_and_not_for_a_mistake(tmp_path, code, again):
    assert slurm_job(tmp_path, f"exit {code}").returncode == code
    asked = tmp_path / "scontrol.txt"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 4711\n" if again else "")


def test_a_signal_for_the_slurm_script_reaches_the_tasks_and_is_waited_for(tmp_path):
    ends = "trap 'echo told; exit 0' USR1; kill -USR1 $PPID; while :; do sleep 0.05; done"
    done = slurm_job(tmp_path, ends)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "told\n"


def test_the_slurm_job_starts_one_task_a_gpu_and_resumes_when_requeued(tmp_path):
    done = slurm_job(tmp_path, 'echo "$@"', "experiment=fusion", "seed=3")
    assert done.stdout.split("-m ovi_lab.train ")[1].split() == [
        "trainer.num_nodes=4", "trainer.devices=8", "resume=auto", "experiment=fusion", "seed=3",
    ]  # fmt: skip


def test_what_the_image_copies_is_there_and_its_extras_are_ours():
    text = DOCKERFILE.read_text()
    let_in = [
        line[1:] for line in (DOCKERFILE.with_suffix(".dockerignore")).read_text().split() if line[0] == "!"
    ]
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.+)$", text, re.M)]
    assert len(copied) >= 5
    for source in (path for paths in copied for path in paths):
        assert (ROOT / source).exists(), source
        assert any(source == kept or source.startswith(f"{kept}/") for kept in let_in), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.M)
    assert set(extras.split(",")) <= project["project"]["optional-dependencies"].keys()
    # whatever the wheel is made of must be in the image's sources
    sources = [*project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]]
    flat = [path for paths in copied for path in paths]
    assert all(any(source == path or source.startswith(f"{path}/") for path in flat) for source in sources)
    assert re.search(r"^USER (?!root)", text, re.M)


@pytest.mark.slow
def test_a_sweep_through_submitit_ranks_what_succeeded_and_tells_what_did_not(tmp_path):
    pytest.importorskip("submitit")
    arguments = [
        "experiment=fusion_ablation", "hydra/launcher=submitit_local", "arm=none", "seed=0",
        "freeze.frozen=[],[nothing_here]", "debug=fast", "evaluation.num_clips=8", "evaluation.num_mp4=1",
        "sampler.steps=2", "samples.every_n_steps=0", "logger.tensorboard=false", f"data.root={tmp_path / 'data'}",
    ]  # fmt: skip
    process = command("ovi_lab.train", "-m", *arguments, cwd=tmp_path)
    assert process.wait() == 2, process.output
    assert "Traceback" not in process.output
    (line,) = [line for line in process.output.splitlines() if line.startswith("error:")]
    assert line.startswith("error: 1 of 2 runs failed; the same command runs them again. none,freeze.frozen=")
    assert "'nothing_here' matches no parameter" in line
    study = tmp_path / "runs" / "fusion_ablation"
    assert (study / "leaderboard.html").is_file()
    assert [p.parent.parent.name for p in study.glob("*/seed_0/done.json")] == ["none,freeze.frozen=[]"]


def test_without_submitit_or_slurm_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = SubmititLauncher(str(tmp_path / "%j"), timeout_min=5, partition=None)
    for words in ("slurm does not take the jobs: Could not detect", "[slurm]'"):
        with pytest.raises(SystemExit) as ended:
            launcher._submit([])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
        monkeypatch.setitem(sys.modules, "submitit", None)


def test_a_requeued_job_resumes():
    pytest.importorskip("submitit")
    again = Submitted(threads=1).checkpoint({"seed": 3, "resume": None})
    assert again.args == ({"seed": 3, "resume": "auto"},)
