"""The members of a tar file, one header after another: where each one's bytes lie, and why some must not be read.

The standard library's `tarfile` decodes a header's 512 bytes; going from one to the next is done here, because
`tarfile` follows sizes that lead backwards and reads extended headers of any length into memory.

Source of the format: POSIX.1-2001 (pax) and the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 512
MAX_EXTENDED = 2**20  # bytes of one extended header; extended attributes take some 64 KiB
MAX_NAME = 4096  # characters, as PATH_MAX of Linux
_PAX, _PAX_FOR_ALL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE
_EXTENDED = (*_PAX, _PAX_FOR_ALL, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_SPARSE = "GNU.sparse."


class TarError(Exception):
    """Where a tar file can be followed no further; the message says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its name, where its `size` bytes begin, and why it must not be used."""

    name: str
    offset: int
    size: int
    fault: str = ""
    is_folder: bool = False


def tar_members(descriptor: int) -> Iterator[Member]:
    """The members of an open tar file in their order, to its closing block of zeros.

    Every step leads forward, and no more than MAX_EXTENDED bytes are read at once, whatever the headers say.

    Raises:
        TarError: the file ends before its closing block, or a header is damaged: what follows is unknown.
    """
    position, end = 0, os.fstat(descriptor).st_size
    name_for_next: str | None = None
    pax_for_next: dict[str, str] = {}
    pax_for_all: dict[str, str] = {}
    while True:
        if position > end - BLOCK:
            raise TarError("truncated")
        block = os.pread(descriptor, BLOCK, position)
        if not any(block):
            return
        info = parse_header(block)
        if info is None or info.size < 0:
            raise TarError(f"a damaged header at byte {position}")
        data = position + BLOCK
        if info.type in _EXTENDED:
            content = _extended(descriptor, data, info.size, position)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                name_for_next = content.partition(b"\0")[0].decode(errors="surrogateescape")
            elif info.type == _PAX_FOR_ALL:
                pax_for_all |= _pax_records(content, position)
            elif info.type in _PAX:
                pax_for_next = _pax_records(content, position)
            position = data + _whole_blocks(info.size)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE:
            more = block[482]  # whether blocks with more of the map follow
            while more:
                block = os.pread(descriptor, BLOCK, data)
                if len(block) < BLOCK:
                    raise TarError("truncated")
                data, more = data + BLOCK, block[504]
        pax = pax_for_all | pax_for_next
        size = _pax_size(pax, info.size, position)
        name = pax.get("path", info.name if name_for_next is None else name_for_next)
        fault = ""
        if info.type == tarfile.GNUTYPE_SPARSE or _SPARSE in pax:
            fault = "is a sparse file, which is not read"
        elif not info.isreg():
            fault = "is a link or a device, not a file"
        elif len(name) > MAX_NAME:
            name, fault = name[:MAX_NAME], f"a name of {len(name)} characters; at most {MAX_NAME} are read"
        yield Member(name, data, size, fault, info.isdir())
        # Links, devices and folders have no bytes of their own, whatever size they state; unknown kinds do.
        has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        position = data + (_whole_blocks(size) if has_data else 0)
        name_for_next, pax_for_next = None, {}


def parse_header(block: bytes) -> tarfile.TarInfo | None:
    """A header's 512 bytes, their checksum compared; None where they are none."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError, OverflowError, ArithmeticError):
        return None


def _extended(descriptor: int, offset: int, size: int, position: int) -> bytes:
    if size > MAX_EXTENDED:
        raise TarError(
            f"an extended header of {size} bytes at byte {position}; at most {MAX_EXTENDED} are read"
        )
    content = os.pread(descriptor, size, offset)
    if len(content) < size:
        raise TarError("truncated")
    return content


def _pax_records(content: bytes, position: int) -> dict[str, str]:
    """The pax records "<length> <key>=<value>\\n" that give names and sizes, by key."""
    records: dict[str, str] = {}
    start = 0
    while start < len(content) and content[start]:
        digits, space, _ = content[start : start + 12].partition(b" ")
        end = start + int(digits) if digits.isdigit() else 0
        record = content[start + len(digits) + 1 : end]
        if not space or end > len(content) or not record.endswith(b"\n") or b"=" not in record:
            raise TarError(f"a damaged extended header at byte {position}")
        key, _, value = record[:-1].partition(b"=")
        if key in (b"path", b"size"):
            records[key.decode()] = value.decode(errors="surrogateescape")
        elif key.startswith(_SPARSE.encode()):
            records[_SPARSE] = ""
        start = end
    return records


def _pax_size(pax: dict[str, str], size: int, position: int) -> int:
    stated = pax.get("size", str(size))
    if not (stated.isascii() and stated.isdigit() and len(stated) < 20):
        raise TarError(f"a damaged extended header at byte {position}")
    return int(stated)


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
