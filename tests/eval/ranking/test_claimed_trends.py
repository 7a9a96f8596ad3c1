"""Claims of trends and of equivalence: supported where seeds show them, with what the seeds could have shown."""

import io

import pytest
from rich.console import Console

from helpers.runs_in_memory import board_of, plain
from helpers.swept_study import write_curve, write_point
from ovi_eval.errors import UserError
from ovi_eval.ranking.claims import claims_as_data, parse_claims
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.ranking.sweep import Axes
from ovi_eval.report.html.page import page
from ovi_eval.report.markdown import markdown
from ovi_eval.report.terminal import show
from ovi_eval.stats.power import detectable_difference, detectable_margin

RISES = {
    "metric": "m/score",
    "trend": "increasing",
    "scale": "log",
    "supported": "{first} to {last}, {slope}, {p}",
    "unsupported": "no: {rho}",
}
X = Axes(["rope.factor"])


@pytest.fixture(scope="session")
def rising(tmp_path_factory):
    return write_curve(tmp_path_factory.mktemp("rising"), (0.0125, 0.025, 0.05, 0.1, 0.2))


def finding(runs, claim, axes=X):
    return build_leaderboard([runs], axes=axes, claims=[claim]).findings[0]


def test_a_trend_is_supported_its_way_only(rising):
    found = finding(rising, RISES)
    assert found.outcome == "supported"
    assert found.text.startswith("0.5")
    (evidence,) = found.evidence
    assert evidence["slope"] == pytest.approx(0.1, abs=0.005)
    assert evidence["slope_per"] == "doubling"
    assert evidence["rho"] == pytest.approx(1)
    assert evidence["p_adjusted"] < 0.001
    assert evidence["power"]["kind"] == "slope"
    assert 0 < evidence["power"]["detectable"] < 0.02
    assert finding(rising, {**RISES, "trend": "decreasing"}).outcome == "not_supported"
    assert finding(rising, {**RISES, "margin": 0.09}).outcome == "supported"
    assert finding(rising, {**RISES, "margin": 0.11}).outcome == "not_supported"


def test_up_and_down_is_no_trend(tmp_path):
    assert finding(write_curve(tmp_path), RISES).text.startswith("no: ")


def test_a_trend_is_open_unless_its_whole_interval_goes_the_other_way(rising):
    assert finding(rising, RISES).open_arms == ()
    assert finding(rising, {**RISES, "trend": "decreasing"}).open_arms == ()
    slope = finding(rising, RISES).evidence[0]["interval"]
    within = finding(rising, {**RISES, "margin": sum(slope) / 2})
    assert within.outcome == "not_supported"
    assert len(within.open_arms) == 5


def test_a_trend_is_worded_and_shown_everywhere(rising):
    board = build_leaderboard([rising], axes=X, claims=[{"metric": "m/score", "trend": "decreasing"}])
    assert "the data do not show it decreasing with the number" in board.findings[0].text
    console = Console(file=io.StringIO(), width=100)
    show(board, console)
    sentence = "Power: 3 seeds with a standard deviation of"
    assert sentence in " ".join(console.file.getvalue().split())
    assert f"  - {sentence}" in markdown(board)
    assert "slope per unit" in page(board)


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({**RISES, "x": "sampler.steps"}, "the curves are over rope.factor"),
        ({**RISES, "where": {"rope.factor": 0.1}}, "it needs 3 numbers or more, and there are 1"),
        ({**RISES, "metric": "m/none"}, "no run has it"),
    ],
)
def test_a_trend_that_cannot_be_asked_is_unknown(rising, claim, said):
    found = finding(rising, claim)
    assert found.outcome == "unknown"
    assert said in found.text


def test_a_trend_needs_a_curve_two_seeds_and_one_arm_at_each_number(rising, tmp_path):
    assert "make no curve" in finding(rising, RISES, None).text
    one = write_curve(tmp_path / "one", seeds=(0,))
    assert "it needs 2 seeds" in finding(one, RISES).text
    both = write_curve(write_curve(tmp_path / "both"), direction="none")
    axes = Axes(["rope.factor"], ["fusion.direction"])
    assert "name under where which curve is meant" in finding(both, RISES, axes).text
    assert finding(both, {**RISES, "where": {"fusion.direction": "none"}}, axes).outcome == "not_supported"


def test_arms_of_a_sweep_are_named_by_their_settings(rising):
    better = {"metric": "m/score", "arm": {"rope.factor": 0.2}, "versus": {"rope.factor": 0.1}}
    (evidence,) = finding(rising, better).evidence
    assert (evidence["arm"], evidence["versus"]) == ("both,rope.factor=0.2", "both,rope.factor=0.1")
    assert evidence["holds"]
    nowhere = finding(rising, {**better, "versus": {"rope.factor": 0.3}})
    assert "rope.factor=0.3 has no finished run" in nowhere.text


