"""Safe display of untrusted text: names, captions and values from files.

One function, `shown`, serves every output: a terminal, Markdown, an HTML page.
"""

from __future__ import annotations

import difflib
import html
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

from rich.markup import escape

Place = Literal["plain", "rich", "markdown", "html"]

# An underscore within a word is no markup, so that my_model stays readable; nor is a parenthesis without a bracket
# before it.
_MARKDOWN = re.compile(r"([\\`*\[\]|~$]|(?<=\])\(|(?<![^\W_])_|_(?![^\W_]))")
# What makes a heading, a list, a quotation or a rule of a line stands at its beginning.
_BEGINNING = re.compile(r"^(?:(#{1,6}|[-+])(?=\s|$)|(>)|([-=]+)(?=$)|(\d+)([.)])(?=\s|$))")

_ACTING = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control, format (direction, zero width), surrogate, private and unassigned characters; line breaks."""


def did_you_mean(name: str, valid: Iterable[str], most: int = 3) -> str:
    """`did you mean A or B?` with the valid names nearest to an unknown one; "" where none is near."""
    near = difflib.get_close_matches(name, list(valid), n=most, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else ""


def shown(text: Any, limit: int | None = 200, *, to: Place = "plain") -> str:
    """`text` on one line, without anything that a terminal, rich, Markdown or a browser would act on.

    Line breaks, tabs and runs of white space become one space. Control characters, those that turn the direction of
    writing, lone surrogates and invisible ones become \\x1b, \\u202e and the like. What is longer than `limit`
    characters ends in "…"; None shows all.

    `to`: "plain" for logs, messages and files of text; "rich" for markup of the rich library; "markdown" for a table or
    a paragraph of Markdown, in which HTML may stand; "html" for the text or a quoted attribute of a page.
    """
    line = " ".join(str(text).split())
    line = "".join(character if _harmless(character) else _named(character) for character in line)
    if limit is not None and len(line) > limit:
        line = line[: max(limit - 1, 0)] + "…"
    if to == "rich":
        return escape(line)
    if to == "markdown":
        line = line.replace("&", "&amp;").replace("<", "&lt;")
        return _BEGINNING.sub(_as_text, _MARKDOWN.sub(r"\\\1", line))
    if to == "html":
        return html.escape(line, quote=True)
    return line


def _as_text(beginning: re.Match[str]) -> str:
    number, mark = beginning[4], beginning[5]
    return f"{number}\\{mark}" if number else f"\\{beginning[0]}"


def _harmless(character: str) -> bool:
    # The zero-width joiner and non-joiner are parts of words and of emoji.
    return character in "\u200c\u200d" or unicodedata.category(character) not in _ACTING


def _named(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
