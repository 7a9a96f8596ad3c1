"""Sound alone, silent videos and stills: from files to shards, to latents, and to batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.made_clips import write_wav
from ovi_eval.clips.writing import write_mp4
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.index import read_index
from ovi_lab.data.loading import ABSENT, KIND
from ovi_lab.data.module import OviDataModule
from ovi_lab.errors import UserError

RATE, FPS, FRAMES = 8000, 32 / 2.025, 32
FORMAT = ("--size", "16x16", "--fps", FPS, "--sample-rate", RATE)
TONE = (9000 * np.sin(np.arange(5 * 16000) / 9)).astype(np.int16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of files with captions: sounds of 5 s, a video with sound, one without, and an image."""
    folder = tmp_path_factory.mktemp("files")
    found = {name: folder / name for name in ("sounds", "videos", "images")}
    for path in found.values():
        path.mkdir()
    for name in ("low", "high"):
        write_wav(found["sounds"] / f"{name}.wav", TONE)
    frames = torch.arange(40)[:, None, None, None].expand(-1, 24, 24, 3).to(torch.uint8) * 5
    wave_S = torch.from_numpy(TONE[:40000] / 32767).float()
    write_mp4(found["videos"] / "heard.mp4", frames, FPS, wave_S, 16000)
    write_mp4(found["videos"] / "mute.mp4", frames, FPS, None, 16000)
    Image.fromarray(np.full((40, 20, 3), 77, np.uint8)).save(found["images"] / "still.png")
    for path in found.values():
        for file in list(path.iterdir()):
            file.with_suffix(".txt").write_text(f"caption of {file.stem}")
    return found


@pytest.fixture(scope="module")
def codec_file(world_folder: Path) -> Path:
    return world_folder / "codec.safetensors"


def test_sound_and_pictures_alone_are_packed(
    folders: dict[str, Path],
    ovi_data: Callable[..., str],
    tmp_path: Path,
    codec: LatentCodec,
    codec_file: Path,
) -> None:
    cut = (*FORMAT, "--seconds", 2.025)
    said = ovi_data("pack", folders["sounds"], tmp_path / "sounds", "--modalities", "audio", *cut)
    assert "2 files from 16000 Hz to 8000 Hz" in said
    assert "1.90 s after the last whole clip left out" in said
    ovi_data("pack", folders["videos"], tmp_path / "mute", "--modalities", "video", *cut)
    ovi_data("pack", folders["videos"], tmp_path / "mp4", "--modalities", "video", "--store", "mp4", *cut)
    ovi_data("pack", folders["images"], tmp_path / "stills", "--modalities", "video", *cut)
    members = {
        name: {tuple(sorted(e.members)) for e in read_index(tmp_path / f"{name}-000.tar").entries}
        for name in ("sounds", "mute", "mp4", "stills")
    }
    assert members == {
        "sounds": {("json", "wave.npy")},
        "mute": {("frames.npy", "json")},
        "mp4": {("json", "silent.mp4")},
        "stills": {("frames.npy", "json")},
    }
    inspected = ovi_data("inspect", *(tmp_path / f"{name}-000.tar" for name in members))
    for said in ("sound at 8000 Hz (4)", "32 frames of 16x16 at 15.8/s (4)", "1 frames of 16x16", "bad 0"):
        assert said in inspected

    # media as they are read …
    sources = [{"shards": str(tmp_path / f"{name}-000.tar")} for name in members]
    settings = {"num_frames": FRAMES, "height": 16, "width": 16, "fps": FPS, "sample_rate": RATE}
    data = OviDataModule(world=None, sources=sources, codec=codec_file, batch_size=1, **settings)
    shapes = codec.latent_shapes(FRAMES, 16, 16)
    met = {}
    for batch in data._loader(data.train_dataset, True, "train"):
        met[batch[KIND]] = {m: tuple(batch[m].shape[1:]) for m in ("video", "audio") if m in batch}
        assert set(met[batch[KIND]]) == {"video", "audio"} - set(batch[ABSENT])
    still = (shapes["video"][0], 1, *shapes["video"][2:])
    expected = {
        "sound": {"audio": shapes["audio"]},
        "silent_video": {"video": shapes["video"]},
        "still": {"video": still},
    }
    assert met == expected
    # … and encoded before
    out = tmp_path / "latents"
    ovi_data(
        "latents", *(s["shards"] for s in sources), "--codec", codec_file, "--require", "any", "--out", out
    )
    dataset = ClipDataset(f"{out}-*.tar", require="any")
    assert {tuple(sorted(form.items())) for form in map(dict, (e.shapes for e in dataset.entries))} == {
        tuple(sorted(form.items())) for form in expected.values()
    }
    for number, entry in enumerate(data.train_dataset.entries):
        read, stored = data.train_dataset.read(number), dataset.read(number)
        assert entry.key == stored["id"]
        assert all(torch.equal(read[m], stored[m]) for m in ("video", "audio") if m in stored)


