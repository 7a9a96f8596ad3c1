"""Shards on stores (`s3://`, `http(s)://`, `gs://`, `hf://`, …) and out of pipes (`pipe:COMMAND`).

Every request is repeated with growing waits where the store throttles, times out or breaks off, and ends in one line
where it still fails. Stores are reached through fsspec, whose own configuration (`FSSPEC_S3_ENDPOINT_URL`, …) and the
stores' usual credentials count.

Environment: OVI_DATA_RETRIES (8) further attempts of a request, OVI_DATA_TIMEOUT_S (60) for each.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from ovi_eval.common.installation import install_hint
from ovi_eval.common.shown import shown
from ovi_lab.common.seeding import generator_for
from ovi_lab.errors import UserError

PIPE = "pipe:"
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
AT_ONCE = 16  # requests that one process has under way
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_STAMPS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "blob_id",
    "Last-Modified",
    "LastModified",
    "updated",
    "mtime",
)
_CLIENTS = {
    "aiohttp",
    "botocore",
    "aiobotocore",
    "gcsfs",
    "google",
    "huggingface_hub",
    "httpx",
    "urllib3",
    "fsspec",
}
_SAME = "with the same command"
_NOT_AGAIN = {400, 405, 412, 416}

Result = TypeVar("Result")


@dataclass(frozen=True, order=True)
class RemoteShard:
    """A shard that is no file: by its address, or by the command that writes it."""

    url: str

    def __str__(self) -> str:
        return self.url if self.is_pipe else self.url.partition("?")[0]  # without a signature

    @property
    def is_pipe(self) -> bool:
        """Whether a command writes it."""
        return self.url.startswith(PIPE)

    @property
    def name(self) -> str:
        """The last part of its address; of a command, the last word that names a tar."""
        if self.is_pipe:
            named = re.findall(r"[^\s'\"/]+\.tar\b", self.url)
            return named[-1] if named else self.url
        return str(self).rpartition("/")[2]

    def with_name(self, name: str) -> RemoteShard:
        """Another object beside this one."""
        return RemoteShard(f"{str(self).rpartition('/')[0]}/{name}")


def below(folder: RemoteShard, name: str) -> RemoteShard:
    """An object below an address."""
    return RemoteShard(f"{str(folder).rstrip('/')}/{name}")


def is_remote(name: str) -> bool:
    """Whether a shard's name is an address or a command."""
    return name.startswith(PIPE) or re.match(r"[a-z][a-z0-9+.-]*://", name) is not None


def setting(name: str, default: float) -> float:
    """A number above 0 (from 0 on for OVI_DATA_RETRIES) of the environment. Raises UserError where it is none."""
    text = os.environ.get(name, "")
    try:
        value = float(text or default)
        if value > 0 or (value == 0 and name.endswith("RETRIES")):
            return value
    except ValueError:
        pass
    raise UserError(f"{name} is {text!r}; expected a number above 0, such as {default:g}")


