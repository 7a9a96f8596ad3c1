"""The page of many models: each model's own page with its clips, filters in the address, plots of any shape."""

import base64
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from browser import launched, missing, opened
from eval_study import BENCHMARKS, I3D, LONG_NAME, MODELS, NO_FACE, UNREADABLE, run, scored, write_board

from ovi_eval import leaderboard
from ovi_eval.errors import EvalError
from ovi_eval.media import decode_audio, decode_video, write_mp4
from ovi_eval.references.published import PublishedTable
from ovi_eval.report import page as page_module
from ovi_eval.report.extremes import extremes, without_value
from ovi_eval.report.filters import bar
from ovi_eval.report.markdown import markdown
from ovi_eval.report.models import addresses
from ovi_eval.report.page import page
from ovi_eval.report.players import clip_files, strands_of
from ovi_eval.report.transcode import SECONDS, SIDE, small_clip
from ovi_eval.results import MetricValue
from ovi_eval.table import Column, Row

PUBLISHED = [
    PublishedTable("Verse-Bench", "A table", "https://example.org/a", "a page", True, {"Ovi": {"FVD": 1.5}}),
    PublishedTable("Other-Bench", "B table", "https://example.org/b", "a page", False, {"Ovi": {"FAD": 2.5}}),
]
OVI = MODELS[0]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_board(tmp_path_factory.mktemp("models"), playable=6)


@pytest.fixture(scope="module")
def file(paths):
    out = paths[0].parent.parent / "out"
    leaderboard.build(paths, out, title="Models", published=PUBLISHED)
    return out / "leaderboard.html"


@pytest.fixture(scope="module")
def html(file):
    return file.read_text()


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
    cards = re.findall(r'<span class="pill (\w+)">\w+</span> ([−\d.]+)</h3>.*?class="id">(.*?)</span>', ends)
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


def test_extremes_go_by_the_direction(paths):
    result = scored(OVI, BENCHMARKS[0], paths[0])
    values = [0.5, 0.1, None, 0.9, 0.4, 0.1]
    result = replace(
        result, clips=[replace(c, values={"m": v}) for c, v in zip(result.clips, values, strict=False)]
    )

    def ends(direction, **options):
        found = extremes(result, Column("m", "m", "m", direction), 2, **options)
        return found and [[r.clip.id[-1] for r in part] for part in (found.worst, found.best)]

    assert ends("higher") == [["5", "1"], ["3", "0"]]
    assert ends("lower") == [["3", "0"], ["1", "5"]]
    assert ends("closer_to_reference", target=0.45) == [["3", "5"], ["0", "4"]]
    assert ends("closer_to_reference") is None
    assert ends("higher", among={"clip_0000", "clip_0003", "clip_0004"}) == [["4"], ["3"]]
    assert ends("higher", among={"clip_0001", "clip_0005"}) is None
    assert [clip.id for clip in without_value(scored(OVI, BENCHMARKS[0], paths[0]))] == [
        "clip_0002",
        "clip_0001",
    ]


def test_clips_are_found_beside_the_results_or_where_they_were_scored(tmp_path):
    elsewhere, beside = tmp_path / "elsewhere", tmp_path / "run" / "clips"
    for folder in (elsewhere, beside):
        folder.mkdir(parents=True)
        for name in ("clip_0000.mp4", "clip_0001.webm", "other.mp4", "clip_0002.txt"):
            (folder / name).write_bytes(b"")
    result = scored(OVI, "", elsewhere)
    assert set(clip_files(result)) == {"clip_0000", "clip_0001"}
    assert clip_files(replace(result, provenance={"clips": str(tmp_path / "gone")})) == {}
    assert clip_files(replace(result, provenance={"clips": ["no", "text"]})) == {}
    found = clip_files(replace(result, folder=tmp_path / "run"))
    assert {path.parent for path in found.values()} == {beside}


def test_metrics_scored_one_after_the_other_are_one_run(tmp_path):
    whole = scored(OVI, "", tmp_path)
    first = replace(
        whole,
        metrics={"clap": whole.metrics["clap"]},
        clips=[replace(c, values={"clap": c.values.get("clap")}, reasons={}) for c in whole.clips],
    )
    second = replace(
        whole,
        metrics={"sync_c": whole.metrics["sync_c"]},
        clips=[replace(c, values={"sync_c": c.values.get("sync_c")}, caption=None) for c in whole.clips],
    )
    (strand,) = strands_of(Row(OVI, "measured", [first, second]), "", None)
    assert set(strand.run.metrics) == {"clap", "sync_c"}
    assert set(strand.run.clips[0].values) == {"clap", "sync_c"}
    assert strand.run.clips[1].reasons == {"sync": NO_FACE}
    assert strand.run.clips[1].caption == whole.clips[1].caption
    apart = strands_of(Row(OVI, "measured", [first, replace(first)]), "", None)
    assert len(apart) == 2


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """640 x 360, 7 s at 10 fps, a tone that sets in after 3 s."""
    path = tmp_path_factory.mktemp("big") / "big.mp4"
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 255, (70, 9, 16, 3), dtype=torch.uint8, generator=draw)
    frames = coarse.repeat_interleave(40, 1).repeat_interleave(40, 2)
    time = torch.arange(7 * 16000) / 16000
    return write_mp4(path, frames, 10.0, 0.5 * torch.sin(2800 * time) * (time > 3), 16000)


