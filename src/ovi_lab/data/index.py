"""The contents of a shard and their places: from the index beside it, or from the tar's own headers.

The index `<shard>.index.json` says where each member's bytes lie, so that a sample is read without reading those
before it; of latents also their shapes and what encoded them, so that batches are planned without reading samples.
Any WebDataset tar will do: where the index is absent or does not fit, the headers of the tar and of its latents are
read once instead.

Names that could leave a folder, and links, are refused, though members are never unpacked to disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, overload

from ovi_eval.common.files import file_sha256, write_whole
from ovi_eval.common.plain_data import MAX_BYTES, parse_json, read_json
from ovi_eval.common.shown import shown
from ovi_lab.data.shard_files import LocalFile, Shard, ShardFile, local_copy, shard_facts
from ovi_lab.data.stores import RemoteShard, read_object
from ovi_lab.data.tar_headers import BLOCK, Member, TarError, tar_members
from ovi_lab.errors import UserError

INDEX_FORMAT = "ovi_lab.shard_index/1"
LATENTS = "latents.safetensors"
LATENT_PARTS = ("video", "audio", "text")
_HEAD = 4096  # bytes read of a latents member at once: its header is a few hundred
_MAX_HEADER = 2**20
_MAX_INDEX = 256 * 2**20
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd

_PLAIN_KEY = re.compile(r"[\w-]+(/[\w-]+)*", re.ASCII)
_COMMON = frozenset({"json", "txt", LATENTS, "mp4", "wav", "flac", "frames.npy", "wave.npy"})

Shapes = dict[str, tuple[int, ...]]


class BadSampleError(Exception):
    """One sample cannot be used: the message says why.

    Counted, named and skipped, or raised, as the user chose.
    """


class ResamplingRefusedError(UserError):
    """A sample's sound has another rate than the codec's and may not be resampled: the settings have to change."""


@contextmanager
def bad_sample() -> Iterator[None]:
    """A UserError over its content makes a sample bad; a refused rate stays the error that ends the command."""
    try:
        yield
    except ResamplingRefusedError:
        raise
    except UserError as error:
        raise BadSampleError(str(error)) from error


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that cannot be used, or a member that belongs to none."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.shard)}: {shown(self.key)}: {shown(self.reason, 400)}"


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """A sample in a shard: the places of its members, extension -> (offset, size) in bytes.

    `shapes`: of its latents, `video` [C,F,h,w], `audio` [L,C], `text` [n,E], those that are there; None where it has
    none, or their header cannot be read (which reading the sample tells). `seen`: the places are from the tar's own
    headers; where an index alone says so, the header before each is compared when the sample is read.
    """

    shard: Shard
    key: str
    members: dict[str, tuple[int, int]]
    shapes: Shapes | None = None
    seen: bool = field(default=False, compare=False)


@dataclass
class ShardIndex:
    """The contents of a shard: its usable samples in the order of the file, and the faults of the rest.

    `encoders`: by kind of latents, what made them ("wan22 sha256:…"), where their samples say so; `made`: how the
    shard was made, where its writer states it.
    """

    path: Shard
    size: int
    entries: list[SampleEntry]
    bad: list[BadSample] = field(default_factory=list)
    sha256: str | None = None
    encoders: dict[str, list[str]] = field(default_factory=dict)
    made: dict[str, Any] | None = None


def digest_of(value: Any) -> str:
    """The sha256 of plain values in hexadecimal: the same values, the same digest."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@overload
def index_path(shard: Path) -> Path: ...
@overload
def index_path(shard: RemoteShard) -> RemoteShard: ...
def index_path(shard: Shard) -> Shard:
    """`train-000.tar` -> `train-000.index.json`."""
    return shard.with_name(shard.name.removesuffix(".tar") + ".index.json")


def write_index(shard: Path, made: Mapping[str, Any] | None = None) -> ShardIndex:
    """Scan a whole shard and write its index beside it; `made` states how the shard was made."""
    index = replace(scan_shard(shard), sha256=file_sha256(shard), made=None if made is None else dict(made))
    content = {
        "format": INDEX_FORMAT,
        "shard": shard.name,
        "size": index.size,
        "sha256": index.sha256,
        "encoders": index.encoders,
        **({} if index.made is None else {"made": index.made}),
        "samples": [_as_json(entry) for entry in index.entries],
        "bad": [[b.key, b.reason] for b in index.bad],
    }
    write_whole(index_path(shard), json.dumps(content))
    return index


def _as_json(entry: SampleEntry) -> dict[str, Any]:
    members = {name: list(place) for name, place in entry.members.items()}
    shapes = {} if entry.shapes is None else {"shapes": {k: list(v) for k, v in entry.shapes.items()}}
    return {"key": entry.key, "members": members, **shapes}


