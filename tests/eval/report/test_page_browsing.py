"""The page of many models in a real browser: filters in the address, models' own pages, any width."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from helpers.browser import launched, missing, opened
from helpers.eval_study import BENCHMARKS, LONG_NAME, MODELS, PUBLISHED, run, write_board
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.report.html.page import page
from ovi_eval.results.files import MetricValue

OVI = MODELS[0]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    root = tmp_path_factory.mktemp("browsing")
    made = root / "leaderboard.html"
    board = build_leaderboard(write_board(root, playable=6), None, title="Models", clips=[root / "generated"])
    made.write_text(page(replace(board, published=PUBLISHED)))
    return made


@pytest.fixture(scope="module")
def browser():
    if (reason := missing()) is not None:
        pytest.skip(f"{reason}; the page is checked by its markup alone")
    with launched() as window:
        yield window


def heads(sight):
    """The visible columns: name, variant, benchmark."""
    script = "[e.innerText.split('\\n')[0].split(' ')[0], e.dataset.variant, e.dataset.benchmark]"
    return sight.values("#table thead tr:last-child th:nth-child(n+2):visible", script)


def test_filters_hide_what_is_of_another_benchmark_or_variant(browser, file):
    with opened(browser, file) as sight:
        page, everything = sight.page, heads(sight)
        assert {benchmark for _, _, benchmark in everything} == set(BENCHMARKS)
        page.get_by_label("benchmark").select_option("Harmony-Bench")
        assert {benchmark for _, _, benchmark in heads(sight)} == {"Harmony-Bench"}
        assert "#benchmark=Harmony-Bench" in page.url
        names = set(sight.values("#table tbody.arms tr:visible th", "e.dataset.value"))
        assert names == set(MODELS) - {MODELS[1]}
        assert sight.values(".plot:visible", "e.dataset.benchmark") == ["Harmony-Bench"] * len(heads(sight))
        assert set(sight.values(".prompt:visible", "e.dataset.benchmark")) == {"Harmony-Bench"}
        assert page.locator("#published .board:visible").count() == 0
        assert page.get_by_text("Nothing published of this benchmark is kept here.").is_visible()
        page.get_by_label("benchmark").select_option("Other-Bench")
        assert heads(sight) == []
        assert page.get_by_text("Nothing was measured of what is chosen").is_visible()
        assert sight.values("#published .board:visible figcaption", "e.innerText") == ["B table"]
        page.get_by_label("benchmark").select_option("Verse-Bench")
        page.get_by_label("variant").select_option("videogpt")
        assert heads(sight) == [["fvd", "videogpt", "Verse-Bench"]] * 2  # one of them not comparable
        assert page.get_by_role("status").inner_text() == f"{len(heads(sight))} of {len(everything)} columns"
        rows = set(sight.values("#table tbody.arms tr:visible th", "e.dataset.value"))
        assert rows == {MODELS[1], MODELS[3]}
        assert sight.values("#published .board:visible figcaption", "e.innerText") == ["A table"]
        page.reload()
        assert page.get_by_label("variant").input_value() == "videogpt"
        assert heads(sight) == [["fvd", "videogpt", "Verse-Bench"]] * 2
        page.get_by_role("button", name="Show all").click()
        sight.until("#table", "location.hash === ''")
        assert heads(sight) == everything
        assert sight.said == []


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


def test_a_name_opens_the_models_page_and_back_leads_to_the_same_place(browser, file):
    with opened(browser, file, "#benchmark=Verse-Bench", height=300) as sight:
        page = sight.page
        link = page.locator("#table tbody.arms a", has_text=OVI).first
        link.scroll_into_view_if_needed()
        height = page.evaluate("scrollY")
        assert height > 100
        link.click()
        sight.until(".model:target", "e.checkVisibility()")
        assert page.url.endswith("#model=Ovi-1.1")
        assert page.title() == "Ovi 1.1 · Models"
        assert page.locator(".home").is_hidden()
        assert page.locator(".model:visible").count() == 1
        assert page.evaluate("scrollY") == 0
        page.locator(".back:visible").click()
        sight.until(".home", "e.checkVisibility()")
        assert page.url.endswith("#benchmark=Verse-Bench")
        assert page.evaluate("scrollY") == pytest.approx(height, abs=2)
        assert page.title() == "Models"
        page.go_back()
        sight.until(".model:target", "e.checkVisibility()")
        assert sight.said == []


def test_the_worst_clip_plays_on_the_models_page(browser, file):
    with opened(browser, file, "#model=Ovi-1.1") as sight:
        page = sight.page
        ends = page.locator(".model:target .ends").nth(1)
        assert ends.locator(".player").first.is_hidden()
        ends.locator("summary").click()
        card = ends.locator(".card").first
        assert "worst" in card.inner_text()
        card.locator(".play").click()
        sight.until(".model:target .ends:nth-of-type(2) video", "e.currentTime > 0.3")
        page.locator(".back:visible").click()
        sight.until(".home", "e.checkVisibility()")
        assert all(sight.values("video", "e.paused"))
        assert sight.said == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    "address", ["", "#benchmark=Verse-Bench", f"#model={LONG_NAME}"], ids=["all", "filtered", "model"]
)
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


def test_twenty_models_and_dozens_of_columns(browser, tmp_path):
    rng = np.random.default_rng(0)
    results = []
    for number in range(20):
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
    paths = [result.write(tmp_path / str(number)) for number, result in enumerate(results)]
    file = tmp_path / "leaderboard.html"
    file.write_text(page(build_leaderboard(paths)))
    for width in (1280, 390):
        with opened(browser, file, "", width) as sight:
            assert sight.page.evaluate("document.documentElement.scrollWidth") <= width
            assert sight.page.locator(".plot").count() == 36
            assert sight.page.locator(".plot").first.locator(".name").count() == 16
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
            shown = sight.values(".plot:visible", "e.dataset.metric")
            assert sorted(shown) == ["fvd_0", "fvd_1", "fvd_2"]
            assert sorted(head[0] for head in heads(sight)) == sorted(shown)
            assert sight.page.url.endswith("#metric=fvd*")
            select.select_option("metric7")
            assert sight.values(".plot:visible", "e.dataset.metric") == ["metric7"]
