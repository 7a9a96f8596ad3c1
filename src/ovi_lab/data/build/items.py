"""What is known of each source file, one small file for each: what a stopped build continues from.

WORK/
  <digest>.json   the source's facts and the scores of all its clips; or why it cannot be used
  <digest>.tar    the media of the clips that the recipe's bounds keep

A source is finished when its .json is there, which is written last. Scores are of a form of clips, of steps and their
versions (`Recipe.scored_by`), and of the file as it was (size and time of change).
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ovi_eval.clips.writing import write_mp4
from ovi_eval.common.files import write_whole
from ovi_eval.common.plain_data import read_json
from ovi_lab.data.build.clip import Candidate, Scores
from ovi_lab.data.build.decide import Decision, decide
from ovi_lab.data.build.reading import clips_of
from ovi_lab.data.build.recipe import Recipe
from ovi_lab.data.build.step import BuildStep
from ovi_lab.data.index import BadSampleError, unsafe_name
from ovi_lab.data.shards import ShardWriter
from ovi_lab.data.stores import RemoteShard, fetch
from ovi_lab.errors import UserError

FORMAT = "ovi_lab.build_item/1"
WORK = ".build"
"""Folder within the shards' of what a stopped build continues from."""
MAX_ITEM = 2**28
"""Bytes of what is known of a source; a clip takes about a thousand."""
PLACE = "folder.json"
"""File in it that says where the sources are, which is no part of what is built."""


@dataclass(frozen=True)
class SourceFile:
    """One file to build from."""

    file: Path
    name: str
    """Relative to the folder, with forward slashes."""
    base: str
    """Of its clips' keys."""
    given: Mapping[str, float | str] = field(default_factory=dict, compare=False)
    """Scores that came with the file. One that is measured too is not used."""
    remote: str | None = None
    """Its address on a store; `file` is then nothing on this machine."""
    stamped: tuple[int, int] = (0, 0)
    """Of one on a store: size in bytes, and a number that changes with the content."""

    @property
    def digest(self) -> str:
        """Of its name: names its files in the work folder."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:20]

    def scores(self, measured: Scores) -> Scores:
        """All scores of a clip of it."""
        return {**self.given, **measured}

    def stamp(self) -> list[int]:
        """Size in bytes and time of change in nanoseconds, or `stamped`. Raises BadSampleError where it is gone."""
        if self.remote is not None:
            return list(self.stamped)
        try:
            facts = self.file.stat()
        except OSError as error:
            raise BadSampleError(f"it cannot be read ({error.strerror})") from error
        return [facts.st_size, facts.st_mtime_ns]

    @contextmanager
    def here(self) -> Iterator[Path]:
        """The file on this machine; one of a store is copied for as long as the block lasts.

        Raises BadSampleError where the store has it no longer, UserError where the store does not answer.
        """
        if self.remote is None:
            yield self.file
            return
        with tempfile.TemporaryDirectory(prefix="ovi-source-") as folder:
            copy = Path(folder) / f"source{PurePosixPath(self.name).suffix}"
            try:
                fetch(RemoteShard(self.remote), copy)
            except FileNotFoundError as error:
                raise BadSampleError("its store has it no longer") from error
            yield copy


@dataclass
class FinishedSource:
    """A finished source."""

    source: str
    stamp: list[int]
    scored_by: str
    failed: str | None
    """Why it cannot be used, or could not be decoded to its end."""
    clips: list[dict[str, Any]]
    """`key`, `start_s`, `facts`, `scores` of each clip; `stored`: how its media are stored, None where they are not;
    `sha256` of the stored media."""

    @property
    def rows(self) -> list[tuple[str, Scores]]:
        """Key and scores of each clip."""
        return [(clip["key"], clip["scores"]) for clip in self.clips]


def read_item(work: Path, source: SourceFile) -> FinishedSource | None:
    """What is known of a source; None where it is not finished, has changed, or the file is damaged."""
    item = _read(work / f"{source.digest}.json")
    try:
        return item if item and item.source == source.name and item.stamp == source.stamp() else None
    except BadSampleError:
        return None


def all_items(work: Path) -> list[FinishedSource]:
    """Every finished source of a work folder in the order of a build, whether its file is still there or not."""
    found = [_read(path) for path in work.glob("*.json") if path.name != PLACE and "." not in path.stem]
    return sorted((item for item in found if item), key=lambda item: PurePosixPath(item.source).parts)


def _read(path: Path) -> FinishedSource | None:
    if not path.is_file():
        return None
    try:
        plain: Any = read_json(path, max_bytes=MAX_ITEM)
        item = FinishedSource(*(plain[key] for key in ("source", "stamp", "scored_by", "failed", "clips")))
        needed = {"key", "scores", "stored", "facts", "sha256"}
        whole = plain["format"] == FORMAT and all(
            needed <= clip.keys() and not unsafe_name(clip["key"]) for clip in item.clips
        )
        return item if whole else None
    except (UserError, KeyError, TypeError, AttributeError):
        return None


def stored_as(decision: Decision) -> dict[str, float] | None:
    """How the media of a clip are to be stored; None where they are not."""
    return dict(decision.mend) if decision.kept else None


def is_current(item: FinishedSource, source: SourceFile, recipe: Recipe) -> bool:
    """Whether an item has the recipe's scores and the media of all clips that its bounds keep."""
    if item.scored_by != recipe.scored_by():
        return False
    for clip in item.clips:
        wanted = stored_as(decide(source.scores(clip["scores"]), recipe.keep))
        if wanted is not None and clip["stored"] != wanted:
            return False
    return True


