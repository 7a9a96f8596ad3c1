"""An untrusted run folder, resumed or written over: its configuration is compared as text, and nothing of it is run."""

from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from ovi_lab.checkpoints import FolderCheckpointIO
from ovi_lab.errors import UserError
from ovi_lab.runs.run import _checkpoint_to_resume, _claim_folder
from ovi_lab.sweeps import study

PLAIN = {"name": "mine", "seed": 0, "task": {"_target_": "ovi_lab.tasks.FusionTraining"}, "run_dir": "x"}


def evil(marker: Path) -> str:
    node = {"_target_": "os.system", "command": f"touch {marker}", "again": "${oc.env:HOME}"}
    return yaml.safe_dump(PLAIN | {key: dict(node) for key in ("task", "data", "model")})


def test_resuming_runs_nothing_of_it(tmp_path):
    path = tmp_path / "run" / "checkpoints" / "step_000003"
    state = {"global_step": 3, "state_dict": {"model.a": torch.ones(1)}}
    FolderCheckpointIO(evil(tmp_path / "marker")).save_checkpoint(state, path)
    for word in ("last", "auto", str(path)):
        with pytest.raises(UserError, match="is of another configuration") as found:
            _checkpoint_to_resume(OmegaConf.create({"resume": word}), tmp_path / "run", PLAIN)
        assert str(Path.home()) not in str(found.value).replace(str(tmp_path), "")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "text", [None, "a: &a [x]\nb: *a\n", "[" * 5000, "a: !!python/name:os.system\n", "- x\n", "\x00"]
)
def test_a_folder_that_is_there_runs_nothing(text, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(evil(tmp_path / "marker") if text is None else text)
    (run / "done.json").write_text("{}")
    with pytest.raises(UserError) as found:
        _claim_folder(OmegaConf.create({"resume": None, "overwrite": False}), run, PLAIN, "")
    assert "\n" not in str(found.value)
    assert not (tmp_path / "marker").exists()


def test_references_are_scored_on_this_commands_data(tmp_path, monkeypatch):
    """Not on what a configuration in a run's folder names."""
    seen = []
    monkeypatch.setattr(
        "ovi_lab.runs.evaluate.evaluate_references", lambda config, folder: seen.append(config)
    )
    run = tmp_path / "arm" / "seed_0"
    run.mkdir(parents=True)
    (run / "results.json").write_text("{}")
    (run / "config.yaml").write_text(evil(tmp_path / "marker"))
    own = {"arm_name": "arm", "seed": 0, "data": {"_target_": "ovi_lab.data.module.OviDataModule"}}
    jobs = [study.SweepJob("arm/seed_0", own, run, "skipped", "")]
    study.note_jobs(tmp_path, jobs, {}, own=True)
    assert str(tmp_path) not in (tmp_path / study.JOBS_FILE).read_text()
    study._score_references(tmp_path, jobs)
    assert [config.data for config in seen] == [own["data"]]
