"""A world's clips on disk: media shards, the codec fitted on them, and their latents; made once, whole.

    <root>/<world>-<hash of the settings>/
        train-media-000.tar …  eval-media-000.tar …     lossless frames and waves
        codec.safetensors
        train-latents-000.tar …  eval-latents-000.tar …
        manifest.json                                   written last: what is here, and every file's size and
        sha256

Two processes that start together make it once: one works, the other waits.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ovi_eval.common.files import file_sha256, write_whole
from ovi_lab.codecs import LatentCodec
from ovi_lab.codecs.pair import default_codec
from ovi_lab.common.progress import progress
from ovi_lab.data.dataset import ClipDataset, media_runs, of_one_shape
from ovi_lab.data.decode import MediaClip, array_members
from ovi_lab.data.encoders import Encoders
from ovi_lab.data.encoding import encode_run
from ovi_lab.data.index import digest_of, index_path
from ovi_lab.data.shards import write_shards
from ovi_lab.data.worlds import World, get_world
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

FORMAT = "ovi_lab.world_data/1"
CLIPS_PER_SHARD = 512
CLIPS_TO_FIT = 1024  # more changes the components in the fourth digit
_AT_ONCE = 64


@dataclass(frozen=True)
class WorldSettings:
    """The settings of a world's data set; the same settings give the same bytes."""

    world: str
    num_train: int = 4096
    num_eval: int = 512
    train_seed: int = 1
    eval_seed: int = 2

    def __post_init__(self) -> None:
        if self.num_train < 1 or self.num_eval < 1:
            raise UserError(
                f"num_train is {self.num_train} and num_eval {self.num_eval}: each must be at least 1 clip"
            )
        if self.train_seed == self.eval_seed:
            raise UserError(
                f"train_seed and eval_seed are both {self.train_seed}: evaluation would see clips trained on"
            )

    def folder(self, root: Path) -> Path:
        """Where under `root` these settings' data lie."""
        content = {"format": FORMAT, "version": get_world(self.world).version, **asdict(self)}
        return root / f"{self.world}-{digest_of(content)[:10]}"


def prepare_world(settings: WorldSettings, root: Path, quiet: bool = False) -> Path:
    """The data set's folder, made if it is missing or incomplete.

    Raises:
        UserError: the world is unknown, or the disk is full (the next start continues the unfinished
            data set).
    """
    folder = settings.folder(root)
    made_once(folder, lambda: _make(settings, folder, quiet))
    return folder


def made_once(folder: Path, make: Callable[[], None]) -> None:
    """Make a folder of data, which ends with its manifest, if it is missing or incomplete; by one process at a time.

    Raises UserError where the folder cannot be made.
    """
    if is_whole(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the data folder {folder} cannot be made ({error.strerror}); choose another with data.root=… "
            "(ovi-data: --out)"
        ) from error
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log.warning("waiting for another process that is making %s", folder)
        lock.acquire()
    try:
        if not is_whole(folder):
            (folder / "manifest.json").unlink(missing_ok=True)
            for left in folder.glob(
                ".*.tmp"
            ):  # of a process that was killed; the lock says that none is writing
                left.unlink()
            make()
    finally:
        lock.release()


def is_whole(folder: Path) -> bool:
    """Whether the manifest is there and every file it lists has its size."""
    path = folder / "manifest.json"
    if not path.is_file():
        return False
    try:
        files = json.loads(path.read_text())["files"]
        return all((folder / name).stat().st_size == about["size"] for name, about in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def shards_of(folder: Path, split: str, kind: str) -> list[Path]:
    """The shards of a split ("train", "eval") and kind ("media", "latents"), as the manifest lists them."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return [
        folder / name
        for name in sorted(files)
        if name.startswith(f"{split}-{kind}-") and name.endswith(".tar")
    ]


def _make(settings: WorldSettings, folder: Path, quiet: bool) -> None:
    world = get_world(settings.world)
    splits = {
        "train": (settings.num_train, settings.train_seed),
        "eval": (settings.num_eval, settings.eval_seed),
    }
    media = {}
    for split, (count, seed) in splits.items():
        samples = progress(_rendered(world, count, seed), f"{split} clips", count, not quiet)
        media[split] = write_shards(folder / f"{split}-media", samples, CLIPS_PER_SHARD)
    codec = default_codec(world.fps, world.sample_rate, world.partials_hz)
    codec.fitted_on = {
        **asdict(settings),
        "version": world.version,
        "clips": min(CLIPS_TO_FIT, settings.num_train),
    }
    codec.fit(media_batches(ClipDataset(media["train"], on_error="raise"), CLIPS_TO_FIT))
    codec.save(folder / "codec.safetensors")
    files = [folder / "codec.safetensors", *media["train"], *media["eval"]]
    for split in splits:
        dataset = ClipDataset(media[split], on_error="raise")
        samples = progress(encoded(media_clips(dataset), codec), f"{split} latents", len(dataset), not quiet)
        files += write_shards(folder / f"{split}-latents", samples, CLIPS_PER_SHARD)
    write_manifest(folder, files, {"format": FORMAT, "settings": asdict(settings)})


def write_manifest(folder: Path, files: Iterable[Path], facts: Mapping[str, Any]) -> None:
    """Write the manifest, the last of a folder's files: the facts, then every file's size and sha256."""
    listed = {file.name: {"size": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(files)}
    write_whole(folder / "manifest.json", json.dumps({**facts, "files": listed}, indent=1))


def _rendered(world: World, count: int, seed: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The world's clips as samples of lossless arrays."""
    for start in range(0, count, _AT_ONCE):
        clips = world.render(range(start, min(start + _AT_ONCE, count)), seed)
        rows = zip(clips.ids, clips.captions, clips.meta, clips.frames_NTHWC, clips.waves_NS, strict=True)
        for key, caption, meta, frames_THWC, wave_S in rows:
            yield key, array_members(caption, meta, frames_THWC, clips.fps, wave_S, clips.sample_rate)


def media_clips(dataset: ClipDataset) -> Iterator[tuple[str, MediaClip]]:
    """Key and clip of a media data set's good clips in order."""
    for run in media_runs(dataset, _AT_ONCE):
        yield from ((dataset.entries[number].key, clip) for number, clip in run)


def encoded(
    clips: Iterable[tuple[str, MediaClip]], codec: LatentCodec
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Named clips of media as samples of latents, encoded a few at a time."""
    encoders = Encoders(codec.fps, codec.sample_rate, codec.audio, codec.video)
    for run in of_one_shape(clips, _AT_ONCE):
        yield from encode_run(run, encoders)


def media_batches(dataset: ClipDataset, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames [N,T,H,W,3] and waves [N,S] of the first `limit` clips in order, to fit a codec on."""
    for run in media_runs(dataset, _AT_ONCE, limit):
        frames, waves = zip(*((clip.frames_THWC, clip.wave_S) for _, clip in run), strict=True)
        yield torch.stack(frames), torch.stack(waves)


def _sha256(file: Path) -> str:
    """A shard's digest is in its index already."""
    if file.suffix == ".tar":
        return str(json.loads(index_path(file).read_text())["sha256"])
    return file_sha256(file)
