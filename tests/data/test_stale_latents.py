"""Latents stay where clips, captions, encoders and settings are the same by content; names and sizes say nothing."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.latent_shards import write_shard
from helpers.made_clips import write_wav
from ovi_lab.data.cli import main
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.decode import array_members
from ovi_lab.data.index import index_path
from ovi_lab.data.shards import numbered_shards

FPS = 32 / 2.025
OTHER = "is there, made of other clips, by other encoders or in another --dtype"


def media(path: Path, captions: list[str], level: int = 40) -> Path:
    frames = torch.full((32, 16, 16, 3), level, dtype=torch.uint8)
    clips = [array_members(caption, {}, frames, FPS, torch.zeros(16200), 8000) for caption in captions]
    return write_shard(path, {f"k{n}": members for n, members in enumerate(clips)})


class Run:
    """The command as a user repeats it, what it printed, and what the latents then say."""

    def __init__(self, folder: Path, codec: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.codec = Path(shutil.copy(codec, folder / "codec.safetensors"))

    def __call__(self, *arguments: str, sources: str = "m-*.tar") -> tuple[int, str]:
        command = ["latents", str(self.folder / sources), "--codec", str(self.codec), "--out"]
        code = main([*command, str(self.folder / "l"), *arguments])
        printed = self.capsys.readouterr()
        return code, " ".join((printed.out + printed.err).split())

    def captions(self) -> list[str]:
        dataset = ClipDataset(str(self.folder / "l-*.tar"))
        return [dataset[n]["caption"] for n in range(len(dataset))]


@pytest.fixture
def run(tmp_path: Path, world_folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    media(tmp_path / "m-000.tar", ["a red ball", "a blue ball"])
    media(tmp_path / "m-001.tar", ["a green ball"])
    run = Run(tmp_path, world_folder / "codec.safetensors", capsys)
    code, printed = run()
    assert (code, "2 made, 0 were there" in printed) == (0, True)
    return run


def test_the_same_clips_stay_whatever_they_are_called(run: Run) -> None:
    for number in (0, 1):
        (run.folder / f"m-00{number}.tar").rename(run.folder / f"moved-00{number}.tar")
    before = [path.stat().st_mtime_ns for path in sorted(run.folder.glob("l-*.tar"))]
    code, printed = run(sources="moved-*.tar")
    assert (code, "0 made, 2 were there" in printed) == (0, True)
    assert [path.stat().st_mtime_ns for path in sorted(run.folder.glob("l-*.tar"))] == before


@pytest.mark.parametrize("what", ["caption", "clip", "codec", "dtype", "fewer", "order"])
def test_what_was_made_of_other_things_is_refused_and_made_again_when_asked(run: Run, what: str) -> None:
    shard = run.folder / "m-001.tar"
    size, times = shard.stat().st_size, shard.stat()
    expected, arguments, told = ["a red ball", "a blue ball", "a green ball"], [], "set of clips"
    if what == "caption":
        media(shard, ["a brown ball"])
        expected[2] = "a brown ball"
    elif what == "clip":
        media(shard, ["a green ball"], level=200)
    elif what == "codec":
        from ovi_lab.codecs import LatentCodec

        codec = LatentCodec.load(run.codec)
        codec.fitted_on = {"other": "clips"}
        codec.save(run.codec)
        told = "set of encoders"
    elif what == "dtype":
        arguments, told = ["--dtype", "bf16"], "--dtype"
    elif what == "fewer":
        shard.unlink()
        expected, told = expected[:2], "these clips make 1 shards"
    else:
        names = [run.folder / f"m-00{n}.tar" for n in (0, 1, 9)]
        for old, new in ((0, 2), (1, 0), (2, 1)):
            names[old].rename(names[new])
        expected = [expected[2], *expected[:2]]
    if what in ("caption", "clip"):
        assert shard.stat().st_size == size
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    before = {path.name: path.read_bytes() for path in run.folder.glob("l-*")}
    code, printed = run(*arguments)
    assert code == 2
    assert OTHER in printed
    assert told in printed
    assert {path.name: path.read_bytes() for path in run.folder.glob("l-*")} == before
    code, printed = run(*arguments, "--overwrite")
    assert code == 0
    assert "replaced" in printed
    assert run.captions() == expected
    assert "0 made" in run(*arguments)[1]


def test_what_is_in_the_tar_counts_and_not_the_index_beside_it(run: Run) -> None:
    """A tar of other clips is not taken for the right one, whether its index is lost or another's."""
    right, other = run.folder / "l-000.tar", run.folder / "l-001.tar"
    index = index_path(right).read_bytes()
    shutil.copy(other, right)
    index_path(right).unlink()
    assert OTHER in run()[1]
    content = json.loads(index) | {"size": right.stat().st_size}
    samples = json.loads(index_path(other).read_text())["samples"]
    index_path(right).write_text(json.dumps(content | {"samples": samples}))
    assert OTHER in run()[1]
    right.write_bytes(right.read_bytes()[:3000])
    assert "it is damaged" in run()[1]


def test_clips_that_were_skipped_are_told_again(run: Run) -> None:
    frames = torch.zeros(32, 16, 16, 3, dtype=torch.uint8)
    good = array_members("x", {}, frames, FPS, torch.zeros(16200), 8000)
    bad = {"json": b'{"caption": "x"}', "mp4": b"no video"}
    write_shard(run.folder / "m-001.tar", {"bad": bad, "good": good})
    assert run("--overwrite")[0] == 0
    code, printed = run()
    assert (code, "0 made, 2 were there" in printed, "bad: its video" in printed) == (0, True, True)
    code, printed = run("--on-error", "raise")
    assert (code, "m-001.tar: bad: its video" in printed) == (2, True)


def test_a_corrected_caption_of_a_folder_of_sounds(
    tmp_path: Path, world_folder: Path, ovi_data: Callable[..., str]
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()

    def write(level: int, caption: str) -> None:
        write_wav(folder / "1.wav", np.full(16200, 256 + level), 8000)
        (folder / "1.txt").write_text(caption)

    def latents(*arguments: str, code: int = 0) -> str:
        command = ["latents", folder, "--audio-only", "--codec", world_folder / "codec.safetensors"]
        return ovi_data(*command, "--out", tmp_path / "l", *arguments, code=code)

    write(1, "old caption")
    assert "1 made" in latents()
    assert "1 were there" in latents()
    for level, caption in ((1, "new caption"), (2, "old caption")):
        write(level, caption)
        assert OTHER in latents(code=2)
    latents("--overwrite")
    assert "1 were there" in latents()


def test_pack_replaces_its_own_shards_only(tmp_path: Path) -> None:
    for name in ("a-000.tar", "a-0001.tar", "a-b-000.tar", "a-x.tar", "a-000.index.json", "[a]-000.tar"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in numbered_shards(tmp_path / "a")] == ["a-000.tar", "a-0001.tar"]
    assert [path.name for path in numbered_shards(tmp_path / "[a]")] == ["[a]-000.tar"]
