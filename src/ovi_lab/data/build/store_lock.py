"""One build at a time to an address: an object beside the shards that says who is building, and is refreshed meanwhile.

Stores have no lock in common, so the object is written, and read again a moment later: of two builds that begin at the
same time the one whose object is there goes on. Machines' clocks must agree to a minute or two.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovi_eval.common.plain_data import parse_json
from ovi_eval.common.shown import shown
from ovi_lab.data.stores import RemoteShard, below, read_object, remove, write_object
from ovi_lab.errors import UserError

NAME = "ovi-data.lock"
SETTLE_S = 1.0
REFRESH_S = 100.0  # on a store with a history, such as hf://, each is a commit
STALE_S = 300.0
"""Seconds after which a lock that was not refreshed counts as left by a build that was killed."""
_MOST = 2**16

log = logging.getLogger("ovi_lab.data")


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. `machine`: where its process number counts; `time`: of the last refresh, seconds since 1970."""

    id: str
    host: str
    machine: str
    pid: int
    time: float

    def __str__(self) -> str:
        return f"process {self.pid} on {shown(self.host)}"

    @property
    def gone(self) -> bool:
        """Whether it was a process of this machine that has ended."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False


class StoreLock:
    """A lock that this process holds. `check` raises UserError where another build has taken it meanwhile."""

    def __init__(self, address: RemoteShard) -> None:
        self.address, self.object = address, below(address, NAME)
        self.id = uuid.uuid4().hex
        self._taken_by: Holder | None = None

    def acquire(self) -> None:
        """Write the object. Raises UserError where another build holds it, or the store cannot be read or written."""
        holder = self._holder()
        if holder is not None:
            age = abs(time.time() - holder.time)
            if age < STALE_S and not holder.gone:
                raise self._refused(holder)
            why = "has ended" if holder.gone else f"was last heard of {_duration(age)} ago"
            log.warning("%s: the build of %s %s; this one takes its place", shown(self.address), holder, why)
        self._write()
        time.sleep(SETTLE_S)
        self._look()
        self.check()

    def refresh(self) -> None:
        """Say that the build goes on, unless another one has taken its place. Raises as `stores.retried`."""
        self._look()
        if self._taken_by is None:
            self._write()

    def check(self) -> None:
        """Raises UserError where another build has been found in this one's place."""
        if self._taken_by is not None:
            raise self._refused(self._taken_by)

    def release(self) -> None:
        """Remove the object, unless it is another build's."""
        self._look()
        if self._taken_by is None:
            remove(self.object)

    def _look(self) -> None:
        holder = self._holder()
        if holder is not None and holder.id != self.id:
            self._taken_by = holder

    def _holder(self) -> Holder | None:
        data = read_object(self.object, _MOST)
        if not data:
            return None
        try:
            plain = parse_json(data, NAME)
            return Holder(**{kind: made(plain[kind]) for kind, made in _FIELDS.items()})
        except (UserError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise UserError(
                f"{shown(self.object)} is no lock of a build; remove it, or name another address"
            ) from error

    def _write(self) -> None:
        holder = Holder(self.id, socket.gethostname(), _machine(), os.getpid(), time.time())
        write_object(self.object, json.dumps(asdict(holder)).encode())

    def _refused(self, holder: Holder) -> UserError:
        heard = _duration(abs(time.time() - holder.time))
        return UserError(
            f"{shown(self.address)}: {holder} is building to this address (heard of {heard} ago); wait for it, or name "
            f"another address. After {_duration(STALE_S)} of silence a build takes the other's place"
        )


_FIELDS: dict[str, Callable[[Any], Any]] = {"id": str, "host": str, "machine": str, "pid": int, "time": float}


@contextmanager
def alone_at(address: RemoteShard) -> Iterator[StoreLock]:
    """Holds an address for the block, refreshed by a thread. Raises as `StoreLock.acquire`."""
    lock, ended = StoreLock(address), threading.Event()
    lock.acquire()

    def refreshing() -> None:
        while not ended.wait(REFRESH_S):
            # where the store does not answer for a while, the build's own requests tell it
            with suppress(UserError):
                lock.refresh()

    thread = threading.Thread(target=refreshing, name="store lock", daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        ended.set()
        thread.join(10)
        # an error of the block matters more, and the lock of a process that has ended is taken over
        with suppress(UserError):
            lock.release()


def _machine() -> str:
    """A name of what counts this process's number: this start of the system, and its namespace; "" where not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
