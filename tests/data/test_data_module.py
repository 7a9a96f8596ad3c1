"""The data module: a world made once and whole, shards of latents, shards of media."""

import logging
import multiprocessing
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule

from helpers.latent_shards import write_shard
from ovi_eval.common.files import file_sha256
from ovi_lab.data.module import OviDataModule
from ovi_lab.data.prepare import WorldSettings, is_whole, prepare_world, shards_of
from ovi_lab.data.worlds import get_world
from ovi_lab.errors import UserError

SMALL = {"num_train": 32, "num_eval": 8, "quiet": True, "batch_size": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def data(root: Path) -> OviDataModule:
    data = OviDataModule(root=root, **SMALL)
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_world_is_batches_of_latents(data: OviDataModule) -> None:
    assert isinstance(data, LightningDataModule)
    assert data.latent_shapes == {"video": (24, 16, 2, 2), "audio": (81, 12)}
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (8, 24, 16, 2, 2)
    assert batch["audio"].shape == (8, 81, 12)
    assert len(data.train_dataset) == 32
    assert [len(b["id"]) for b in data.val_dataloader()] == [8]
    assert {m["seed"] for m in batch["meta"]} == {1}


def test_latents_decode_to_the_clips_they_are_of(data: OviDataModule) -> None:
    (batch,) = data.val_dataloader()
    frames, waves = data.codec.decode(batch["video"], batch["audio"])
    real = data.eval_clips()
    assert real.ids == batch["id"]
    assert frames.shape == real.frames_NTHWC.shape
    assert waves.shape == real.waves_NS.shape
    assert float((frames.float() - real.frames_NTHWC.float()).square().mean().sqrt()) / 255 < 0.04


def test_clips_to_evaluate_are_the_worlds_own(data: OviDataModule) -> None:
    clips = data.eval_clips(5)
    rendered = get_world("bouncing_ball").render(range(5), seed=2)
    assert clips.captions == rendered.captions
    assert clips.meta == rendered.meta
    assert torch.equal(clips.frames_NTHWC, rendered.frames_NTHWC)
    torch.testing.assert_close(clips.waves_NS, rendered.waves_NS, atol=1 / 32767, rtol=0)


@pytest.fixture(scope="module")
def folder(data: OviDataModule, root: Path) -> Path:
    (folder,) = root.glob("bouncing_ball-*")
    return folder


def test_existing_data_are_not_made_again(folder: Path, root: Path) -> None:
    before = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    OviDataModule(root=root, **SMALL).prepare_data()
    assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == before


def test_the_same_settings_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = prepare_world(WorldSettings("bouncing_ball", 32, 8), tmp_path, quiet=True)
    assert again.name == folder.name
    for file in (folder / "manifest.json", *folder.glob("*.tar")):
        assert file_sha256(file) == file_sha256(again / file.name)


def test_other_settings_have_another_folder() -> None:
    settings = [(32, 8, 1, 2), (32, 8, 3, 2), (32, 8, 1, 4), (33, 8)]
    assert len({WorldSettings("bouncing_ball", *numbers).folder(Path("x")) for numbers in settings}) == 4


@pytest.mark.parametrize("damage", ["manifest", "shard", "cut"])
def test_incomplete_data_are_made_again(tmp_path: Path, damage: str) -> None:
    settings = WorldSettings("bouncing_ball", 4, 2)
    folder = prepare_world(settings, tmp_path, quiet=True)
    before = file_sha256(folder / "train-latents-000.tar")
    shard = folder / "train-latents-000.tar"
    if damage == "manifest":
        (folder / "manifest.json").unlink()
    elif damage == "shard":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:5000])
    (folder / ".train-media-000.tar.99.tmp").write_bytes(b"left by a killed process")
    assert not is_whole(folder)
    prepare_world(settings, tmp_path, quiet=True)
    assert is_whole(folder)
    assert file_sha256(shard) == before
    assert not list(folder.glob(".*.tmp"))


def _prepare(root: str) -> None:
    torch.set_num_threads(1)
    prepare_world(WorldSettings("bouncing_ball", 24, 4), Path(root), quiet=True)


def test_two_processes_that_start_together_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_prepare, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [p.exitcode for p in processes] == [0, 0]
    (folder,) = tmp_path.glob("bouncing_ball-*")
    assert is_whole(folder)
    assert [s.name for s in shards_of(folder, "train", "latents")] == ["train-latents-000.tar"]


