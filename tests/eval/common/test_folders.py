"""A folder's files by kind, and everything else accounted for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ovi_eval.common.folders import files_of
from ovi_eval.errors import UserError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(folder: Path, *suffixes: str) -> list[str]:
    found = files_of(folder, suffixes or (".mp4",))
    return [file.relative_to(folder).as_posix() for file in found.files]


def test_files_are_found_in_any_depth_and_case_sorted_part_by_part(tmp_path: Path) -> None:
    touch(tmp_path / "b.MP4", tmp_path / "a-c/x.mp4", tmp_path / "a/y.mp4", tmp_path / "a/z/1.wav")
    assert names(tmp_path) == ["a/y.mp4", "a-c/x.mp4", "b.MP4"]
    assert names(tmp_path, ".wav", ".MP4") == ["a/y.mp4", "a/z/1.wav", "a-c/x.mp4", "b.MP4"]
    assert files_of(tmp_path, (".mp4", ".wav")).summary() == ""


def test_what_is_not_used_is_counted_by_extension(tmp_path: Path) -> None:
    touch(
        tmp_path / "a.mp4", tmp_path / "a.txt", tmp_path / "b.TXT", tmp_path / "c.json", tmp_path / "LICENSE"
    )
    found = files_of(tmp_path, (".mp4",))
    assert found.summary() == "4 files ignored (2 .txt, 1 without extension, 1 .json)"
    assert found.summary(used=[tmp_path / "a.txt", tmp_path / "b.TXT", tmp_path / "c.json"]) == (
        "1 file ignored (1 without extension)"
    )
    assert found.unusable == ()


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / ".a.mp4", tmp_path / ".git/b.mp4", tmp_path / "c.mp4", tmp_path / "__MACOSX/._c.mp4")
    assert names(tmp_path) == ["c.mp4"]
    assert files_of(tmp_path, (".mp4",)).summary() == "3 hidden: .a.mp4, .git, __MACOSX/._c.mp4"
    touch(tmp_path / ".git/b.mp4")
    assert names(tmp_path / ".git") == ["b.mp4"]  # who names it means it


def test_links_to_files_are_followed_and_broken_ones_named(tmp_path: Path) -> None:
    touch(tmp_path / "set/a.mp4", tmp_path / "elsewhere/clip")
    (tmp_path / "set/b.mp4").symlink_to(tmp_path / "elsewhere/clip")
    (tmp_path / "set/c.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "set/d.mp4").symlink_to("d.mp4")
    (tmp_path / "set/e.mp4").symlink_to("a.mp4/under-a-file")
    (tmp_path / "set/notes").symlink_to("nowhere")
    found = files_of(tmp_path / "set", (".mp4",))
    assert names(tmp_path / "set") == ["a.mp4", "b.mp4"]
    assert [(lost.path, lost.reason) for lost in found.unusable] == [
        (name, "is a broken link") for name in ("c.mp4", "d.mp4", "e.mp4")
    ]
    assert found.summary() == "4 broken links: c.mp4, d.mp4, e.mp4 and 1 more"


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "set/one/a.mp4", tmp_path / "two/b.mp4", tmp_path / "two/in/c.mp4")
    (tmp_path / "set/two").symlink_to(tmp_path / "two")
    assert names(tmp_path / "set") == ["one/a.mp4", "two/b.mp4", "two/in/c.mp4"]
    assert files_of(tmp_path / "set", (".mp4",)).summary() == ""
    # a second way to a folder, whatever its name: the real folder is read, then the first link
    (tmp_path / "set/a-second").symlink_to(tmp_path / "set/one")
    (tmp_path / "set/z-second").symlink_to(tmp_path / "two")
    (tmp_path / "set/z-inner").symlink_to(tmp_path / "two/in")
    found = files_of(tmp_path / "set", (".mp4",))
    assert names(tmp_path / "set") == ["one/a.mp4", "two/b.mp4", "two/in/c.mp4"]
    assert found.summary() == "3 links to folders that are read already: a-second, z-inner, z-second"


def test_loops_end_and_nothing_above_the_folder_is_read(tmp_path: Path) -> None:
    touch(tmp_path / "set/one/a.mp4", tmp_path / "private/p.mp4", tmp_path / "other/o.mp4")
    (tmp_path / "set/up").symlink_to(tmp_path)
    (tmp_path / "set/all").symlink_to("/")
    (tmp_path / "set/one/self").symlink_to(".")
    (tmp_path / "set/other").symlink_to(tmp_path / "other")
    (tmp_path / "other/back").symlink_to(tmp_path / "set")
    found = files_of(tmp_path / "set", (".mp4",))
    assert names(tmp_path / "set") == ["one/a.mp4", "other/o.mp4"]
    assert [entry.path for entry in found.left_out] == ["all", "one/self", "other/back", "up"]
    # read through a link itself
    (tmp_path / "way").symlink_to(tmp_path / "set")
    assert names(tmp_path / "way") == ["one/a.mp4", "other/o.mp4"]


def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("c.mp4")
    touch(tmp_path / "d.mp4")
    found = files_of(tmp_path, (".mp4",))
    assert names(tmp_path) == ["d.mp4"]
    assert found.summary() == "3 pipes, sockets or devices: a.mp4, b.mp4, c.mp4"


def test_names_that_are_not_utf8_are_told_as_text(tmp_path: Path) -> None:
    touch(*(tmp_path / os.fsdecode(name) for name in (b"caf\xe9.mp4", b"d\xff/b.mp4", b"good.mp4")))
    found = files_of(tmp_path, (".mp4",))
    assert names(tmp_path) == ["good.mp4"]
    assert [lost.path for lost in found.unusable] == ["caf\\udce9.mp4", "d\\udcff/b.mp4"]
    assert found.summary().encode() == b"2 names that are not UTF-8: caf\\udce9.mp4, d\\udcff/b.mp4"


def test_unreadable_files_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "shut/c.mp4", tmp_path / "s.txt")
    scandir, access = os.scandir, os.access

    def refused(path: Path) -> os.ScandirIterator:  # the one who runs tests may read everything
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "a.mp4" and access(path, mode))
    found = files_of(tmp_path, (".mp4",))
    assert [file.name for file in found.files] == ["b.mp4"]
    assert found.summary(found.other_files) == "1 unreadable file: a.mp4, 1 unreadable folder: shut"
    assert [(lost.path, lost.reason) for lost in found.unusable] == [
        ("a.mp4", "cannot be read (permission denied)")
    ]
    with pytest.raises(UserError, match="cannot be read"):
        files_of(tmp_path / "shut", (".mp4",))
    for wrong in ("gone", "b.mp4"):
        with pytest.raises(UserError):
            files_of(tmp_path / wrong, (".mp4",))
