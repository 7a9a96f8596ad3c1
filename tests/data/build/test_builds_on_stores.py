"""`ovi-data check`, `report` and `captions` of shards on a store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from helpers.chat_server import GOOD, chat_server
from helpers.object_store import ObjectStore
from helpers.small_videos import RECIPE, digests, unnamed
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.captioning.assembled import taken_up
from ovi_lab.data.build.items import WORK
from ovi_lab.data.build.recipe import read_recipe
from ovi_lab.data.build.remote import upload
from ovi_lab.data.index import read_index
from ovi_lab.data.shards import ShardReader
from ovi_lab.data.stores import RemoteShard

THERE = "s3://b/shards"
KEEP = {"motion": {"min": 0.01}, "bandwidth": {"min": 1500}}


@pytest.fixture(scope="module")
def built_once(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four clips in shards of their own, one of which is dropped for its caption."""
    out, folder = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("videos")
    for file in videos.iterdir():
        if file.name != "v3.txt":
            shutil.copy(file, folder)
    plain = {**RECIPE, "keep": KEEP, "without_caption": "drop", "shard_bytes": 1}
    build(folder, out, read_recipe("planted", plain), BuildOptions(quiet=True))
    return out


@pytest.fixture
def work(built_once: Path, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a build that has been copied to the store."""
    monkeypatch.setenv("OVI_DATA_CACHE", str(tmp_path / "cache"))
    out = Path(shutil.copytree(built_once, tmp_path / "work"))
    upload(out, out / WORK, RemoteShard(THERE), quiet=True)
    return out


def lying(store: ObjectStore) -> set[str]:
    """Names of what is in the shards' folder of the store."""
    return {key.removeprefix("shards/") for key in store.objects if key.startswith("shards/")}


def captions_of(store: ObjectStore) -> dict[str, str]:
    """By key, as clips.jsonl on the store has them."""
    rows = map(json.loads, store.objects["shards/clips.jsonl"].splitlines())
    return {row["key"]: row["caption"] for row in rows}


@pytest.mark.slow
def test_a_build_on_a_store_is_checked_whole(
    work: Path, store: ObjectStore, ovi_data: Callable[..., str]
) -> None:
    printed = ovi_data("check", THERE)
    assert "shards 3" in printed
    assert "samples 3" in printed
    assert "compared indexes, SHA256SUMS, manifest.json, clips.jsonl faults 0" in printed
    printed = ovi_data("check", f"{THERE}/train-*.tar")
    assert "samples 3" in printed
    assert "compared indexes faults 0" in printed
    assert "samples 2" in ovi_data("check", f"{THERE}/train-{{00000..00001}}.tar")
    store.objects["shards/train-00000.index.json"] = b"{}"
    store.objects["shards/train-00007.tar"] = store.objects.pop("shards/train-00001.tar")
    sums = store.objects["shards/SHA256SUMS"].decode()
    store.objects["shards/SHA256SUMS"] = f"{sums}{'0' * 64}  ../mine\n".encode()
    printed = ovi_data("check", THERE, code=1)
    assert "train-00000.tar: (whole shard): its index is damaged" in printed
    assert "SHA256SUMS: train-00000.index.json: has another sha256" in printed
    assert not unnamed(printed, "train-00001.tar", "train-00007.tar")
    assert "../mine: is no line of a digest and a name" in printed
    del store.objects["shards/SHA256SUMS"]
    store.objects["shards/manifest.json"] = b"{}"
    printed = ovi_data("check", THERE, code=1)
    assert f"{THERE}/manifest.json is no manifest of this version" in printed


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("s3://b/none", "s3://b/none holds no .tar; name a folder of shards, or a pattern of them"),
        ("s3://b/none/a.tar", "shard s3://b/none/a.tar does not exist; check the address"),
        ("s3://b/none/a-*.tar", "shard s3://b/none/a-*.tar does not exist; check the address"),
        ("nope://b/shards", "nope:// is no store that fsspec knows"),
    ],
)
def test_addresses_without_shards_are_refused(
    target: str, message: str, store: ObjectStore, ovi_data: Callable[..., str]
) -> None:
    assert message in ovi_data("check", target, code=2)