def test_videos_without_a_track_of_sound_are_encoded_as_silent(
    folders: dict[str, Path], ovi_data: Callable[..., str], tmp_path: Path, codec_file: Path
) -> None:
    from ovi_lab.data.shards import ShardWriter

    with ShardWriter(tmp_path / "foreign.tar") as shard:
        for name in ("heard", "mute"):
            video = (folders["videos"] / f"{name}.mp4").read_bytes()
            shard.write(name, {"txt": b"a caption", "mp4": video})
    arguments = ("latents", tmp_path / "foreign.tar", "--codec", codec_file, "--out", tmp_path / "latents")
    ovi_data(*arguments, "--require", "any")
    entries = {e.key: set(e.shapes or ()) for e in read_index(tmp_path / "latents-000.tar").entries}
    assert entries == {"heard": {"video", "audio"}, "mute": {"video"}}
    said = ovi_data(*arguments, code=2)
    assert "another --require" in said
    assert "1 skipped" in ovi_data(*arguments, "--overwrite")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--modalities", "smell"), "--modalities is smell; expected video, audio or video,audio"),
        (("--modalities", "audio", "--store", "mp4"), "--store mp4 is of pictures"),
        (("--modalities", "video", "--store", "original"), "--store original keeps the sound"),
        (("--modalities", "audio", "--seconds", "9"), "none of 2 files .* lasts 5.00 s, 9 s are wanted"),
        (("--modalities", "video"), "no .mp4, .*.png.* file is in"),
    ],
)
def test_what_cannot_be_packed_is_said_in_one_line(
    options: tuple[str, ...],
    message: str,
    folders: dict[str, Path],
    ovi_data: Callable[..., str],
    tmp_path: Path,
) -> None:
    import re

    said = ovi_data("pack", folders["sounds"], tmp_path / "x", *options, code=2)
    assert re.search(message, said), said
    assert not list(tmp_path.iterdir())


def test_a_codec_is_fitted_on_clips_with_both_parts_alone(
    folders: dict[str, Path], ovi_data: Callable[..., str], tmp_path: Path, media_shard: Path
) -> None:
    ovi_data("pack", folders["sounds"], tmp_path / "sounds", "--modalities", "audio", *FORMAT)
    both, sounds = {"shards": str(media_shard)}, {"shards": str(tmp_path / "sounds-000.tar")}
    mixed = OviDataModule(world=None, root=tmp_path, sources=[both, sounds], batch_size=4)
    plain = OviDataModule(world=None, root=tmp_path, train=str(media_shard), batch_size=4)
    assert torch.equal(mixed.codec.video.tensors()["mean"], plain.codec.video.tensors()["mean"])
    with pytest.raises(UserError, match="no usable clip"):
        OviDataModule(world=None, root=tmp_path, sources=[sounds], batch_size=4).codec  # noqa: B018
