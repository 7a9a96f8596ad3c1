"""Foreign text on its way to a reader: names, captions, reasons and notes are from files that anybody may have written.

All of it goes through `ovi_eval.common.shown`; here are its places in a report, with the length that fits one.
"""

from __future__ import annotations

from typing import Any

from ovi_eval.common.shown import shown

LONGEST = 2000
"""Characters; a caption of more is cut."""


def in_markdown(text: Any, limit: int = LONGEST) -> str:
    """Text for a paragraph or a table of Markdown."""
    return shown(text, limit, to="markdown")


def line(text: Any, limit: int = LONGEST) -> str:
    """Text for `rich.text.Text`, which reads no markup, for the figure, or, before it is escaped, for the page."""
    return shown(text, limit)
