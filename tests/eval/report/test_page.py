"""leaderboard.html and figure.png: self-contained, escaped, accessible, small; in a real browser where
there is one.
"""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from helpers.browser import opened
from helpers.eval_study import ARMS, CLAIMS, REFERENCES, run, write_study
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.report import write_all
from ovi_eval.report.figure import figure_png
from ovi_eval.report.html import clips
from ovi_eval.report.html.page import page

PROMPTS = 2
COLUMNS = 4  # real and three arms


class Tags(HTMLParser):
    """All tags with their attributes, and whether they were closed in order."""

    VOID = ("meta", "link", "img", "br", "wbr", "input")

    def __init__(self, text):
        super().__init__()
        self.found, self.stack = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack[-1] == tag, f"</{tag}> closes <{self.stack[-1]}>"
        self.stack.pop()

    def all(self, tag, **attrs):
        return [
            a for t, a in self.found if t == tag and all(a.get(k.rstrip("_")) == v for k, v in attrs.items())
        ]


def home(html):
    """The part that all models share, without their own pages."""
    return html[html.index('<main class="home">') : html.index('<div class="pages">')]


def carried(html):
    """The data of each clip in the page, by number."""
    found = re.findall(r'<script type="application/json" id="clip-(\d+)">(.*?)</script>', html)
    return {number: json.loads(data) for number, data in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    study = write_study(tmp_path_factory.mktemp("page"), n_clips=8, playable=PROMPTS)
    write_all(
        build_leaderboard([study], title="Fusion <ablation>", message="Why & how", claims=CLAIMS), study
    )
    return study


@pytest.fixture(scope="module")
def html(built):
    return (built / "leaderboard.html").read_text()


@pytest.fixture(scope="module")
def tags(html):
    return Tags(html)


@pytest.mark.slow
def test_the_markup_is_well_formed_and_ids_are_unique(tags):
    assert tags.stack == []
    ids = [attrs["id"] for _, attrs in tags.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    labels = [attrs["aria-labelledby"] for _, attrs in tags.found if "aria-labelledby" in attrs]
    assert set(labels) <= set(ids)


def test_the_page_fetches_nothing(html, tags):
    for _, attrs in tags.found:
        for key in ("src", "href", "poster", "srcset", "action"):
            assert attrs.get(key, "data:").startswith(("data:", "#"))
    assert not re.search(r"@import|url\((?!\"data:)|fetch\(|XMLHttpRequest|WebSocket", html)
    assert [m for m in re.findall(r"https?://[^\s\"'<)]+", html) if "www.w3.org/2000/svg" not in m] == []
    content = next(a["content"] for a in tags.all("meta") if "http-equiv" in a)
    assert "default-src 'none'" in content


def test_links_within_the_page_lead_somewhere(tags):
    ids = {attrs["id"] for _, attrs in tags.found if "id" in attrs}
    links = [attrs["href"] for attrs in tags.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= ids


def test_every_prompt_has_a_row_and_every_arm_a_clip_in_it(html):
    tags = Tags(home(html))
    videos = tags.all("video")
    assert len(videos) == PROMPTS * COLUMNS
    numbers = [attrs["data-clip"] for attrs in tags.all("div", class_="player")]
    assert len(set(numbers)) == len(videos)
    for number in numbers:
        data = carried(html)[number]
        assert base64.b64decode(data["mp4"])[4:8] == b"ftyp"
        assert data["poster"].startswith("data:image/jpeg;base64,")
        assert data["timeline"].startswith("data:image/jpeg;base64,")
    assert html.count('<article class="prompt"') == PROMPTS
    assert [a["aria-label"] for a in videos[:COLUMNS]] == [
        "real, clip_0000",
        *(f"{name} · seed 0, clip_0000" for name in ARMS),
    ]
    assert "“a red ball bounces three times”" in html
    scores = run("none", 0, n_clips=8).clips[1]
    assert (
        f'<span title="ball/onset_f1">Onset F1 within 75 ms</span> {scores.values["ball/onset_f1"]:.2f}</li>'
        in html
    )


def test_pictures_and_controls_have_names(tags):
    images = tags.all("img")
    assert len(images) >= PROMPTS * COLUMNS
    assert all("spectrogram" in image["alt"] for image in images)
    sliders = tags.all("div", role="slider")
    assert len(sliders) == len(images)
    assert all(
        {"aria-valuemin", "aria-valuemax", "aria-valuenow", "aria-label", "tabindex"} <= set(s)
        for s in sliders
    )
    assert all(a.get("aria-label") or a["class"] != "play" for a in tags.all("button") if "class" in a)
    assert all("aria-label" in a for a in tags.all("svg", role="img"))
    sortable = [a for a in tags.all("th") if "aria-sort" in a]
    assert len(sortable) == 1 + 5  # the names, and the five metrics
    assert tags.all("html", lang="en")


def test_numbers_carry_their_test_and_findings_stand_on_top(html):
    places = ["Scaled RoPE carries when", 'id="clips"', 'id="table"', 'id="references"', 'id="plots"']
    assert sorted(places, key=html.index) == places
    assert "sign-flip permutation over clips" in html
    assert "Holm p &lt; 0.001" in html or "Holm p = 0" in html
    assert "paired t over seeds (n = 3, 3 seeds in common)" in html
    assert "judge-64" in html


def test_it_is_small(built):
    assert (built / "leaderboard.html").stat().st_size < 1_500_000


def test_text_from_files_is_escaped_everywhere(built, tmp_path):
    evil = '"><img src=x onerror=alert(1)><script>alert(2)</script>@@script@@'
    made = run("none", 0, n_clips=4)
    scores = [replace(clip, caption=evil) for clip in made.clips]
    scores[1] = replace(scores[1], failed=evil, values={})
    folder = tmp_path / "one"
    metrics = {
        f"ball/{evil}": replace(made.metrics["ball/frechet_video"], unit=evil, variant=evil, kind="frechet")
    }
    replace(
        made,
        name=evil,
        clips=scores,
        metrics=metrics,
        notes=[evil],
        provenance={evil: evil},
        config_hash=evil,
    ).write(folder)
    shutil.copytree(built / "none" / "seed_0" / "clips", folder / "clips")
    board = replace(build_leaderboard([folder], title=evil, message=evil), problems=[evil])
    html = page(board)
    tags = Tags(html)
    assert [a for a in tags.all("script") if a.get("type") != "application/json"] == [{}]
    assert not [a for _, a in tags.found if "onerror" in a]
    assert {a["src"][:10] for a in tags.all("img")} == {"data:image"}
    assert len(Tags(home(html)).all("video")) == 2


def test_clips_that_cannot_be_shown_are_named_and_the_rest_is_shown(built, tmp_path):
    study = shutil.copytree(built, tmp_path / "study")
    (study / "none" / "seed_0" / "clips" / "clip_0000.mp4").write_bytes(b"no video")
    (study / "bidirectional_scaled" / "seed_0" / "clips" / "clip_0001.mp4").unlink()
    (study / "none" / "seed_0" / "clips" / "huge.mp4").write_bytes(bytes(10))
    html = page(build_leaderboard([study]))
    assert "cannot be shown: clip_0000.mp4" in html
    assert len(Tags(home(html)).all("video")) == COLUMNS - 1
    assert html.count('<article class="prompt"') == 1


def test_without_clips_there_is_still_a_page(tmp_path):
    board = build_leaderboard([run("a", 0, n_clips=4).write(tmp_path / "a")])
    assert "No run has clips on disk" in page(board)


@pytest.mark.slow
def test_prompts_are_left_out_rather_than_growing_the_page(built, html, monkeypatch):
    first = sum(len(json.dumps(data)) for data in carried(html).values()) // PROMPTS
    monkeypatch.setattr(clips, "BUDGET", int(1.3 * first))
    html = page(build_leaderboard([built]))
    assert html.count('<article class="prompt"') == 1
    assert "1 more prompt is left out" in html


@pytest.mark.slow
def test_the_figure_is_the_same_for_the_same_numbers(built):
    first = (built / "figure.png").read_bytes()
    image = Image.open(io.BytesIO(first))
    assert image.width > 1000
    assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    assert figure_png(build_leaderboard([built])) == first


@pytest.fixture
def sight(browser, built):
    with opened(browser, built / "leaderboard.html") as seen:
        yield seen


def order(sight):
    return sight.values("#table tbody.arms th", "e.dataset.value")


@pytest.mark.slow
def test_a_heading_sorts_best_first_then_worst_first(sight, built):
    head = sight.page.locator("#table thead th", has_text="onset_offset_ms")
    assert order(sight) == list(ARMS)
    head.get_by_role("button").click()
    values = {row.name: row.cells["ball/onset_offset_ms"].value for row in build_leaderboard([built]).arms}
    assert order(sight) == sorted(ARMS, key=values.get)
    assert head.get_attribute("aria-sort") == "ascending"
    assert "▲" in head.locator(".sorted").evaluate("e => getComputedStyle(e, '::after').content")
    head.get_by_role("button").press("Enter")
    assert order(sight) == sorted(ARMS, key=values.get, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    sight.page.locator("#table thead th", has_text="onset_f1").get_by_role("button").click()
    assert order(sight)[0] == "bidirectional_scaled"
    assert head.get_attribute("aria-sort") == "none"
    sight.page.locator("#table thead th", has_text="model").get_by_role("button").click()
    assert order(sight) == sorted(ARMS)


@pytest.mark.slow
def test_a_clip_plays_and_its_playhead_moves(sight):
    first, second = (sight.page.locator("#clips .player").nth(place) for place in (0, 1))
    assert first.locator(".playhead").evaluate("e => e.style.left || '0%'") in ("0%", "0px")
    first.locator(".play").click()
    sight.until("#clips video", "e.currentTime > 0.4")
    played = first.evaluate(
        """box => {
          const video = box.querySelector('video'), place = parseFloat(box.querySelector('.playhead').style.left);
          return { place, width: video.videoWidth, duration: video.duration,
                   drift: Math.abs(place / 100 * Number(box.dataset.seconds) - video.currentTime) };
        }"""
    )
    assert played["place"] > 15
    assert played["drift"] < 0.1
    assert played["width"] == 128
    assert played["duration"] == pytest.approx(2.03, abs=0.1)
    assert first.locator(".play").get_attribute("aria-label").startswith("Pause ")
    second.locator(".play").click()
    sight.until("#clips .card:nth-child(2) video", "!e.paused")
    assert first.locator("video").evaluate("e => e.paused")


def test_pictures_come_when_a_clip_comes_near_the_screen(sight):
    image = sight.page.locator("#clips .timeline img").first
    image.scroll_into_view_if_needed()
    sight.until("#clips .timeline img", "e.naturalWidth === 512")
    assert image.evaluate("e => e.naturalHeight") == 168
    assert sight.page.locator("#clips video").first.get_attribute("poster").startswith("data:image/jpeg")


@pytest.mark.slow
def test_the_keyboard_moves_the_playhead_and_tips_show_on_focus(sight):
    line = sight.page.locator("#clips .timeline").first
    line.focus()
    line.press("ArrowRight")
    sight.until("#clips video", "e.currentTime > 0.04")
    now = sight.page.locator("#clips video").first.evaluate("e => e.currentTime")
    assert now == pytest.approx(0.05, abs=0.01)
    line.press("End")
    sight.until("#clips .timeline", "Number(e.getAttribute('aria-valuenow')) > 2")
    assert line.get_attribute("aria-valuetext") == "2.02 s"
    tip = sight.page.locator("#tip")
    assert tip.is_hidden()
    cells = sight.page.locator("#table tbody.arms .cell")
    with_test = next(c for c in cells.all() if "sign-flip" in (c.get_attribute("data-tip") or ""))
    with_test.focus()
    assert tip.is_visible()
    assert "sign-flip permutation" in tip.inner_text()
    sight.page.keyboard.press("Escape")
    assert tip.is_hidden()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
@pytest.mark.parametrize("address", ["", "#model=bidirectional_scaled"])
def test_nothing_spills_over_and_the_console_is_silent(browser, built, width, dark, address):
    with opened(browser, built / "leaderboard.html", address, width, 844, dark) as sight:
        assert sight.page.evaluate("document.documentElement.scrollWidth") <= width
        sight.page.locator("details").evaluate_all("found => found.forEach((e) => { e.open = true; })")
        assert sight.page.evaluate("document.documentElement.scrollWidth") <= width
        assert sight.page.evaluate(SMALL) == []
        ground = sight.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 21, 23)" if dark else "rgb(251, 250, 248)")
        assert sight.said == []
        assert {url.split(":")[0] for url in sight.asked} <= {"file", "data", "blob"}
        assert len([url for url in sight.asked if url.startswith("file:")]) == 1


@pytest.mark.parametrize("width", [1280, 390])
def test_a_table_wider_than_the_screen_says_so_until_its_end(browser, built, width):
    with opened(browser, built / "leaderboard.html", width=width) as sight:
        box, cue = (sight.page.locator(f"#table {part}").first for part in (".scroll", ".cue"))
        if width == 1280:
            assert cue.is_hidden()
            assert "more-right" not in box.get_attribute("class")
            return
        sight.until("#table .scroll", "e.classList.contains('more-right')")
        assert cue.inner_text().startswith("Scroll sideways")
        assert box.evaluate("e => getComputedStyle(e).maskImage").startswith("linear-gradient")
        box.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
        sight.until("#table .scroll", "!e.classList.contains('more-right')")
        assert box.evaluate("e => getComputedStyle(e).maskImage") == "none"
        assert cue.is_visible()  # the table must not jump
        name = box.locator("tbody th").first
        assert name.bounding_box()["x"] >= box.bounding_box()["x"]
        assert name.bounding_box()["width"] < 0.5 * width


def test_one_prompt_is_open_and_the_references_stand_once(sight, html):
    shown = sight.page
    assert shown.locator("#clips .prompt:visible").count() == 1
    shown.get_by_text(f"{PROMPTS - 1} more prompt").click()
    assert shown.locator("#clips .prompt:visible").count() == PROMPTS
    assert sight.values("#table tbody th, #references thead th", "e.innerText.trim().split('\\n')[0]") == [
        *ARMS,
        "metric",
        *REFERENCES,
    ]
    assert sight.values("#references tbody tr", "e.dataset.metric") == [
        "ball/onset_f1",
        "ball/onset_offset_ms",
        "ball/agreement_vague",
        "ball/frechet_video",
    ]
    head = shown.locator("#table thead th", has_text="ball/onset_f1").inner_text().split("\n")
    assert head[0].startswith("Onset F1 within 75 ms")
    assert head[-1].startswith("real 0.9")


# Texts that a reader would have to bend down to.
SMALL = """
[...document.querySelectorAll('body *')]
  .filter((e) => !e.children.length && e.textContent.trim() && e.checkVisibility() && !e.closest('svg'))
  .filter((e) => parseFloat(getComputedStyle(e).fontSize) < 11.5)
  .map((e) => e.outerHTML)
"""
