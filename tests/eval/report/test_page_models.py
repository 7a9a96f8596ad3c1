"""The page of many models: each model's own page with its clips, plots of any shape, Markdown; in a browser, filters in
the address and any width.
"""

import base64
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from helpers.browser import opened
from helpers.eval_study import (
    BENCHMARKS,
    I3D,
    LONG_NAME,
    MODELS,
    NO_FACE,
    PUBLISHED,
    UNREADABLE,
    run,
    scored,
    write_board,
)
from helpers.runs_in_memory import board_of
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.report.html import clips
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
    board = build_leaderboard(paths, title="Models", clips=[_generated(paths)])
    return page(replace(board, published=PUBLISHED))


@pytest.fixture(scope="module")
def file(html, tmp_path_factory):
    made = tmp_path_factory.mktemp("browsing") / "leaderboard.html"
    made.write_text(html)
    return made


def section(html, address):
    """The markup of one model's page: up to the next model's."""
    start = html.index(f'<section class="model" id="model={address}"')
    following = html.find('<section class="model"', start + 1)
    return html[start : following if following > 0 else html.index('<div id="tip"')]


@pytest.mark.slow
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
    values = {c.id: v for c in result.clips[:6] if (v := c.values.get("sync_c")) is not None}
    ranked = sorted(values, key=values.get)
    ends = own[own.index("<b>Lip-sync confidence") :]
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
        assert value == pytest.approx(values[clip], abs=0.006)
    assert ends.count('class="player"') == 4
    assert '<li class="chosen"><span title="sync_c">Lip-sync confidence</span>' in ends
    assert '<span title="clap">clap</span>' in ends
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


@pytest.mark.slow
def test_models_share_what_the_page_may_carry(paths, monkeypatch):
    monkeypatch.setattr(page_module, "BUDGET", 600_000)
    monkeypatch.setattr(clips, "BUDGET", 100_000)
    board = build_leaderboard(paths[:5], clips=[_generated(paths)])
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
    named = addresses(board)
    assert named["x.y_z", "measured"] == "x.y_z"
    assert named["ü", "measured"] == "model"
    assert len(set(named.values())) == 6
    made = page(board)
    for (name, _), address in named.items():
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
    ranked = html[html.index('<section id="table"') : html.index('<section id="references"')]
    tables = re.findall(r'<figure class="board"><div.*?</figure>', ranked, re.DOTALL)
    heads = [re.findall(r'<th scope="col"[^>]*data-benchmark="([^"]*)"', table) for table in tables]
    assert heads == [["Verse-Bench"] * 4, ["Verse-Bench"] * 3, ["Harmony-Bench"] * 6]
    rows = [re.findall(r'<th scope="row" data-value="([^"]*)"', table) for table in tables]
    assert rows[0] == rows[1] == list(MODELS)
    assert rows[2] == [MODELS[0], *MODELS[2:]]


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


def heads(sight):
    """The visible columns: name, variant, benchmark."""
    script = "[e.dataset.metric, e.dataset.variant, e.dataset.benchmark]"
    return sight.values("#table thead th:nth-child(n+2):visible", script)