@contextmanager
def no_space(path: Path) -> Iterator[None]:
    """Says in one line what could not be written where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left on the disk while writing {path}; free some, or choose another folder"
        ) from error


def read_index(shard: Shard) -> ShardIndex:
    """The shard's samples: from the index beside it where that fits the file, else from the tar's own headers.

    Of a store's shard without an index a local copy is read.
    """
    return stored_index(shard) or scan_shard(shard)


def stored_index(shard: Shard) -> ShardIndex | None:
    """The index beside a shard; None where it is absent, does not fit the file or is not as `write_index` makes it.

    What it says of bytes is compared with the tar's own headers when a sample is read.
    """
    try:
        if isinstance(shard, RemoteShard):
            # Its time of change is when it was sent, so a newer shard tells nothing here.
            size, _ = shard_facts(shard)
            most = min(_MAX_INDEX, max(size, 2**16))
            text = None if shard.is_pipe else read_object(index_path(shard), most)
            if text is None:
                return None
            content = parse_json(text, str(index_path(shard)))
        else:
            index_file = index_path(shard)
            size, changed = shard_facts(shard)
            # Tar files are padded to 10 KiB: a rewritten one can have the old size, so it must not be newer.
            if not index_file.is_file() or index_file.stat().st_mtime_ns < changed:
                return None
            content = read_json(index_file, max_bytes=min(_MAX_INDEX, max(size, 2**16)))
        index = _parsed(shard, size, content)
    except (UserError, _NoIndexError):
        return None  # a foreign or damaged index: the tar itself says what it holds
    if "encoders" not in content:  # written before indexes had shapes of latents
        index.entries, index.encoders = _with_latents_headers(shard, index.entries)
    return index


class _NoIndexError(Exception):
    """A field of an index is not what it must be."""


def _need(condition: bool) -> None:
    if not condition:
        raise _NoIndexError


def _parsed(shard: Shard, size: int, content: Any) -> ShardIndex:
    """An index's fields, each one checked. Raises _NoIndexError."""
    _need(isinstance(content, dict) and content.get("format") == INDEX_FORMAT and content.get("size") == size)
    samples, bad = content.get("samples"), content.get("bad")
    digest, made, encoders = content.get("sha256"), content.get("made"), content.get("encoders", {})
    _need(isinstance(samples, list) and isinstance(bad, list) and isinstance(encoders, dict))
    _need(isinstance(digest, str) and len(digest) == 64 and isinstance(made, dict | None))
    _need(all(isinstance(b, list) and len(b) == 2 and all(isinstance(v, str) for v in b) for b in bad))
    for part, names in encoders.items():
        _need(part in LATENT_PARTS and isinstance(names, list) and all(isinstance(n, str) for n in names))
    entries = [_parsed_entry(shard, size, sample) for sample in samples]
    _need(len({entry.key for entry in entries}) == len(entries))
    found = [BadSample(shard.name, key, reason) for key, reason in bad]
    return ShardIndex(shard, size, entries, found, digest, encoders, made)


def _parsed_entry(shard: Shard, size: int, sample: Any) -> SampleEntry:
    _need(isinstance(sample, dict) and isinstance(sample.get("members"), dict))
    key, members, shapes = sample.get("key"), sample["members"], sample.get("shapes")
    _need(isinstance(key, str) and isinstance(shapes, dict | None))
    plain = _PLAIN_KEY.fullmatch(key) is not None  # sooner checked than by taking paths apart
    _need(plain or not unsafe_name(key))
    for extension, place in members.items():
        _need((plain and extension in _COMMON) or split_name(f"{key}.{extension}") == (key, extension))
        _need(isinstance(place, list) and len(place) == 2 and all(type(number) is int for number in place))
        offset, length = place
        _need(offset >= BLOCK and offset % BLOCK == 0 and 0 <= length <= size - offset)
    places = {extension: (place[0], place[1]) for extension, place in members.items()}
    return SampleEntry(shard, key, places, None if shapes is None else _parsed_shapes(shapes))


def _parsed_shapes(shapes: Mapping[str, Any]) -> Shapes:
    """The shapes of latents, as an index or their own header states them. Raises _NoIndexError."""
    for part, shape in shapes.items():
        _need(part in LATENT_PARTS and isinstance(shape, list) and 0 < len(shape) <= 8)
        _need(all(type(length) is int and 0 <= length < 2**32 for length in shape))
    return {part: tuple(shape) for part, shape in shapes.items()}


def scan_shard(shard: Shard) -> ShardIndex:
    """Read a tar's headers: samples in order, and what cannot be used, each with the reason.

    Raises:
        UserError: the file is no plain tar at all.
    """
    with closing(LocalFile(local_copy(shard))) as file:
        size = file.size
        found = _Found(shard.name, size)
        try:
            for member in tar_members(file.descriptor):
                found.add(member)
        except TarError as error:
            if not found.any:
                packed = file.pread(6, 0).startswith(_COMPRESSED)
                reason = "is compressed; unpack it first" if packed else f"is not a tar file ({error})"
                raise UserError(f"shard {shown(shard)} {reason}") from error
            found.stop(str(error))
        entries = [
            SampleEntry(shard, key, members, seen=True)
            for key, members in found.samples.items()
            if key not in found.broken
        ]
    entries, encoders = _with_latents_headers(shard, entries)
    bad = [BadSample(shard.name, k, why) for k, why in found.broken.items()]
    return ShardIndex(shard, size, entries, bad, encoders=encoders)


