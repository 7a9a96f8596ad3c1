"""`ovi-data report`: its numbers, its clips, names of strangers, and the page in a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from helpers.browser import opened
from helpers.small_videos import RATE, RECIPE, moving, noise, write
from ovi_lab.data.build.folder import BuiltFolder
from ovi_lab.data.build.recipe import Bound
from ovi_lab.data.build.report import page
from ovi_lab.data.build.report.facts import ClipFacts, errors, facts_of, funnel
from ovi_lab.data.build.report.histogram import histogram, nearest
from ovi_lab.data.cli import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EVIL = '<img src=x onerror="alert(1)">&amp'
MINE = {
    **RECIPE,
    "keep": {
        "still_share": {"max": 0.5},
        "mean_volume": {"min": -20, "missing": "drop"},
        "clip_score": {"min": 0.25},
        "bandwidth": {"min": 1500, "otherwise": "mark"},
    },
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine clips of six files, two of which cannot be used."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        write(folder / f"v{seed}.mp4", moving(seed), 0.4 * (seed + 1) * noise(1.25, seed))
    write(folder / f"{EVIL}.mp4", torch.cat([moving(4), moving(5), moving(6)]))
    write(folder / "still.mp4", moving(8)[:1].repeat(20, 1, 1, 1))
    write(folder / "silent.mp4", moving(9), torch.zeros(RATE * 5 // 4))
    write(folder / "again.mp4", moving(2), noise(1.25, 2))
    write(folder / "short.mp4", moving(10, 8))
    (folder / "none.mp4").write_bytes(b"none")
    return folder


@pytest.fixture(scope="module")
def built_once(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("built")
    rows = [
        {"file": f"v{n}.mp4", "clip_score": 0.1 + 0.2 * n, "language": ("en", EVIL)[n % 2]} for n in range(3)
    ]
    rows[1]["caption"] = f"a caption of six words {EVIL}"
    (place / "scores.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (place / "mine.yaml").write_text(yaml.safe_dump(MINE, sort_keys=False))
    given = ["--recipe", str(place / "mine.yaml"), "--scores", str(place / "scores.jsonl")]
    assert main(["build", str(videos), str(place / "shards"), *given]) == 0
    assert main(["report", str(place / "shards")]) == 0
    return place / "shards"


@pytest.fixture(scope="module")
def html(built_once: Path) -> str:
    return (built_once / "report.html").read_text()


def carried(html: str) -> list[dict[str, str]]:
    """The data of each clip in the page."""
    return [
        json.loads(d)
        for d in re.findall(r'<script type="application/json" id="clip-\d+">(.*?)</script>', html)
    ]


@pytest.mark.slow
def test_the_funnel_counts_each_clip_once(built_once: Path) -> None:
    folder = BuiltFolder.open(built_once)
    clips = facts_of(folder)
    stages = funnel(folder, clips)
    assert [stage.name for stage in stages] == [
        "clips cut", "still_share", "mean_volume", "clip_score", "bandwidth", "duplicate",
    ]  # fmt: skip
    assert stages[0].left == len(clips) == 9
    assert stages[-1].left == sum(clip.kept for clip in clips)
    assert sum(stage.removed for stage in stages) == 9 - stages[-1].left
    assert stages[-1].seconds == pytest.approx(stages[-1].left * 1.0)
    still, volume, score, marked, twice = stages[1:]
    assert (still.removed, still.outside, still.alone) == (1, 1, 1)
    assert volume.removed == 2  # silence, and noise that is not loud enough
    assert (score.removed, score.outside) == (0, 1)  # it is also too quiet
    assert score.alone == 0
    assert marked.removed == 0
    assert twice.removed == 1
    assert [(reason.files, reason.names) for reason in errors(folder)] == [
        (1, ["none.mp4"]),
        (1, ["short.mp4"]),
    ]


def test_a_histogram_holds_every_clip_and_its_bounds() -> None:
    clips = [
        ClipFacts(f"k{n}", f"s{n // 2}", 0.0, None, ["x"] if n < 30 else [], {"x": n / 100}, {}, 0, None)
        for n in range(100)
    ]
    drawn = histogram(clips, "x", Bound(min=0.3))
    assert drawn is not None
    counts = {"kept": 0, "own": 0, "other": 0}
    for bar in drawn.bars:
        for kind, y, height, count in bar.parts:
            counts[kind] += count
            assert 0 < y < y + height <= 172.05
    assert counts == {"kept": 70, "own": 30, "other": 0}
    (line,) = drawn.lines
    assert (line.text, line.anchor) == ("min 0.3", "start")
    left = [bar for bar in drawn.bars if bar.x + bar.width < line.x - 10]
    assert all(kind == "own" for bar in left for kind, *_ in bar.parts)
    (edge,) = nearest(clips, "x", Bound(min=0.3))
    assert [clip.key for clip in edge.inside] == ["k30", "k32"]  # of different files
    assert [clip.key for clip in edge.outside] == ["k29", "k27"]
    assert histogram(clips, "y", None) is None
    same = histogram([ClipFacts("k", "s", 0.0, None, [], {"x": 3.0}, {}, 0, None)] * 4, "x", None)
    assert same is not None
    assert (same.most, len(same.bars)) == (4, 1)
    # whole numbers: every bar stands for equally many of them
    counted = [ClipFacts(f"k{n}", "s", 0.0, None, [], {"x": float(n)}, {}, 0, None) for n in range(100)]
    even = histogram(counted, "x", None)
    assert even is not None
    assert {sum(count for *_, count in bar.parts) for bar in even.bars[1:-1]} == {3}
    # a bound far outside is still drawn, and the values of the tails are in the outermost bars
    far = histogram(clips, "x", Bound(max=50.0))
    assert far is not None
    assert 0 < far.lines[0].x < 400


@pytest.mark.slow
def test_the_page_says_what_is_in_the_build_and_fetches_nothing(html: str, built_once: Path) -> None:
    for text in ("clip_score", "at least 0.25<", "with the caption of their file", "else kept and marked"):
        assert text in html
    assert "its longest scene lasts … s; a clip needs … s" in html
    assert '<td class="n">1</td>' in html
    assert 'onerror="alert' not in html
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html
    assert [m for m in re.findall(r"https?://[^\s\"'<)]+", html) if "www.w3.org/2000/svg" not in m] == []
    clips = carried(html)
    assert len(clips) >= 6
    assert all(base64.b64decode(clip["mp4"])[4:8] == b"ftyp" for clip in clips)
    assert (built_once / "report.html").stat().st_size < page.MAX_BYTES


@pytest.mark.slow
def test_dropped_clips_are_cut_from_their_source_where_it_is(
    built_once: Path,
    tmp_path: Path,
    videos: Path,
    ovi_data: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = Path(shutil.copytree(built_once, tmp_path / "shards"))
    (shards / ".build" / "folder.json").write_text(json.dumps({"folder": str(tmp_path / "gone")}))
    printed = ovi_data("report", shards)
    assert re.search(r"\d cannot be shown: their source is gone or unreadable", printed)
    without = carried((shards / "report.html").read_text())
    ovi_data("report", shards, "--videos", videos)
    assert len(carried((shards / "report.html").read_text())) > len(without)
    shutil.rmtree(shards / ".build")  # a build is reported without it
    monkeypatch.setattr(page, "BUDGET", 60_000)
    assert "left out to keep the page small" in ovi_data("report", shards)
    assert "the page is full" in (shards / "report.html").read_text()
    assert "is no folder" in ovi_data("report", shards, "--videos", tmp_path / "none", code=2)
    (shards / "clips.jsonl").write_text('{"key": 3}\n')
    assert "clips.jsonl, line 1: has no key" in ovi_data("report", shards, code=2)
    (shards / "manifest.json").write_text('{"format": "other"}')
    assert "is no manifest of this version" in ovi_data("report", shards, code=2)
    assert "name a folder that ovi-data build made" in ovi_data("report", tmp_path, code=2)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_in_a_browser_nothing_spills_over_and_clips_play(
    browser: Browser, built_once: Path, width: int, dark: bool
) -> None:
    with opened(browser, built_once / "report.html", width=width, height=844, dark=dark) as sight:
        sight.page.locator("details").evaluate_all("found => found.forEach((e) => { e.open = true; })")
        assert sight.page.evaluate("document.documentElement.scrollWidth") <= width
        spilling: Any = sight.page.evaluate(SPILLING)
        assert spilling == []
        first = sight.page.locator(".example .player").first
        first.scroll_into_view_if_needed()
        first.locator(".play").click()
        sight.until(".example video", "e.currentTime > 0.2 && e.videoWidth > 0")
        assert sight.said == []
        assert {url.split(":")[0] for url in sight.asked} <= {"file", "data", "blob"}


SPILLING = """
[...document.querySelectorAll('main *')]
  .filter((e) => e.checkVisibility() && !e.closest('svg') && !e.closest('.scroll') && !e.closest('.player'))
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 120))
"""
