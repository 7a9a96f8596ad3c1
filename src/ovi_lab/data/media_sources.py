"""What latents are made of: shards of media, or folders of sound files, with the digest of their content."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from ovi_eval.common.files import file_sha256
from ovi_eval.common.folders import files_of
from ovi_eval.common.shown import shown
from ovi_lab.data.captions import Captions
from ovi_lab.data.index import BadSampleError, digest_of, read_index
from ovi_lab.data.kinds import HEARD_EXTENSIONS
from ovi_lab.data.shard_files import Shard, local_copy
from ovi_lab.data.shards import ShardReader, expand_shards
from ovi_lab.data.stores import is_remote
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

Members = Mapping[str, bytes]


class MediaSource:
    """The input of one shard of latents: a shard of media."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.name = shard.name

    @cached_property
    def sha256(self) -> str:
        """Digest of the whole input."""
        return file_sha256(local_copy(self.shard))

    def samples(self) -> Iterator[tuple[str, Members | BadSampleError]]:
        """(key, members) in order, or why a sample cannot be read; what the index calls bad comes first."""
        index = read_index(local_copy(self.shard))
        for bad in index.bad:
            yield bad.key, BadSampleError(bad.reason)
        reader = ShardReader()
        for entry in index.entries:
            try:
                members: Members | BadSampleError = reader.read(entry)
            except BadSampleError as error:
                members = error
            yield entry.key, members
        reader.close()


class SoundFiles(MediaSource):
    """Sound files of a folder with their captions, as the input of one shard."""

    def __init__(self, folder: Path, files: Sequence[tuple[str, Path]], captions: Captions) -> None:
        self.folder, self.files, self.captions = folder, files, captions
        self.name = folder.name

    @cached_property
    def sha256(self) -> str:
        """Digest of every file's bytes, key and caption."""
        return digest_of([[key, self._caption(path)[0], file_sha256(path)] for key, path in self.files])

    def samples(self) -> Iterator[tuple[str, Members | BadSampleError]]:
        for key, path in self.files:
            caption, fault = self._caption(path)
            if caption:
                yield key, {"txt": caption.encode(), path.suffix.lower().lstrip("."): path.read_bytes()}
            else:
                yield str(path.relative_to(self.folder)), fault

    def _caption(self, path: Path) -> tuple[str | None, BadSampleError]:
        """The caption of a file, or why it has none."""
        try:
            return self.captions.of(path), BadSampleError("it has no caption")
        except BadSampleError as error:
            return None, error


def sources_of(
    given: Sequence[str], audio_only: bool, captions: Path | None, clips_per_shard: int
) -> list[MediaSource]:
    """The shards named, or with `audio_only` the sounds of a folder, so many to a shard.

    Raises:
        UserError: something is not there, or a folder was named without `audio_only`.
    """
    here = [Path(name).expanduser() for name in given if not is_remote(name)]
    folders = [path for path in here if path.is_dir()]
    if not folders:
        if captions is not None:
            raise UserError("--captions is for a folder of sounds; the captions of shards are in them")
        return [MediaSource(path) for path in expand_shards(given)]
    if len(given) > 1 or not audio_only:
        raise UserError(
            f"{folders[0]} is a folder: name it alone with --audio-only to encode its sounds, "
            "or make shards of it with `ovi-data pack`"
        )
    from ovi_lab.data.pack import sample_key

    folder = folders[0]
    found = files_of(folder, [f".{extension}" for extension in HEARD_EXTENSIONS])
    if not found.files:
        beside = f" ({found.summary()})" if found.summary() else ""
        expected = f".{', .'.join(HEARD_EXTENSIONS)}"
        raise UserError(f"no sound is in {shown(folder)}: expected {expected} files{beside}")
    keys: set[str] = set()
    keyed = [(sample_key(file.relative_to(folder).as_posix(), None, keys), file) for file in found.files]
    looked_up = Captions(folder, captions)
    for file in found.files if captions is not None else ():  # so that rows without a file are known
        looked_up.of(file)
    for ignored in filter(None, (found.summary(looked_up.files()), looked_up.summary())):
        log.warning("%s: %s", shown(folder), ignored)
    starts = range(0, len(keyed), clips_per_shard)
    return [SoundFiles(folder, keyed[start : start + clips_per_shard], looked_up) for start in starts]
