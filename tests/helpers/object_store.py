"""A small object store for tests, on this machine: S3's requests, plain HTTP's reading ones, faults on demand."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest

from helpers.serving import serving
from ovi_lab.data import stores

LIST = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
    "<Prefix>{prefix}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
    "{keys}</ListBucketResult>"
)
KEY = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{etag}</ETag>"
    "<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


class ObjectStore(ThreadingHTTPServer):
    """Objects of one bucket `b` by key, at `http://127.0.0.1:PORT/b/KEY`.

    `faults`: what happens to the next requests that read or write bytes, in turn: a status such as 503, "half" (the
    connection ends in the middle), "slow" (nothing comes for a second), or None. `seen`: (method, key, range) of all
    requests. `ranges`: whether parts may be asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.faults: list[int | str | None] = []
        self.seen: list[tuple[str, str, str]] = []
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def reads(self) -> list[tuple[str, str]]:
        """The requests of bytes so far: key and range."""
        return [(key, part) for method, key, part in self.seen if method == "GET" and key]


@contextmanager
def s3_store(folder: Path, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The files of a folder below `s3://b/PREFIX/`, in a store that fsspec reaches, and is asked again at once."""
    monkeypatch.setattr(stores, "FIRST_WAIT_S", 0.001)
    with serving(ObjectStore()) as server:
        reached = {"endpoint_url": server.url, "key": "id", "secret": "secret"}
        monkeypatch.setitem(fsspec.config.conf, "s3", reached)
        server.objects = {f"{prefix}/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())}
        yield server


class _Handler(BaseHTTPRequestHandler):
    server: ObjectStore
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def do_PUT(self) -> None:
        key = self._key()
        self.server.seen.append((self.command, key, ""))
        data = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self._send(fault, b"", {}, True)
            return
        self.server.objects[key] = data
        self._send(200, b"", {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}, True)

    def do_DELETE(self) -> None:
        key = self._key()
        self.server.seen.append((self.command, key, ""))
        self.server.objects.pop(key, None)
        self._send(204, b"", {}, False)

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/b").removeprefix("/")

    def _answer(self, body: bool) -> None:
        key = self._key()
        asked = self.headers.get("Range", "")
        self.server.seen.append((self.command, key, asked))
        if not key:
            self._list(parse_qs(urlsplit(self.path).query).get("prefix", [""])[0])
            return
        fault = self.server.faults.pop(0) if body and self.server.faults else None
        if fault == "slow":
            time.sleep(1)
        if isinstance(fault, int) or key not in self.server.objects:
            self._send(fault if isinstance(fault, int) else 404, b"", {}, body)
            return
        data = self.server.objects[key]
        headers = {
            "ETag": f'"{hashlib.md5(data).hexdigest()}"',
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        }
        status, found = 200, re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if found and self.server.ranges:
            start, stop = int(found[1]), int(found[2]) + 1
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
            status, data = 206, data[start:stop]
        self._send(status, data, headers, body, cut=fault == "half")

    def _list(self, prefix: str) -> None:
        found = {key: data for key, data in sorted(self.server.objects.items()) if key.startswith(prefix)}
        keys = "".join(
            KEY.format(key=key, etag=hashlib.md5(data).hexdigest(), size=len(data))
            for key, data in found.items()
        )
        text = LIST.format(prefix=prefix, count=len(found), keys=keys)
        self._send(200, text.encode(), {"Content-Type": "application/xml"}, True)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut
