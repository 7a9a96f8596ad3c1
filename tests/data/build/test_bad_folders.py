"""Folders that are no good: links, names of all kinds, files that vanish, a disk that is full."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.forks import Fork, run_module
from helpers.small_videos import RECIPE, digests, moving, write
from ovi_lab.data.build import build as building
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.recipe import read_recipe
from ovi_lab.data.cli import main
from ovi_lab.data.index import read_index
from ovi_lab.data.shards import numbered_shards

QUIET = BuildOptions(quiet=True)
ANY = read_recipe("any", {**RECIPE, "keep": {}, "duplicates": {}, "steps": []})


def sources(out: Path) -> list[str]:
    return [json.loads(line)["source"] for line in (out / "clips.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_links_are_followed_once_and_loops_are_not(tmp_path: Path) -> None:
    real, videos = tmp_path / "elsewhere", tmp_path / "videos"
    write(real / "in" / "a.mp4", moving(1))
    write(videos / "b.mp4", moving(2))
    (videos / "again").symlink_to(real / "in")
    (videos / "twice").symlink_to(real / "in")
    (videos / "loop").symlink_to(videos)
    (videos / "file.mp4").symlink_to(real / "in" / "a.mp4")
    (videos / "broken.mp4").symlink_to(tmp_path / "nowhere")
    (videos / "self.mp4").symlink_to(videos / "self.mp4")
    built, _ = build(videos, tmp_path / "out", ANY, QUIET)
    assert sources(tmp_path / "out") == ["again/a.mp4", "b.mp4", "file.mp4"]
    assert set(built.failed) == {"broken.mp4", "self.mp4"}
    failed = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]["failed"]
    assert all("\n" not in reason for reason in failed.values())


@pytest.mark.slow
def test_files_that_are_no_videos_are_rows(tmp_path: Path) -> None:
    """Named as videos all the same: nothing is waited for, nothing that a file names is opened, the rest is built."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    good = write(videos / "good.mp4", moving(1))
    secret = write(tmp_path / "secret.mp4", moving(2))
    others = {
        "empty.mp4": b"",
        "text.mp4": b"a caption\n",
        "page.webm": b"<!doctype html><title>404</title>",
        "list.mp4": f"#EXTM3U\n#EXTINF:1,\n{secret}\n".encode(),
        "concat.mkv": f"ffconcat version 1.0\nfile {secret}\n".encode(),
        "picture.mp4": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "zeros.mov": bytes(4096),
        "head.mp4": good.read_bytes()[:100],
    }
    for name, data in others.items():
        (videos / name).write_bytes(data)
    (videos / "folder.mp4").mkdir()
    os.mkfifo(videos / "pipe.mp4")
    os.mkfifo(videos / "good.txt")
    (videos / os.fsdecode(b"caf\xe9.mp4")).write_bytes(good.read_bytes())
    build(videos, out, ANY, QUIET)
    assert sources(out) == ["good.mp4"]
    failed = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["sources"]["failed"]
    assert failed.keys() >= {*others, "pipe.mp4"}
    assert any("caf" in name for name in failed)
    assert all(reason and "\n" not in reason and str(tmp_path) not in reason for reason in failed.values())
    assert main(["check", str(out)]) == 0
    assert main(["report", str(out)]) == 0


@pytest.mark.slow
def test_names_of_every_kind_are_built_and_stay_within_the_shard(tmp_path: Path) -> None:
    names = [
        "-rf.mp4",
        "a\nb.mp4",
        "ü漢字.mp4",
        "..mp4",
        "quo\"te'.mp4",
        "a b.mp4",
        "a_b.mp4",
        "%s{0}.mp4",
        "x" * 200 + ".mp4",
    ]
    first = write(tmp_path / "one.mp4", moving(3))
    (tmp_path / "videos").mkdir()
    for name in names:
        (tmp_path / "videos" / name).write_bytes(first.read_bytes())
    built, _ = build(tmp_path / "videos", tmp_path / "out", ANY, QUIET)
    kept = [name for name in names if name != "..mp4"]  # hidden, as files that begin with a dot are
    assert sorted(sources(tmp_path / "out")) == sorted(kept)
    keys = [entry.key for shard in built.shards for entry in read_index(shard).entries]
    assert len(set(keys)) == len(kept)
    for key in keys:
        assert not key.startswith(("/", "-rf.")), key
        assert ".." not in key.split("/")
        assert "\n" not in key
    assert all(line.count("  ") >= 1 for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines())


