"""Training clips out of sync on purpose: which are moved, by how much, and which the sync filter leaves out."""

import io
import json
import logging
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ovi_lab.common.progress import LineReporter, told
from ovi_lab.data.displaced import late_frames
from ovi_lab.data.module import OviDataModule
from ovi_lab.data.worlds import get_world
from ovi_lab.errors import UserError
from ovi_lab.runs.identity import config_hash, run_config

CLIPS = 24
SMALL = {"num_train": CLIPS, "num_eval": 4, "quiet": True, "batch_size": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("displaced")


def opened(root: Path, displaced: dict | None) -> OviDataModule:
    data = OviDataModule(root=root, displaced=displaced, **SMALL)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def clean(root: Path) -> OviDataModule:
    return opened(root, None)


@pytest.fixture(scope="module")
def half(root: Path) -> OviDataModule:
    return opened(root, {"share": 0.5})


def rows_of(data: OviDataModule) -> list[dict]:
    return [json.loads(row) for row in (data.train_dataset.paths[0].parent / "clips.jsonl").open()]


def test_by_default_training_sees_the_worlds_own_clips(clean: OviDataModule, tmp_path: Path) -> None:
    data = opened(tmp_path, {"share": 0, "filter": None})
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert data.fingerprint() == clean.fingerprint()
    for own, other in zip(data.train_dataset.paths, clean.train_dataset.paths, strict=True):
        assert own.parent == folder
        assert own.read_bytes() == other.read_bytes()


def test_sound_is_moved_before_the_codec_and_nothing_else(clean: OviDataModule, half: OviDataModule) -> None:
    rows, world = rows_of(half), get_world("bouncing_ball").render(range(CLIPS), seed=1)
    assert [row["key"] for row in rows] == world.ids
    assert 6 <= sum(row["late_frames"] != 0 for row in rows) <= 18
    for number, row in enumerate(rows):
        late, before, now = row["late_frames"], clean.train_dataset[number], half.train_dataset[number]
        assert torch.equal(now["video"], before["video"])
        assert (now["id"], now["caption"], now["meta"]) == (before["id"], before["caption"], before["meta"])
        wave_S, samples = world.waves_NS[number], abs(late) * world.sample_rate // 25
        silence_S = torch.zeros(samples)
        if late > 0:
            wave_S = torch.cat([silence_S, wave_S[: len(wave_S) - samples]])
        elif late < 0:
            wave_S = torch.cat([wave_S[samples:], silence_S])
        torch.testing.assert_close(now["audio"], half.codec.audio.encode(wave_S[None])[0], atol=2e-3, rtol=0)
        assert torch.equal(now["audio"], before["audio"]) == (late == 0)


def test_what_is_moved_depends_on_seed_and_clip_alone(half: OviDataModule) -> None:
    names = [f"clip-{n}" for n in range(600)]
    third = [late_frames(1, name, 1 / 3) for name in names]
    moved = {n for n in third if n}
    assert moved == {*range(-15, -4), *range(5, 16)}
    assert 160 < sum(n != 0 for n in third) < 240
    more = [late_frames(1, name, 0.5) for name in names]
    assert all(a in (0, b) for a, b in zip(third, more, strict=True))
    assert [late_frames(2, name, 1 / 3) for name in names] != third
    assert [row["late_frames"] for row in rows_of(half)] == [
        late_frames(1, row["key"], 0.5) for row in rows_of(half)
    ]


def test_the_filter_leaves_what_is_in_sync(
    root: Path, half: OviDataModule, caplog: pytest.LogCaptureFixture
) -> None:
    said = io.StringIO()
    with caplog.at_level(logging.WARNING), told(LineReporter(Console(file=said)), "data"):
        data = opened(root, {"share": 0.5, "filter": 3})
    assert f"data {CLIPS}/{CLIPS} 0:00:0" in said.getvalue()
    assert "sound judged" in said.getvalue()
    rows = rows_of(data)
    in_time = [row["key"] for row in rows if row["late_frames"] == 0]
    assert [row["late_frames"] for row in rows] == [row["late_frames"] for row in rows_of(half)]
    assert [row["key"] for row in rows if row["left"]] == in_time
    assert all(abs(row["scores"]["sync_offset"] - row["late_frames"]) <= 1 for row in rows)
    assert [entry.key for entry in data.train_dataset.entries] == in_time
    moved, left = CLIPS - len(in_time), len(in_time)
    words = f"the sound of {moved} of {CLIPS} training clips is moved; {left} clips are left to train on"
    assert [record.getMessage() for record in caplog.records] == [words]
    counts = json.loads((data.train_dataset.paths[0].parent / "manifest.json").read_text())["counts"]
    assert counts == {"clips": CLIPS, "moved": moved, "left": left}
    unlike = {data.fingerprint(), half.fingerprint(), opened(root, None).fingerprint()}
    assert len(unlike) == 3


def test_clips_to_evaluate_on_and_the_codec_are_those_of_clean_data(
    clean: OviDataModule, half: OviDataModule
) -> None:
    assert half.eval_dataset.paths == clean.eval_dataset.paths
    assert half.codec_file() == clean.codec_file()
    assert torch.equal(half.eval_clips().waves_NS, clean.eval_clips().waves_NS)


@pytest.mark.parametrize(
    ("displaced", "world", "message"),
    [
        ({"share": 1.5}, "bouncing_ball", "data.displaced.share is 1.5: expected a number from 0 to 1"),
        ({"share": -0.1}, "bouncing_ball", "data.displaced.share is -0.1: expected a number from 0 to 1"),
        ({"filter": -1}, "bouncing_ball", "data.displaced.filter is -1: expected a number of at least 0"),
        ({"shares": 0.5}, "bouncing_ball", "data.displaced has unknown key 'shares'"),
        ({"share": 0.5}, None, "data.displaced moves the sound of a world's clips, and data.world is null"),
        ({"filter": 3}, "other", "only clips of bouncing_ball can be judged, not of data.world=other"),
    ],
)
def test_slips_are_one_line(displaced: dict, world: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        OviDataModule(world=world, root=tmp_path, displaced=displaced, shards=None if world else "x.tar")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_filter_that_leaves_nothing_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    data = OviDataModule(
        root=tmp_path, num_train=4, num_eval=2, quiet=True, displaced={"share": 1, "filter": 3}
    )
    with pytest.raises(UserError, match=r"filter=3 leaves out all 4 training clips: raise it, or lower .*=1"):
        data.prepare_data()
    assert not [path for path in tmp_path.glob("*displaced*") if path.is_dir()]


def test_arms_differ_in_their_training_clips_alone(composed) -> None:
    arms = {
        arm: run_config(composed(["experiment=sync_filter", f"arm={arm}"]))
        for arm in ("clean", "third_out_of_sync", "filtered")
    }
    displaced = {arm: plain["data"].pop("displaced") for arm, plain in arms.items()}
    assert displaced["clean"] == {"share": 0, "filter": None}
    assert displaced["third_out_of_sync"] == {"share": displaced["filtered"]["share"], "filter": None}
    assert displaced["filtered"] == {"share": pytest.approx(1 / 3, abs=1e-3), "filter": 3}
    assert len({config_hash(plain | {"arm_name": ""}) for plain in arms.values()}) == 1
    clean = arms["clean"]
    now = config_hash(clean | {"data": {**clean["data"], "displaced": displaced["clean"]}})
    assert now == config_hash(clean)  # runs from before there was data.displaced keep theirs