def make_item(source: SourceFile, work: Path, recipe: Recipe, steps: Sequence[BuildStep]) -> FinishedSource:
    """Cut a source into clips, score them, store those within bounds, and write what is known of it.

    Scores that an earlier build gave by the same steps are taken as they are. A file that cannot be used is an item
    too, with the reason.
    """
    before = read_item(work, source)
    known = {}
    if before is not None and before.scored_by == recipe.scored_by():
        known = {clip["key"]: clip["scores"] for clip in before.clips}
    item = FinishedSource(source.name, [0, 0], recipe.scored_by(), None, [])
    tar = work / f"{source.digest}.tar"
    (work / f"{source.digest}.json").unlink(missing_ok=True)
    with ShardWriter(tar) as media, ExitStack() as opened:
        try:
            item.stamp = source.stamp()
            here = opened.enter_context(source.here())
            judged = partial(_judged, source=source, recipe=recipe, steps=steps, known=known)
            # by map, since a loop's variable would hold a clip while the next one is decoded
            for row, members in map(judged, clips_of(here, source.name, source.base, recipe.clips)):
                item.clips.append(row)
                if members is not None:
                    media.write(row["key"], members)
        except BadSampleError as error:
            item.failed = str(error)
    plain = {"format": FORMAT, **vars(item)}
    write_whole(work / f"{source.digest}.json", json.dumps(plain, ensure_ascii=False, allow_nan=False))
    return item


def _judged(
    clip: Candidate,
    source: SourceFile,
    recipe: Recipe,
    steps: Sequence[BuildStep],
    known: Mapping[str, Scores],
) -> tuple[dict[str, Any], dict[str, bytes] | None]:
    """What is known of a clip, as in `FinishedSource.clips`, and its media where they are to be stored.

    `known`: the scores of clips, by key, that are not to be measured again.
    """
    scores = known.get(clip.key) or {**clip.facts["scores"], **_scored(clip, steps)}
    stored = stored_as(decide(source.scores(scores), recipe.keep))
    members = None if stored is None else stored_members(clip, stored)
    row = {
        "key": clip.key,
        "start_s": clip.start_s,
        "facts": {name: value for name, value in clip.facts.items() if name != "scores"},
        "scores": scores,
        "stored": stored,
        "sha256": None if members is None else media_sha256(members),
    }
    return row, members


def _scored(clip: Candidate, steps: Sequence[BuildStep]) -> Scores:
    found: Scores = {}
    for step in steps:
        (own,) = step.process([clip])
        found |= {name: _plain(value) for name, value in own.items()}
    return found


def _plain(value: float | str | None) -> float | str | None:
    """A score as JSON has it: seven digits, so that the same score is the same text everywhere."""
    if isinstance(value, bool | int | float):
        return None if value != value or abs(value) == float("inf") else float(f"{value:.7g}")
    return value


def stored_members(clip: Candidate, mended: Mapping[str, float]) -> dict[str, bytes]:
    """A clip's media as they are stored, by the extension of their member: an mp4, or a WAV file of sound alone."""
    wave_S = torch.zeros(0) if clip.wave_S is None else moved(clip.wave_S, mended, clip)
    if clip.frames_THWC is None:
        return {"wav": wav_bytes(wave_S, clip.sample_rate)}
    if clip.wave_S is None:
        wave_S = torch.zeros(round(clip.seconds * clip.sample_rate))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, clip.frames_THWC, clip.fps, wave_S, clip.sample_rate, enlarge_to=0)
        return {"mp4": path.read_bytes()}


def moved(wave_S: Tensor, mended: Mapping[str, float], clip: Candidate) -> Tensor:
    """The sound moved by the offset found (frames at 25 fps, positive: it is late), silence in place of what is not
    there."""
    offset = mended.get("sync_offset", 0.0)
    samples = round(offset / 25 * clip.sample_rate)
    if not samples:
        return wave_S
    out_S = torch.zeros_like(wave_S)
    if samples > 0:
        out_S[: len(wave_S) - samples] = wave_S[samples:]
    else:
        out_S[-samples:] = wave_S[:samples]
    return out_S


def media_sha256(members: Mapping[str, bytes]) -> str:
    """Digest of a clip's media, by which a caption knows the clip that it is of."""
    (data,) = (data for name, data in members.items() if name != "json")
    return hashlib.sha256(data).hexdigest()


def wav_bytes(wave_S: Tensor, rate: int) -> bytes:
    """A WAV file of 16 bits."""
    data = (wave_S.clamp(-1, 1) * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(data)
    return buffer.getvalue()


def remove_item(work: Path, digest: str) -> None:
    """What is known of a source that is no longer among the files."""
    for suffix in (".json", ".tar", ".index.json"):
        with suppress(OSError):
            (work / f"{digest}{suffix}").unlink(missing_ok=True)
