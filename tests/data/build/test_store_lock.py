"""Two builds to one address: the second is refused, and goes on where the first has ended without a word."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from helpers.object_store import ObjectStore
from ovi_lab.data.build import store_lock
from ovi_lab.data.build.store_lock import Holder, StoreLock, alone_at
from ovi_lab.data.stores import RemoteShard
from ovi_lab.errors import UserError

THERE, LOCK = RemoteShard("s3://b/shards"), "shards/ovi-data.lock"
RECIPE = (
    "clips: {frames: 16, fps: 16, pixels: 2304, multiple: 16}\nsteps: {motion: {}}\nwithout_caption: empty\n"
)


def other(**changes: object) -> Holder:
    """A build of another machine."""
    return replace(Holder("x", "node7", "there", 4242, time.time()), **changes)


def written(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_one_at_a_time(scheme: str, store: ObjectStore, tmp_path: Path) -> None:
    address = THERE if scheme == "s3" else RemoteShard(f"file://{tmp_path}/shards")
    message = r"shards: process \d+ on .* is building to this address \(heard of \d+ s ago\); wait for it, or"
    with alone_at(address), pytest.raises(UserError, match=message):
        StoreLock(address).acquire()
    with alone_at(address) as lock:
        lock.check()
    assert not [name for name in store.objects if name.startswith("shards")]
    assert not list(tmp_path.glob("shards/*"))


@pytest.mark.slow
def test_what_a_user_sees(
    store: ObjectStore,
    videos: Path,
    tmp_path: Path,
    ovi_data: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    words = ("build", videos, "s3://b/shards", "--work", tmp_path / "work", "--recipe", recipe)
    store.objects[LOCK] = written(other(time=time.time() - 240))
    refused = ovi_data(*words, code=2)
    assert "s3://b/shards: process 4242 on node7 is building to this address (heard of 4 min ago)" in refused
    assert "After 5 min of silence a build takes the other's place" in refused
    assert {key for key in store.objects if key.startswith("shards/")} == {LOCK}
    assert not (tmp_path / "work").exists()
    store.objects[LOCK] = written(other(time=time.time() - 1200))
    printed = ovi_data(*words)
    said = "the build of process 4242 on node7 was last heard of 20 min ago; this one takes its place"
    assert said in caplog.text
    assert "4 kept" in printed
    assert LOCK not in store.objects
    assert "shards/manifest.json" in store.objects
    # captions go there too
    store.objects[LOCK] = written(other())
    words = ("captions", "s3://b/shards", "--work", tmp_path / "work", "--sound-tag", "Audio")
    assert "process 4242 on node7 is building" in ovi_data(*words, code=2)
    store.objects[LOCK] = written(other(pid=10**30, machine=store_lock._machine()))
    assert "on node7 is building" in ovi_data(*words, code=2)
    store.objects[LOCK] = b"mine"
    assert "s3://b/shards/ovi-data.lock is no lock of a build; remove it" in ovi_data(*words, code=2)
    assert store.objects[LOCK] == b"mine"


def test_a_build_that_was_killed_on_this_machine_is_followed_at_once(
    store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    child = get_context("fork").Process(target=int)
    child.start()
    child.join()
    gone = other(host="here", machine=store_lock._machine(), pid=child.pid)
    assert gone.machine
    store.objects[LOCK] = written(gone)
    with alone_at(THERE):
        assert f"process {child.pid} on here has ended; this one takes its place" in caplog.text
    store.objects[LOCK] = written(replace(gone, machine="there"))  # whose processes are not known here
    with pytest.raises(UserError, match="on here is building"):
        StoreLock(THERE).acquire()


def test_a_lock_is_refreshed_though_the_store_fails_now_and_then(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_lock, "REFRESH_S", 0.02)
    with alone_at(THERE):
        first = json.loads(store.objects[LOCK])["time"]
        store.faults = [503] * 4
        until = time.monotonic() + 20
        while json.loads(store.objects[LOCK])["time"] == first and time.monotonic() < until:
            time.sleep(0.01)
        assert json.loads(store.objects[LOCK])["time"] > first


def test_a_build_whose_place_was_taken_stops_and_leaves_the_other_alone(store: ObjectStore) -> None:
    with alone_at(THERE) as lock:
        store.objects[LOCK] = written(other())
        lock.refresh()
        with pytest.raises(UserError, match="process 4242 on node7 is building"):
            lock.check()
    assert store.objects[LOCK] == written(other(time=json.loads(store.objects[LOCK])["time"]))


def test_of_two_that_begin_together_the_last_to_write_goes_on(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = other()
    monkeypatch.setattr(time, "sleep", lambda _: store.objects.update({LOCK: written(later)}))
    with pytest.raises(UserError, match="process 4242 on node7 is building"):
        StoreLock(THERE).acquire()
    assert store.objects[LOCK] == written(later)