EQUAL = {"metric": "m/score", "arm": "a", "versus": "b", "relation": "equivalent", "margin": 0.02}


def arms(*differences):
    runs = [plain("b", seed, 0.5 + seed / 10) for seed in range(len(differences))]
    return [*runs, *(plain("a", seed, 0.5 + seed / 10 + d) for seed, d in enumerate(differences))]


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [((0.004, -0.003, 0.001), "supported"), ((0.019, 0.018, 0.0195), "not_supported"),
     ((0.05, 0.051, 0.052), "not_supported"), ((0.03, -0.03, 0.0), "not_supported"), ((0.0,), "unknown")],
)  # fmt: skip
def test_equivalence_is_shown_by_seeds_that_agree_and_by_nothing_else(differences, outcome):
    assert board_of(*arms(*differences), claims=[EQUAL]).findings[0].outcome == outcome


def test_equivalence_says_what_it_rests_on_and_what_could_have_been_shown():
    (evidence,) = board_of(*arms(0.004, -0.003, 0.001), claims=[EQUAL]).findings[0].evidence
    assert evidence["test"] == "two one-sided paired t tests over seeds"
    assert evidence["interval_method"] == "t over seeds, 90 %"
    assert evidence["p"] < 0.05
    power = evidence["power"]
    assert (power["seeds"], power["kind"]) == (3, "margin")
    assert power["detectable"] == pytest.approx(detectable_margin(power["sd"], 3))


def test_every_claim_says_which_difference_its_seeds_could_have_shown():
    claim = {
        **EQUAL,
        "relation": "better",
        "margin": 0.0,
        "supported": "s",
        "unsupported": "not {detectable}",
    }
    board = board_of(*arms(0.02, -0.01, 0.03), claims=[claim])
    power = board.findings[0].evidence[0]["power"]
    assert power["detectable"] == pytest.approx(detectable_difference(power["sd"], 3))
    assert board.findings[0].text == f"not {power['detectable']:.3f}"
    single = board_of(*arms(0.5), claims=[claim]).findings[0].evidence[0]
    assert single["power"] is None


def test_tests_of_all_kinds_are_one_family(tmp_path):
    root = write_curve(tmp_path, (0.025, 0.05, 0.1))
    write_point(root, "flat", 0, 0.5, {"rope.factor": 0.2})
    claims = [
        RISES,
        {"metric": "m/score", "arm": {"rope.factor": 0.1}, "versus": {"rope.factor": 0.05}},
        {**EQUAL, "arm": {"rope.factor": 0.1}, "versus": {"rope.factor": 0.05}},
    ]
    found = build_leaderboard(
        [root / name for name in sorted(p.name for p in root.glob("both*"))], axes=X, claims=claims
    )
    evidence = [finding.evidence[0] for finding in found.findings]
    least = min(one["p"] for one in evidence)
    assert min(one["p_adjusted"] for one in evidence) == pytest.approx(min(1, 3 * least))


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({**RISES, "trend": "up"}, "trend is 'up', expected increasing or decreasing"),
        ({**RISES, "scale": "ln"}, "scale is 'ln', expected number, log, rank"),
        ({**RISES, "margin": -1}, "margin is -1, expected a number of 0 or more"),
        ({**RISES, "where": {"rope": {"factor": 1}}}, "field where must have settings with their values"),
        ({**RISES, "where": "here"}, "field where must have settings with their values"),
        ({**RISES, "x": 3}, "x is 3, expected the name of a setting"),
        ({**RISES, "arm": "a"}, "a trend has metric, trend, x, where, scale, margin"),
        ({**RISES, "metric": ""}, "field metric must be text"),
        ({**EQUAL, "arm": {}}, "field arm must be text"),
        ({**EQUAL, "arm": {"a": [1]}}, "field arm must have settings with their values"),
        ({**EQUAL, "margin": 0}, "the relation equivalent needs a margin above 0"),
    ],
)
def test_badly_written_claims_are_refused_by_field(entry, named):
    with pytest.raises(UserError, match="claim 1") as caught:
        parse_claims([entry])
    assert named in str(caught.value)


def test_claims_are_written_as_they_are_read():
    entries = [
        RISES,
        {**EQUAL, "arm": {"rope.factor": 0.1}},
        {
            "comparisons": [{"where": {"a": 1}}, {"where": {"a": 2}}],
            **{k: RISES[k] for k in ("metric", "trend")},
        },
    ]
    parsed = parse_claims(entries)
    assert parse_claims(claims_as_data(parsed)) == parsed
