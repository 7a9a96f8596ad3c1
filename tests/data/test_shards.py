"""Shards: written whole, indexed, read at random, and what a foreign or damaged tar gives."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import webdataset

from helpers.latent_shards import write_shard
from ovi_lab.data import shards
from ovi_lab.data.index import BadSampleError, index_path, read_index, scan_shard, split_name
from ovi_lab.data.shard_names import joined_shards
from ovi_lab.data.shards import ShardReader, ShardWriter, expand_shards, write_shards
from ovi_lab.errors import UserError


def write(path: Path, count: int = 5) -> Path:
    members = [{"json": b'{"caption": "x"}', "bin": bytes([n]) * (700 + n)} for n in range(count)]
    return write_shard(path, {f"clip-{n}": sample for n, sample in enumerate(members)})


def foreign_tar(path: Path, names: list[str]) -> Path:
    """Members of 100 bytes."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 100
            tar.addfile(info, io.BytesIO(bytes(100)))
    return path


def test_any_sample_is_read_through_the_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a-000.tar")
    index = read_index(path)
    assert [e.key for e in index.entries] == [f"clip-{n}" for n in range(5)]
    assert not index.bad
    reader = ShardReader()
    for n in (3, 0, 4):
        assert reader.read(index.entries[n])["bin"] == bytes([n]) * (700 + n)


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    path = write(tmp_path / "a-000.tar")
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [s["__key__"] for s in samples] == [f"clip-{n}" for n in range(5)]
    assert samples[2]["bin"] == bytes([2]) * 702


def test_an_index_is_not_needed_and_a_wrong_one_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "a-000.tar")
    whole = read_index(path).entries
    beside = index_path(path)
    content = json.loads(beside.read_text())
    assert content["size"] == path.stat().st_size
    beside.unlink()
    assert read_index(path).entries == whole
    for change in (
        {"size": 7},
        {"format": "other"},
        {"samples": [{"key": "k", "members": {"bin": [0, 10**9]}}]},
    ):
        beside.write_text(json.dumps(content | change))
        assert read_index(path).entries == whole
    beside.write_text("not json")
    assert read_index(path).entries == whole


def test_the_index_of_an_older_tar_of_the_same_size_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "a-000.tar", 2)
    size = path.stat().st_size
    foreign_tar(path, [f"other-{n}.bin" for n in range(3)])
    assert path.stat().st_size == size  # both fill one record of 10 KiB
    assert [e.key for e in read_index(path).entries] == ["other-0", "other-1", "other-2"]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.tar").read_bytes() == write(tmp_path / "b.tar").read_bytes()


def test_nothing_is_left_of_a_shard_that_failed(tmp_path: Path) -> None:
    def samples():
        yield "clip-0", {"json": b"{}"}
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match=r"stop"):
        write_shards(tmp_path / "a", samples(), 10)
    assert list(tmp_path.iterdir()) == []


def test_samples_are_divided_into_shards(tmp_path: Path) -> None:
    samples = ((f"k{n}", {"bin": b"x"}) for n in range(7))
    paths = write_shards(tmp_path / "part", samples, 3)
    assert [p.name for p in paths] == ["part-000.tar", "part-001.tar", "part-002.tar"]
    assert [e.key for p in paths for e in read_index(p).entries] == [f"k{n}" for n in range(7)]


@pytest.mark.parametrize("keep", [0.3, 0.55, 0.7, 0.8])
def test_a_truncated_tar_gives_what_is_whole_and_names_what_is_not(tmp_path: Path, keep: float) -> None:
    path = write(tmp_path / "a-000.tar", 20)
    whole = {e.key: e for e in scan_shard(path).entries}
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    index = read_index(path)  # the index beside it no longer fits and is not believed
    assert 0 < len(index.entries) < 20
    assert len(index.bad) == 1
    assert "truncated" in index.bad[0].reason
    reader = ShardReader()
    for entry in index.entries[:-1]:
        assert entry == whole[entry.key]
        assert reader.read(entry)["bin"] == bytes([int(entry.key[5:])]) * (700 + int(entry.key[5:]))


def test_a_tar_cut_between_members_is_still_known_to_be_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a-000.tar")
    last = scan_shard(path).entries[-1].members["json"]
    path.write_bytes(path.read_bytes()[: last[0] + 512])
    index = scan_shard(path)
    assert [b.reason for b in index.bad] == ["the shard is truncated after clip-4"]


def test_a_shard_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a-000.tar")
    entry = read_index(path).entries[4]
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BadSampleError, match=r"truncated inside its .bin"):
        ShardReader().read(entry)