@pytest.mark.slow
def test_the_report_of_a_store_is_written_there(
    work: Path, store: ObjectStore, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    printed = ovi_data("report", THERE, "--videos", "s3://b/videos")
    assert f"page {THERE}/report.html" in printed
    assert "clips 4, 4 of them play on the page" in printed
    page = store.objects["shards/report.html"].decode()
    assert "shards" in page[page.index("<title>") : page.index("</title>")]
    # dropped clips alone need the videos, and a store that is only read gets no page
    del store.objects["videos/v3.mp4"], store.objects["shards/report.html"]
    out = tmp_path / "page.html"
    printed = ovi_data("report", THERE, "--videos", "s3://b/videos", "--out", out)
    assert "3 of them play on the page" in printed
    assert "1 cannot be shown" in printed
    assert out.is_file()
    assert "report.html" not in lying(store)
    del store.objects["shards/manifest.json"]
    assert f"{THERE} has no manifest.json; name a folder" in ovi_data("report", THERE, code=2)
    assert "page.html/x is no file in a folder" in ovi_data("report", THERE, "--out", out / "x", code=2)


@pytest.mark.slow
def test_captions_go_to_the_store(
    work: Path, store: ObjectStore, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    printed = ovi_data("captions", THERE, "--work", work, "--export", "s3://b/todo")
    assert "clips 1 list s3://b/todo/clips.jsonl" in printed
    assert f"ovi-data captions {THERE} --work" in printed
    (row,) = map(json.loads, store.objects["todo/clips.jsonl"].splitlines())
    assert {f"todo/{name}" for name in (*row["frames"], row["sound"])} < store.objects.keys()
    last = [key for method, key, _ in store.seen if method == "PUT"][-1]
    assert last == "todo/clips.jsonl"
    row["caption"] = "Colours wander. Audio: hiss"
    store.objects["todo/clips.jsonl"] = json.dumps(row).encode()
    printed = ovi_data("captions", THERE, "--work", work, "--join", "s3://b/todo/clips.jsonl")
    assert "joined 1" in printed
    assert f"copied 5 files to {THERE}" in printed  # the new shard with its index, clips, manifest, sums
    assert captions_of(store)["v3-000"] == "Colours wander. Audio: hiss"
    assert lying(store) == set(digests(work))
    assert "faults 0" in ovi_data("check", THERE)
    (entry,) = read_index(RemoteShard(f"{THERE}/train-00003.tar")).entries
    assert b"Colours wander" in ShardReader().read(entry)["json"]
    with chat_server() as server:
        printed = ovi_data("captions", THERE, "--work", work, "--ask", server.url, "--all", "--clips", 1)
    assert "1 clips, 1 answered" in printed
    assert captions_of(store)["v0-000"] == GOOD
    # a second export takes the place of the first
    ovi_data("captions", THERE, "--work", work, "--export", "s3://b/todo", "--all", "--clips", 1)
    assert not any("v3-000" in key for key in store.objects)
    store.objects["todo/notes.txt"] = b"mine"
    refused = ovi_data("captions", THERE, "--work", work, "--export", "s3://b/todo", code=2)
    assert "s3://b/todo holds notes.txt, which is of no export" in refused


@pytest.mark.slow
def test_a_copy_that_was_stopped_goes_on_with_the_same_command(
    work: Path, store: ObjectStore, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    table = tmp_path / "captions.jsonl"
    table.write_text(json.dumps({"id": "v3-000", "caption": "Colours. Audio: hiss"}))
    store.faults = [None, None, None, 503, 503]  # after the lock and the shard its index cannot be written
    words = ("captions", THERE, "--work", work, "--join", table)
    assert "cannot be written after 2 attempts" in ovi_data(*words, code=2)
    assert not {"manifest.json", "SHA256SUMS"} & lying(store)
    ovi_data(*words)
    assert captions_of(store)["v3-000"] == "Colours. Audio: hiss"
    assert "faults 0" in ovi_data("check", THERE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_any_store_of_fsspec_will_do(
    kind: str,
    built_once: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ovi_data: Callable[..., str],
) -> None:
    monkeypatch.setenv("OVI_DATA_CACHE", str(tmp_path / "cache"))
    there = f"file://{tmp_path}/there" if kind == "file" else f"memory://{tmp_path.name}/there"
    work = Path(shutil.copytree(built_once, tmp_path / "work"))
    upload(work, work / WORK, RemoteShard(there), quiet=True)
    table = tmp_path / "captions.csv"
    table.write_text("id,caption\nv3-000,Colours. Audio: hiss\n")
    assert "joined 1" in ovi_data("captions", there, "--work", work, "--join", table)
    printed = ovi_data("check", there)
    assert "samples 4" in printed
    assert "compared indexes, SHA256SUMS, manifest.json, clips.jsonl faults 0" in printed
    assert "4 of them play on the page" in ovi_data("report", there)
    files = fsspec.filesystem(kind).find(there.removeprefix("file://"))
    assert {Path(name).name for name in files} == {*digests(work), "report.html"}


def test_slips_are_one_line(
    work: Path, store: ObjectStore, tmp_path: Path, ovi_data: Callable[..., str]
) -> None:
    assert "needs --work DIR" in ovi_data("captions", THERE, "--sound-tag", "Audio", code=2)
    words = ("captions", work, "--work", work, "--sound-tag", "Audio")
    assert "SHARDS is a folder here" in ovi_data(*words, code=2)
    words = ("captions", THERE, "--work", work, "--join", "s3://b/none.jsonl")
    assert "captions: s3://b/none.jsonl does not exist; check the address" in ovi_data(*words, code=2)
    other = Path(shutil.copytree(work, tmp_path / "other"))
    (other / WORK / "uploaded.json").unlink()
    before = dict(store.objects)
    refused = ovi_data("captions", THERE, "--work", other, "--sound-tag", "Audio", code=2)
    assert "holds a build that was not copied there from" in refused
    assert store.objects == before
    with taken_up(work) as assembly:
        assert assembly.rows()[1].kept.total() == 3
