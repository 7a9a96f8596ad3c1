"""From finished sources to shards: decisions over all clips, then shards, sums and manifest, all of them or none."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovi_eval.common.files import file_sha256, folder_beside
from ovi_lab.data.build.clip_captions import CaptionFound, CaptionsOfClips
from ovi_lab.data.build.decide import Decision, decide, drop_duplicates, keep_mix, split_of
from ovi_lab.data.build.items import FinishedSource, SourceFile
from ovi_lab.data.build.recipe import Recipe
from ovi_lab.data.decode import json_bytes
from ovi_lab.data.index import index_path, read_index
from ovi_lab.data.shards import ShardReader, ShardWriter, numbered_shards, remove_shard

FORMAT = "ovi_lab.build/1"
MANIFEST, CLIPS, SUMS = "manifest.json", "clips.jsonl", "SHA256SUMS"
READY = ".shards.ready"
"""Folder of shards that are whole and wait to take the place of those that are there."""
SPLITS = ("train", "val")


@dataclass
class ClipRow:
    """A clip with what was decided of it."""

    clip: dict[str, Any]
    source: SourceFile
    decision: Decision
    split: str
    caption: CaptionFound
    shard: str | None = None

    def plain(self) -> dict[str, Any]:
        """A line of `clips.jsonl`."""
        own = {"key": self.clip["key"], "source": self.source.name, "start_s": self.clip["start_s"]}
        decision = {k: v for k, v in vars(self.decision).items() if v}
        return {
            **own, "split": self.split, "kept": self.decision.kept, "shard": self.shard, **decision,
            **self.caption.plain(), "scores": self.clip["scores"], "facts": self.clip["facts"],
        }  # fmt: skip


@dataclass
class Built:
    """What a build has made."""

    sources: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Sources that cannot be used, or not to their end, with the reason."""
    clips: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    """By split."""
    seconds: float = 0.0
    """Of the clips kept."""
    dropped: Counter[str] = field(default_factory=Counter)
    """By the first score outside of its bounds."""
    captions: Counter[str] = field(default_factory=Counter)
    """Of the clips kept, by where their captions come from."""
    shards: list[Path] = field(default_factory=list)


def rows_of(
    finished: Sequence[tuple[SourceFile, FinishedSource]], recipe: Recipe, captions: CaptionsOfClips
) -> tuple[list[ClipRow], Built]:
    """Every clip with its decision, in the order of the sources, and the counts."""
    built = Built(sources=len(finished))
    rows: list[ClipRow] = []
    for source, item in finished:
        if item.failed:
            built.failed[source.name] = item.failed
        split = split_of(source.name, recipe.val_share)
        for clip in item.clips:
            clip = {**clip, "scores": source.scores(clip["scores"])}
            decision = decide(clip["scores"], recipe.keep)
            caption = captions.of(source, clip)
            if not caption.text and recipe.without_caption == "drop":
                decision.dropped_by.append("caption")
            rows.append(ClipRow(clip, source, decision, split, caption))
    drop_duplicates(((row.clip["key"], row.clip["scores"], row.decision) for row in rows), recipe)
    for split in SPLITS if recipe.mix else ():
        of_split = (row for row in rows if row.split == split)
        keep_mix(((row.clip["key"], row.clip["scores"], row.decision) for row in of_split), recipe.mix)
    built.clips = len(rows)
    for row in rows:
        if row.decision.kept:
            built.kept[row.split] += 1
            built.seconds += float(row.clip["scores"]["seconds"])
            built.captions[row.caption.by or "none"] += 1
        else:
            built.dropped[row.decision.dropped_by[0]] += 1
    return rows, built


_OF_CLIPS = ("format", "recipe", "sources", "clips", "captions", "dropped", "shards")
"""What a manifest says of its clips, which `write_all` writes anew."""


