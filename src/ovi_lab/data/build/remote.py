"""Videos on a store, and shards to one: what `ovi-data build` reads from and writes to `s3://`, `gs://`, `hf://`, `http://`.

A video is copied to this machine for the time that it is worked on. Shards are built in a folder of this machine and
copied from there; `manifest.json` and `SHA256SUMS` go last, and those of an earlier build are removed first, so that
they are there for whole builds alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ovi_eval.common.files import file_sha256, write_whole
from ovi_eval.common.plain_data import read_json
from ovi_eval.common.shown import shown
from ovi_lab.common.progress import progress
from ovi_lab.data.build.assemble import MANIFEST, SPLITS, SUMS, turn
from ovi_lab.data.build.items import SourceFile
from ovi_lab.data.index import index_path, unsafe_name
from ovi_lab.data.stores import RemoteShard, below, files_below, is_remote, put, read_object, remove
from ovi_lab.errors import UserError

MAX_CAPTION = 2**20
"""Bytes of a text beside a video."""
UPLOADED = "uploaded.json"
"""File of the work folder: what lies where, by sha256, so that a copy that was stopped goes on."""


@dataclass
class Listed:
    """Files to build from.

    `files`: in the order of their names, without keys; `unusable`: names with why; `texts`: on a store, what may be
    captions, by name with its size.
    """

    files: list[SourceFile]
    unusable: dict[str, str]
    texts: dict[str, tuple[RemoteShard, int]] = field(default_factory=dict)


def listed_remotely(folder: RemoteShard, kinds: Collection[str]) -> Listed:
    """The videos below an address.

    Raises:
        UserError: the store cannot be reached, lists no folders, or has no such file there.
    """
    listed = Listed([], {})
    there = files_below(folder)
    for name in sorted(there, key=lambda name: PurePosixPath(name).parts):
        shard, stamp = there[name]
        suffix = PurePosixPath(name).suffix.lower()
        if any(part.startswith(".") and part != ".." for part in PurePosixPath(name).parts):
            continue  # hidden, as in a folder
        if suffix not in kinds and suffix != ".txt":
            continue
        if why := unsafe_name(name):
            listed.unusable[name] = f"it has {why.replace('member ', '')}"
        elif suffix == ".txt":
            listed.texts[name] = (shard, stamp[0])
        else:
            listed.files.append(SourceFile(Path(name), name, "", remote=shard.url, stamped=stamp))
    if not listed.files:
        raise UserError(f"no {', '.join(sorted(kinds))} file is below {shown(folder)}")
    return listed


def copy_texts(texts: Mapping[str, tuple[RemoteShard, int]], folder: Path) -> None:
    """Copy what may be captions of a store's videos into a folder, by name. Raises as `stores.retried`."""
    folder.mkdir()
    for name, (shard, size) in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((read_object(shard, MAX_CAPTION) if size else b"") or b"")


def work_folder(shards: str, work: Path | None) -> tuple[Path, RemoteShard | None]:
    """The folder of this machine in which shards are built, and the address that they go to from there, if they do.

    Raises UserError for an address without a folder, and a folder (`--work`) without an address.
    """
    if is_remote(shards):
        if work is None:
            raise UserError(
                f"{shown(shards)} needs --work DIR, a folder of this machine where the shards are built first"
            )
        return work, RemoteShard(shards)
    if work is not None:
        raise UserError("--work is for shards that go to an address; SHARDS is a folder here")
    return Path(shards), None


def refuse_other(address: RemoteShard, work: Path) -> None:
    """Raises UserError where shards are at an address that were not copied there from this work folder."""
    if not _record(work / UPLOADED, str(address)) and MANIFEST in files_below(address):
        raise UserError(
            f"{shown(address)} holds a build that was not copied there from {shown(work.parent)}; name the --work "
            "folder of that build"
        )


def upload(
    out: Path,
    work: Path,
    address: RemoteShard,
    quiet: bool = False,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Copy a finished build to a store, and remove there what is of an earlier one. Returns how many files were copied.

    Files that lie there already, by the record of an earlier copy and by their sizes, are not copied again.

    Raises:
        UserError: the store refuses or does not answer; the same command goes on. What `check` raises, which is called
            before each file is written.
    """
    lines = [line.split("  ", 1) for line in (out / SUMS).read_text().splitlines()]
    sums = {name: sha for sha, name in lines}
    sums[SUMS] = file_sha256(out / SUMS)
    there = files_below(address)
    record = work / UPLOADED
    before = _record(record, str(address))
    lies = {
        name
        for name, (_, (size, _)) in there.items()
        if name in sums and before.get(name) == sums[name] and (out / name).stat().st_size == size
    }
    for shard in [name for name in sums if name.endswith(".tar") and name not in lies]:
        lies.discard(index_path(Path(shard)).name)
    stale = _stale(there, sums)
    if lies == sums.keys() and not stale:
        return 0
    lies -= {MANIFEST, SUMS}
    order = sorted(sums.keys() - lies, key=turn)
    check()
    # an index lies beside its own shard alone, manifest and sums beside a whole build
    for name in [*stale, *(name for name in order if not name.endswith(".tar"))]:
        remove(below(address, name))
    done = {name: sums[name] for name in lies}
    for name in progress(order, "copying", len(order), not quiet):
        check()
        put(out / name, below(address, name))
        done[name] = sums[name]
        write_whole(record, json.dumps({"address": str(address), "files": done}))
    return len(order)


def _stale(there: Collection[str], sums: Collection[str]) -> list[str]:
    """Shards of an earlier build that this one does not have, and their indexes."""
    numbered = re.compile(rf"(?:{'|'.join(SPLITS)})-\d{{5,}}\.(?:tar|index\.json)")
    return [name for name in there if name not in sums and numbered.fullmatch(name)]


def _record(path: Path, address: str) -> dict[str, str]:
    try:
        plain = read_json(path)
        return dict(plain["files"]) if plain["address"].rstrip("/") == address.rstrip("/") else {}
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}
