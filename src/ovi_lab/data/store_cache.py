"""What was read from stores, kept on a local disk up to a size: parts of shards, and whole shards.

Each part is a file of its own that appears whole, with a checksum behind its bytes, below a folder of its shard's
address, size and version; so any number of processes may share the cache. The oldest files make room for new ones.

Environment: OVI_DATA_CACHE, the folder (`stores` in the user's cache), OVI_DATA_CACHE_GB (50), its size.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from ovi_eval.common.files import write_whole
from ovi_lab.checkpoints.digests import default_cache
from ovi_lab.data.stores import RemoteShard, setting
from ovi_lab.errors import UserError

_SPARED_S = 3600.0  # age from which on a temporary file is of a process that was killed


class StoreCache:
    """The cache, as the environment describes it."""

    def __init__(self) -> None:
        named = os.environ.get("OVI_DATA_CACHE")
        self.folder = Path(named).expanduser() if named else default_cache() / "stores"
        self.limit = int(setting("OVI_DATA_CACHE_GB", 50) * 1e9)

    def place(self, shard: RemoteShard, size: int, stamp: int) -> Path:
        """The folder of a shard of that version."""
        return self.folder / hashlib.sha256(f"{shard.url}\0{size}\0{stamp}".encode()).hexdigest()[:24]

    def get(self, place: Path, start: int, stop: int) -> bytes | None:
        """Bytes [start, stop) that were kept; None where they were not, or are damaged."""
        try:
            content = (place / f"{start}-{stop}").read_bytes()
        except OSError:
            return None
        data, check = content[:-4], content[-4:]
        return data if len(data) == stop - start and zlib.crc32(data).to_bytes(4, "little") == check else None

    def put(self, place: Path, start: int, data: bytes) -> None:
        """Keeps bytes that begin at `start`, where the cache is large enough for them."""
        if len(data) + 4 > self.limit:
            return
        self.reserve(len(data) + 4)
        write_whole(place / f"{start}-{start + len(data)}", data + zlib.crc32(data).to_bytes(4, "little"))

    def reserve(self, size: int) -> None:
        """Makes room for so many bytes. Raises UserError where the folder cannot be written."""
        with self.locked(self.folder / ".lock"):
            count = self.folder / ".size"
            try:
                total = int(count.read_text()) + size
            except (OSError, ValueError):
                total = self._trimmed(self.limit) + size
            if total > self.limit:
                # Several at once: looking through the files takes longer than one of them.
                total = self._trimmed(max(0, min(self.limit - size, int(0.9 * self.limit)))) + size
            write_whole(count, str(total))

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Alone among processes. Raises UserError where the folder cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path):
                pass
        except (OSError, NotImplementedError) as error:
            raise UserError(
                f"{self.folder}, where what is read from stores is kept, cannot be written ({error}): "
                "name another folder by OVI_DATA_CACHE"
            ) from error
        with FileLock(path):
            yield

    def _trimmed(self, limit: int) -> int:
        """The bytes of all files after the oldest were removed that pass the limit."""
        found = []
        for path in self.folder.glob("*/*"):
            with suppress(OSError):  # another process may have removed it
                facts = path.stat()
                temporary = path.name.startswith(".")
                found.append((facts.st_mtime + _SPARED_S * temporary, facts.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= limit:
                break
            with suppress(OSError):
                path.unlink()
            total -= size
        return total