def about_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How the scores of a manifest came to be: all that it says besides what follows from its clips."""
    return {name: value for name, value in manifest.items() if name not in _OF_CLIPS}


def write_all(
    out: Path, work: Path, rows: Sequence[ClipRow], built: Built, recipe: Recipe, about: Mapping[str, Any]
) -> None:
    """Write shards, `clips.jsonl`, `manifest.json` and `SHA256SUMS` in place of those of an earlier build.

    The bytes depend on the clips and the recipe alone. All are written before the first takes its place; where a kill
    comes between, `put_in_place` goes on.
    """
    with folder_beside(out / "shards") as beside:
        shards: list[Path] = []
        counts: dict[str, int] = {}
        for split in SPLITS:
            kept = [row for row in rows if row.decision.kept and row.split == split]
            for shard, count in _shards(beside / split, kept, work, recipe.shard_bytes):
                shards.append(shard)
                counts[shard.name] = count
        lines = [json.dumps(row.plain(), ensure_ascii=False, sort_keys=True) for row in rows]
        (beside / CLIPS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        manifest = {
            "format": FORMAT,
            "recipe": recipe.plain(),
            **about,
            "sources": {"files": built.sources, "failed": built.failed},
            "clips": {"all": built.clips, "kept": dict(built.kept), "seconds": round(built.seconds, 3)},
            "captions": dict(sorted(built.captions.items())),
            "dropped": dict(sorted(built.dropped.items())),
            "shards": [
                {"name": s.name, "clips": counts[s.name], "bytes": s.stat().st_size, "sha256": file_sha256(s)}
                for s in shards
            ],
        }
        text = json.dumps(
            manifest, ensure_ascii=False, indent=1
        )  # bounds in their order, in which they decide
        (beside / MANIFEST).write_text(text + "\n", encoding="utf-8")
        names = sorted([s.name for s in shards] + [index_path(s).name for s in shards] + [CLIPS, MANIFEST])
        sums = "".join(f"{file_sha256(beside / name)}  {name}\n" for name in names)
        (beside / SUMS).write_text(sums)
        beside.replace(out / READY)
    put_in_place(out)
    built.shards = [out / shard.name for shard in shards]


def put_in_place(out: Path) -> None:
    """Move what is ready to where a loader finds it, file by file, and remove the shards of the build before.

    Does nothing where nothing is ready, and what is left where a kill stopped it. An index lies beside its own shard
    alone, manifest and sums beside a whole build.
    """
    ready = out / READY
    left = sorted((path.name for path in ready.iterdir()), key=turn) if ready.is_dir() else []
    if SUMS in left:
        if MANIFEST in left:
            (out / SUMS).unlink(missing_ok=True)
            (out / MANIFEST).unlink(missing_ok=True)
        named = {line.partition("  ")[2] for line in (ready / SUMS).read_text().splitlines()}
        for split in SPLITS:
            for shard in numbered_shards(out / split):
                if shard.name not in named:
                    remove_shard(shard)
        for name in left:
            if name.endswith(".tar"):
                index_path(out / name).unlink(missing_ok=True)
            (ready / name).replace(out / name)
    shutil.rmtree(ready, ignore_errors=True)


def turn(name: str) -> tuple[int, str]:
    """The order in which files take their places: shards, their indexes, then what speaks of the whole build."""
    last = (CLIPS, MANIFEST, SUMS)
    return (2 + last.index(name) if name in last else not name.endswith(".tar"), name)


def _shards(prefix: Path, rows: Sequence[ClipRow], work: Path, most: int) -> Iterator[tuple[Path, int]]:
    """Shards `<prefix>-00000.tar`, … of at most about `most` bytes, and the number of clips in each."""
    media = StoredMedia(work)
    place, number = 0, 0
    while place < len(rows):
        path = prefix.with_name(f"{prefix.name}-{number:05d}.tar")
        size = count = 0
        with ShardWriter(path) as shard:
            while place < len(rows) and (not count or size < most):
                row = rows[place]
                members = {**media.of(row.source, row.clip["key"]), "json": _about(row)}
                shard.write(row.clip["key"], members)
                size += sum(len(data) for data in members.values())
                row.shard = path.name
                place, count = place + 1, count + 1
        yield path, count
        number += 1
    media.close()


def _about(row: ClipRow) -> bytes:
    scores = {name: value for name, value in row.clip["scores"].items() if not isinstance(value, str)}
    meta = {"file": row.source.name, "start_s": row.clip["start_s"], "scores": scores}
    if row.decision.marks:
        meta["marks"] = row.decision.marks
    return json_bytes({"caption": row.caption.text, "meta": meta})


class StoredMedia:
    """Stored media of clips, source by source."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.reader = ShardReader()
        self.source: str | None = None
        self.entries: dict[str, Any] = {}

    def of(self, source: SourceFile, key: str) -> dict[str, bytes]:
        """The members of a clip without its description. Raises KeyError for one that is not stored."""
        if source.name != self.source:
            index = read_index(self.work / f"{source.digest}.tar")
            self.source, self.entries = source.name, {entry.key: entry for entry in index.entries}
        return self.reader.read(self.entries[key])

    def close(self) -> None:
        self.reader.close()
