"""Training clips of a world whose sound is out of sync on purpose, and the sync filter of `ovi-data build` on them.

    <root>/<world>-displaced-<hash of the settings>/
        train-latents-000.tar …     of the clips that are left, by the codec fitted on the world's clips in sync
        clips.jsonl                 every clip: by how much it was moved, the filter's scores, whether it is left
        manifest.json               written last

Clips to evaluate on are never moved: they are those of `ovi_lab.data.prepare`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ovi_eval.common.files import write_whole
from ovi_lab.codecs import LatentCodec
from ovi_lab.common.progress import progress
from ovi_lab.common.seeding import generator_for
from ovi_lab.common.values import check_settings
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.decode import MediaClip
from ovi_lab.data.index import digest_of
from ovi_lab.data.prepare import (
    CLIPS_PER_SHARD,
    WorldSettings,
    encoded,
    made_once,
    media_clips,
    prepare_world,
    shards_of,
    write_manifest,
)
from ovi_lab.data.shards import write_shards
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from ovi_lab.data.build.clip import Candidate, Scores
    from ovi_lab.data.build.recipe import Bound

log = logging.getLogger("ovi_lab.data")

FORMAT = "ovi_lab.displaced/1"
FRAMES = (5, 15)
"""How far sound is moved, at least and at most, in frames at 25 fps."""
JUDGED_WORLD = "bouncing_ball"
"""The world whose SyncNet `ovi-data build` has (`sync: {judge: ball_world}`)."""


@dataclass(frozen=True)
class Displaced:
    """What `data.displaced` says: the share of training clips whose sound is moved, and the filter that follows.

    `filter`: clips whose sound the step `sync` of `ovi-data build` finds off by more frames at 25 fps than this, or
    cannot judge, are left out; None: none are.
    """

    share: float = 0.0
    filter: float | None = None

    @property
    def changes_any(self) -> bool:
        """Whether training sees other clips than the world's own."""
        return self.share > 0 or self.filter is not None


def parsed_displaced(given: Mapping[str, Any] | None, world: str | None) -> Displaced | None:
    """What `data.displaced` says; None where training sees the world's own clips.

    Raises:
        UserError: an unknown key, a value out of bounds, or clips that cannot be moved or judged.
    """
    given = given or {}
    check_settings("data", {"displaced": given})
    displaced = Displaced(**given)
    if not displaced.changes_any:
        return None
    if world is None:
        raise UserError(
            "data.displaced moves the sound of a world's clips, and data.world is null: name a world, or leave it out"
        )
    if displaced.filter is not None and world != JUDGED_WORLD:
        raise UserError(
            f"data.displaced.filter is {displaced.filter}, and only clips of {JUDGED_WORLD} can be judged, not of "
            f"data.world={world}: set it to null"
        )
    return displaced


def training_folder(
    settings: WorldSettings, displaced: Displaced | None, root: Path, quiet: bool = False
) -> Path:
    """The folder of the clips to train on, made if it is missing or incomplete.

    Raises:
        UserError: as `prepare_world`; or no clip is left.
    """
    if displaced is None:
        return prepare_world(settings, root, quiet)
    content = {"world": settings.folder(Path()).name, "format": FORMAT, **asdict(displaced)}
    folder = root / f"{settings.world}-displaced-{digest_of(content)[:10]}"
    made_once(folder, lambda: _make(settings, displaced, folder, root, quiet))
    return folder


def latents_of(
    settings: WorldSettings, displaced: Displaced | None, split: str, root: Path, quiet: bool = False
) -> list[Path]:
    """The shards of latents of a split, "train" or "eval"; says how many training clips are moved and left.

    Raises UserError as `training_folder`.
    """
    if split != "train" or displaced is None:
        return shards_of(prepare_world(settings, root, quiet), split, "latents")
    folder = training_folder(settings, displaced, root, quiet)
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    words = "the sound of %(moved)d of %(clips)d training clips is moved; %(left)d clips are left to train on"
    log.warning(words, counts)
    return shards_of(folder, split, "latents")