def test_shards_of_latents_with_their_codec(data: OviDataModule, folder: Path, tmp_path: Path) -> None:
    loaded = OviDataModule(
        world=None,
        root=tmp_path,
        train=str(folder / "train-latents-{000..000}.tar"),
        val=str(folder / "eval-latents-000.tar"),
        codec=str(folder / "codec.safetensors"),
        batch_size=8,
    )
    loaded.prepare_data()
    loaded.setup()
    for a, b in zip(loaded.train_dataloader(), data.train_dataloader(), strict=True):
        assert a["id"] == b["id"]
        assert torch.equal(a["video"], b["video"])
    clips = loaded.eval_clips(3)  # these shards hold no media: the latents decoded
    assert clips.frames_NTHWC.shape == (3, 32, 16, 16, 3)
    assert clips.waves_NS.shape == (3, 16200)
    without = OviDataModule(world=None, root=tmp_path, train=str(folder / "train-latents-000.tar"))
    with pytest.raises(UserError, match="hold latents, and no codec was named"):
        _ = without.codec
    with pytest.raises(UserError, match=r"no clips to evaluate on; set data.val"):
        without.eval_clips()
    assert without.val_dataloader() == []


def test_shards_of_media_fit_their_codec_once(data: OviDataModule, folder: Path, tmp_path: Path) -> None:
    train = str(folder / "train-media-000.tar")
    settings = {"world": None, "root": tmp_path, "batch_size": 8, "train": train}
    media = OviDataModule(**settings, val=str(folder / "eval-media-000.tar"))
    media.prepare_data()
    (file,) = tmp_path.glob("codec-*.safetensors")
    made = file.stat().st_mtime_ns
    media.setup()
    batch = next(iter(media.train_dataloader()))
    assert batch["video"].shape == (8, 24, 16, 2, 2)
    assert media.eval_clips(4).ids == data.eval_clips(4).ids
    OviDataModule(**settings).prepare_data()
    assert file.stat().st_mtime_ns == made
    # The picture's codec is fitted on the same clips as the world's own, so it is the same.
    torch.testing.assert_close(media.codec.video.components_CP, data.codec.video.components_CP)


def test_media_are_converted_to_the_requested_format(folder: Path, tmp_path: Path) -> None:
    shard = str(folder / "eval-media-000.tar")
    form = {"num_frames": 12, "height": 8, "width": 24, "fps": 8.0, "sample_rate": 16000}
    media = OviDataModule(world=None, root=tmp_path, train=shard, val=shard, batch_size=4, **form)
    assert media.latent_shapes == {"video": (24, 6, 1, 3), "audio": (60, 12)}
    clips = media.eval_clips(2)
    assert clips.frames_NTHWC.shape == (2, 12, 8, 24, 3)
    assert clips.waves_NS.shape == (2, 24000)
    assert (clips.fps, clips.sample_rate) == (8.0, 16000)


def test_bad_clips_are_summed_up_when_a_run_ends_within_an_epoch(
    tmp_path: Path, latents_shard: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"json": b"{}", "latents.safetensors": b""}
    shard = write_shard(tmp_path / "a.tar", {f"bad{n}": bad for n in range(4)})
    data = OviDataModule(world=None, root=tmp_path, train=[str(latents_shard), str(shard)])
    batches = iter(data.train_dataloader())
    for _ in range(3):
        next(batches)
    with caplog.at_level(logging.WARNING, "ovi_lab.data"):
        data.teardown()
    assert [r.message for r in caplog.records if "bad of 52 clips skipped" in r.message]


def test_settings_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    for arguments, message in [
        ({"world": None}, "name either a world .* or shards"),
        ({"train": "a.tar"}, "name either a world .* or shards"),
        ({"world": "pendulum"}, "'pendulum'; there is bouncing_ball"),
        ({"on_error": "ignore"}, "data.on_error is 'ignore': expected skip or raise"),
        ({"on_resample": "no"}, "data.on_resample is 'no': expected resample or raise"),
        ({"num_eval": 0}, "num_eval 0: each must be at least 1"),
        ({"eval_seed": 1}, "train_seed and eval_seed are both 1"),
        ({"world": None, "train": "a.tar", "fps": 8.0}, "data.fps is set, so data.num_frames.*must be too"),
    ]:
        with pytest.raises(UserError, match=message):
            OviDataModule(root=tmp_path, **arguments)
    absent = OviDataModule(world=None, root=tmp_path, train=str(tmp_path / "none-{000..003}.tar"))
    with pytest.raises(UserError, match=r"none-000.tar and 3 more of 4 does not exist"):
        absent.prepare_data()


def test_a_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError,
        match=r"the data folder .* cannot be made \(Not a directory\); choose another with data.root=",
    ):
        OviDataModule(root=tmp_path / "file" / "data", **SMALL).prepare_data()