def test_a_big_clip_is_made_small(big, tmp_path):
    assert big.stat().st_size > 200_000
    clip = small_clip(big)
    assert len(clip.mp4) < 0.5 * big.stat().st_size
    video, audio = decode_video(clip.mp4, name="small"), decode_audio(clip.mp4, name="small")
    assert tuple(video.frames_THWC.shape) == (60, 180, SIDE, 3)
    assert len(video.frames_THWC) / video.fps == pytest.approx(SECONDS)
    assert len(audio.wave_S) / audio.sample_rate == pytest.approx(SECONDS, abs=0.07)
    loud = audio.wave_S.abs() > 0.2
    assert int(loud.float().argmax()) / audio.sample_rate == pytest.approx(3.0, abs=0.03)
    assert clip.cut
    assert not clip.silent
    original = decode_video(big).frames_THWC[::10, 4::8, 4::8].float()
    shown = video.frames_THWC[::10, 2::4, 2::4].float()
    assert float((original[: len(shown)] - shown).abs().mean()) < 12


def test_small_clips_stay_as_they_are_and_silent_ones_are_shown(big, tmp_path):
    frames = decode_video(big).frames_THWC[:10, ::8, ::8].contiguous()
    little = write_mp4(tmp_path / "little.mp4", frames, 25.0, torch.zeros(6400), 16000)
    assert small_clip(little).mp4 == little.read_bytes()
    import av

    mute = tmp_path / "mute.mkv"
    with av.open(str(mute), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    clip = small_clip(mute)
    assert clip.silent
    assert tuple(clip.frames_THWC.shape) == (5, 64, 96, 3)
    assert decode_video(clip.mp4, name="mute").frames_THWC.float().mean() == pytest.approx(90, abs=3)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(big.read_bytes()[:3000])
    with pytest.raises(EvalError, match=r"broken\.mp4: "):
        small_clip(broken)


def test_models_share_what_the_page_may_carry(paths, monkeypatch):
    monkeypatch.setattr(page_module, "BUDGET", 600_000)
    from ovi_eval.report import clips

    monkeypatch.setattr(clips, "BUDGET", 100_000)
    board = leaderboard.build(paths, None)
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
    board = leaderboard.build(results, None)
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
    made = page(leaderboard.build(results, tmp_path / "out"))
    assert "no clip could be scored" in section(made, "one")
    assert "no clip shows a face" in section(made, "one")
    plots = re.findall(r'<figure class="plot".*?</figure>', made)
    assert not [plot for plot in plots if "sync_<wbr>c" in plot]
    assert len([plot for plot in plots if "<figcaption>extra" in plot]) == 1
    assert "the only one" in section(made, "one")


def test_where_there_is_nothing_to_choose_there_are_no_filters(tmp_path):
    board = leaderboard.build([run("a", 0, n_clips=3).write(tmp_path / "a")], None)
    assert bar(board) == ""
    assert 'class="filters"' not in page(board)


def test_markdown_says_benchmark_and_variant_and_marks_what_is_not_comparable(paths):
    text = markdown(leaderboard.build(paths, None))
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
        assert page.get_by_text("Nothing was measured of this benchmark").is_visible()
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
        assert sight.said == []


def test_a_name_opens_the_models_page_and_back_leads_to_the_same_place(browser, file):
    with opened(browser, file, "#benchmark=Verse-Bench") as sight:
        page = sight.page
        link = page.locator("#table tbody.arms a", has_text=OVI).first
        link.scroll_into_view_if_needed()
        height = page.evaluate("scrollY")
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
            f"metric{column}": MetricValue(
                float(rng.normal(10 ** (column % 7 - 2), 0.01)),
                50,
                "higher" if column % 2 else "lower",
                kind="set",
            )
            for column in range(36)
            if (number + column) % 5
        }
        results.append(replace(run(f"model {number}", None, n_clips=2), metrics=metrics, clips=[], losses={}))
    paths = [result.write(tmp_path / str(number)) for number, result in enumerate(results)]
    file = tmp_path / "leaderboard.html"
    file.write_text(page(leaderboard.build(paths, None)))
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
