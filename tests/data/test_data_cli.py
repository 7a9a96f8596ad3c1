"""`ovi-data` as a user runs it: what it prints, what it leaves, its exit codes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from helpers.latent_shards import write_shard
from ovi_eval.clips.writing import write_mp4
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.cli import main
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.worlds import get_world


def test_make_inspect_and_show(tmp_path: Path, ovi_data: Callable[..., str]) -> None:
    out, sheet = tmp_path / "data", tmp_path / "sheet.png"
    made = ovi_data("make", "bouncing_ball", "--out", out, "--train", 12, "--eval", 4, "--seed", 5)
    assert "12 clips in 1 media and 1 latents shards" in made
    (folder,) = out.glob("bouncing_ball-*")
    printed = ovi_data("inspect", folder / "train-media-000.tar", "--sheet", sheet, "--clips", 3)
    assert "12 (12 of media)" in printed
    assert "32 frames of 16x16 at 15.8/s, sound at 8000 Hz (12)" in printed
    assert "bad 0" in printed
    picture = Image.open(sheet)
    assert picture.width == 1024
    # Three clips, each with a ball, and a spectrogram below: bright spots in both.
    assert picture.height > 3 * 100
    assert min(high for _, high in picture.getextrema()) > 150

    latents = folder / "train-latents-000.tar"
    printed = ovi_data("inspect", latents, "--sheet", sheet, "--codec", folder / "codec.safetensors")
    assert "video latents [24, 16, 2, 2], audio latents [81, 12] (12)" in printed
    printed = ovi_data("inspect", latents, "--sheet", sheet, code=2)
    assert printed.endswith("shards of latents need --codec to decode them")


def test_pack_fit_and_encode(tmp_path: Path, ovi_data: Callable[..., str]) -> None:
    folder, shards = tmp_path / "in", tmp_path / "packed"
    folder.mkdir()
    clips = get_world("bouncing_ball").render(range(3), seed=4)
    for n in range(3):
        path = folder / f"ball{n}.mp4"
        write_mp4(path, clips.frames_NTHWC[n], clips.fps, clips.waves_NS[n], 8000, enlarge_to=64)
        path.with_suffix(".txt").write_text(clips.captions[n])
    (folder / "broken.mp4").write_bytes(b"nothing")
    (folder / "broken.txt").write_text("broken")
    command = ["pack", folder, shards, "--size", "16x16", "--fps", clips.fps, "--seconds", 2.025]
    printed = ovi_data(*command)
    assert "files 4, 1 skipped" in printed
    assert "skipped broken.mp4: its picture: cannot be decoded" in printed
    assert f"next: ovi-train experiment=real_clips data.train={shards}-000.tar" in printed
    assert "broken.mp4" in ovi_data(*command, "--overwrite", "--on-error", "raise", code=2)

    codec, packed = tmp_path / "codec.safetensors", f"{shards}-000.tar"
    assert "video [24, 16, 2, 2], audio [81, 12]" in ovi_data("fit-codec", packed, "--out", codec)
    printed = ovi_data("encode", packed, "--codec", codec, "--out", tmp_path / "latents")
    choice = f"task=fusion data=latents data.codec={codec} data.shards={tmp_path}/latents-000.tar"
    assert f"next: ovi-train {choice}" in printed
    dataset = ClipDataset(tmp_path / "latents-000.tar")
    assert [dataset[n]["caption"] for n in range(3)] == clips.captions
    frames, _ = LatentCodec.load(codec).decode(dataset[0]["video"][None], dataset[0]["audio"][None])
    # Through H.264, 64x64 and the codec: still the ball.
    assert float((frames[0].float() - clips.frames_NTHWC[0].float()).abs().mean()) < 6


def test_bad_samples_are_listed(tmp_path: Path, ovi_data: Callable[..., str], media_shard: Path) -> None:
    write_shard(tmp_path / "a.tar", {"k": {"json": b"{}", "mp4": b"x"}})
    truncated = tmp_path / "b.tar"
    truncated.write_bytes(media_shard.read_bytes()[:-50_000])
    printed = ovi_data("inspect", tmp_path / "a.tar", truncated, code=1)
    assert "bad 2" in printed
    assert 'a.tar: k: its .json has no "caption" in words' in printed
    assert "b.tar: bouncing_ball-1-0000" in printed
    assert "truncated" in printed


def test_a_flipped_bit_is_found_by_its_digest(tmp_path: Path, ovi_data: Callable[..., str]) -> None:
    members = {"json": b'{"caption": "x"}', "frames.npy": b"", "wave.npy": b""}
    path = write_shard(tmp_path / "a.tar", {"k": members})
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[520] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    printed = ovi_data("inspect", path, code=1)
    assert "(whole shard): its sha256 is not the one in its index" in printed


CODEC = ["--codec", "none.safetensors", "--out", "o"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "pendulum"], "no world is called 'pendulum'; there is bouncing_ball"),
        (["make"], "the following arguments are required: WORLD; see ovi-data make --help"),
        (["fly"], "COMMAND 'fly' is unknown; there are make, pack"),
        (["make", "bouncing_ball", "--train", "0"], "num_train is 0"),
        (["make", "bouncing_ball", "--out", "m.tar/x"], "cannot be made (Not a directory)"),
        (["inspect", "none.tar"], "shard none.tar does not exist"),
        (["pack", "none", "out"], "the folder none does not exist"),
        (["pack", "m.tar", "out"], "m.tar is a file and no folder; name a folder of .mp4"),
        (["pack", ".", "m.tar/x"], "shards cannot be written to m.tar/x: m.tar is a file"),
        (["inspect", "."], ". is a folder; name the shards in it, as './*.tar'"),
        (["pack", ".", "out", "--size", "big"], "--size is 'big'; expected height x width"),
        (["pack", ".", "out", "--store", "zip"], "store 'zip' is unknown; there are auto"),
        (["encode", "none.tar", *CODEC], "shard none.tar does not exist"),
        (["fit-codec", "none.tar", "--out", "x"], "shard none.tar does not exist"),
        (["latents", "m.tar", "--out", "o"], "nothing to encode with: name a saved --codec, or a folder of"),
        (["latents", "m.tar", *CODEC, "--text"], "--text needs --weights"),
        (["latents", "m.tar", *CODEC, "--shard", "2/2"], "--shard is '2/2'; expected I/N"),
        (["latents", "m.tar", *CODEC, "--batch-size", "0"], "--batch-size is 0; at least 1"),
        (["latents", ".", *CODEC], ". is a folder: name it alone with --audio-only"),
        (["latents", ".", *CODEC, "--audio-only"], "no sound is in .: expected .wav"),
        (["latents", "m.tar", *CODEC, "--captions", "x.csv"], "--captions is for a folder of sounds"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tar").write_bytes(bytes(10240))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("ovi-data: ")
