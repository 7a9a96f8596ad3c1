"""overwrite=true: what a run wrote goes, and nothing else."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ovi_eval.clips.clipset import ClipSet
from ovi_lab.checkpoints import FolderCheckpointIO
from ovi_lab.errors import UserError
from ovi_lab.runs.written import remove_run

CONFIG = {"run_dir": "x", "seed": 0, "task": {"_target_": "ovi_lab.tasks.FusionTraining"}}


def a_run(folder: Path) -> set[Path]:
    """The files of a run; returns them."""
    for name in (
        "done.json",
        "results.json",
        "metrics.csv",
        "tensorboard/events.out.tfevents.1",
        "samples/step_000002/0.mp4",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    state = {
        "global_step": 3,
        "state_dict": {"model.a": torch.ones(1)},
        "ema_state_dict": {"model.a": torch.ones(1)},
    }
    FolderCheckpointIO(yaml.safe_dump(CONFIG)).save_checkpoint(state, folder / "checkpoints" / "step_000003")
    (folder / "last").symlink_to("checkpoints/step_000003")
    ids = ["one", "[two]"]
    frames, waves = torch.zeros(2, 1, 8, 8, 3, dtype=torch.uint8), torch.zeros(2, 8)
    ClipSet(ids, ids, frames, 8.0, waves, 8000, [{}, {}]).save(folder / "clips.safetensors")
    (folder / "clips").mkdir()
    for name in ids:
        (folder / "clips" / f"{name}.mp4").write_text("")
    shutil.copytree(folder / "clips", folder / "tasks" / "video_given" / "clips")
    for name in ("clips.safetensors", "results.json"):
        shutil.copy(folder / name, folder / "tasks" / "video_given")
    return {path for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def left(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() or p.is_symlink()}


def test_a_run_goes_whole(tmp_path):
    a_run(tmp_path / "run")
    remove_run(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_users_own_files_stay(tmp_path):
    run = tmp_path / "run"
    a_run(run)
    mine = {
        "notes.txt", "clips/mine.mp4", "tasks/video_given/clips/mine.mp4", "tasks/mine/notes.txt",
        "samples/mine.png", "checkpoints/step_000003/why.md", "checkpoints/best/model.safetensors", "paper/config.yaml",
        "tensorboard/mine.log", "arm/seed_0/done.json",
    }  # fmt: skip
    for name in mine:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    remove_run(run)
    assert left(run) == mine


def test_no_link_is_followed(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    whole = a_run(elsewhere)
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (run / "checkpoints").symlink_to(elsewhere / "checkpoints")
    (run / "results.json").symlink_to(elsewhere / "results.json")
    (run / "mine").symlink_to(elsewhere)
    remove_run(run)
    assert left(run) == {"mine"}
    assert {p for p in elsewhere.rglob("*") if p.is_file() or p.is_symlink()} == whole


@pytest.mark.parametrize("config", [None, "name: mine\n", "not: [yaml", "- a\n"])
def test_a_folder_that_is_no_run_is_refused(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "results.json").write_text("mine")
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    before = left(tmp_path)
    with pytest.raises(UserError, match="is no run's folder"):
        remove_run(tmp_path)
    assert left(tmp_path) == before


def test_what_is_not_there_or_only_begun_is_no_fault(tmp_path):
    remove_run(tmp_path / "none")
    (tmp_path / "progress.json").write_text("{}")
    remove_run(tmp_path)
    assert left(tmp_path) == set()
