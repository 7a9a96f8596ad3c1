"""Untrusted results: contradictions are refused in one line or marked, and no text is acted upon."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from helpers.eval_study import run
from ovi_eval.cli import main
from ovi_eval.errors import UserError
from ovi_eval.ranking.comparison import compare
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.registry import METRICS
from ovi_eval.report import comparison, write_all
from ovi_eval.report.html.drawings import ticks
from ovi_eval.report.markdown import markdown
from ovi_eval.report.terminal import show
from ovi_eval.results.files import ClipScores, MetricValue
from ovi_eval.results.metric_ranges import RANGES
from ovi_eval.results.reading import read

EVIL = (
    "\x1b[2J\x1b]0;owned\x07",
    "a\rb\x00c\x08",
    "[red]x[/red][/]",
    "</script><script>alert(1)</script>",
    "\u2028x\u2029",
    "\u202egnp.exe",
    '" onmouseover="alert(1)',
    "$\\frac{1}{$ $x_{$",
    "[click](javascript:alert(1))",
    "a|b|c",
    "# head\n\n| x |\n|---|\n<img src=x onerror=alert(1)>",
    "&lt;b&gt;`code`",
    "@@script@@",
    "javascript:alert(1)",
    "x" * 480,
)


def foreign(folder: Path, change: Any = lambda data: None) -> Path:
    """A sound results file of three clips, changed as anybody may change it."""
    made = run("m", None, n_clips=3, losses={})
    rows = [ClipScores(f"c{i}", {"ball/onset_f1": value}) for i, value in enumerate((0.1, 0.2, 0.3))]
    score = MetricValue(0.2, 3, "higher", ci95=(0.1, 0.3))
    path = replace(made, clips=rows, metrics={"ball/onset_f1": score}).write(folder)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def score_of(data: Any) -> Any:
    return data["metrics"]["ball/onset_f1"]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("value", 0.9999, r"value is 0.9999, but the mean of its 3 clips is 0.2"),
        ("value", 3.7, r"value is 3.7, which this metric cannot be"),
        ("value", -0.1, "value is -0.1, which this metric cannot be"),
        ("n", 2, r"n is 2, but 3 clips have a value"),
    ],
)
def test_a_value_that_contradicts_its_clips_or_metric_is_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture, field: str, value: object, named: str
) -> None:
    path = foreign(tmp_path, lambda data: score_of(data).update({field: value}))
    assert main(["leaderboard", str(path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert len(said) < 500
    assert re.search(named, said), said
    assert not (tmp_path / "out").exists()


def test_an_interval_that_does_not_hold_its_value_is_left_out_and_told(tmp_path: Path) -> None:
    path = foreign(tmp_path, lambda data: score_of(data).update(ci95=[0.25, 0.3]))
    board = build_leaderboard([path])
    assert board.problems == ["m: ball/onset_f1: its ci95 [0.25, 0.3] does not hold its value 0.2; left out"]
    assert board.arms[0].cells["ball/onset_f1"].interval.method == "bca bootstrap over clips"


def test_no_place_or_host_in_a_foreign_file_is_shown(tmp_path: Path) -> None:
    def change(data: Any) -> None:
        place = "/home/alice/secret/x"
        data |= {"name": place, "benchmark": place, "created": place, "notes": [place]}
        data["provenance"] = {
            "host": "lab.example",
            "Host_Name": "lab.example",
            "in": {"user": "alice", "of": place},
        }
        score_of(data).update(unit=place, variant=place, version=place, preprocessing=place, warnings=[place])

    foreign(tmp_path / "m", change)
    found = read(tmp_path / "m")
    assert (found.name, found.metrics["ball/onset_f1"].unit, found.provenance) == (
        "x",
        "x",
        {"in": {"of": "x"}},
    )
    write_all(build_leaderboard([tmp_path / "m"]), tmp_path / "out")
    written = [
        file for file in (tmp_path / "out").rglob("*") if file.suffix in (".html", ".md", ".json", ".svg")
    ]
    assert len(written) >= 3
    for file in written:
        assert not re.search("alice|secret|lab\\.example", file.read_text()), file


def test_clips_behind_a_link_are_not_read(tmp_path: Path) -> None:
    path = foreign(tmp_path / "run")
    (tmp_path / "run" / "per_clip.jsonl").rename(tmp_path / "private.jsonl")
    (tmp_path / "run" / "per_clip.jsonl").symlink_to(tmp_path / "private.jsonl")
    with pytest.raises(UserError, match=r"per_clip\.jsonl are a link that leads outside"):
        read(path)
    study = tmp_path / "study"
    study.mkdir()
    foreign(tmp_path / "secret" / "seed_0")
    (study / "arm").symlink_to(tmp_path / "secret")
    (study / "again").symlink_to(study)
    foreign(study / "own")
    board = build_leaderboard([study])
    assert [row.name for row in board.arms] == ["m"]
    assert board.problems == [
        "study/arm: a link that leads outside of the folder that was named; name what it leads to"
    ]


@pytest.mark.slow
def test_no_text_of_a_foreign_file_is_acted_upon(tmp_path: Path) -> None:
    runs = []
    for number, evil in enumerate((" ".join(EVIL[:7]), " ".join(EVIL[7:-1]), EVIL[-1])):
        clips = [ClipScores(f"{evil}{i}", {"m": i / 10}, evil, reasons={evil: evil}) for i in range(3)]
        score = MetricValue(
            0.1, 3, "higher", unit=evil[:40], variant=evil, warnings=(evil,), preprocessing=evil
        )
        own = replace(score, kind="set")
        made = run(evil, None, n_clips=3, clips=clips, losses={}, metrics={f"m{evil[:40]}": own, "m": score})
        made = replace(made, benchmark=evil, notes=[evil], provenance={evil: {evil: evil}}, config_hash=evil)
        runs.append(replace(made, created=evil).write(tmp_path / f"{number}.json"))
    board = build_leaderboard(runs, title=EVIL[0] + EVIL[3], message=EVIL[2] + EVIL[7])
    beside = replace(read(runs[0]), name="other").write(tmp_path / "other.json")
    found = compare(runs[0], beside)
    out = io.StringIO()
    show(board, Console(file=out, width=100, force_terminal=True, color_system=None))
    comparison.show(found, Console(file=out, width=100, force_terminal=True, color_system=None))
    write_all(board, tmp_path / "out")
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    texts = {"terminal": out.getvalue(), "md": markdown(board) + comparison.markdown(found), "page": page}
    for where, text in texts.items():
        assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029\u202e]", text), where
    for where in ("md", "page"):
        assert not re.search(r"(?<!\\)<(img|script>alert)", texts[where]), where
    assert "](javascript" not in texts["md"]
    assert not re.findall(r'href="(?!#|https://|data:,")', page)
    assert page.count("<script") == page.count("</script>") == 1
    # What looks like a tag is one in no attribute either.
    assert ' onmouseover="alert' not in page
    rows = [row for row in texts["md"].splitlines() if row.startswith("| arm")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)


def test_every_metric_has_bounds_or_is_known_to_have_none() -> None:
    keys = {spec.key for metric in METRICS.values() for spec in metric.values}
    assert set(RANGES) <= keys


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (5e-324, 1e-323), (-1e15, 1e15), (1e15, 1e15 + 0.25)])
def test_an_axis_of_any_range_has_a_tick(low: float, high: float) -> None:
    assert ticks(low, high)
