"""The page of many models: each model's own page with its clips, plots of any shape, Markdown."""

import base64
import json
import re
from dataclasses import replace

import pytest

from helpers.eval_study import BENCHMARKS, I3D, MODELS, NO_FACE, UNREADABLE, run, scored, write_board
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.report.html import page as page_module
from ovi_eval.report.html.models import addresses
from ovi_eval.report.html.page import page
from ovi_eval.report.html.tables import filters
from ovi_eval.report.markdown import markdown
from ovi_eval.results.files import MetricValue

OVI = MODELS[0]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_board(tmp_path_factory.mktemp("models"), playable=6)


def _generated(paths):
    """The folder above the clips of `write_board`, which lie outside of the runs' own folders."""
    return paths[0].parents[1] / "generated"


@pytest.fixture(scope="module")
def html(paths):
    return page(build_leaderboard(paths, title="Models", clips=[_generated(paths)]))


def section(html, address):
    """The markup of one model's page: up to the next model's."""
    start = html.index(f'<section class="model" id="model={address}"')
    following = html.find('<section class="model"', start + 1)
    return html[start : following if following > 0 else html.index('<div id="tip"')]


def test_a_model_has_all_that_its_values_rest_on(html):
    own = section(html, "Ovi-1.1")
    assert "Ovi 1.1</h1>" in own
    for text in (
        *("[220.0, 420.0]", "rank 1 of", "N 8", "coverage 100 %", "version 2", "stylegan-v", f"sha256 {I3D}"),
        *("short side to 224, centre crop, [-1, 1]", "8 clips are fewer than the 400 dimensions"),
        *("too high by about 41.5", "<dt>dimension</dt><dd>400</dd>", "no interval", "ovi-eval score"),
        *("coverage 75 %", "25 fps, 16 kHz mono", *BENCHMARKS),
    ):
        assert text in own, text
    assert "not comparable" not in own
    last = section(html, "LTX-2")
    assert "not comparable: of a part of the clips" in last
    assert "not ranked" in last
    assert 'class="model" id="model=real"' in html
    assert "reference, not ranked" in section(html, "real")


def test_worst_and_best_clips_stand_with_their_own_values(html, paths):
    own = section(html, "Ovi-1.1")
    result = scored(OVI, BENCHMARKS[0], paths[0])
    # Of the six that are on disk.
    found = {c.id: v for c in result.clips[:6] if (v := c.values.get("sync_c")) is not None}
    ranked = sorted(found, key=found.get)
    ends = own[own.index("<b>sync_<wbr>c") :]
    ends = ends[: ends.index("</details>")]
    cards = re.findall(
        r'<span class="pill (\w+)">\w+</span> ([−\d.]+)</h3>.*?class="id">(.*?)</span>', ends, re.DOTALL
    )
    shown = [
        (which, float(value.replace("−", "-")), clip.replace("<wbr>", "")) for which, value, clip in cards
    ]
    expected = [("worst", ranked[0]), ("worst", ranked[1]), ("best", ranked[-1]), ("best", ranked[-2])]
    assert [(which, clip) for which, _, clip in shown] == expected
    for _, value, clip in shown:
        assert value == pytest.approx(found[clip], abs=0.006)
    assert ends.count('class="player"') == 4
    assert '<li class="chosen"><span>sync_<wbr>c</span>' in ends
    assert "<span>clap</span>" in ends
    assert "among the 6 clips on disk" in own
    assert "“Somebody says &lt;S&gt;line" in ends


def test_reasons_stand_beside_the_clips_they_are_of(html):
    own = section(html, "Ovi-1.1")
    lacking = own[own.index("Clips without a value") :]
    assert "2 of 8 clips, with the reasons" in lacking
    assert f"<b>sync</b> {NO_FACE}" in lacking
    assert f"<b>all</b> {UNREADABLE}" in lacking
    assert lacking.index(UNREADABLE) < lacking.index(NO_FACE)
    assert f"<span>sync</span> {NO_FACE}" in lacking  # on the clip's own card


def test_a_clip_that_is_shown_often_is_carried_once(html):
    numbers = re.findall(r'<script type="application/json" id="clip-(\d+)">', html)
    assert len(numbers) == len(set(numbers))
    shown = re.findall(r'data-clip="(\d+)"', html)
    assert set(shown) == set(numbers)
    assert len(shown) > len(numbers)