def _with_latents_headers(
    shard: Shard, entries: Sequence[SampleEntry]
) -> tuple[list[SampleEntry], dict[str, list[str]]]:
    """The entries with the shapes of their latents, and what encoded those, read from the samples' headers."""
    encoders: dict[str, set[str]] = {}
    described = []
    with closing(LocalFile(local_copy(shard))) as file:
        for entry in entries:
            if LATENTS in entry.members:
                entry = replace(entry, shapes=_header_shapes(file, *entry.members[LATENTS]))
                for part, encoder in stated_origin(file, entry)[0].items():
                    encoders.setdefault(part, set()).add(encoder)
            described.append(entry)
    return described, {part: sorted(found) for part, found in sorted(encoders.items())}


def _header_shapes(file: ShardFile, offset: int, size: int) -> Shapes | None:
    """The shapes that a safetensors member states, without its data; None where its header cannot be read."""
    head = file.pread(min(size, _HEAD), offset)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
        return None
    if length > len(head) - 8:
        head = file.pread(length + 8, offset)
    try:
        header = parse_json(head[8 : 8 + length], "its latents")
        _need(isinstance(header, dict) and all(isinstance(about, dict) for about in header.values()))
        return _parsed_shapes({part: header[part].get("shape") for part in LATENT_PARTS if part in header})
    except (UserError, _NoIndexError):
        return None


def stated_origin(file: ShardFile, entry: SampleEntry) -> tuple[dict[str, str], str]:
    """The origin that a sample of latents states: the encoder of each part, and the digest of its input."""
    offset, size = entry.members.get("json", (0, 0))
    if not 0 < size <= MAX_BYTES:
        return {}, ""
    try:
        about = parse_json(file.pread(size, offset), "its .json", constants=True)
    except UserError:
        return {}, ""
    about = about if isinstance(about, dict) else {}
    return encoded_by(about), str(about.get("made_of", ""))


def encoded_by(about: Mapping[str, Any]) -> dict[str, str]:
    """The encoder of each part, as a sample's JSON states it."""
    encoders = about.get("encoded_by")
    encoders = encoders if isinstance(encoders, dict) else {}
    return {part: str(encoders[part]) for part in LATENT_PARTS if part in encoders}


class _Found:
    """The members met so far, by sample, and what is wrong with some."""

    def __init__(self, shard: str, size: int) -> None:
        self.shard, self.size = shard, size
        self.samples: dict[str, dict[str, tuple[int, int]]] = {}
        self.broken: dict[str, str] = {}
        self.last = ""
        self.any = False

    def add(self, member: Member) -> None:
        self.any = True
        if member.is_folder:
            return
        reason = unsafe_name(member.name) or member.fault
        if reason:
            self.broken[member.name] = reason
            return
        key, extension = split_name(member.name)
        if not key or not extension:
            return  # not part of a sample, by WebDataset's naming
        members = self.samples.setdefault(key, {})
        if members and key != self.last:
            self.broken[key] = "its key appears twice in the shard"
        elif extension in members:
            self.broken[key] = f"has two members .{extension}"
        elif member.size > self.size - member.offset:
            self.broken[key] = f"the shard is truncated inside its .{extension}"
        members[extension] = (member.offset, member.size)
        self.last = key

    def stop(self, reason: str) -> None:
        """The tar cannot be followed further: what came after the last member, maybe of the last sample, is lost."""
        after = f"after {self.last}" if self.last else "at its start"
        if reason != "truncated":
            self.broken["(end)"] = f"the shard has {reason}; nothing more is read {after}"
        elif not any("truncated" in known for known in self.broken.values()):
            self.broken["(end)"] = f"the shard is truncated {after}"


def split_name(name: str) -> tuple[str, str]:
    """`a/b.frames.npy` -> (`a/b`, `frames.npy`): WebDataset's rule, the first dot of the last part."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    if not stem:
        return "", ""
    folder = str(path.parent)
    return (stem if folder == "." else f"{folder}/{stem}"), extension


def unsafe_name(name: str) -> str:
    """Why a member of that name must not be read, or nothing."""
    if name.startswith("/") or "\\" in name or (len(name) > 1 and name[1] == ":"):
        return "an unsafe member name (absolute)"
    if ".." in PurePosixPath(name).parts:
        return "an unsafe member name (it climbs out with ..)"
    return "" if name and name.isprintable() else "an unsafe member name (empty or unprintable)"
