"""Listing of a folder's files by kind, in a stable order, with all other entries reported.

Hidden names are left out. Links to files are followed. Linked folders are followed once: real folders are read
before links to them, so a loop and a second way to a folder are found by its device and inode, and a link to a
folder that holds the one being read is never followed. Only regular files are listed for use:
pipes, sockets and devices are left out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError


class Fault(Enum):
    """Why an entry is left out: the words of a summary for one such entry and for several."""

    HIDDEN = "hidden", "hidden"
    BROKEN = "broken link", "broken links"
    UNREADABLE = "unreadable file", "unreadable files"
    UNREADABLE_FOLDER = "unreadable folder", "unreadable folders"
    SPECIAL = "pipe, socket or device", "pipes, sockets or devices"
    NOT_UTF8 = "name that is not UTF-8", "names that are not UTF-8"
    AGAIN = "link to a folder that is read already", "links to folders that are read already"


_NAMED = 3


@dataclass(frozen=True)
class LeftOut:
    """An entry of a folder that cannot be used."""

    path: str
    """Relative to the folder, with forward slashes; bytes that are no UTF-8 as `\\udce9`."""
    fault: Fault
    reason: str
    """The reason in words, for a report that names the file."""
    requested: bool
    """Whether its extension is one of the requested ones."""


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder and the folders below it."""

    files: tuple[Path, ...]
    """Regular, readable files of the requested kinds, sorted by their relative path, part by part."""
    other_files: tuple[Path, ...]
    """Regular, readable files of other kinds, sorted in the same way."""
    left_out: tuple[LeftOut, ...]
    """All other entries, sorted in the same way."""

    @property
    def unusable(self) -> tuple[LeftOut, ...]:
        """Unusable files of the requested kinds, which a report names one by one."""
        return tuple(entry for entry in self.left_out if entry.requested)

    def summary(self, used: Iterable[Path] = ()) -> str:
        """A summary of unused files, in one line: "3 files ignored (2 .txt, 1 .json), 1 broken link: c.mp4"; or "".

        `used`: those of `other_files` that the caller does use.
        """
        kept = set(used)
        ignored = Counter(
            file.suffix.lower() or "without extension" for file in self.other_files if file not in kept
        )
        parts = []
        if count := ignored.total():
            kinds = ", ".join(f"{number} {shown(kind, 20)}" for kind, number in ignored.most_common(6))
            more = ", …" if len(ignored) > 6 else ""
            parts.append(f"{count} {'file' if count == 1 else 'files'} ignored ({kinds}{more})")
        for fault in Fault:
            paths = [entry.path for entry in self.left_out if entry.fault == fault]
            if paths:
                names = ", ".join(shown(path, 80) for path in paths[:_NAMED])
                more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
                parts.append(f"{len(paths)} {fault.value[len(paths) > 1]}: {names}{more}")
        return ", ".join(parts)


def files_of(folder: str | Path, suffixes: Collection[str]) -> FolderFiles:
    """The files of a folder, in any depth, whose extension is one of `suffixes` (".mp4", in any case).

    Raises UserError where the folder itself is missing, is none, or cannot be read.
    """
    root = Path(folder)
    try:
        with os.scandir(root):
            pass
        top = root.stat()
    except NotADirectoryError:
        raise UserError(f"{shown(root)}: is no folder") from None
    except OSError as error:
        raise UserError(f"{shown(root)}: cannot be read ({error.strerror or error})") from error
    walk = _FolderWalk(root, frozenset(suffix.lower() for suffix in suffixes))
    walk.seen.add((top.st_dev, top.st_ino))
    walk.read("")
    while walk.links:  # those of a linked folder come after those before it, in the order of their paths
        batch, walk.links = sorted(walk.links, key=_order), []
        for relative in batch:
            walk.follow(relative)
    return FolderFiles(
        tuple(root / path for path in sorted(walk.files, key=_order)),
        tuple(root / path for path in sorted(walk.other_files, key=_order)),
        tuple(sorted(walk.left_out, key=lambda entry: _order(entry.path))),
    )


class _FolderWalk:
    """The state of one walk through a folder; paths are relative, with forward slashes."""

    def __init__(self, root: Path, suffixes: frozenset[str]) -> None:
        self.root, self.suffixes = root, suffixes
        self.seen: set[tuple[int, int]] = set()
        self.files: list[str] = []
        self.other_files: list[str] = []
        self.links: list[str] = []
        self.left_out: list[LeftOut] = []

    def read(self, folder: str) -> None:
        """Reads the folder and the real folders in it; links to folders are deferred."""
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            try:
                with os.scandir(self.root / current) as entries:
                    names = [(entry.name, entry.is_symlink()) for entry in entries]
            except OSError as error:
                self._leave(current, Fault.UNREADABLE_FOLDER, _words(error), file=False)
                continue
            for name, is_link in names:
                path = f"{current}/{name}" if current else name
                if name.startswith("."):
                    self._leave(path, Fault.HIDDEN, "its name begins with a dot", file=False)
                    continue
                try:
                    status = (self.root / path).stat()
                except OSError as error:
                    missing = is_link and error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
                    reason = "is a broken link" if missing else _words(error)
                    self._leave(path, Fault.BROKEN if missing else Fault.UNREADABLE, reason)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if is_link:
                        self.links.append(path)
                    elif self._first(status):
                        waiting.append(path)
                    else:  # such as a mount of a folder that is read already
                        self._leave(path, Fault.AGAIN, "is read already under another name", file=False)
                else:
                    self._file(path, status)

    def follow(self, link: str) -> None:
        """Reads the folder behind a link, unless it was read or holds the root."""
        try:
            status = (self.root / link).stat()
            target = (self.root / link).resolve()
        except (OSError, RuntimeError) as error:
            self._leave(link, Fault.BROKEN, f"is a broken link ({error})", file=False)
            return
        if self.root.resolve().is_relative_to(target) or not self._first(status):
            self._leave(
                link, Fault.AGAIN, "links to a folder that is read already, or that holds it", file=False
            )
            return
        self.read(link)

    def _first(self, status: os.stat_result) -> bool:
        key = (status.st_dev, status.st_ino)
        if key in self.seen:
            return False
        self.seen.add(key)
        return True

    def _file(self, path: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            self._leave(path, Fault.SPECIAL, "is a pipe, a socket or a device, no file")
        elif _writable(path) != path:
            self._leave(path, Fault.NOT_UTF8, "its name is not UTF-8; rename it")
        elif not os.access(self.root / path, os.R_OK):
            self._leave(path, Fault.UNREADABLE, "cannot be read (permission denied)")
        else:
            (self.files if self._requested(path) else self.other_files).append(path)

    def _leave(self, path: str, fault: Fault, reason: str, file: bool = True) -> None:
        self.left_out.append(LeftOut(_writable(path), fault, reason, file and self._requested(path)))

    def _requested(self, path: str) -> bool:
        return Path(path).suffix.lower() in self.suffixes


def _words(error: OSError) -> str:
    return f"cannot be read ({(error.strerror or str(error)).lower()})"


def _writable(path: str) -> str:
    """The path as text that UTF-8 can hold."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _order(path: str) -> list[str]:
    return path.split("/")
