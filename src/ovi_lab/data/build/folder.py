"""A folder that `ovi-data build` made, here or on a store: its files may have been changed since."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovi_eval.common.plain_data import parse_json, read_json
from ovi_eval.common.shown import shown
from ovi_lab.data.build.assemble import CLIPS, FORMAT, MANIFEST, SPLITS, SUMS
from ovi_lab.data.build.items import PLACE, WORK
from ovi_lab.data.build.recipe import Recipe, read_recipe
from ovi_lab.data.index import no_space
from ovi_lab.data.shard_files import Shard
from ovi_lab.data.shards import numbered
from ovi_lab.data.stores import RemoteShard, fetch, files_below, is_remote
from ovi_lab.errors import UserError

MAX_MANIFEST = 2**30
"""Bytes: a manifest names every unusable file."""
_PARTS: dict[str, type] = {
    "recipe": dict, "steps": dict, "sources": dict, "clips": dict, "captions": dict, "not_applied": list,
    "shards": list,
}  # fmt: skip
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "key": str, "source": str, "start_s": (int, float), "split": str, "kept": bool, "scores": dict, "facts": dict,
}  # fmt: skip


@dataclass(frozen=True)
class BuiltFolder:
    """A folder of shards with its manifest.

    `path`: the folder or, of one on a store, where copies of its small files are; `files`: every file directly in it.
    """

    path: Path
    manifest: dict[str, Any]
    recipe: Recipe
    files: Mapping[str, Shard]
    address: RemoteShard | None = None

    @classmethod
    def open(cls, path: Path) -> BuiltFolder:
        """Raises UserError where there is no finished build in it."""
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise UserError(f"{shown(path)} {what}; name a folder that ovi-data build made")
        if not (path / MANIFEST).is_file() and (path / WORK).is_dir():
            raise UserError(f"the build in {shown(path)} is not finished; run its ovi-data build again")
        files = {file.name: file for file in path.iterdir() if file.is_file()}
        return cls._read(path, files)

    @classmethod
    def _read(cls, path: Path, files: Mapping[str, Shard], address: RemoteShard | None = None) -> BuiltFolder:
        where = shown(address or path)
        if MANIFEST not in files:
            raise UserError(f"{where} has no {MANIFEST}; name a folder that ovi-data build made")
        name = f"{where.rstrip('/')}/{MANIFEST}"
        manifest = read_json(path / MANIFEST, max_bytes=MAX_MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(f"{name} is no manifest of this version ({FORMAT}); build again")
        for part, form in _PARTS.items():
            if not isinstance(manifest.get(part), form):
                raise UserError(f"{name} has no {part} as a build writes it; build again")
        if not all(
            isinstance(step, dict) and isinstance(step.get("weights"), dict)
            for step in manifest["steps"].values()
        ):
            raise UserError(f"{name} has no steps as a build writes them; build again")
        plain = manifest["recipe"]
        own = {key: value for key, value in plain.items() if key not in ("name", "given")}
        recipe = read_recipe(str(plain.get("name")), own, [str(name) for name in plain.get("given") or ()])
        return cls(path, manifest, recipe, files, address)

    @property
    def where(self) -> str:
        """The folder or its address, for messages."""
        return shown(self.address or self.path)

    @property
    def title(self) -> str:
        """The folder's own name."""
        return (
            self.path.resolve().name
            if self.address is None
            else str(self.address).rstrip("/").rpartition("/")[2]
        )

    def local(self, name: str) -> Path:
        """A file that is in it: itself, or a copy. Raises as `stores.fetch`."""
        place, file = self.path / name, self.files[name]
        if isinstance(file, RemoteShard) and not place.is_file():
            with no_space(place):
                fetch(file, place)
        return place

    def own_shards(self) -> list[str]:
        """The names of its shards of training and validation, those of other builds among them."""
        return [name for split in SPLITS for name in numbered(self.files, split)]

    @property
    def work(self) -> Path:
        """Where the media of clips are that were within the bounds."""
        return self.path / WORK

    @property
    def shards(self) -> list[dict[str, Any]]:
        """What the manifest says of each shard."""
        return [shard for shard in self.manifest["shards"] if isinstance(shard, dict)]

    def sources(self) -> Path | RemoteShard | None:
        """Where the videos were when they were last built from; None where that is not known, or they are gone."""
        with suppress(UserError, KeyError, TypeError):
            place = str(read_json(self.work / PLACE)["folder"])
            if is_remote(place):
                return RemoteShard(place)
            return Path(place) if Path(place).is_dir() else None
        return None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The lines of clips.jsonl. Raises UserError naming the first that is none."""
        if CLIPS not in self.files:
            raise UserError(f"{self.where}: {CLIPS} is missing; build again")
        path = self.local(CLIPS)
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                name = f"{path.name}, line {number}"
                row = parse_json(line, name)
                if not isinstance(row, dict):
                    raise UserError(f"{name}: is no clip")
                for field, kind in _NEEDED.items():
                    if not isinstance(row.get(field), kind):
                        raise UserError(f"{name}: has no {field} as a build writes it")
                if not isinstance(row.get("shard"), str | None) or not isinstance(
                    row.get("dropped_by", []), list
                ):
                    raise UserError(f"{name}: has no shard or dropped_by as a build writes them")
                yield row


@contextmanager
def opened_folder(place: str | Path) -> Iterator[BuiltFolder]:
    """A finished build in a folder or at an address, whose small files are copied until the block ends.

    Raises UserError where there is none; as `stores.files_below` of an address.
    """
    if not is_remote(str(place)):
        yield BuiltFolder.open(Path(place))
        return
    address = RemoteShard(str(place))
    with tempfile.TemporaryDirectory() as copies:
        yield _open_copied(address, files_at(address), Path(copies))


def files_at(address: RemoteShard) -> dict[str, RemoteShard]:
    """The files directly below an address, by name. Raises as `stores.files_below`."""
    return {name: shard for name, (shard, _) in files_below(address).items() if "/" not in name}


def _open_copied(address: RemoteShard, files: Mapping[str, RemoteShard], copies: Path) -> BuiltFolder:
    """The build at an address, of which `files` lists the files; its small ones are copied into a folder."""
    for name in {MANIFEST, CLIPS, SUMS} & files.keys():
        with no_space(copies):
            fetch(files[name], copies / name)
    return BuiltFolder._read(copies, files, address)
