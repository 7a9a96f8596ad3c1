"""A folder that `ovi-data build` made, read as what it is: files that may have been changed since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovi_eval.common.plain_data import parse_json, read_json
from ovi_eval.common.shown import shown
from ovi_lab.data.build.assemble import CLIPS, FORMAT, MANIFEST
from ovi_lab.data.build.items import PLACE, WORK
from ovi_lab.data.build.recipe import Recipe, read_recipe
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
    """A folder of shards with its manifest."""

    path: Path
    manifest: dict[str, Any]
    recipe: Recipe

    @classmethod
    def open(cls, path: Path) -> BuiltFolder:
        """Raises UserError where there is no finished build in it."""
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise UserError(f"{shown(path)} {what}; name a folder that ovi-data build made")
        if not (path / MANIFEST).is_file():
            if (path / WORK).is_dir():
                raise UserError(f"the build in {shown(path)} is not finished; run its ovi-data build again")
            raise UserError(f"{shown(path)} has no {MANIFEST}; name a folder that ovi-data build made")
        manifest = read_json(path / MANIFEST, max_bytes=MAX_MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(
                f"{shown(path / MANIFEST)} is no manifest of this version ({FORMAT}); build again"
            )
        for name, form in _PARTS.items():
            if not isinstance(manifest.get(name), form):
                raise UserError(f"{shown(path / MANIFEST)} has no {name} as a build writes it; build again")
        if not all(
            isinstance(step, dict) and isinstance(step.get("weights"), dict)
            for step in manifest["steps"].values()
        ):
            raise UserError(f"{shown(path / MANIFEST)} has no steps as a build writes them; build again")
        plain = manifest["recipe"]
        own = {key: value for key, value in plain.items() if key not in ("name", "given")}
        recipe = read_recipe(str(plain.get("name")), own, [str(name) for name in plain.get("given") or ()])
        return cls(path, manifest, recipe)

    @property
    def work(self) -> Path:
        """Where the media of clips are that were within the bounds."""
        return self.path / WORK

    @property
    def shards(self) -> list[dict[str, Any]]:
        """What the manifest says of each shard."""
        return [shard for shard in self.manifest["shards"] if isinstance(shard, dict)]

    def sources(self) -> Path | None:
        """The folder of videos, where it was when they were last built from; None where that is not known."""
        with suppress(UserError, KeyError, TypeError):
            folder = Path(read_json(self.work / PLACE)["folder"])
            return folder if folder.is_dir() else None
        return None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The lines of clips.jsonl. Raises UserError naming the first that is none."""
        path = self.path / CLIPS
        if not path.is_file():
            raise UserError(f"{shown(path)} is missing; build again")
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
