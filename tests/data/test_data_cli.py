"""`ovi-data` as a user runs it: what it prints, what it leaves, its exit codes."""

from pathlib import Path

import pytest
from PIL import Image

from ovi_eval.clips.writing import write_mp4
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.cli import main
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.shards import ShardWriter
from ovi_lab.data.worlds import get_world


def test_make_inspect_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert (
        main(["make", "bouncing_ball", "--out", str(out), "--train", "12", "--eval", "4", "--seed", "5"]) == 0
    )
    assert "12 clips in 1 media and 1 latents shards" in capsys.readouterr().out
    (folder,) = out.glob("bouncing_ball-*")
    sheet = tmp_path / "sheet.png"
    command = ["inspect", str(folder / "train-media-000.tar"), "--sheet", str(sheet), "--clips", "3"]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "12 (12 of media)" in printed
    assert "32 frames of 16x16 at 15.8/s, sound at 8000 Hz (12)" in printed
    assert "bad 0" in printed
    picture = Image.open(sheet)
    assert picture.width == 1024
    # Three clips, each with a ball, and a spectrogram below: bright spots in both.
    assert picture.height > 3 * 100
    assert min(high for _, high in picture.getextrema()) > 150

    latents = str(folder / "train-latents-000.tar")
    assert (
        main(["inspect", latents, "--sheet", str(sheet), "--codec", str(folder / "codec.safetensors")]) == 0
    )
    assert "video latents [24, 16, 2, 2], audio latents [81, 12] (12)" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["inspect", latents, "--sheet", str(sheet)]) == 2
    assert capsys.readouterr().err.strip().endswith("shards of latents need --codec to decode them")


def test_pack_fit_and_encode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    clips = get_world("bouncing_ball").render(range(3), seed=4)
    for n in range(3):
        path = folder / f"ball{n}.mp4"
        write_mp4(path, clips.frames_NTHWC[n], clips.fps, clips.waves_NS[n], 8000, enlarge_to=64)
        path.with_suffix(".txt").write_text(clips.captions[n])
    (folder / "broken.mp4").write_bytes(b"nothing")
    (folder / "broken.txt").write_text("broken")
    shards = str(tmp_path / "packed")
    size = ["--size", "16x16", "--fps", str(clips.fps), "--seconds", "2.025"]
    assert main(["pack", str(folder), shards, *size]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "files 4, 1 skipped" in printed
    assert "skipped broken.mp4: its picture: cannot be decoded" in printed
    assert main(["pack", str(folder), shards, *size, "--overwrite", "--on-error", "raise"]) == 2
    error = capsys.readouterr().err
    assert "broken.mp4" in error
    assert "Traceback" not in error

    codec = str(tmp_path / "codec.safetensors")
    assert main(["fit-codec", f"{shards}-000.tar", "--out", codec]) == 0
    assert "video [24, 16, 2, 2], audio [81, 12]" in " ".join(capsys.readouterr().out.split())
    assert main(["encode", f"{shards}-000.tar", "--codec", codec, "--out", str(tmp_path / "latents")]) == 0
    dataset = ClipDataset(tmp_path / "latents-000.tar")
    assert [dataset[n]["caption"] for n in range(3)] == clips.captions
    frames, _ = LatentCodec.load(codec).decode(dataset[0]["video"][None], dataset[0]["audio"][None])
    # Through H.264, 64x64 and the codec: still the ball.
    assert float((frames[0].float() - clips.frames_NTHWC[0].float()).abs().mean()) < 6


def test_bad_samples_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], media_shard: Path
) -> None:
    with ShardWriter(tmp_path / "a.tar") as shard:
        shard.write("k", {"json": b"{}", "mp4": b"x"})
    whole = tmp_path / "b.tar"
    whole.write_bytes(media_shard.read_bytes()[:-50_000])
    assert main(["inspect", str(tmp_path / "a.tar"), str(whole)]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "bad 2" in printed
    assert 'a.tar: k: its .json has no "caption" in words' in printed
    assert "b.tar: bouncing_ball-1-0000" in printed
    assert "truncated" in printed


def test_a_flipped_bit_is_found_by_its_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    path = tmp_path / "a.tar"
    with ShardWriter(path) as shard:
        shard.write("k", {"json": b'{"caption": "x"}', "frames.npy": b"", "wave.npy": b""})
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[520] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert main(["inspect", str(path)]) == 1
    assert "(whole shard): its sha256 is not the one in its index" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "pendulum"], "no world is called 'pendulum'; there is bouncing_ball"),
        (["make"], "the following arguments are required: WORLD; see ovi-data make --help"),
        (["fly"], "COMMAND 'fly' is unknown; there are make, pack"),
        (["make", "bouncing_ball", "--train", "0"], "num_train is 0"),
        (["inspect", "none.tar"], "shard none.tar does not exist"),
        (["pack", "none", "out"], "the folder none does not exist"),
        (["pack", ".", "out", "--size", "big"], "--size is 'big'; expected height x width"),
        (["pack", ".", "out", "--store", "zip"], "store 'zip' is unknown; there are auto"),
        (
            ["encode", "none.tar", "--codec", "none.safetensors", "--out", "x"],
            "shard none.tar does not exist",
        ),
        (["fit-codec", "none.tar", "--out", "x"], "shard none.tar does not exist"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("ovi-data: ")


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert (
        main(["make", "bouncing_ball", "--train", "2", "--eval", "1", "--out", str(tmp_path / "file" / "x")])
        == 2
    )
    error = capsys.readouterr().err
    assert "cannot be made (Not a directory)" in error
    assert error.count("\n") == 1
