"""Shards on stores and out of pipes: the batches of local ones, faults survived or told in one line."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.latent_shards import first, write_latents
from helpers.object_store import ObjectStore, s3_store
from ovi_lab.data import clip_list, shard_files
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.index import index_path, read_index
from ovi_lab.data.loading import ClipLoader
from ovi_lab.data.module import OviDataModule
from ovi_lab.data.shard_files import local_copy
from ovi_lab.data.shards import expand_shards
from ovi_lab.data.stores import RemoteShard
from ovi_lab.errors import UserError

SAMPLES = [{"video": (2, 1, 2, 2), "audio": (4 + n % 3, 3)} for n in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards with their indexes."""
    found = tmp_path_factory.mktemp("shards")
    for n in range(3):
        write_latents(found / f"a-{n:03d}.tar", SAMPLES[8 * n : 8 * n + 8], video="v")
    return found


@pytest.fixture
def store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A store of those shards, without patience."""
    for name, value in {
        "OVI_DATA_CACHE": str(tmp_path / "cache"),
        "OVI_DATA_RETRIES": "3",
        "XDG_CACHE_HOME": str(tmp_path / "user"),
    }.items():
        monkeypatch.setenv(name, value)
    with s3_store(folder, "x", monkeypatch) as server:
        yield server


def address(store: ObjectStore, scheme: str, name: str = "a-{000..002}.tar") -> str:
    """The shards by one protocol; a test by another is skipped where its package is not installed."""
    if scheme == "s3":
        pytest.importorskip("s3fs")
        return f"s3://b/x/{name}"
    return f"{store.url}/b/x/{name}"


def ids(loader: ClipLoader, count: int = 7) -> list[object]:
    return first(loader, count, lambda batch: (batch["id"], [float(audio.sum()) for audio in batch["audio"]]))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_batches_fingerprint_and_resume_are_those_of_local_shards(
    store: ObjectStore, folder: Path, scheme: str
) -> None:
    settings = {"world": None, "root": folder, "batch_size": 3, "seed": 5}
    here = OviDataModule(**settings, shards=str(folder / "a-*.tar"))
    there = OviDataModule(**settings, shards=address(store, scheme))
    expected = ids(here.train_dataloader(), 14)
    assert ids(there.train_dataloader(), 14) == expected
    assert there.fingerprint() == here.fingerprint()
    resumed = there.train_dataloader()
    resumed.load_state_dict({"epoch": 0, "position": 5})
    assert ids(resumed, 9) == expected[5:]
    # A sample is one request, and is asked for once.
    parts = [part for part in store.reads() if part[0].endswith(".tar")]
    assert len(parts) == len(set(parts)) == 24
    assert all("=" in part for _, part in parts)


@pytest.mark.slow
def test_workers_read_stores_too(store: ObjectStore, folder: Path) -> None:
    here = ids(ClipLoader(ClipDataset(sorted(folder.glob("*.tar"))), 4, seed=2))
    loader = ClipLoader(ClipDataset(address(store, "http")), 4, seed=2, num_workers=2)
    assert ids(loader) == here


def test_patterns_are_expanded_on_stores(store: ObjectStore) -> None:
    found = expand_shards([address(store, "s3", "a-*.tar"), "pipe:cat a-{000..001}.tar"])
    assert [str(shard) for shard in found] == [
        *(f"s3://b/x/a-00{n}.tar" for n in range(3)),
        *(f"pipe:cat a-00{n}.tar" for n in range(2)),
    ]
    assert [shard.name for shard in found][2:4] == ["a-002.tar", "a-000.tar"]
    with pytest.raises(UserError, match=r"^shard s3://b/x/z-\*\.tar cannot be read \(.*\): check its name$"):
        ClipDataset(address(store, "s3", "z-*.tar"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "s3"])
@pytest.mark.parametrize("fault", [503, 429, 500, "half"])
def test_faults_that_pass_are_survived(
    store: ObjectStore, folder: Path, scheme: str, fault: int | str
) -> None:
    data = ClipDataset(address(store, scheme))
    here = ClipDataset(sorted(folder.glob("*.tar")))
    for number in (0, 9, 17):
        store.faults = [fault, fault, fault]
        assert data[number]["meta"] == here[number]["meta"]
        assert not store.faults


@pytest.mark.parametrize(("scheme", "fault"), [("http", 503), ("s3", 503), ("http", "half"), ("http", 429)])
def test_faults_that_stay_are_one_line(store: ObjectStore, scheme: str, fault: int | str) -> None:
    loader = ClipLoader(ClipDataset(address(store, scheme)), 4)
    store.faults = [fault] * 99
    with pytest.raises(
        UserError, match=r"a-00\d\.tar cannot be read after 4 attempts \(.*\): continue with resume=last"
    ) as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert not loader.bad
    assert isinstance(fault, str) or str(fault) in str(caught.value) or scheme == "s3"


def test_a_store_that_does_not_answer_in_time(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVI_DATA_TIMEOUT_S", "0.2")
    monkeypatch.setenv("OVI_DATA_RETRIES", "1")
    data = ClipDataset(address(store, "http"))
    store.faults = ["slow"]
    assert data[0]["meta"] == {"n": 0}
    store.faults = ["slow", "slow"]
    with pytest.raises(UserError, match=r"cannot be read after 2 attempts \(FSTimeoutError\)"):
        data[9]
    monkeypatch.setenv("OVI_DATA_TIMEOUT_S", "soon")
    with pytest.raises(
        UserError, match="OVI_DATA_TIMEOUT_S is 'soon'; expected a number above 0, such as 60"
    ):
        data[17]


@pytest.mark.parametrize("what", ["replaced", "deleted", "replaced unseen"])
def test_a_shard_that_changes_under_the_run_stops_it(
    store: ObjectStore, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ClipDataset(address(store, "http"))
    assert data[0]["meta"] == {"n": 0}
    other = write_latents(tmp_path / "a-000.tar", SAMPLES[1:5] + SAMPLES[:4], video="v").read_bytes()
    if what == "deleted":
        del store.objects["x/a-000.tar"]
    else:
        store.objects["x/a-000.tar"] = other
    if what == "replaced":
        monkeypatch.setattr(shard_files, "CHECKED_EVERY_S", -1.0)
    expected = (
        r"can no longer be read \(.*\): bring it back"
        if what == "deleted"
        else "was changed or replaced after this run had read its index"
    )
    with pytest.raises(UserError, match=f"^shard http.*a-000.tar {expected}"):
        list(map(data.__getitem__, range(1, 8)))


def test_refusals_are_not_repeated(store: ObjectStore) -> None:
    data = ClipDataset(address(store, "http"))
    for fault, message in ((403, "the store refuses access"), (400, r"the store refuses a request \(400")):
        store.faults, before = [fault], len(store.seen)
        with pytest.raises(UserError, match=message):
            data[0]
        assert len(store.reads()) - before < 2
    with pytest.raises(UserError, match=r"ftq:// is no store that fsspec knows; expected s3://"):
        ClipDataset("ftq://x/a.tar")


def test_shards_without_an_index_or_ranges_are_copied_whole(store: ObjectStore, folder: Path) -> None:
    store.objects = {key: data for key, data in store.objects.items() if key.endswith(".tar")}
    store.ranges = False
    data = ClipDataset(address(store, "http"))
    here = ClipDataset(sorted(folder.glob("*.tar")))
    assert [data[n]["meta"] for n in range(24)] == [here[n]["meta"] for n in range(24)]
    assert len([key for key, _ in store.reads() if key.endswith(".tar")]) == 3
    assert list(data.entries)[5].members == list(here.entries)[5].members


def test_the_cache_stays_within_its_size_and_is_not_believed(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVI_DATA_CACHE_GB", "2e-5")
    data = ClipDataset(address(store, "http"))
    for number in range(24):
        assert data[number]["meta"] == {"n": number % 8}
        kept = [path for path in (tmp_path / "cache").glob("*/*")]
        assert sum(path.stat().st_size for path in kept) <= 20_000
    assert 2 <= len(kept) < 24
    for path in kept:
        path.write_bytes(path.read_bytes()[::-1])
    assert [data[number]["meta"]["n"] for number in (23, 22)] == [7, 6]
    with pytest.raises(
        UserError, match=r"needed whole, more than the cache's 2e-05: raise OVI_DATA_CACHE_GB"
    ):
        local_copy(RemoteShard(address(store, "http", "a-000.tar")))
    monkeypatch.setenv("OVI_DATA_CACHE", str(tmp_path / "cache" / ".size"))
    with pytest.raises(UserError, match=r"cannot be written .*: name another folder by OVI_DATA_CACHE"):
        ClipDataset(address(store, "http"))[3]


def test_the_list_of_a_stores_clips_is_kept_in_the_users_cache(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_list, "KEPT_FROM", 0)
    first = ClipDataset(address(store, "http"))
    assert first.entries.kept is not None
    assert first.entries.kept.parent == tmp_path / "user" / "ovi_lab"
    store.seen.clear()
    assert list(ClipDataset(address(store, "http")).entries) == list(first.entries)
    assert not store.reads()


@pytest.mark.usefixtures("store")
def test_what_a_command_writes_is_a_shard(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "write.py"
    script.write_text(
        "import pathlib, sys\ntries = pathlib.Path(sys.argv[2])\nn = len(tries.read_text()) if tries.exists() else 0\n"
        "tries.write_text('x' * (n + 1))\ndata = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "sys.stdout.buffer.write(data[:3000] if n < 2 else data)\nsys.exit(n < 2)\n"
    )
    shard, tries = folder / "a-001.tar", tmp_path / "tries"
    command = f"pipe:{shlex.join([sys.executable, str(script), str(shard), str(tries)])}"
    data, here = ClipDataset(command), ClipDataset(shard)
    assert [data[n]["meta"] for n in range(8)] == [here[n]["meta"] for n in range(8)]
    assert data.shard_facts == here.shard_facts
    assert tries.read_text() == "xxx"  # broken off twice, and kept
    (copy,) = (tmp_path / "cache").glob("*/whole.tar")
    copy.unlink()
    os.utime(script)
    script.write_text(script.read_text().replace("read_bytes()", "read_bytes() + bytes(512)"))
    with pytest.raises(UserError, match=r"writes another shard than before: delete .* to take the new one"):
        ClipDataset(command)
    with pytest.raises(UserError, match=r"pipe:exit 3.* cannot be read after 4 attempts \(.*exit.*3"):
        ClipDataset("pipe:exit 3 # a.tar")


def test_commands_read_stores(store: ObjectStore, ovi_data) -> None:
    text = ovi_data("inspect", address(store, "http", "a-00[01].tar".replace("[01]", "0")))
    assert "samples 8 (8 of latents)" in text
    store.objects["x/a-001.tar"] = bytes(len(store.objects["x/a-001.tar"]))
    assert "its sha256 is not the one in its index" in ovi_data(
        "inspect", address(store, "http", "a-001.tar"), code=1
    )


def test_an_index_of_a_store_is_checked_as_any_other(store: ObjectStore, folder: Path) -> None:
    shard = RemoteShard(address(store, "http", "a-000.tar"))
    here = [(entry.key, entry.members, entry.shapes) for entry in read_index(folder / "a-000.tar").entries]
    assert [(entry.key, entry.members, entry.shapes) for entry in read_index(shard).entries] == here
    assert index_path(shard).url.endswith("/b/x/a-000.index.json")
    store.objects["x/a-000.index.json"] = b"{"
    assert [(entry.key, entry.members, entry.shapes) for entry in read_index(shard).entries] == here