def test_models_share_what_the_page_may_carry(paths, monkeypatch):
    monkeypatch.setattr(page_module, "BUDGET", 600_000)
    from ovi_eval.report.html import clips

    monkeypatch.setattr(clips, "BUDGET", 100_000)
    board = build_leaderboard(paths, clips=[_generated(paths)])
    made = page(board)
    carried = re.findall(r'<script type="application/json" id="clip-\d+">(.*?)</script>', made)
    assert sum(map(len, carried)) <= 600_000
    assert "left out to keep this file small" in made
    for address in addresses(board).values():
        assert section(made, address).count('class="player"') >= 1, address
    assert all(base64.b64decode(json.loads(data)["mp4"])[4:8] == b"ftyp" for data in carried)


def test_addresses_are_the_names_where_they_can_be_and_never_the_same(tmp_path):
    names = ["a b", "a/b", "a-b", "ü", "x.y_z"]
    results = [replace(run(name, 0, n_clips=2)).write(tmp_path / str(i)) for i, name in enumerate(names)]
    results.append(run("a b", None, n_clips=2, kind="reference").write(tmp_path / "reference"))
    board = build_leaderboard(results)
    found = addresses(board)
    assert found["x.y_z", "measured"] == "x.y_z"
    assert found["ü", "measured"] == "model"
    assert len(set(found.values())) == 6
    made = page(board)
    for (name, _), address in found.items():
        assert f'<a href="#model={address}">' in made
        assert f"h-{address}" in made, name


def test_metrics_without_any_value_or_with_one_run_have_their_place(tmp_path):
    one = run("one", None, n_clips=3)
    nothing = MetricValue(None, 0, "higher", 0.0, warnings=("no clip shows a face",))
    only = replace(one, metrics={**one.metrics, "sync_c": nothing}, losses={})
    real = run("real", None, n_clips=3, kind="reference")
    real = replace(real, metrics={"extra": MetricValue(1.0, 3, "lower")}, losses={})
    results = [only.write(tmp_path / "one"), real.write(tmp_path / "real")]
    made = page(build_leaderboard(results))
    assert "no clip could be scored" in section(made, "one")
    assert "no clip shows a face" in section(made, "one")
    plots = re.findall(r'<figure class="plot".*?</figure>', made, re.DOTALL)
    assert not [plot for plot in plots if "sync_<wbr>c" in plot]
    assert len([plot for plot in plots if "<figcaption>extra" in plot]) == 1
    assert "the only one" in section(made, "one")


def test_columns_are_shared_out_evenly_and_tables_keep_to_their_benchmark(html):
    tables = re.findall(r'<figure class="board"><div.*?</figure>', html, re.DOTALL)
    heads = [re.findall(r'<th scope="col"[^>]*data-benchmark="([^"]*)"', table) for table in tables]
    assert heads == [["Verse-Bench"] * 4, ["Verse-Bench"] * 3, ["Harmony-Bench"] * 6]
    rows = [re.findall(r'<th scope="row" data-value="([^"]*)"', table) for table in tables]
    assert rows[0] == rows[1] == [*MODELS, "real"]
    assert rows[2] == [MODELS[0], *MODELS[2:], "real"]


def test_where_there_is_nothing_to_choose_there_are_no_filters(tmp_path):
    board = build_leaderboard([run("a", 0, n_clips=3).write(tmp_path / "a")])
    assert filters(board) == {}
    assert 'class="filters"' not in page(board)


def test_markdown_says_benchmark_and_variant_and_marks_what_is_not_comparable(paths):
    text = markdown(build_leaderboard(paths))
    places = [text.index(f"\n## {benchmark}\n") for benchmark in BENCHMARKS]
    assert places == sorted(places)
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("| arm")]
    fvd = [table for table in tables if "fvd" in table[0]]
    assert [table[0].count("not comparable") for table in fvd] == [1, 1]
    heads = [cell.strip() for cell in fvd[0][0].split("|")]
    assert heads[3:6] == ["fvd ↓<br>stylegan-v", "fvd ↓<br>videogpt", "fvd ↓<br>videogpt<br>not comparable"]
    rows = {cells[1].strip(): cells[3:6] for line in fvd[0][2:] if (cells := line.split("|"))}
    assert set(rows) >= set(MODELS[:2])
    assert rows["LTX-2"][2].strip() != "–"
    assert not any("**" in cells[2] for cells in rows.values())
    assert any("**" in cells[0] for cells in rows.values())
    assert not [line for line in fvd[1] if MODELS[1] in line]
    assert "is not ranked" in text