def _make(settings: WorldSettings, displaced: Displaced, folder: Path, root: Path, quiet: bool) -> None:
    world = prepare_world(settings, root, quiet)
    dataset = ClipDataset(shards_of(world, "train", "media"), on_error="raise")
    what = "sound moved" if displaced.filter is None else "sound judged"
    clips = progress(media_clips(dataset), what, len(dataset), not quiet)
    codec = LatentCodec.load(world / "codec.safetensors")
    rows: list[dict[str, Any]] = []
    samples = encoded(_left(clips, settings, displaced, rows), codec)
    shards = write_shards(folder / "train-latents", samples, CLIPS_PER_SHARD)
    if not shards:
        with suppress(OSError):  # it holds what a killed process left
            folder.rmdir()
        raise UserError(
            f"data.displaced.filter={displaced.filter} leaves out all {len(rows)} training clips: raise it, or lower "
            f"data.displaced.share={displaced.share}"
        )
    listed = folder / "clips.jsonl"
    write_whole(listed, "".join(f"{json.dumps(row)}\n" for row in rows))
    moved, left = (sum(bool(row[name]) for row in rows) for name in ("late_frames", "left"))
    counts = {"clips": len(rows), "moved": moved, "left": left}
    facts = {"format": FORMAT, "world": asdict(settings), "displaced": asdict(displaced), "counts": counts}
    write_manifest(folder, [listed, *shards], facts)


def _left(
    clips: Iterable[tuple[str, MediaClip]],
    settings: WorldSettings,
    displaced: Displaced,
    rows: list[dict[str, Any]],
) -> Iterator[tuple[str, MediaClip]]:
    """The clips, sound moved, that the filter leaves; what became of each clip is added to `rows`."""
    from ovi_lab.data.build.clip import Candidate
    from ovi_lab.data.build.items import moved

    judge = None if displaced.filter is None else sync_judge(displaced.filter)
    for key, clip in clips:
        late = late_frames(settings.train_seed, key, displaced.share)
        candidate = Candidate(
            key, settings.world, 0.0, clip.frames_THWC, clip.fps, clip.wave_S, clip.sample_rate
        )
        candidate.wave_S = moved(clip.wave_S, {"sync_offset": -late}, candidate)
        scores, left = ({}, True) if judge is None else judge(candidate)
        rows.append({"key": key, "late_frames": late, "scores": scores, "left": left})
        if left:
            yield key, replace(clip, wave_S=candidate.wave_S)


def late_frames(seed: int, key: str, share: float) -> int:
    """By how many frames at 25 fps the sound of a clip comes late (below 0: early); 0 for those that are not moved.

    It depends on the seed and the clip's key alone; clips that are moved with one share are with every larger one.
    """
    generator = generator_for(seed, "displaced-sound", key)
    if float(torch.rand((), generator=generator)) >= share:
        return 0
    least, most = FRAMES
    frames = int(torch.randint(least, most + 1, (), generator=generator))
    return frames if int(torch.randint(2, (), generator=generator)) else -frames


def sync_bounds(frames: float) -> dict[str, Bound]:
    """The bounds of a recipe that keep clips of the ball world whose sound is found off by at most so many frames."""
    from ovi_lab.data.build.recipe import Bound

    return {"sync_offset": Bound(-frames, frames, missing="drop")}


def sync_judge(frames: float) -> Callable[[Candidate], tuple[Scores, bool]]:
    """The step `sync` of `ovi-data build` with the ball world's judge: scores of a clip, and whether it is kept."""
    from ovi_lab.data.build.decide import decide
    from ovi_lab.data.build.steps.faces import LipSyncStep

    step, bounds = LipSyncStep(judge="ball_world"), sync_bounds(frames)
    step.setup()

    def judged(clip: Candidate) -> tuple[Scores, bool]:
        (scores,) = step.process([clip])
        return scores, decide(scores, bounds).kept

    return judged
