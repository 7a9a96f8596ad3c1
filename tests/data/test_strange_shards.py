"""Untrusted shards, indexes and members: each is a bad sample or a refused shard, in one line."""

import io
import json
import os
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from helpers.latent_shards import write_shard
from ovi_lab.data.cli import main
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.decode import latent_members, read_about, read_latents, read_media
from ovi_lab.data.index import BadSampleError, index_path, read_index, scan_shard
from ovi_lab.data.npy import npy_bytes
from ovi_lab.data.shards import ShardReader
from ovi_lab.errors import UserError


def header(name: str, size: bytes = b"%011o\0" % 4, kind: bytes = b"0", checksum: int = 0) -> bytes:
    """A ustar header whose fields are what is given, `checksum` too large by that much."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:108] = block[108:116] = block[116:124] = b"0000644\0"
    block[124 : 124 + len(size)] = size
    block[136:148] = b"%011o\0" % 0
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % (sum(block) + checksum)
    return bytes(block)


def member(name: str, data: bytes = b"data", **fields: Any) -> bytes:
    return header(name, fields.pop("size", b"%011o\0" % len(data)), **fields) + data + bytes(-len(data) % 512)


def gnu_size(value: int) -> bytes:
    """A size in base 256, as GNU tar writes large and negative ones."""
    return (b"\x80" if value >= 0 else b"\xff") + value.to_bytes(11, "big", signed=True)


def pax(records: dict[str, str]) -> bytes:
    content = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while len(f"{length}") + len(rest) != length:
            length += 1
        content += f"{length}".encode() + rest
    return content


END = bytes(1024)
GOOD = member("good.bin")
STRANGE = {
    "negative size": header("a.bin", gnu_size(-512)),
    "size that leads back to itself": header("a.bin", gnu_size(-1024)),
    "size of 2^80": header("a.bin", gnu_size(2**80)),
    "size beyond the file": header("a.bin", b"77777777777\0"),
    "size with a sign": header("a.bin", b"-0000000512\0"),
    "size in words": header("a.bin", b"lots\0"),
    "wrong checksum": member("a.bin", checksum=1),
    "noise": bytes(range(256)) * 2,
    "long name of 2 GiB": header("././@LongLink", gnu_size(2**31), b"L") + b"x" * 512,
    "long name cut off": header("././@LongLink", b"%011o\0" % 5000, b"L") + b"x" * 512,
    "pax header of 2 GiB": header("pax", gnu_size(2**31), b"x"),
    "pax record that is longer than its header": member("pax", b"99 path=a.bin\n", kind=b"x") + GOOD,
    "pax record of length 0": member("pax", b"0 path=a.bin\n", kind=b"x") + GOOD,
    "pax record without a length": member("pax", b"path=a.bin\n", kind=b"x") + GOOD,
    "pax size that is negative": member("pax", pax({"size": "-512"}), kind=b"x") + member("a.bin"),
    "pax size in words": member("pax", pax({"size": "many"}), kind=b"x") + member("a.bin"),
    "pax size of 10^18": member("pax", pax({"size": str(10**18)}), kind=b"x") + member("a.bin"),
    "sparse map without an end": header("a.bin", kind=b"S")[:482] + b"\1" + bytes(29),
}


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("after", [True, False])
def test_a_strange_header_ends_the_shard_in_one_line(
    strange: str, after: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a good member that one is kept; at the beginning of the file the whole of it may be refused."""
    path = tmp_path / "a.tar"
    path.write_bytes((GOOD if after else b"") + STRANGE[strange] + END)
    began = time.monotonic()
    tracemalloc.start()
    with nullcontext() if after else suppress(UserError):
        index = scan_shard(path)
        assert index.bad
        assert [e.key for e in index.entries] == (["good"] if after else [])
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()
    assert time.monotonic() - began < 5
    assert main(["inspect", str(path)]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") <= 1
    assert "Traceback" not in said


def test_members_that_are_no_plain_files_are_bad_samples_among_good_ones(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.name": "c.bin", "GNU.sparse.realsize": "99999999999"}
    path = tmp_path / "a.tar"
    path.write_bytes(
        GOOD
        + member("a.bin", kind=b"S")
        + member("pax", pax(sparse), kind=b"x")
        + member("c.bin")
        + header("d.bin", b"%011o\0" % 0, b"3")
        + header("e.bin", b"%011o\0" % 0, b"6")
        + header("f.bin", b"%011o\0" % 0, b"2")
        + member("pax", pax({"path": "g" * 5000 + ".bin"}), kind=b"x")
        + member("g.bin")
        + member("pax", pax({"path": "\x1b[2Jh.bin"}), kind=b"x")
        + member("h.bin")
        + member("pax", pax({"path": "last.bin"}), kind=b"x")
        + member("other.bin", b"12345")
        + END
    )
    index = scan_shard(path)
    assert [e.key for e in index.entries] == ["good", "last"]
    assert ShardReader().read(index.entries[1]) == {"bin": b"12345"}
    told = "\n".join(map(str, index.bad))
    assert "\x1b" not in told
    assert told.count("\n") == len(index.bad) - 1 == 6
    for words in ("sparse file", "link or a device", "a name of 5004 characters", "unprintable"):
        assert words in told


def test_long_names_as_tar_programs_write_them_are_read(tmp_path: Path) -> None:
    name = "folder/" + "n" * 150 + "é"
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{format}.tar"
        with tarfile.open(path, "w", format=format) as tar:
            for extension in ("bin", "json"):
                info = tarfile.TarInfo(f"{name}.{extension}")
                info.size = 3
                tar.addfile(info, io.BytesIO(b"abc"))
        (entry,) = scan_shard(path).entries
        assert entry.key == name
        assert ShardReader().read(entry) == {"bin": b"abc", "json": b"abc"}


def shard(path: Path) -> Path:
    video, audio, encoder = torch.zeros(2, 3, 1, 1), torch.zeros(5, 3), {"video": "a"}
    clips = [latent_members(f"clip {n}", {}, video, audio, encoded_by=encoder) for n in range(3)]
    return write_shard(path, {f"k{n}": members for n, members in enumerate(clips)})


def _set(*where: Any) -> Callable[[dict[str, Any]], None]:
    *path, last, value = where

    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in path:
            inner = inner[key]
        inner[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("samples", 0, "members", "json", [-512, 10]),
        _set("samples", 0, "members", "json", [512, -1]),
        _set("samples", 0, "members", "json", [512, 10**30]),
        _set("samples", 0, "members", "json", [512.0, 10]),
        _set("samples", 0, "members", "json", [True, True]),
        _set("samples", 0, "members", "json", "here"),
        _set("samples", 0, "members", "../up.json", [512, 10]),
        _set("samples", 0, "key", "../up"),
        _set("samples", 0, "key", 3),
        _set("samples", 1, "key", "k0"),
        _set("samples", 0, "shapes", {"video": [-1, 2]}),
        _set("samples", 0, "shapes", {"video": [10**30]}),
        _set("samples", 0, "shapes", {"picture": [1]}),
        _set("samples", 0, "shapes", [1]),
        _set("samples", 0),
        _set("samples", {"k0": 1}),
        _set("bad", [["k"]]),
        _set("bad", "none"),
        _set("encoders", {"video": "a"}),
        _set("encoders", ["a"]),
        _set("sha256", None),
        _set("made", "yesterday"),
        _set("size", True),
    ],
)
def test_an_index_with_impossible_fields_is_not_believed(change: Callable, tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar")
    scanned = scan_shard(path)
    content = json.loads(index_path(path).read_text())
    change(content)
    index_path(path).write_text(json.dumps(content))
    index = read_index(path)
    assert index.entries == scanned.entries
    assert index.sha256 is None  # the tar's own headers were read


@pytest.mark.parametrize(
    "text", ['{"a":' * 5000, '{"format": 1, "format": 2}', "[" * 100_000, "\x80", "[NaN]"]
)
def test_an_index_that_is_no_plain_json_is_not_believed(text: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar")
    index_path(path).write_text(text, encoding="latin-1")
    assert len(read_index(path).entries) == 3


def test_an_index_that_lies_about_bytes_is_refused_when_they_are_read(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar")
    content = json.loads(index_path(path).read_text())
    first, second = content["samples"][:2]
    first["members"], second["members"] = second["members"], first["members"]
    index_path(path).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"does not hold k0.json where its index says: delete a.index.json"):
        ClipDataset(path)[0]


def test_an_index_that_lies_about_latents_makes_bad_samples(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar")
    content = json.loads(index_path(path).read_text())
    content["samples"][1]["shapes"]["audio"] = [7, 3]
    index_path(path).write_text(json.dumps(content))
    with pytest.raises(BadSampleError, match=r"audio latents have the shape \[5, 3\], by its index \[7, 3\]"):
        ClipDataset(path).read(1)
    content["encoders"] = {"video": ["b"]}
    index_path(path).write_text(json.dumps(content))
    with pytest.raises(BadSampleError, match=r"video latents were made by a, by its index by b"):
        ClipDataset(path).read(0)


def test_the_index_of_another_shard_of_the_same_size_and_time(tmp_path: Path) -> None:
    """As a copy that keeps times leaves it."""
    path = shard(tmp_path / "a.tar")
    members = latent_members("other words", {}, torch.zeros(2, 3, 1, 1), torch.zeros(5, 3))
    other = write_shard(tmp_path / "b.tar", {f"j{n}": members for n in range(3)})
    times = path.stat()
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=r"does not hold k0"):
        ClipDataset(path)[0]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"json": b"[" * 100_000}, "nested deeper"),
        ({"json": b'{"caption": "a", "caption": "b"}'}, "twice"),
        ({"json": b'{"caption": "\\ud800"}'}, "surrogate"),
        ({"json": b'{"caption": "a\\u0000"}'}, "NUL"),
        ({"json": b'{"caption": ["a"]}'}, 'no "caption" in words'),
        ({"json": b'{"caption": "a", "meta": 3}'}, 'no "caption" in words'),
        ({"json": b'"caption"'}, "not an object"),
        ({"json": b'{"caption": "\xe9"}'}, "cannot be read"),
        ({"json": b'{"caption": "a", "n": ' + b"9" * 5000 + b"}"}, "cannot be read"),
        ({"txt": b"caf\xe9"}, "no UTF-8"),
        ({"txt": b"\xff\xfea\0b"}, "broken UTF-16"),
        ({"txt": b"a\0b"}, "NUL"),
        ({"txt": b"x" * (2**20 + 1)}, None),
    ],
)
def test_untrusted_json_and_text_members(members: dict[str, bytes], words: str | None) -> None:
    if words is None:
        assert read_about(members)["caption"]
        return
    with pytest.raises(BadSampleError, match=words):
        read_about(members)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_in_the_usual_encodings(encoding: str) -> None:
    assert read_about({"txt": " ein Hündchen\r\n".encode(encoding)})["caption"] == "ein Hündchen"


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ('"fps": 1e-300, "sample_rate": 8000', "gives 1e-300 as fps"),
        ('"fps": 1e300, "sample_rate": 8000', "as fps: it must be from 0.1 to 1000"),
        ('"fps": true, "sample_rate": 8000', 'lacks "fps" in numbers'),
        ('"fps": NaN, "sample_rate": 8000', "as fps"),
        (f'"fps": {10**400}, "sample_rate": 8000', "as fps"),
        ('"fps": 8, "sample_rate": 1', "gives 1 as sample_rate"),
        ('"fps": 8, "sample_rate": "8000"', 'lacks "sample_rate" in numbers'),
    ],
)
def test_untrusted_rates(rates: str, words: str) -> None:
    frames, wave = np.zeros((8, 4, 4, 3), np.uint8), np.zeros(8000, np.int16)
    members = {"json": f'{{"caption": "x", {rates}}}'.encode()}
    members |= {"frames.npy": npy_bytes(frames), "wave.npy": npy_bytes(wave)}
    with pytest.raises(BadSampleError, match=words):
        read_media(members)