@pytest.mark.slow
def test_a_folder_that_vanishes_is_rows_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the files were listed and before they are read; the next build has them again."""
    for name in ("a/1.mp4", "b/2.mp4"):
        write(tmp_path / "videos" / name, moving(4))
    real = building.run_here

    def gone(*arguments: Any) -> Any:
        (tmp_path / "videos" / "a").rename(tmp_path / "away")
        return real(*arguments)

    monkeypatch.setattr(building, "run_here", gone)
    built, _ = build(tmp_path / "videos", tmp_path / "out", ANY, QUIET)
    assert sources(tmp_path / "out") == ["b/2.mp4"]
    assert list(built.failed) == ["a/1.mp4"]
    monkeypatch.undo()
    (tmp_path / "away").rename(tmp_path / "videos" / "a")
    built, _ = build(tmp_path / "videos", tmp_path / "out", ANY, QUIET)
    assert sources(tmp_path / "out") == ["a/1.mp4", "b/2.mp4"]
    assert not built.failed


def limited(size: int, *arguments: str) -> None:
    """`ovi-data` where no file may grow beyond `size` bytes, as on a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    run_module("ovi_lab.data.cli", arguments)


@pytest.mark.slow
def test_a_full_disk_leaves_a_build_as_it_was(tmp_path: Path) -> None:
    """While its captions are joined or exported, and while its page is written."""
    for n in range(3):
        write(tmp_path / "videos" / f"{n}.mp4", moving(n))
    out, todo = tmp_path / "out", tmp_path / "todo"
    build(tmp_path / "videos", out, ANY, QUIET)
    table, before = tmp_path / "captions.csv", digests(out)
    table.write_text(f"id,caption\n0-000,{'Colours wander. ' * 100}\n")
    for size, words in (
        (1000, ("captions", str(out), "--join", str(table))),
        (20_000, ("captions", str(out), "--join", str(table))),
        (1000, ("captions", str(out), "--export", str(todo))),
        (20_000, ("report", str(out))),
    ):
        fork = Fork(limited, size, *words)
        assert fork.wait() == 2, fork.output
        lines = [line for line in fork.output.splitlines() if line.startswith("ovi-data: ")]
        assert len(lines) == 1, fork.output
        assert "Traceback" not in fork.output
        assert digests(out) == before
        assert not (todo / "clips.jsonl").exists()
        assert not list(out.glob(".shards*"))
    again = Fork(run_module, "ovi_lab.data.cli", ["captions", str(out), "--join", str(table)])
    assert again.wait() == 0, again.output
    assert "Colours wander." in (out / "clips.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 12_000, 30_000])
def test_a_full_disk_is_one_line_and_leaves_no_shard(size: int, tmp_path: Path) -> None:
    """While a clip is encoded, while it is stored, and while shards are written."""
    for n in range(3):
        write(tmp_path / "videos" / f"{n}.mp4", moving(n))
    plain = {**RECIPE, "keep": {}, "duplicates": {}, "steps": []}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(plain))
    arguments = [
        "build",
        str(tmp_path / "videos"),
        str(tmp_path / "out"),
        "--recipe",
        str(tmp_path / "mine.yaml"),
    ]
    fork = Fork(limited, size, *arguments)
    assert fork.wait() == 2, fork.output
    lines = [line for line in fork.output.splitlines() if line.startswith("ovi-data: ")]
    assert len(lines) == 1, fork.output
    assert "Traceback" not in fork.output
    assert any(word in lines[0] for word in ("File too large", "cannot be written"))
    assert not numbered_shards(tmp_path / "out" / "train")
    assert not (tmp_path / "out" / "manifest.json").exists()
    again = Fork(run_module, "ovi_lab.data.cli", arguments)
    assert again.wait() == 0, again.output
    assert len(sources(tmp_path / "out")) == 3
