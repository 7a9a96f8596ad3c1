"""The leaderboard: grouping, pairing, ranking, what is refused or named, and that it is rebuilt the same."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from helpers.eval_study import ARMS, CLAIMS, run, write_study
from ovi_eval.errors import UserError
from ovi_eval.ranking.claims import parse_claims
from ovi_eval.ranking.columns import by_group
from ovi_eval.ranking.leaderboard import build_leaderboard, collect_leaderboard
from ovi_eval.report import write_all
from ovi_eval.report.html.page import page
from ovi_eval.report.markdown import markdown
from ovi_eval.report.terminal import show
from ovi_eval.results.files import ClipScores, MetricValue
from ovi_eval.results.find_runs import FoundRuns
from ovi_eval.stats.intervals import mean_interval


def found(*runs):
    return FoundRuns(list(runs), [], [])


def metric(value, **fields):
    return MetricValue(value, 40, fields.pop("direction", "higher"), **fields)


def plain(name, seed, value, kind="measured", **fields):
    """A run of one metric without values per clip."""
    return run(name, seed, kind=kind, clips=(), losses={}, metrics={"m/score": metric(value, **fields)})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def board(study):
    return build_leaderboard([study], title="Fusion ablation", claims=CLAIMS)


def test_arms_are_grouped_with_their_seeds_and_references_apart(board):
    assert [row.name for row in board.arms] == list(ARMS)
    assert all(row.seeds == [0, 1, 2] for row in board.arms)
    assert [row.name for row in board.references] == ["real", "real_shifted_150ms", "real_shuffled"]
    assert [c.id for c in board.columns] == [
        "ball/onset_f1",
        "ball/onset_offset_ms",
        "ball/agreement_vague",
        "ball/frechet_video",
        "loss/val_loss_audio",
    ]
    assert list(by_group(board.columns)) == ["ball/onset", "ball/agreement", "ball/frechet", "losses"]


def test_means_intervals_and_differences_are_those_of_the_runs(board):
    runs = {(name, seed): run(name, seed) for name in ARMS for seed in (0, 1, 2)}
    values = {name: [runs[name, s].metrics["ball/frechet_video"].value for s in (0, 1, 2)] for name in ARMS}
    cell = board.arms[1].cells["ball/frechet_video"]
    assert cell.value == pytest.approx(np.mean(values["bidirectional_unscaled"]))
    low, high = stats.t.interval(0.95, 2, np.mean(values["none"]), stats.sem(values["none"]))
    interval = board.arms[2].cells["ball/frechet_video"].interval
    assert (interval.low, interval.high) == pytest.approx((low, high))
    raw = [stats.ttest_rel(values[n], values["bidirectional_scaled"]).pvalue for n in list(ARMS)[1:]]
    versus = [row.cells["ball/frechet_video"].versus_first for row in board.arms[1:]]
    assert [v.difference.test.p for v in versus] == pytest.approx(raw)
    least, most = sorted(raw)
    assert sorted(v.p_adjusted for v in versus) == pytest.approx([2 * least, max(2 * least, most)])
    assert all(v.verdict == "worse" for v in versus)
    assert board.arms[0].cells["ball/frechet_video"].versus_first is None


def test_metrics_with_clips_are_tested_over_clips_and_the_test_is_stated(board):
    versus = board.arms[2].cells["ball/onset_f1"].versus_first
    assert "sign-flip permutation over clips" in versus.difference.test.name
    assert versus.difference.n_clips == 40
    assert versus.difference.n_seeds == 3
    assert board.arms[2].cells["ball/agreement_vague"].versus_first.difference.n_clips == 20
    per_seed = [np.mean(list(run("none", s).per_clip("ball/onset_f1").values())) for s in (0, 1, 2)]
    per_first = [
        np.mean(list(run("bidirectional_scaled", s).per_clip("ball/onset_f1").values())) for s in (0, 1, 2)
    ]
    assert versus.difference.value == pytest.approx(np.mean(per_seed) - np.mean(per_first))
    assert (
        "paired t over seeds" in board.arms[2].cells["loss/val_loss_audio"].versus_first.difference.test.name
    )
    assert board.references[0].cells["ball/onset_f1"].interval.method == "bca bootstrap over clips"


def test_references_are_never_ranked_nor_compared(board):
    assert sorted(row.cells["ball/onset_f1"].rank for row in board.arms) == [1, 2, 3]
    assert board.arms[0].cells["ball/onset_f1"].rank == 1
    assert board.arms[0].cells["ball/frechet_video"].rank == 1
    for row in board.references:
        assert all(cell.rank is None and cell.versus_first is None for cell in row.cells.values())


def test_first_and_order_are_the_callers(study):
    board = build_leaderboard([study], first="none", order=["none", "bidirectional_unscaled"])
    assert [row.name for row in board.arms] == ["none", "bidirectional_unscaled", "bidirectional_scaled"]
    versus = board.arms[2].cells["ball/onset_f1"].versus_first
    assert versus.arm == "none"
    assert versus.verdict == "better"
    assert board.arms[2].cells["ball/onset_offset_ms"].versus_first.verdict == "better"


def test_claims_are_supported_by_these_numbers(board):
    assert [finding.outcome for finding in board.findings] == ["supported", "supported"]
    f1 = board.arms[0].cells["ball/onset_f1"].value
    assert f"onset F1 {f1:.3f} scaled" in board.findings[1].text
    evidence = board.findings[0].evidence
    assert [e["holds"] for e in evidence] == [True, True]
    assert all(e["p_adjusted"] >= e["p"] for e in evidence)


def test_a_claim_turned_round_is_not_supported(study):
    turned = [{**CLAIMS[1], "arm": "bidirectional_unscaled", "versus": "bidirectional_scaled"}]
    board = build_leaderboard([study], claims=turned)
    assert board.findings[0].outcome == "not_supported"
    assert board.findings[0].text.startswith("The data do not show that scaled RoPE carries when")


def test_one_comparison_that_fails_fails_the_claim(study):
    claim = {
        **CLAIMS[0],
        "comparisons": [
            *CLAIMS[0]["comparisons"],
            {
                "metric": "ball/agreement_vague",
                "arm": "bidirectional_scaled",
                "versus": "bidirectional_unscaled",
            },
        ],
    }
    board = build_leaderboard([study], claims=[claim])
    assert board.findings[0].outcome == "not_supported"
    assert [e["holds"] for e in board.findings[0].evidence] == [True, True, False]


def test_a_margin_must_be_cleared_by_the_whole_interval(study):
    outcomes = []
    for margin in (0.3, 0.6, 0.7):
        board = build_leaderboard([study], claims=[{**CLAIMS[1], "margin": margin}])
        outcomes.append(board.findings[0].outcome)
    assert outcomes == ["supported", "not_supported", "not_supported"]


def test_within_a_margin_rests_on_the_interval(study):
    claim = {
        "metric": "loss/val_loss_audio",
        "arm": "bidirectional_scaled",
        "versus": "none",
        "relation": "within",
        "supported": "the same within it: {difference}",
        "unsupported": "not the same within it",
    }
    wide = build_leaderboard([study], claims=[{**claim, "margin": 0.06}])
    narrow = build_leaderboard([study], claims=[{**claim, "margin": 0.002}])
    assert [wide.findings[0].outcome, narrow.findings[0].outcome] == ["supported", "not_supported"]


def test_a_claim_without_its_runs_is_unknown(study):
    board = build_leaderboard([study / "none", study / "bidirectional_scaled"], claims=CLAIMS)
    assert [finding.outcome for finding in board.findings] == ["unknown", "unknown"]
    assert "bidirectional_unscaled has no finished run" in board.findings[0].text
    other = parse_claims([{**CLAIMS[1], "metric": "ball/onset_f9"}])
    board = build_leaderboard([study], claims=other)
    assert "no run has it" in board.findings[0].text


def test_one_seed_with_no_clips_supports_nothing():
    claim = {"metric": "m/score", "arm": "a", "versus": "b", "supported": "yes", "unsupported": "no"}
    board = collect_leaderboard(found(plain("a", 0, 0.9), plain("b", 0, 0.1)), claims=[claim])
    assert board.findings[0].outcome == "not_supported"
    versus = board.arms[1].cells["m/score"].versus_first
    assert versus.difference.value == pytest.approx(-0.8)
    assert versus.difference.test.p is None
    assert versus.verdict == "no_difference"


def test_one_seed_of_a_set_is_compared_by_the_intervals_that_the_runs_state():
    made = {"direction": "lower"}
    runs = [plain("a", 0, 4.0, ci95=(3.5, 4.5), **made), plain("b", 0, 9.0, ci95=(8.0, 10.0), **made)]
    versus = collect_leaderboard(found(*runs)).arms[1].cells["m/score"].versus_first
    assert versus.difference.value == 5.0
    assert versus.difference.interval.low == pytest.approx(5 - np.hypot(1.0, 0.5))
    assert "taken as independent" in versus.difference.interval.method
    assert versus.verdict == "worse"
    beside = [plain("a", 0, 4.0, ci95=(4.5, 5.5), **made), runs[1]]
    assert collect_leaderboard(found(*beside)).arms[1].cells["m/score"].versus_first.difference.test.p is None
    seeds = [
        plain(n, s, v + s / 10, ci95=(v, v + 1), **made) for n, v in (("a", 4.0), ("b", 9.0)) for s in (0, 1)
    ]
    versus = collect_leaderboard(found(*seeds)).arms[1].cells["m/score"].versus_first
    assert versus.difference.test.name == "paired t over seeds"


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"metric": "m", "arm": "a", "versus": "b", "supported": "s"}, "field unsupported must be text"),
        ({"metric": "m", "arm": "a", "supported": "s", "unsupported": "u"}, "field versus must be text"),
        (
            {
                "metric": "m",
                "arm": "a",
                "versus": "b",
                "relation": "above",
                "supported": "s",
                "unsupported": "u",
            },
            "relation is 'above'",
        ),
        (
            {"metric": "m", "arm": "a", "versus": "b", "margin": -1, "supported": "s", "unsupported": "u"},
            "margin is -1",
        ),
        (
            {"metric": "m", "arm": "a", "versus": "b", "than": "c", "supported": "s", "unsupported": "u"},
            r"a comparison is \[arm, versus\] or has",
        ),
        ({"comparisons": [], "supported": "s", "unsupported": "u"}, "or a list of comparisons"),
        ("fusion helps", "expected fields"),
    ],
)
def test_a_claim_that_is_wrongly_written_is_named(entry, named):
    with pytest.raises(UserError, match=named):
        parse_claims([entry])


def test_pairs_share_a_metric_and_a_claim_without_wording_is_worded(study):
    pairs = [["bidirectional_scaled", "none"], ["bidirectional_unscaled", "none"]]
    short = [{"name": "what", "metric": "ball/agreement_vague", "comparisons": pairs}]
    assert parse_claims(short)[0].comparisons == parse_claims(CLAIMS)[0].comparisons
    finding = build_leaderboard([study], claims=short).findings[0]
    assert finding.outcome == "supported"
    assert "ball/agreement_vague of bidirectional_unscaled is better than that of none: 0.9" in finding.text
    turned = [{"metric": "ball/agreement_vague", "arm": "none", "versus": "bidirectional_scaled"}]
    finding = build_leaderboard([study], claims=turned).findings[0]
    assert "the data do not show none better than bidirectional_scaled" in finding.text


def test_a_wording_with_an_unknown_field_is_refused_and_reaches_no_attribute(study):
    for wording in ("{f1}", "{a.__class__}"):
        claims = [{**CLAIMS[1], "supported": wording}]
        if "." in wording:
            assert build_leaderboard([study], claims=claims).findings[0].text == wording
        else:
            with pytest.raises(UserError, match=r"holds \{f1\}, which is unknown; valid are a, b, clips"):
                build_leaderboard([study], claims=claims)


def test_versions_and_variants_are_columns_of_their_own():
    board = collect_leaderboard(
        found(
            plain("a", 0, 0.9, version="1"),
            plain("b", 0, 0.1, version="2"),
            plain("c", 0, 0.2, version="2"),
        )
    )
    assert [c.id for c in board.columns] == ["m/score v1", "m/score v2"]
    cells = {row.name: row.cells for row in board.arms}
    assert list(cells["a"]) == ["m/score v1"]
    assert cells["b"]["m/score v2"].versus_first is None
    assert [cells["b"]["m/score v2"].rank, cells["c"]["m/score v2"].rank] == [2, 1]
    mixed = collect_leaderboard(found(plain("a", 0, 0.9, variant="x"), plain("a", 1, 0.1, variant="y")))
    assert {c.id: mixed.arms[0].cells[c.id].value for c in mixed.columns} == {
        "m/score [x]": 0.9,
        "m/score [y]": 0.1,
    }


def test_benchmarks_are_columns_of_their_own_also_of_one_model():
    runs = [
        replace(plain(name, None, value), benchmark=benchmark, folder=None)
        for name, benchmark, value in (
            ("a", "Verse-Bench", 0.9),
            ("b", "Verse-Bench", 0.1),
            ("a", "JavisBench", 0.3),
            ("c", "", 0.99),
        )
    ]
    board = collect_leaderboard(found(*runs))
    assert [(c.id, c.benchmark) for c in board.columns] == [
        ("m/score on Verse-Bench", "Verse-Bench"),
        ("m/score on JavisBench", "JavisBench"),
        ("m/score on no benchmark", ""),
    ]
    cells = {row.name: {c: (x.value, x.rank) for c, x in row.cells.items()} for row in board.arms}
    assert cells == {
        "a": {"m/score on Verse-Bench": (0.9, 1), "m/score on JavisBench": (0.3, 1)},
        "b": {"m/score on Verse-Bench": (0.1, 2)},
        "c": {"m/score on no benchmark": (0.99, 1)},
    }
    assert board.arms[0].seeds == [None]
    kept = json.loads(json.dumps(board.to_dict()))["columns"][0]
    assert (kept["benchmark"], kept["comparable"]) == ("Verse-Bench", True)


def test_clips_of_one_models_benchmarks_are_not_mixed_up():
    a, b = (run("none", 0, n_clips=n, losses={}) for n in (40, 30))
    board = collect_leaderboard(found(replace(a, benchmark="X"), replace(b, benchmark="Y"), run("real", 1)))
    cells = board.arms[0].cells
    assert cells["ball/onset_f1 on X"].over_clips.n == 40
    assert cells["ball/onset_f1 on Y"].over_clips.n == 30
    assert not board.problems


def test_metrics_scored_one_after_the_other_are_one_row():
    early, late = plain("a", 0, 0.9), run("a", 0, clips=(), losses={}, metrics={"n/score": metric(0.2)})
    board = collect_leaderboard(found(early, late, plain("b", 0, 0.1)))
    assert [(row.name, sorted(row.cells)) for row in board.arms] == [
        ("a", ["m/score", "n/score"]),
        ("b", ["m/score"]),
    ]
    with pytest.raises(UserError, match=r"a, seed 0 was found twice.*both have n/score"):
        collect_leaderboard(found(early, late, late))


def test_what_is_not_comparable_is_shown_and_neither_ranked_nor_compared_nor_claimed():
    runs = [
        plain("a", 0, 0.9, comparable=False),
        plain("b", 0, 0.2, comparable=False),
        plain("b", 1, 0.1),
        plain("c", 1, 0.3),
    ]
    claim = {"metric": "m/score", "arm": "a", "versus": "b", "supported": "s", "unsupported": "u"}
    board = collect_leaderboard(found(*runs), claims=[claim])
    assert [c.id for c in board.columns] == ["m/score (not comparable)", "m/score"]
    cells = {row.name: row.cells for row in board.arms}
    assert cells["a"]["m/score (not comparable)"].value == 0.9
    for name in ("a", "b"):
        assert cells[name]["m/score (not comparable)"].rank is None
        assert cells[name]["m/score (not comparable)"].versus_first is None
    assert [cells[name]["m/score"].rank for name in ("b", "c")] == [2, 1]
    assert board.findings[0].outcome == "unknown"
    alone = collect_leaderboard(found(*runs[:2]), claims=[claim])
    assert "not comparable, as of a part of the clips" in alone.findings[0].text
    console = Console(width=100, record=True, file=io.StringIO())
    show(board, console)
    assert "(not comparable)" in " ".join(console.export_text().split())


def test_losses_know_no_benchmark_and_come_once_a_seed():
    runs = [
        run("a", 0, clips=(), metrics={"m/score": metric(0.1)}, losses={"val": 0.5}, benchmark="X"),
        run("a", 0, clips=(), metrics={"m/score": metric(0.2)}, losses={"val": 0.5}, benchmark="Y"),
        run("b", 0, clips=(), metrics={"m/score": metric(0.3)}, losses={"val": 0.4}),
    ]
    board = collect_leaderboard(found(*runs))
    assert [row.cells["loss/val"].rank for row in board.arms] == [2, 1]
    assert board.arms[0].cells["loss/val"].by_seed == {0: 0.5}


def test_the_interval_of_one_run_is_the_one_it_states():
    made = run("none", 0)
    stated = replace(made.metrics["ball/onset_f1"], ci95=(0.1, 0.35))
    board = collect_leaderboard(found(replace(made, metrics={**made.metrics, "ball/onset_f1": stated})))
    cell = board.arms[0].cells["ball/onset_f1"]
    assert (cell.interval.low, cell.interval.high, cell.interval.n) == (0.1, 0.35, 40)
    assert cell.interval.method == "over clips, as the run states it"
    assert cell.over_clips == mean_interval(list(made.per_clip("ball/onset_f1").values()), "ball/onset_f1")
    other = collect_leaderboard(found(replace(made, name="other", seed=7))).arms[0].cells["ball/onset_f1"]
    assert (
        other.interval == other.over_clips == cell.over_clips
    )  # the same clips, whatever the model is called


def test_the_interval_of_a_share_over_seeds_ends_where_the_share_does():
    runs = [
        run("none", seed, clips=shares(value), losses={}, metrics=share(value))
        for seed, value in enumerate((0.5, 0.9, 1.0))
    ]
    cell = collect_leaderboard(found(*runs)).arms[0].cells["m/share"]
    assert cell.interval.high == 1.0
    assert cell.interval.low > 0
    assert cell.interval.method == "t over seeds, cut at 1"
    unit = [replace(r, metrics={"m/share": replace(r.metrics["m/share"], unit="s")}) for r in runs]
    assert collect_leaderboard(found(*unit)).arms[0].cells["m/share"].interval.high > 1.0


def shares(value):
    return [ClipScores(f"c{i}", {"m/share": float(i < 10 * value)}) for i in range(10)]


def share(value):
    return {"m/share": MetricValue(value, 10, "higher")}


def test_one_version_with_two_directions_is_refused():
    with pytest.raises(UserError, match="m/score: higher is best once, lower in"):
        collect_leaderboard(found(plain("a", 0, 0.9), plain("b", 0, 0.1, direction="lower")))


def test_closer_to_reference_ranks_by_distance_to_the_first_reference():
    runs = [plain(n, 0, v, direction="closer_to_reference") for n, v in (("a", 5.0), ("b", 2.9), ("c", 1.0))]
    real = plain("real", None, 3.0, kind="reference", direction="closer_to_reference")
    ranks = [row.cells["m/score"].rank for row in collect_leaderboard(found(*runs, real)).arms]
    assert ranks == [2, 1, 2]
    assert all(row.cells["m/score"].rank is None for row in collect_leaderboard(found(*runs)).arms)
    claim = {"metric": "m/score", "arm": "a", "versus": "b", "supported": "s", "unsupported": "u"}
    with pytest.raises(UserError, match="best near its reference"):
        collect_leaderboard(found(*runs, real), claims=[claim])


def test_a_value_that_is_not_the_mean_of_its_clips_is_compared_over_seeds():
    runs = []
    for name in ("a", "b"):
        for seed in (0, 1):
            made = run(name, seed)
            pooled = replace(made.metrics["ball/onset_f1"], value=0.123 + seed / 100 + (name == "a") / 10)
            runs.append(replace(made, metrics={**made.metrics, "ball/onset_f1": pooled}))
    board = collect_leaderboard(found(*runs))
    assert "paired t over seeds" in board.arms[1].cells["ball/onset_f1"].versus_first.difference.test.name
    assert any("ball/onset_f1 is not the mean of its clips" in problem for problem in board.problems)


def test_missing_runs_are_named_and_the_rest_is_shown(tmp_path):
    study = write_study(tmp_path)
    (study / "none" / "seed_1" / "results.json").unlink()
    (study / "none" / "seed_2" / "results.json").write_text("{")
    expected = [(name, seed) for name in ARMS for seed in (0, 1, 2, 3)]
    board = build_leaderboard([study], expected=expected)
    write_all(board, tmp_path / "out")
    assert board.arms[2].seeds == [0]
    assert [p.split(":")[0] for p in board.problems] == [
        "none/seed_1",
        "none/seed_2",
        "bidirectional_scaled, seed 3",
        "bidirectional_unscaled, seed 3",
        "none, seed 3",
    ]
    assert "none/seed_1: not finished" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert board.arms[2].cells["loss/val_loss_audio"].versus_first.difference.test.p is None


def test_no_run_two_of_a_name_and_an_unknown_first_are_refused(study, tmp_path):
    with pytest.raises(UserError, match="no finished run of any arm"):
        build_leaderboard([study / "references"])
    with pytest.raises(UserError, match="none, seed 0 was found twice"):
        collect_leaderboard(found(run("none", 0), run("none", 0)))
    with pytest.raises(
        UserError, match="no arm is named 'bidirectional_scale'; did you mean bidirectional_scaled"
    ):
        build_leaderboard([study], first="bidirectional_scale")
    folder = run("mine", None).write(tmp_path).parent
    with pytest.raises(UserError, match="a leaderboard must not replace"):
        write_all(build_leaderboard([study]), folder)


def test_it_is_written_whole_and_rebuilt_from_disk_as_it_was(tmp_path):
    study = write_study(tmp_path)
    board = build_leaderboard(
        [study], "none", "Fusion", "Why.", order=["none", *list(ARMS)[:2]], claims=CLAIMS
    )
    write_all(board, study)
    first = json.loads((study / "results.json").read_text())
    assert first["schema"] == "ovi_eval.leaderboard/1"
    assert not [p for p in study.iterdir() if p.name.startswith(".")]
    write_all(build_leaderboard([study]), study)
    again = json.loads((study / "results.json").read_text())
    first.pop("created"), again.pop("created")
    assert again == first
    assert again["study"]["order"] == ["none", "bidirectional_scaled", "bidirectional_unscaled"]
    assert [f["outcome"] for f in again["findings"]] == ["supported", "supported"]


def test_other_arms_change_no_number(study):
    alone = build_leaderboard([study / "none", study / "bidirectional_scaled"], first="bidirectional_scaled")
    both = build_leaderboard([study])
    name = {row.name: row for row in both.arms}["none"].cells["ball/onset_f1"].versus_first.difference
    assert {row.name: row for row in alone.arms}["none"].cells[
        "ball/onset_f1"
    ].versus_first.difference == name


def test_terminal_fits_100_columns_and_shows_every_column(board):
    console = Console(width=180, record=True, file=io.StringIO())
    show(board, console)
    lines = console.export_text().split("\n")
    assert max(len(line.rstrip()) for line in lines) <= 100
    text = "\n".join(lines)
    for shown in [
        "onset_f1 ↑",
        "onset_offset_ms ↓",
        "frechet_video ↓",
        "val_loss_audio ↓",
        "real_shifted_150ms",
        "p < 0.001",
    ]:
        assert shown in text
    assert "supported: Scaled RoPE carries when" in text


def test_names_from_files_are_no_markup_on_the_terminal():
    console = Console(width=100, record=True, file=io.StringIO())
    show(collect_leaderboard(found(plain("[red]a[/red]", 0, 0.5), plain("[/]", 0, 0.4))), console)
    text = console.export_text()
    assert "[red]a[/red]" in text
    assert "[/]" in text


def judged(name, values, **fields):
    """A run whose clips have these values, None where one could not be judged."""
    have = [value for value in values if value is not None]
    made = MetricValue(float(np.mean(have)), len(have), "higher", len(have) / len(values), **fields)
    clips = [ClipScores(f"c{i}", {"m/score": value}) for i, value in enumerate(values)]
    return run(name, None, n_clips=len(values), clips=clips, losses={}, metrics={"m/score": made})


@pytest.mark.parametrize(
    ("values", "partial"),
    [
        ([0.9] * 10 + [None] * 20, True),  # could be judged on a third
        ([0.9] * 10, True),  # handed in a third
        ([0.9] * 28 + [None] * 2, False),
        ([0.9] * 30, False),
    ],
)
def test_a_model_judged_on_far_fewer_clips_is_marked_and_not_ranked(values, partial):
    board = collect_leaderboard(found(judged("few", values), judged("all", [0.9] * 10 + [0.4] * 20)))
    few, everything = (row.cells["m/score"] for row in board.arms)
    assert (few.partial, few.rank) == ((True, None) if partial else (False, 1))
    assert (everything.partial, everything.rank) == (False, 1 if partial else 2)
    out = io.StringIO()
    show(board, Console(file=out, width=100))
    for text in (out.getvalue(), markdown(board)):
        assert ("0.900†" in text) == partial
        assert "coverage 100 %" in text
        assert ("† of far fewer clips than the others" in " ".join(text.split())) == partial
    assert ("**0.900**" in markdown(board)) != partial
    assert ("0.900†" in page(board)) == partial
    assert board.to_dict()["arms"][0]["metrics"]["m/score"]["partial"] == partial


def test_no_claim_rests_on_values_of_far_fewer_clips_that_are_not_paired():
    few, everything = (
        plain(name, None, value, kind="measured", coverage=share, ci95=(value - 0.01, value + 0.01))
        for name, value, share in (("few", 0.9, 0.3), ("all", 0.5, 1.0))
    )
    claim = {"metric": "m/score", "arm": "few", "versus": "all", "supported": "s", "unsupported": "u"}
    finding = collect_leaderboard(found(few, everything), claims=[claim]).findings[0]
    assert finding.outcome == "unknown"
    assert "few rests on too few of the clips" in finding.text


def test_copies_of_clips_do_not_make_a_number_surer():
    rng = np.random.default_rng(0)
    values = {name: rng.random(8) for name in ("a", "b")}

    def runs(copies):
        for name, own in values.items():
            clips = [
                ClipScores(f"c{i}_{k}", {"m/score": float(v)}, same_as=f"c{i}_0" if k else None)
                for i, v in enumerate(own)
                for k in range(copies)
            ]
            score = metric(float(own.mean()))
            yield run(name, None, n_clips=len(clips), clips=clips, losses={}, metrics={"m/score": score})

    (a, b), (a4, b4) = (
        [row.cells["m/score"] for row in collect_leaderboard(found(*runs(copies))).arms] for copies in (1, 4)
    )
    assert a4.value == pytest.approx(a.value)
    assert (a4.interval.low, a4.interval.high) == pytest.approx((a.interval.low, a.interval.high))
    assert a4.interval.n == 8
    alone, copied = b.versus_first.difference, b4.versus_first.difference
    assert copied.n_clips == alone.n_clips == 8
    assert copied.test.p == alone.test.p
    assert (copied.interval.low, copied.interval.high) == pytest.approx(
        (alone.interval.low, alone.interval.high)
    )