def stored(header: str, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + data


@pytest.mark.parametrize(
    "latents",
    [
        b"",
        b"\xff" * 8,
        stored("{" * 1000),
        stored('{"audio": {"dtype": "F32", "shape": [1000000000000, 20], "data_offsets": [0, 4]}}', bytes(4)),
        stored('{"audio": {"dtype": "F32", "shape": [-1, 1], "data_offsets": [0, 4]}}', bytes(4)),
        stored('{"audio": {"dtype": "F32", "shape": [1, 20], "data_offsets": [0, 400]}}', bytes(4)),
        stored('{"audio": {"dtype": "F32", "shape": [1, 20], "data_offsets": [4, 0]}}', bytes(4)),
        stored('{"audio": {"dtype": "F32", "shape": [0, 1152921504606846976], "data_offsets": [0, 0]}}'),
        stored('{"audio": {"dtype": "F4", "shape": [2, 20], "data_offsets": [0, 20]}}', bytes(20)),
        stored('{"audio": 3}'),
        save({"audio": torch.zeros(0, 20)}),
        save({"audio": torch.zeros(4, 20, dtype=torch.int32)}),
        save({"audio": torch.zeros(4, 20, dtype=torch.complex64)}),
        save({"audio": torch.full((4, 20), float("inf"))}),
        save({"audio": torch.zeros(4)}),
        save({"sound": torch.zeros(4, 20)}),
    ],
)
def test_untrusted_latents_are_bad_samples(latents: bytes, tmp_path: Path) -> None:
    members = {"json": b'{"caption": "x"}', "latents.safetensors": latents}
    with pytest.raises(BadSampleError, match=r"^(its .*latents|it has no audio latents)"):
        read_latents(members, ("audio",))
    good = {**members, "latents.safetensors": save({"audio": torch.zeros(4, 20)})}
    write_shard(tmp_path / "a.tar", {"bad": members, "good": good})
    dataset = ClipDataset(tmp_path / "a.tar", modalities=["audio"])
    assert {dataset[n]["id"] for n in range(len(dataset))} == {"good"}
    assert main(["inspect", str(tmp_path / "a.tar")]) in (0, 1)