def filesystem(shard: RemoteShard) -> Any:
    """fsspec's file system of an address; each process has its own."""
    import fsspec

    protocol = shard.url.partition("://")[0]
    seconds = setting("OVI_DATA_TIMEOUT_S", 60)
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        limits = {"read_timeout": seconds, "connect_timeout": seconds, "retries": {"total_max_attempts": 1}}
        options["config_kwargs"] = limits
    elif protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        options["client_kwargs"] = {"timeout": ClientTimeout(total=seconds)}
    elif protocol == "file":
        options["auto_mkdir"] = True  # as on a store, whose folders are parts of names
    elif protocol in ("gs", "gcs"):
        options["requests_timeout"] = seconds
    try:
        found = fsspec.filesystem(protocol, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = install_hint(extra) if extra else f"pip install what fsspec needs for {protocol}://"
        raise UserError(
            f"{shown(shard)}: {protocol}:// needs a package that is not installed: {hint}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{shown(shard)}: {protocol}:// is no store that fsspec knows; expected s3://, http(s)://, gs:// or hf://"
        ) from error
    if protocol in ("s3", "s3a"):
        found.retries = 1  # the attempts are counted here
    return found


def retried(
    shard: RemoteShard, call: Callable[[], Result], done: str = "read", again_by: str = "with resume=last"
) -> Result:
    """The result of a request of a shard, repeated where that may help.

    Args:
        done, again_by: for the message of the last failure: what is asked for, and how a user continues.

    Raises:
        FileNotFoundError: the store has no such object.
        UserError: access is refused, or the last attempt failed as well.
    """
    attempts, jitter = 1 + int(setting("OVI_DATA_RETRIES", 8)), None
    for attempt in range(attempts):
        try:
            return call()
        except Exception as error:
            reason, again = _judged(shard, error)
            if not again:
                raise
            if attempt == attempts - 1:
                raise UserError(
                    f"{shown(shard)} cannot be {done} after {attempts} attempts ({reason}): continue {again_by} when "
                    "the store answers again (OVI_DATA_RETRIES allows more)"
                ) from error
        jitter = jitter or generator_for("store retry", str(shard), os.getpid())
        wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
        time.sleep(wait * (0.5 + 0.5 * float(torch.rand((), generator=jitter))))
    raise RuntimeError("the last attempt neither gave a result nor failed")


def _judged(shard: RemoteShard, error: BaseException) -> tuple[str, bool]:
    """What a failed request says in a line, and whether it may help to repeat it.

    Raises FileNotFoundError where there is no such object, UserError where it may not be read.
    """
    if isinstance(error, UserError):
        return str(error), False
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    status = next((code for one in chain if (code := _status(one)) is not None), None)
    reason = shown(
        next((line for one in chain for line in str(one).splitlines() if line), type(error).__name__), 200
    )
    # a store in memory raises it because of a KeyError; one because of a lost connection says nothing of the object
    absent = isinstance(error, FileNotFoundError) and all(
        isinstance(one, FileNotFoundError | KeyError) for one in chain
    )
    if status in (404, 410) or (absent and status is None):
        raise FileNotFoundError(reason) from error
    if status in (401, 403) or isinstance(error, PermissionError) or "redentials" in type(chain[-1]).__name__:
        raise UserError(
            f"{shown(shard)}: the store refuses access ({reason}): check the credentials and rights"
        ) from error
    told = f"{status}: {reason}" if status else reason
    if status in _NOT_AGAIN:
        raise UserError(f"{shown(shard)}: the store refuses a request ({told}): check the address") from error
    known = isinstance(error, OSError | TimeoutError | EOFError) or _CLIENTS & {
        type(one).__module__.partition(".")[0] for one in chain
    }
    return told, bool(known)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of one of the clients carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif type(error).__module__.startswith("gcsfs"):
        found = getattr(error, "code", None)
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status", None)
    return int(found) if str(found).isdigit() else None


def facts_of(shard: RemoteShard) -> tuple[int, int]:
    """Size, and a number that changes with the content (of its ETag or time of change).

    Raises as `retried`; UserError also where the store tells no size.
    """
    return _facts(shard, retried(shard, lambda: filesystem(shard).info(shard.url)))


def _facts(shard: RemoteShard, info: Mapping[str, Any]) -> tuple[int, int]:
    if not isinstance(info.get("size"), int):
        raise UserError(f"{shown(shard)}: its server tells no size; copy it to a disk or another store")
    stamp = next((f"{key}={info[key]}" for key in _STAMPS if info.get(key)), "")
    return info["size"], int(hashlib.sha256(stamp.encode()).hexdigest()[:12], 16)


def files_below(folder: RemoteShard) -> dict[str, tuple[RemoteShard, tuple[int, int]]]:
    """Every object below an address, by its name relative to it, with size and number as `facts_of` gives them.

    Raises as `retried`; UserError also where the store lists no folders.
    """
    found = filesystem(folder)
    root = found._strip_protocol(folder.url).rstrip("/")
    try:
        listed = retried(folder, lambda: found.find(folder.url, detail=True), "listed", _SAME)
    except NotImplementedError as error:
        raise UserError(f"{shown(folder)}: this store lists no folders") from error
    files = {}
    for path, info in listed.items():
        name = path.removeprefix(root).lstrip("/")
        if name:
            shard = RemoteShard(found.unstrip_protocol(path))
            files[name] = (shard, _facts(shard, info))
    return files


def fetch(shard: RemoteShard, path: Path) -> None:
    """Copy an object into a file. Raises as `retried`; the file is then not whole."""
    retried(shard, lambda: filesystem(shard).get_file(shard.url, str(path)), "read", _SAME)


def put(path: Path, shard: RemoteShard) -> None:
    """Copy a file into an object. Raises as `retried`."""
    retried(shard, lambda: filesystem(shard).put_file(str(path), shard.url), "written", _SAME)


def write_object(shard: RemoteShard, data: bytes) -> None:
    """Write a small object. Raises as `retried`."""
    retried(shard, lambda: filesystem(shard).pipe_file(shard.url, data), "written", _SAME)


def remove(shard: RemoteShard) -> None:
    """Remove an object, where there is one. Raises as `retried`."""
    with suppress(FileNotFoundError):
        retried(shard, lambda: filesystem(shard).rm_file(shard.url), "removed", _SAME)


def read_range(shard: RemoteShard, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of an object, or all of it where its server gives no parts. Raises as `retried`."""

    def call() -> bytes:
        data = filesystem(shard).cat_file(shard.url, start=start, end=stop)
        if len(data) < stop - start:
            raise EOFError(f"{len(data)} of {stop - start} bytes came")
        return data

    return retried(shard, call)


def read_object(shard: RemoteShard, most: int) -> bytes | None:
    """A small object; None where there is none, or it may not be read or is larger than `most`."""
    try:
        size, _ = facts_of(shard)
        return read_range(shard, 0, size)[:size] if 0 < size <= most else None
    except FileNotFoundError:
        return None


def of_each(shards: list[RemoteShard], call: Callable[[RemoteShard], Result]) -> Iterator[Result]:
    """The results of a request for each shard in order, several at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(call, shards)


def listed_shards(pattern: str) -> list[RemoteShard]:
    """What an address with `*` or `?` stands for, by name; its own name where it has none. Raises as `retried`."""
    shard = RemoteShard(pattern)
    if shard.is_pipe or not any(sign in str(shard) for sign in "*?["):
        return [shard]
    found = filesystem(shard)
    try:
        names = retried(shard, lambda: found.glob(pattern))
    except FileNotFoundError:
        names = []
    return [RemoteShard(found.unstrip_protocol(name)) for name in sorted(names)] or [shard]
