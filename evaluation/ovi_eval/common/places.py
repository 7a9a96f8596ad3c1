"""Paths: whether they are inside a folder, and which part of them may be published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar, cast

T = TypeVar("T")

# An absolute path of two parts or more: of Unix, of Windows with its drive, or of a share. URLs are left alone.
_PLACE = re.compile(
    r"""(?<![\w.:/~-])(?:file://)?~?/(?:[^\s/:;,'"()<>|]+/)+(?P<unix>[^\s/:;,'"()<>|]*)
      |(?<!\w)[A-Za-z]:[\\/](?:[^\s\\/:;,'"()<>|]+[\\/])*(?P<drive>[^\s\\/:;,'"()<>|]*)
      |(?<![\w\\])\\\\(?:[^\s\\:;,'"()<>|]+\\)+(?P<share>[^\s\\:;,'"()<>|]*)""",
    re.VERBOSE,
)

_WHO = {"host", "hostname", "node", "nodename", "fqdn", "machinename", "ip", "user", "username"}


def inside(folder: Path, path: Path) -> Path | None:
    """`path` with its links resolved; None where it does not exist or is outside of `folder`."""
    try:
        real = path.resolve(strict=True)
        return real if real.is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that no file system takes
        return None


def stays_inside(name: str) -> bool:
    """Whether a name from a file is a relative path without `..`, on any system."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    rooted = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    return bool(name) and not rooted and ".." not in parts and "\0" not in name


def shareable_path(path: str | Path, beside: str | Path) -> str:
    """The recorded form of a path: relative to `beside` where it is inside, else its last part."""
    real = Path(path).resolve()
    try:
        return real.relative_to(Path(beside).resolve()).as_posix()
    except ValueError:
        return real.name


def without_places(data: T) -> T:
    """Text, or plain data that holds text, with every absolute path cut to its last part.

    Messages of libraries name files in full, and results are published: folders and user names in paths are
    private.
    """
    found: Any = data
    if isinstance(data, str):
        found = _PLACE.sub(lambda place: next((part for part in place.groups() if part), "…"), data)
    elif isinstance(data, Mapping):
        found = {without_places(key): without_places(value) for key, value in data.items()}
    elif isinstance(data, list | tuple):
        found = type(data)(without_places(value) for value in data)
    return cast(T, found)


def without_hosts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without the names of the machine and the user, at any depth."""
    return {
        key: without_hosts(value) if isinstance(value, Mapping) else value
        for key, value in facts.items()
        if str(key).lower().replace("_", "") not in _WHO
    }
