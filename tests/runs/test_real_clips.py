"""Real mp4 files: packed by the command, trained on by the same loader and the same task as the world."""

import csv
import math

import pytest

from ovi_lab.data.cli import main
from ovi_lab.errors import UserError


@pytest.fixture(scope="module")
def shards(shared_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    clips = folder / "clips"
    clips.mkdir()
    for source in ("ovi/two_men_1344x704.mp4", "mova/mova_624x352.mp4", "latentsync/demo1_video.mp4"):
        path = shared_dir / "clips" / source
        (clips / path.name).symlink_to(path)
        (clips / path.with_suffix(".txt").name).write_text(f"a clip of {path.stem.replace('_', ' ')}")
    code = main(
        ["pack", str(clips), str(folder / "train"), "--size", "32x32", "--fps", "16", "--seconds", "2"]
    )
    assert code == 0
    return f"{folder}/train-000.tar"


SIZE = ["data.height=32", "data.width=32", "data.batch_size=2"]


@pytest.mark.slow
def test_a_short_run_on_real_clips(shards, trained, tmp_path):
    run = trained(["experiment=real_clips", f"data.train={shards}", *SIZE, "trainer.max_steps=4"])
    rows = [r for r in csv.DictReader((run / "metrics.csv").open()) if r["train/loss"]]
    assert len(rows) == 4
    assert all(math.isfinite(float(r["train/loss_video"])) and float(r["train/loss_audio"]) > 0 for r in rows)
    assert list((run / "samples").rglob("*.mp4"))


@pytest.mark.slow
def test_sound_of_another_rate_may_be_refused(shards, trained, tmp_path):
    with pytest.raises(UserError, match=r"8000 Hz.*16000|16000.*8000 Hz"):
        trained(
            [
                "experiment=real_clips",
                f"data.train={shards}",
                *SIZE,
                "data.on_resample=raise",
                "data.sample_rate=16000",
            ]
        )
