"""Shards, their indices, media and tables of captions: what `ovi-data` and `ovi-eval` read."""

from __future__ import annotations

import io
import json
import random
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .corpus import Corpus, put
from .mutations import any_value, spoiled_bytes, spoiled_json
from .outcomes import Case

_BAD = re.compile(r"^\s*bad\s+[1-9]|skipped|left out|cannot be|missing|not scored|no value", re.M)


def _told(text: str) -> bool:
    return bool(_BAD.search(text))


def _data(*arguments: Any) -> Callable[[], Any]:
    from ovi_lab.data.cli import main

    return lambda: main([str(a) for a in arguments])


def _eval(*arguments: Any) -> Callable[[], Any]:
    from ovi_eval.cli import main

    return lambda: main([str(a) for a in arguments])


def _tar(rng: random.Random, members: list[tuple[str, bytes]]) -> bytes:
    """A tar, with a member of odd type, name or stated size now and then."""
    stream = io.BytesIO()
    odd = rng.randrange(len(members)) if rng.random() < 0.5 else -1
    with tarfile.open(
        fileobj=stream, mode="w", format=rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    ) as tar:
        for number, (name, content) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if number == odd:
                change = rng.randrange(5)
                if change == 0:
                    info.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE,
                                            tarfile.GNUTYPE_SPARSE, tarfile.FIFOTYPE))  # fmt: skip
                    info.linkname = "../../../../etc/hostname"
                elif change == 1:
                    ending = name.partition(".")[2]
                    info.name = (
                        rng.choice(("../up", "/abs", "a/../../b", "\x1b[31mk", "é" * 90, "", ".", "k\n"))
                        + f".{ending}"
                    )
                elif change == 2 and tar.format == tarfile.PAX_FORMAT:
                    sign = rng.choice(("-1", "-512", "1e3", "9" * 30, "x", "0"))
                    info.pax_headers = {
                        rng.choice(("size", "GNU.sparse.size", "GNU.sparse.realsize", "path")): sign
                    }
                elif change == 3:
                    tar.addfile(info, io.BytesIO(content))  # twice
            tar.addfile(info, io.BytesIO(content))
    made = bytearray(stream.getvalue())
    if odd >= 0 and rng.random() < 0.3:
        # a size of base 256, negative or huge, with a checksum that fits
        at = 512 * rng.randrange(max(1, min(8, len(made) // 512)))
        made[at + 124 : at + 136] = rng.choice(
            (b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"\x80" + bytes(11), b"77777777777\0")
        )
        made[at + 148 : at + 156] = b" " * 8
        made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def _spoiled_member(rng: random.Random, name: str, content: bytes) -> bytes:
    if name.endswith(".json"):
        return spoiled_json(rng, json.loads(content))
    return spoiled_bytes(rng, content) if rng.random() < 0.9 else b""


def shards(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    """A tar whose bytes, headers or members are spoiled."""
    kind = rng.choice(("media", "latents", "mp4"))
    members = corpus.samples(kind)
    how = rng.choice(("member", "member", "headers", "bytes"))
    if how == "member":
        number = rng.randrange(len(members))
        name, content = members[number]
        members[number] = (name, _spoiled_member(rng, name, content))
    content = _tar(rng, members)
    if how == "bytes":
        content = spoiled_bytes(rng, content)
    put(folder / "in" / "a-000.tar", content)
    return Case(_reading(rng, corpus, "in/a-000.tar"), f"{how} of a shard of {kind}", _told)


def _reading(rng: random.Random, corpus: Corpus, shard: str) -> Callable[[], Any]:
    codec = corpus.world / "codec.safetensors"
    which = rng.randrange(4)
    if which == 0:
        return _data("inspect", shard, "--sheet", "sheet.png", "--codec", codec)
    if which == 1:
        return _data("latents", shard, "--out", "out/l", "--codec", codec)
    return _data("inspect", shard)


def indices(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    """A good shard beside a spoiled index."""
    kind = rng.choice(("media", "latents"))
    members = corpus.samples(kind)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    shard = folder / "in" / "a-000.tar"
    put(shard, stream.getvalue())
    from ovi_lab.data.index import index_path, write_index

    write_index(shard)
    good = json.loads(index_path(shard).read_bytes())
    put(index_path(shard), spoiled_json(rng, good))
    return Case(_reading(rng, corpus, "in/a-000.tar"), f"index of a shard of {kind}", _told)


_PLAYLISTS = (
    b"ffconcat version 1.0\nfile /etc/hostname\n",
    b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
)


def media(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    """A clip, a sound or a picture whose bytes are spoiled."""
    if rng.random() < 0.15:
        return _picture(rng, corpus, folder)
    name = rng.choice(list(corpus.media))
    other = corpus.media[rng.choice(list(corpus.media))].read_bytes()
    content = spoiled_bytes(rng, corpus.media[name].read_bytes(), other)
    if rng.random() < 0.05:
        content = rng.choice(_PLAYLISTS)
    put(folder / "in" / name, content)
    (folder / "in" / name).with_suffix(".txt").write_text("a ball")
    if name.startswith("sound"):
        if rng.random() < 0.5:
            codec = corpus.world / "codec.safetensors"
            call = _data("latents", "in", "--audio-only", "--codec", codec, "--out", "out/l")
        else:
            call = _eval("score", "in", "--metrics", "ball/sync", "--out", "out/results.json", "--no-cache")
    elif rng.random() < 0.5:
        store = rng.choice(("auto", "arrays", "mp4", "original"))
        call = _data("pack", "in", "out/p", "--size", "32x32", "--fps", "8", "--store", store)
    else:
        metric = rng.choice(("ball/event_sync", "av_align_javis", "temporal_flickering"))
        call = _eval(
            "score", "in", "--metrics", metric, "--out", "out/results.json", "--no-cache", "--workers", "0"
        )
    return Case(call, f"bytes of {name}", _told)


def _picture(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    from ovi_lab.sampling.images import read_image

    name = rng.choice(list(corpus.images))
    path = folder / "in" / f"first.{name.rpartition('.')[2]}"
    put(path, spoiled_bytes(rng, corpus.images[name]))
    return Case(lambda: read_image(path) and 0, f"bytes of the first frame {name}")


_TABLES = (
    [
        ("file", "caption"),
        ("clip.mp4", "a red ball, bouncing"),
        ("deep/clip.mp4", 'he says "hello"\nand leaves'),
    ],
    [("id", "caption"), ("clip", "a red ball"), ("deep/clip", "another")],
)
_PROMPTS = (
    [
        ("id", "text_prompt", "seed", "size"),
        ("a", "a man <S>speaks<E> softly", "3", ""),
        ("b", "rain, loud", "", "96x96"),
    ],
    [("text_prompt", "image_path"), ("a dog barks", ""), ("<AUDCAP>wind<ENDAUDCAP>", "first.png")],
)


def captions(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    """A table of captions for packing or scoring, or of prompts for sampling."""
    of_prompts = rng.random() < 0.5
    rows = [list(row) for row in rng.choice(_PROMPTS if of_prompts else _TABLES)]
    for _ in range(rng.choice((0, 1, 1, 2))):
        row = rng.choice(rows)
        value = any_value(rng)
        row[rng.randrange(len(row))] = value if isinstance(value, str) else str(value)[:2000]
    if rng.random() < 0.3:
        rng.choice(rows).extend(["more", "cells"])
    ending = rng.choice(("csv", "tsv", "jsonl", "txt") if rng.random() < 0.9 else ("json", "xlsx", ""))
    text = _table(rng, rows, ending)
    coding = rng.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"))
    content = text.encode(coding, "replace" if coding == "latin-1" else "surrogatepass")
    if rng.random() < 0.4:
        content = spoiled_bytes(rng, content)
    table = folder / "in" / f"table.{ending}"
    put(table, content)
    put(folder / "in" / "clips" / "clip.mp4", corpus.media["clip.mp4"].read_bytes())
    put(folder / "in" / "clips" / "deep" / "clip.mp4", corpus.media["clip.mp4"].read_bytes())
    put(folder / "in" / "first.png", corpus.images["RGB.png"])
    if ending == "txt" and rng.random() < 0.7:
        put(folder / "in" / "clips" / "clip.txt", content)
        call = _data("pack", "in/clips", "out/p", "--size", "32x32", "--fps", "8")
    elif of_prompts:
        from ovi_lab.sampling.requests import read_requests

        def call() -> Any:
            for row in read_requests(table)[1]:
                print(f"left out: {row.reason}")

    elif rng.random() < 0.5:
        call = _data("pack", "in/clips", "out/p", "--size", "32x32", "--fps", "8", "--captions", table)
    else:
        call = _eval("score", "in/clips", "--metrics", "temporal_flickering", "--captions", table, "--out",
                     "out/results.json", "--no-cache", "--workers", "0")  # fmt: skip
    return Case(call, f"a table of {'prompts' if of_prompts else 'captions'} (.{ending}, {coding})", _told)


def _table(rng: random.Random, rows: list[list[str]], ending: str) -> str:
    if ending == "jsonl":
        head, *rest = rows
        lines = [dict(zip(head, row, strict=False)) for row in rest]
        return "".join(
            spoiled_json(rng, line).decode("utf-8", "surrogateescape") + "\n"
            if rng.random() < 0.3
            else json.dumps(line) + "\n"
            for line in lines
        )
    sign = "\t" if ending == "tsv" else rng.choice((",", ",", ",", ";", "\t"))
    quote = rng.random() < 0.8
    lines = []
    for row in rows:
        cells = [
            '"' + cell.replace('"', '""') + '"' if quote and set(cell) & set(sign + '"\n') else cell
            for cell in row
        ]
        lines.append(sign.join(cells))
    return rng.choice(("\n", "\n", "\r\n", "\r")).join(lines) + rng.choice(("\n", "", '"'))


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'