def test_unsafe_members_are_named_and_not_read(tmp_path: Path) -> None:
    names = ["good.bin", "/etc/passwd.bin", "../up.bin", "a/../../up.bin", "also.good.bin"]
    path = foreign_tar(tmp_path / "a.tar", names)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        hard = tarfile.TarInfo("hard.bin")
        hard.type, hard.linkname = tarfile.LNKTYPE, "good.bin"
        tar.addfile(hard)
    index = read_index(path)
    assert [(e.key, list(e.members)) for e in index.entries] == [("good", ["bin"]), ("also", ["good.bin"])]
    reasons = {b.key: b.reason for b in index.bad}
    assert set(reasons) == {"/etc/passwd.bin", "../up.bin", "a/../../up.bin", "link.bin", "hard.bin"}
    assert "absolute" in reasons["/etc/passwd.bin"]
    assert "climbs out" in reasons["../up.bin"]
    assert "link" in reasons["link.bin"]


def test_repeated_keys_and_members(tmp_path: Path) -> None:
    names = ["a.bin", "b.bin", "a.json", "c.bin", "c.bin", "d.bin"]
    index = read_index(foreign_tar(tmp_path / "a.tar", names))
    assert [e.key for e in index.entries] == ["b", "d"]
    assert {b.key: b.reason for b in index.bad} == {
        "a": "its key appears twice in the shard",
        "c": "has two members .bin",
    }


def test_names_are_split_at_the_first_dot_of_the_last_part() -> None:
    assert split_name("a.b/c.frames.npy") == ("a.b/c", "frames.npy")
    assert split_name("./c.mp4") == ("c", "mp4")
    assert split_name("a/.hidden") == ("", "")


def test_files_that_are_no_tar_are_refused(tmp_path: Path) -> None:
    for content in (b"hello", b""):
        (tmp_path / "text.tar").write_bytes(content)
        with pytest.raises(UserError, match=r"is not a tar file"):
            read_index(tmp_path / "text.tar")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.bin"))
    with pytest.raises(UserError, match=r"is compressed; unpack it first"):
        read_index(tmp_path / "packed.tar")


def test_patterns(tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path / f"a-{n:03d}.tar", 1)
    assert [p.name for p in expand_shards(str(tmp_path / "a-{000..002}.tar"))] == [
        f"a-{n:03d}.tar" for n in range(3)
    ]
    (tmp_path / "b-000.tar").write_bytes(b"")
    assert [p.name for p in expand_shards(str(tmp_path / "a-*.tar"))] == [f"a-{n:03d}.tar" for n in range(3)]
    for pattern, message in (
        (str(tmp_path / "a-{000..004}.tar"), r"a-003.tar and 1 more of 5 does not exist"),
        (str(tmp_path / "c-*.tar"), r"c-\*.tar does not exist"),
        ([], r"no shards were named"),
        ("a-{000..tar", r"write train-\{000..003\}.tar"),
    ):
        with pytest.raises(UserError, match=message):
            expand_shards(pattern)


def test_keys_with_dots_or_climbing_out_are_refused(tmp_path: Path) -> None:
    for key in ("a.b", "../a", "/a", ""):
        with (
            pytest.raises(UserError, match=r"cannot be a sample's key"),
            ShardWriter(tmp_path / "a.tar") as shard,
        ):
            shard.write(key, {"bin": b""})


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """The kernel's own answer, from its device for it, through the writer's file."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    message = r"no space left on the disk while writing .*a-000.tar"
    shard = ShardWriter(tmp_path / "a-000.tar")
    with full.open("wb") as device:
        os.dup2(device.fileno(), shard._file.file.fileno())

    def fill() -> None:
        with shard:
            for n in range(64):
                shard.write(f"clip-{n}", {"bin": bytes(4096)})

    with pytest.raises(UserError, match=message):
        fill()
    assert not list(tmp_path.iterdir())


def test_a_shell_and_hydra_leave_shard_patterns_whole() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    def read(arguments: list[str]) -> list:
        return [o.value() for o in OverridesParser.create().parse_overrides(joined_shards(arguments))]

    expanded = [f"data.shards=/d/{n:03d}.tar" for n in range(3)]
    assert read(["seed=1", *expanded, "name=x"]) == [1, ["/d/000.tar", "/d/001.tar", "/d/002.tar"], "x"]
    assert read(["data.shards=/d/{000..002}.tar"]) == ["/d/{000..002}.tar"]
    for untouched in (["seed=1"], ["data.shards=a.tar"], ["data.shards=[a.tar,b.tar]"]):
        assert joined_shards(untouched) == untouched


def test_a_reader_keeps_few_shards_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_OPEN", 2)
    entries = [read_index(write(tmp_path / f"a-{n}.tar", 1)).entries[0] for n in range(4)]
    reader = ShardReader()
    for entry in (*entries, *reversed(entries)):
        assert reader.read(entry)["json"] == b'{"caption": "x"}'
        assert len(reader._files) <= 2
