"""Foreign text made safe to show: names, captions and values from files of strangers.

One function, `shown`, for every place where such text is read by a person: a terminal, Markdown, an HTML page.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any, Literal

from rich.markup import escape

__all__ = ["Place", "shown"]

Place = Literal["plain", "rich", "markdown", "html"]

# An underscore within a word is no markup: my_model stays readable as text.
_MARKDOWN = re.compile(r"([\\`*{}\[\]<>()#+!|~&$]|(?<![^\W_])_|_(?![^\W_]))")


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
        return _MARKDOWN.sub(r"\\\1", line)
    if to == "html":
        return html.escape(line, quote=True)
    return line


def _harmless(character: str) -> bool:
    # Cc control, Cf format (direction, zero width), Cs surrogates, Co private, Cn unassigned; Zl, Zp line breaks.
    # The zero-width joiner and non-joiner are parts of words and of emoji.
    return character in "\u200c\u200d" or unicodedata.category(character) not in (
        "Cc",
        "Cf",
        "Cs",
        "Co",
        "Cn",
        "Zl",
        "Zp",
    )


def _named(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
