"""The reader of untrusted text: UTF-8 with or without a byte order mark, UTF-16 with one.

Anything else is refused by the file's name and the place, as a guessed encoding turns words into other words.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError

MAX_BYTES = 16 * 2**20
"""The default bound on the size of a file."""
MAX_CAPTION_BYTES = 2**20
"""The largest file that holds one caption."""


def read_text(path: str | Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file, its line ends as they are.

    Raises UserError for a file that is missing, unreadable, larger than `max_bytes`, in another encoding, or that
    holds a NUL character.
    """
    return _decoded(_read_bytes(path, max_bytes), str(path))


def read_caption_text(path: str | Path) -> str:
    """The one caption of a text file: line ends as \\n, white space around it taken off. Raises as `read_text`."""
    return parse_caption(_read_bytes(path, MAX_CAPTION_BYTES), str(path))


def parse_caption(content: bytes, name: str) -> str:
    """The caption in a file's content, as `read_caption_text`; `name` is its name in errors."""
    return _decoded(content, name).replace("\r\n", "\n").replace("\r", "\n").strip()


def unusable(text: str) -> str:
    """The fault of a text from JSON escapes that no UTF-8 file can hold; "" without one."""
    if "\0" in text:
        return "holds a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half of a surrogate pair"
    return ""


def _decoded(content: bytes, name: str) -> str:
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    encoding = "utf-16" if wide else "utf-8"
    try:
        text = content[mark:].decode(encoding)
    except UnicodeDecodeError as error:
        start = mark + error.start
        line = content[mark:start].decode(encoding, "ignore").count("\n") + 1
        problem = "is broken UTF-16" if wide else "is no UTF-8 text, nor UTF-16 with a byte order mark"
        raise UserError(
            f"{shown(name)}: {problem} (line {line}, byte {start}); save it again as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(
            f"{shown(name)}: holds a NUL character (line {line}), as UTF-16 without a byte order mark, UTF-32 or a "
            "file of no text does; save it again as UTF-8"
        )
    return text


def _read_bytes(path: str | Path, max_bytes: int) -> bytes:
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"{shown(path)}: no such file")
        # Not by its stated size, which may change while it is read.
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(
            f"{shown(path)}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    if len(content) > max_bytes:
        raise UserError(f"{shown(path)}: is larger than the {max_bytes} bytes that such a file may have")
    return content
