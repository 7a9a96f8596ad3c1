"""Published numbers: sources beside every row, the same values, and a section of their own, never ranked."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from helpers.eval_study import write_study
from ovi_eval.cli import main
from ovi_eval.errors import UserError
from ovi_eval.ranking.leaderboard import Leaderboard, build_leaderboard
from ovi_eval.report.html.page import page
from ovi_eval.report.markdown import markdown
from ovi_eval.report.published import TITLE
from ovi_eval.report.terminal import show
from ovi_eval.results.published import by_benchmark, published_tables


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("published"), n_clips=12)


@pytest.fixture(scope="module")
def board(study: Path) -> Leaderboard:
    return build_leaderboard([study], published=published_tables())


def on_terminal(board: Leaderboard, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    show(board, console)
    return console.export_text()


def test_every_row_has_a_source_and_says_whether_it_was_read() -> None:
    tables = published_tables()
    rows = [(table, system) for table in tables for system in table.rows]
    assert len(rows) == 52
    for table, system in rows:
        assert table.source.strip(), f"{table.table}: {system} has no source"
        assert table.seen_in.strip()
        assert isinstance(table.first_hand, bool)
        assert table.rows[system]
    assert {table.first_hand for table in tables} == {True, False}
    assert len(by_benchmark(tables)["Verse-Bench"]) == 4
    assert len(by_benchmark(tables)["JavisBench"]) == 2


def test_the_papers_tables_are_there() -> None:
    two, three, wins = published_tables()[:3]
    assert two.rows["Ovi-Aud"] == {
        "FD_PANNs": 18.03,
        "FD_VGG": 5.02,
        "IS": 11.2,
        "CLAP": 0.224,
        "TTS_WER": 0.035,
    }
    assert three.rows["Ovi-Aud separate CLAP+T5"]["FD_VGG"] == 7.13
    assert three.rows["Ovi-Aud combined T5"] == two.rows["Ovi-Aud"]
    assert wins.rows["Ovi vs JavisDiT"] == {
        "audio_win_pct": 82.4,
        "video_win_pct": 90.7,
        "sync_win_pct": 79.3,
    }
    assert not any(table.first_hand for table in (two, three, wins))


def test_values_are_those_collected(goldens: Path) -> None:
    wanted = json.loads((goldens / "published_numbers.json").read_text(encoding="utf-8"))["rows"]
    tables = published_tables()
    assert [table.table for table in tables] == [row["table"] for row in wanted]
    for table, row in zip(tables, wanted, strict=True):
        assert table.rows == row["systems"]
        assert (table.first_hand, table.note) == (row["first_hand"], row.get("note", ""))
        assert table.seen_in == row["seen_in"]
        assert table.source.split()[0] == row["url"].split()[0]


def test_the_collection_is_the_one_of_today(goldens: Path, shared_dir: Path) -> None:
    source = shared_dir / "golden" / "metrics" / "published_numbers.json"
    assert (goldens / "published_numbers.json").read_bytes() == source.read_bytes()


def test_tables_are_grouped_by_benchmark_and_each_stands_in_one_group() -> None:
    tables = published_tables()
    groups = by_benchmark(tables)
    assert [len(group) for group in groups.values()] == [2, 4, 1, 1, 1, 2, 1, 1, 1]
    assert sorted(t.table for group in groups.values() for t in group) == sorted(t.table for t in tables)
    for benchmark, group in groups.items():
        assert {table.benchmark for table in group} == {benchmark}
    for benchmark in ("Verse-Bench", "Harmony-Bench", "JavisBench", "SocialVideo-Bench", "Kling-Audio-Eval"):
        assert all(benchmark in table.table for table in groups[benchmark])


def test_they_change_nothing_that_was_measured(study: Path, board: Leaderboard) -> None:
    alone = build_leaderboard([study])
    assert (board.columns, board.arms, board.references) == (alone.columns, alone.arms, alone.references)
    assert board.findings == alone.findings
    assert {row.name for row in [*board.arms, *board.references]}.isdisjoint(
        system for table in board.published for system in table.rows
    )
    with_them, without = markdown(board), markdown(alone)
    assert with_them.startswith(without.rstrip("\n"))
    assert TITLE not in without
    assert TITLE not in page(alone)
    assert TITLE not in on_terminal(alone)


def test_markdown_has_them_in_a_section_of_their_own_without_a_best(board: Leaderboard) -> None:
    section = markdown(board).split(f"## {TITLE}\n")[1]
    assert "**" not in section
    assert section.count("\n### ") == len(by_benchmark(board.published))
    assert "| Ovi-Aud | 18.03 | 5.02 | 11.2 | 0.224 | 0.035 |" in section
    assert "| Fish Speech | – | – | – | – | 0.008 |" in section
    assert "| Ovi vs JavisDiT | 82.4 | 90.7 | 79.3 |" in section
    assert "audio_win (%)" in section
    assert section.count("Source: ") == len(board.published)
    assert "read second-hand: three independent public digests of the paper agree." in section
    assert "read first-hand: image in the repository at 595a97691123." in section


@pytest.mark.parametrize("width", [60, 100])
def test_terminal_shows_every_value_and_keeps_its_width(board: Leaderboard, width: int) -> None:
    text = on_terminal(board, width)
    assert max(len(line.rstrip()) for line in text.split("\n")) <= width
    section = text.split(TITLE)[1]
    assert "…" not in section
    words = section.split()
    for table in board.published:
        for values in table.rows.values():
            assert all(repr(value) in words for value in values.values())


def test_page_has_them_apart_from_the_tables_that_sort(board: Leaderboard) -> None:
    html = page(board)
    section = html.split('<section id="published"')[1].split("</section>")[0]
    assert "aria-sort" not in section
    assert "best" not in section
    assert section.count("<figure") == len(board.published)
    assert section.count("Source: ") == len(board.published)
    assert '<a href="https://arxiv.org/abs/2510.01284" rel="noreferrer">' in section
    ranked = html.split('<section id="table"')[1].split("</section>")[0]
    assert "Ovi-Aud" not in ranked


def test_the_command_shows_them_and_writes_them(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaderboard", str(study), "--out", str(tmp_path), "--with", "published"]) == 0
    assert TITLE in capsys.readouterr().out
    assert TITLE in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert TITLE in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["published"]
    assert [table["source"] for table in kept] == [table.source for table in published_tables()]
    assert main(["leaderboard", str(study), "--with", "publisched"]) == 2
    assert "did you mean published?" in capsys.readouterr().err


def test_names_are_no_markup(study: Path, tmp_path: Path) -> None:
    table = entry()
    table["rows"] = {"<b>x|y</b>[red]": {"WER_pct": 1.5}}
    tables = published_tables(file(tmp_path, table))
    board = build_leaderboard([study], published=tables)
    assert "<b>x" not in page(board).split('id="published"')[1]
    assert r"&lt;b>x\|y&lt;/b>\[red\]" in markdown(board)
    assert "<b>x|y</b>[red]" in on_terminal(board)


def entry() -> dict:
    return {
        "table": "T",
        "source": "https://example.org",
        "seen_in": "it",
        "first_hand": True,
        "rows": {"a": {"m": 1}},
    }


def file(folder: Path, table: dict) -> Path:
    path = folder / "own.yaml"
    group = {"benchmark": "B", "tables": [table]}
    path.write_text(yaml.safe_dump({"schema": "ovi_eval.published/1", "benchmarks": [group]}))
    return path


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda table: table.pop("source"), "own.yaml: field T.source is missing"),
        (lambda table: table.update(source=" "), "field T.source is empty"),
        (lambda table: table.update(first_hand="yes"), "field T.first_hand must be true or false"),
        (lambda table: table.update(rows={}), "field T.rows is empty"),
        (
            lambda table: table["rows"].update(b={"m": float("nan")}),
            "T.rows.b.m is nan, expected a finite number",
        ),
        (lambda table: table["rows"].update(b={"m": "1.0"}), "T.rows.b.m must be a number, found text"),
    ],
)
def test_a_row_without_its_source_or_value_is_refused(
    tmp_path: Path, spoil: Callable[[dict], object], named: str
) -> None:
    table = entry()
    spoil(table)
    with pytest.raises(UserError, match=named):
        published_tables(file(tmp_path, table))


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    for text, named in [
        ("a: [", "is no plain YAML"),
        ("schema: x", "schema is 'x'"),
        ("3", "its content must be an object"),
    ]:
        path = tmp_path / "own.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match=named) as error:
            published_tables(path)
        assert "\n" not in str(error.value)
