"""Foreign text in a terminal, in Markdown and in HTML is text and nothing else."""

from io import StringIO

import pytest
from rich.console import Console

from ovi_eval.common.shown import shown

NASTY = (
    "a\x1b[31mred\x1b[0m\r\nfake: 1\t[bold]b[/bold] <script>alert('x')</script> | `c` ![i](http://x) "
    "\u202egnp.exe \x9b2J \ud800 \u2028z"
)


@pytest.mark.parametrize("to", ["plain", "rich", "markdown", "html"])
def test_nothing_that_acts_is_left(to):
    line = shown(NASTY, None, to=to)
    assert line.replace("‌", "").isprintable()
    assert line.encode()
    assert "\\x1b" in line.replace("\\\\", "\\")
    assert "gnp.exe" in line.replace("\\", "")
    if to in ("markdown", "html"):
        assert "<script>" not in line
    if to == "markdown":
        assert "\\|" in line
        assert "!\\[i\\]" in line


@pytest.mark.parametrize(
    "text", [NASTY, "[/]", "[red]", "tail\\", "\\[b]", "[link=x]y[/link]", "[[b]]", ":smile:"]
)
def test_rich_prints_what_plain_shows(text):
    out = StringIO()
    Console(
        file=out, width=1000, color_system="truecolor", force_terminal=True, emoji=False, highlight=False
    ).print(shown(text, None, to="rich"), soft_wrap=True)
    assert out.getvalue().rstrip("\n").rstrip("\\") == shown(text, None).rstrip("\\")


def test_ordinary_text_is_untouched():
    for text in ("a red ball, 75 ms", "日本語 – café", "👩‍👩‍👧", "مرحبا"):
        assert shown(text) == text


def test_long_text_is_cut():
    assert shown("x" * 300) == "x" * 199 + "…"
    assert shown("x" * 300, None) == "x" * 300
    assert len(shown("\x00" * 300, 50)) == 50


@pytest.mark.parametrize(
    ("line", "escaped"),
    [
        ("# a", r"\# a"),
        ("- a", r"\- a"),
        ("+ a", r"\+ a"),
        ("> a", r"\> a"),
        ("---", r"\---"),
        ("===", r"\==="),
        ("1. a", r"1\. a"),
        ("12) a", r"12\) a"),
        ("* a", r"\* a"),
        ("| a |", r"\| a \|"),
        ("~~~", r"\~\~\~"),
        ("[a](b)", r"\[a\]\(b)"),
    ],
)
def test_no_line_begins_a_block_of_markdown(line, escaped):
    assert shown(line, to="markdown") == escaped


def test_numbers_and_names_stay_readable_in_markdown():
    for text in ("+0.012", "-3", "win (%)", "my_model", "1.5", "#1", "a - b", "O'Neil"):
        assert shown(text, to="markdown") == text
    assert shown("a < b & c", to="markdown") == "a &lt; b &amp; c"
