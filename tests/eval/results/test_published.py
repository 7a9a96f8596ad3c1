"""Published numbers: sources beside every row, the same values, and a section of their own, never ranked."""

import io
import json
from dataclasses import replace
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


def test_values_and_sources_are_those_collected(goldens: Path) -> None:
    wanted = json.loads((goldens / "published_numbers.json").read_text(encoding="utf-8"))["rows"]
    tables = published_tables()
    assert sum(len(table.rows) for table in tables) == 52
    assert [table.table for table in tables] == [row["table"] for row in wanted]
    for table, row in zip(tables, wanted, strict=True):
        assert table.rows == row["systems"]
        assert all(table.rows.values())
        assert (table.first_hand, table.note) == (row["first_hand"], row.get("note", ""))
        assert table.seen_in == row["seen_in"]
        assert table.source.split()[0] == row["url"].split()[0]
    assert {table.first_hand for table in tables} == {True, False}


def test_the_papers_tables_are_there() -> None:
    two, three, wins = published_tables()[:3]
    ovi = {"FD_PANNs": 18.03, "FD_VGG": 5.02, "IS": 11.2, "CLAP": 0.224, "TTS_WER": 0.035}
    assert two.rows["Ovi-Aud"] == three.rows["Ovi-Aud combined T5"] == ovi
    assert three.rows["Ovi-Aud separate CLAP+T5"]["FD_VGG"] == 7.13
    over_javis = {"audio_win_pct": 82.4, "video_win_pct": 90.7, "sync_win_pct": 79.3}
    assert wins.rows["Ovi vs JavisDiT"] == over_javis
    assert not any(table.first_hand for table in (two, three, wins))


def test_the_collection_is_the_one_of_today(goldens: Path, shared_dir: Path) -> None:
    source = shared_dir / "golden" / "metrics" / "published_numbers.json"
    assert (goldens / "published_numbers.json").read_bytes() == source.read_bytes()


def test_each_table_is_in_the_group_of_its_benchmark() -> None:
    groups = by_benchmark(published_tables())
    assert [len(group) for group in groups.values()] == [2, 4, 1, 1, 1, 2, 1, 1, 1]
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
    assert section.count("<details>") == section.count("</details>") == len(by_benchmark(board.published))
    assert "| Ovi-Aud | 18.03 | 5.02 | 11.2 | 0.224 | 0.035 |" in section
    assert "| Fish Speech | – | – | – | – | 0.008 |" in section
    assert "| Ovi vs JavisDiT | 82.4 | 90.7 | 79.3 |" in section
    assert "audio_win (%)" in section
    assert section.count("Source: ") == len(board.published)
    assert "read second-hand: three independent public digests of the paper agree." in section
    assert "read first-hand: image in the repository at 595a97691123." in section


@pytest.mark.parametrize("width", [60, 100])
def test_the_terminal_counts_them_so_that_ones_own_numbers_stay_in_sight(
    board: Leaderboard, width: int
) -> None:
    own, section = on_terminal(board, width).split(TITLE)
    assert max(len(line.rstrip()) for line in (own + section).split("\n")) <= width
    assert "Verse-Bench: 4 tables, 15 systems" in section
    assert section.count(" system") >= len(by_benchmark(board.published))
    assert len(section.split("\n")) < 25
    assert "leaderboard.html" in section


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


@pytest.mark.slow
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


def file(folder: Path, **changed: object) -> Path:
    """A file of one table, with other values in some of its fields; ... leaves one out."""
    rows = {"a": {"m": 1}}
    table = {"table": "T", "source": "https://example.org", "seen_in": "it", "first_hand": True, "rows": rows}
    table = {key: value for key, value in (table | changed).items() if value is not ...}
    group = {"benchmark": "B", "tables": [table]}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"schema": "ovi_eval.published/1", "benchmarks": [group]}))
    return path


def test_names_are_no_markup(study: Path, tmp_path: Path) -> None:
    tables = published_tables(file(tmp_path, rows={"<b>x|y</b>[red]": {"WER_pct": 1.5}}))
    board = build_leaderboard([study], published=tables)
    assert "<b>x" not in page(board).split('id="published"')[1]
    assert r"&lt;b>x\|y&lt;/b>\[red\]" in markdown(board)
    board = replace(board, published=[replace(tables[0], benchmark="<b>x|y</b>[red]")])
    assert "<b>x|y</b>[red]: 1 table, 1 system" in on_terminal(board)
    assert "<summary>&lt;b&gt;x|y&lt;/b&gt;[red]: 1 table" in markdown(board)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("source", ..., "own.yaml: field T.source is missing"),
        ("source", " ", "field T.source is empty; every published number needs it"),
        ("table", "", "table is empty"),
        ("first_hand", "yes", "field T.first_hand must be true or false, found text"),
        ("rows", {}, "field T.rows is empty"),
        ("rows", {"b": {}}, "field T.rows is empty"),
        ("rows", {"b": {"m": float("nan")}}, "T.rows.b.m is nan, expected a finite number"),
        ("rows", {"b": {"m": "1.0"}}, "T.rows.b.m must be a number, found text"),
    ],
)
def test_a_row_without_its_source_or_value_is_refused(
    tmp_path: Path, field: str, value: object, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        published_tables(file(tmp_path, **{field: value}))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [", "is no plain YAML"),
        ("schema: x", "schema is 'x', this version reads"),
        ("3", "its content must be an object"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=named) as error:
        published_tables(path)
    assert "\n" not in str(error.value)