@pytest.mark.slow
def test_filters_hide_what_is_of_another_benchmark_or_variant(browser, file):
    with opened(browser, file) as sight:
        shown, everything = sight.page, heads(sight)
        order = sight.values(".prompt", "e.innerText")
        assert {benchmark for _, _, benchmark in everything} == set(BENCHMARKS)
        shown.get_by_label("benchmark").select_option("Harmony-Bench")
        assert {benchmark for _, _, benchmark in heads(sight)} == {"Harmony-Bench"}
        assert "#benchmark=Harmony-Bench" in shown.url
        names = set(sight.values("#table tbody.arms tr:visible th", "e.dataset.value"))
        assert names == set(MODELS) - {MODELS[1]}
        assert sight.values(".plot:visible", "e.dataset.benchmark") == ["Harmony-Bench"] * len(heads(sight))
        assert sight.values(".prompt:visible", "e.dataset.benchmark") == ["Harmony-Bench"]
        of_bench = shown.locator('.prompt[data-benchmark="Harmony-Bench"]').count()
        shown.get_by_text(f"{of_bench - 1} more prompt").click()
        assert sight.values(".prompt:visible", "e.dataset.benchmark") == ["Harmony-Bench"] * of_bench
        assert shown.locator("#published .board:visible").count() == 0
        assert shown.get_by_text("Nothing published of this benchmark is kept here.").is_visible()
        shown.get_by_label("benchmark").select_option("Other-Bench")
        assert heads(sight) == []
        assert shown.get_by_text("No clip of this benchmark is on the page.").is_visible()
        assert shown.locator(".more-prompts").is_hidden()
        assert shown.get_by_text("Nothing was measured of what is chosen").is_visible()
        assert sight.values("#published .board:visible figcaption", "e.innerText") == ["B table"]
        shown.get_by_label("benchmark").select_option("Verse-Bench")
        shown.get_by_label("variant").select_option("videogpt")
        assert heads(sight) == [["fvd", "videogpt", "Verse-Bench"]] * 2  # one of them not comparable
        assert shown.get_by_role("status").inner_text() == f"{len(heads(sight))} of {len(everything)} columns"
        rows = set(sight.values("#table tbody.arms tr:visible th", "e.dataset.value"))
        assert rows == {MODELS[1], MODELS[3]}
        assert sight.values("#published .board:visible figcaption", "e.innerText") == ["A table"]
        shown.reload()
        assert shown.get_by_label("variant").input_value() == "videogpt"
        assert heads(sight) == [["fvd", "videogpt", "Verse-Bench"]] * 2
        shown.get_by_role("button", name="Show all").click()
        sight.until("#table", "location.hash === ''")
        assert heads(sight) == everything
        assert sight.values(".prompt", "e.innerText") == order
        assert shown.locator(".prompt:visible").count() == 1
        assert sight.said == []


def test_a_legend_of_a_mark_is_there_while_a_value_has_the_mark(browser, tmp_path):
    few, many, real = ((name, MetricValue(value, n, "higher", coverage=n / 40)) for name, value, n in
                       (("few", 0.5, 10), ("many", 0.9, 40), ("real", 0.8, 40)))  # fmt: skip
    runs = [
        run(name, None, kind=kind, n_clips=40, clips=(), losses={}, metrics={"m/score": value}, benchmark=bench)
        for kind, bench, (name, value) in (
            ("measured", "A", few), ("measured", "A", many), ("measured", "B", many), ("reference", "B", real),
        )
    ]  # fmt: skip
    made = tmp_path / "leaderboard.html"
    made.write_text(page(board_of(*runs)))
    with opened(browser, made) as sight:
        seen = []
        for bench in ("", "A", "B"):
            sight.page.get_by_label("benchmark").select_option(bench)
            seen.append("".join(sight.values(".legend:visible", "e.innerText[0]")))
        assert seen == ["†‡", "†", "‡"]


@pytest.mark.slow
def test_filters_work_from_the_keyboard_and_from_a_written_address(browser, file):
    with opened(browser, file, "#variant=stylegan-v&benchmark=Verse-Bench") as sight:
        assert {tuple(head[1:]) for head in heads(sight)} == {("stylegan-v", "Verse-Bench")}
        select = sight.page.get_by_label("variant")
        select.focus()
        select.press("Home")
        sight.until("#table", "location.hash === '#benchmark=Verse-Bench'")
        assert len({head[1] for head in heads(sight)}) > 1
        sight.page.evaluate("location.hash = '#benchmark=nobody%20knows&variant=<b>'")
        sight.until("[role=status]", "e.textContent === ''")
        assert {benchmark for *_, benchmark in heads(sight)} == set(BENCHMARKS)
        assert sight.values(".filters select", "e.selectedIndex") == [0, 0]
        assert sight.said == []


@pytest.mark.slow
def test_a_name_opens_the_models_page_and_back_leads_to_the_same_place(browser, file):
    with opened(browser, file, "#benchmark=Verse-Bench", height=300) as sight:
        shown = sight.page
        link = shown.locator("#table tbody.arms a", has_text=OVI).first
        link.scroll_into_view_if_needed()
        height = shown.evaluate("scrollY")
        assert height > 100
        link.click()
        sight.until(".model:target", "e.checkVisibility()")
        assert shown.url.endswith("#model=Ovi-1.1")
        assert shown.title() == "Ovi 1.1 · Models"
        assert shown.locator(".home").is_hidden()
        assert shown.locator(".model:visible").count() == 1
        assert shown.evaluate("scrollY") == 0
        shown.locator(".back:visible").click()
        sight.until(".home", "e.checkVisibility()")
        assert shown.url.endswith("#benchmark=Verse-Bench")
        assert shown.evaluate("scrollY") == pytest.approx(height, abs=2)
        assert shown.title() == "Models"
        shown.go_back()
        sight.until(".model:target", "e.checkVisibility()")
        assert sight.said == []


@pytest.mark.slow
def test_the_worst_clip_plays_on_the_models_page(browser, file):
    with opened(browser, file, "#model=Ovi-1.1") as sight:
        shown = sight.page
        ends = shown.locator(".model:target .ends").nth(1)
        assert ends.locator(".player").first.is_hidden()
        ends.locator("summary").click()
        card = ends.locator(".card").first
        assert "worst" in card.inner_text()
        card.locator(".play").click()
        sight.until(".model:target .ends:nth-of-type(2) video", "e.currentTime > 0.3")
        shown.locator(".back:visible").click()
        sight.until(".home", "e.checkVisibility()")
        assert all(sight.values("video", "e.paused"))
        assert sight.said == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    "address", ["", "#benchmark=Verse-Bench", f"#model={LONG_NAME}"], ids=["all", "filtered", "model"]
)
@pytest.mark.slow
def test_long_names_and_many_columns_stay_on_the_screen(browser, file, width, address):
    with opened(browser, file, address, width, 844) as sight:
        sight.page.locator("details").evaluate_all("found => found.forEach((e) => { e.open = true; })")
        assert sight.page.evaluate("document.documentElement.scrollWidth") <= width
        spilt = """
          [...document.querySelectorAll('.plot text, .measure *, .card *, .filters *')]
            .filter((e) => e.checkVisibility())
            .filter((e) => e.getBoundingClientRect().right > e.closest('.plot, .measure, .card, .filters')
              .getBoundingClientRect().right + 1)
            .map((e) => e.outerHTML)
        """
        assert sight.page.evaluate(spilt) == []
        assert sight.said == []
        assert len([url for url in sight.asked if url.startswith(("http", "file"))]) == 1


@pytest.mark.slow
def test_a_dozen_models_and_dozens_of_columns(browser, tmp_path):
    rng = np.random.default_rng(0)
    results = []
    for number in range(12):
        metrics = {
            (f"metric{column}" if column > 2 else f"fvd_{column}"): MetricValue(
                float(rng.normal(10 ** (column % 7 - 2), 0.01)),
                2,
                "higher" if column % 2 else "lower",
                kind="set",
            )
            for column in range(36)
            if (number + column) % 5
        }
        results.append(replace(run(f"model {number}", None, n_clips=2), metrics=metrics, clips=[], losses={}))
    file = tmp_path / "leaderboard.html"
    file.write_text(page(board_of(*results)))
    for width in (1280, 390):
        with opened(browser, file, "", width) as sight:
            assert sight.page.evaluate("document.documentElement.scrollWidth") <= width
            assert sight.page.locator(".plot").count() == 36
            assert sight.page.locator(".plot").first.locator(".name").count() == 10
            if width == 1280:
                wide = sight.values("#table .scroll", "e.scrollWidth - e.clientWidth")
                assert max(wide) <= 1
            overlap = sight.values(
                ".plot:first-of-type .name",
                "[e.getBoundingClientRect().top, e.getBoundingClientRect().bottom]",
            )
            assert all(a[1] <= b[0] + 4 for a, b in pairwise(overlap) if b[0] > a[0])
            assert sight.said == []
            select = sight.page.locator("select[name=metric]")
            select.select_option("fvd*")
            plots = sight.values(".plot:visible", "e.dataset.metric")
            assert sorted(plots) == ["fvd_0", "fvd_1", "fvd_2"]
            assert sorted(head[0] for head in heads(sight)) == sorted(plots)
            assert sight.page.url.endswith("#metric=fvd*")
            select.select_option("metric7")
            assert sight.values(".plot:visible", "e.dataset.metric") == ["metric7"]
