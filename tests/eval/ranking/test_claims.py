"""Claims of a study: supported only where the numbers show them, and refused where they are badly written."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.eval_study import CLAIMS, run
from helpers.runs_in_memory import board_of, plain
from ovi_eval.errors import UserError
from ovi_eval.ranking.claims import claims_as_data, parse_claims
from ovi_eval.ranking.leaderboard import build_leaderboard, findings_on

WITHIN = {
    "metric": "loss/val_loss_audio",
    "arm": "bidirectional_scaled",
    "versus": "none",
    "relation": "within",
    "supported": "the same within it: {difference}",
    "unsupported": "not the same within it",
}


def test_claims_are_supported_by_these_numbers(board):
    assert [finding.outcome for finding in board.findings] == ["supported", "supported"]
    f1 = board.arms[0].cells["ball/onset_f1"].value
    assert f"onset F1 {f1:.3f} scaled" in board.findings[1].text
    evidence = board.findings[0].evidence
    assert [e["holds"] for e in evidence] == [True, True]
    assert all(e["p_adjusted"] >= e["p"] for e in evidence)


@pytest.fixture
def finding(board):
    """What the study's numbers say of a claim in plain data."""
    return lambda claim: findings_on(parse_claims([claim]), [*board.arms, *board.references], board.columns)[
        0
    ]


def test_a_claim_turned_round_is_not_supported(finding):
    turned = finding({**CLAIMS[1], "arm": "bidirectional_unscaled", "versus": "bidirectional_scaled"})
    assert turned.outcome == "not_supported"
    assert turned.text.startswith("The data do not show that scaled RoPE carries when")


def test_one_comparison_that_fails_fails_the_claim(finding):
    third = {
        "metric": "ball/agreement_vague",
        "arm": "bidirectional_scaled",
        "versus": "bidirectional_unscaled",
    }
    failed = finding({**CLAIMS[0], "comparisons": [*CLAIMS[0]["comparisons"], third]})
    assert failed.outcome == "not_supported"
    assert [e["holds"] for e in failed.evidence] == [True, True, False]


@pytest.mark.parametrize(
    ("claim", "margin", "outcome"),
    [
        (CLAIMS[1], 0.3, "supported"),
        (CLAIMS[1], 0.6, "not_supported"),
        (CLAIMS[1], 0.7, "not_supported"),
        (WITHIN, 0.06, "supported"),
        (WITHIN, 0.002, "not_supported"),
        ({**WITHIN, "relation": "no_worse"}, 0.06, "supported"),
        ({**WITHIN, "relation": "no_worse"}, 0.002, "not_supported"),
        ({**CLAIMS[1], "relation": "no_worse"}, 0.001, "supported"),  # far better is no worse
        (
            {**CLAIMS[1], "relation": "no_worse", "arm": "none", "versus": "bidirectional_scaled"},
            0.6,
            "not_supported",
        ),
    ],
)
def test_the_whole_interval_must_clear_a_margin_or_lie_within_it(finding, claim, margin, outcome):
    assert finding({**claim, "margin": margin}).outcome == outcome


SCORES = {"metric": "m/score", "arm": "a", "versus": "b", "supported": "yes", "unsupported": "no"}


@pytest.mark.parametrize(
    ("a", "b", "claim", "is_open"),
    [
        ((0.5, 0.7, 0.9), (0.6, 0.6, 0.6), {}, True),  # 0.1 [-0.40, 0.60]
        ((0.9, 0.91, 0.92), (0.1, 0.1, 0.1), {}, False),  # shown
        ((0.1, 0.1, 0.1), (0.9, 0.91, 0.92), {}, False),  # the other way round
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), {}, False),  # the same to the digit
        ((0.5, 0.7, 0.9), (0.6, 0.6, 0.6), {"margin": 0.55}, True),
        ((0.5, 0.7, 0.9), (0.6, 0.6, 0.6), {"margin": 0.65}, False),
        ((0.5, 0.7, 0.9), (0.6, 0.6, 0.6), {"relation": "no_worse", "margin": 0.3}, True),
        ((0.1, 0.11, 0.12), (0.9, 0.9, 0.9), {"relation": "no_worse", "margin": 0.3}, False),
        ((0.5, 0.7, 0.9), (0.6, 0.6, 0.6), {"relation": "equivalent", "margin": 0.1}, True),
        ((0.1, 0.11, 0.12), (0.9, 0.9, 0.9), {"relation": "equivalent", "margin": 0.1}, False),
        ((0.5, 0.7, 0.9), (0.6, 0.6, 0.6), {"relation": "within", "margin": 0.1}, True),
    ],
)
def test_a_claim_is_open_where_more_seeds_might_show_it(a, b, claim, is_open):
    runs = [
        plain(name, seed, value) for name, values in (("a", a), ("b", b)) for seed, value in enumerate(values)
    ]
    (found,) = board_of(*runs, claims=[{**SCORES, **claim}]).findings
    assert found.open_arms == (("a", "b") if is_open else ())


def test_one_comparison_that_is_refuted_closes_a_claim():
    scores = {"a": (0.5, 0.7, 0.9), "b": (0.6, 0.6, 0.6), "c": (2.0, 2.01, 2.02)}
    runs = [plain(name, seed, value) for name, values in scores.items() for seed, value in enumerate(values)]
    claim = {"metric": "m/score", "supported": "yes", "unsupported": "no"}
    pairs = [["a", "b"], ["c", "a"]]
    assert board_of(*runs, claims=[{**claim, "comparisons": pairs}]).findings[0].open_arms == ("a", "b")
    pairs = [["a", "b"], ["a", "c"]]
    assert board_of(*runs, claims=[{**claim, "comparisons": pairs}]).findings[0].open_arms == ()


def test_a_claim_without_its_runs_is_unknown(study, finding):
    board = build_leaderboard([study / "none", study / "bidirectional_scaled"], claims=CLAIMS)
    assert [finding.outcome for finding in board.findings] == ["unknown", "unknown"]
    assert "bidirectional_unscaled has no finished run" in board.findings[0].text
    assert "no run has it" in finding({**CLAIMS[1], "metric": "ball/onset_f9"}).text


def test_one_seed_with_no_clips_supports_nothing():
    claim = {"metric": "m/score", "arm": "a", "versus": "b", "supported": "yes", "unsupported": "no"}
    board = board_of(plain("a", 0, 0.9), plain("b", 0, 0.1), claims=[claim])
    assert board.findings[0].outcome == "not_supported"
    versus = board.arms[1].cells["m/score"].versus_first
    assert versus.difference.value == pytest.approx(-0.8)
    assert versus.difference.test.p is None
    assert versus.verdict == "no_difference"


def test_one_seed_of_a_set_is_compared_by_the_intervals_that_the_runs_state():
    made = {"direction": "lower"}
    runs = [plain("a", 0, 4.0, ci95=(3.5, 4.5), **made), plain("b", 0, 9.0, ci95=(8.0, 10.0), **made)]
    versus = board_of(*runs).arms[1].cells["m/score"].versus_first
    assert versus.difference.value == 5.0
    assert versus.difference.interval.low == pytest.approx(5 - np.hypot(1.0, 0.5))
    assert "taken as independent" in versus.difference.interval.method
    assert versus.verdict == "worse"
    beside = [plain("a", 0, 4.0, ci95=(4.5, 5.5), **made), runs[1]]
    assert board_of(*beside).arms[1].cells["m/score"].versus_first.difference.test.p is None
    seeds = [
        plain(n, s, v + s / 10, ci95=(v, v + 1), **made) for n, v in (("a", 4.0), ("b", 9.0)) for s in (0, 1)
    ]
    versus = board_of(*seeds).arms[1].cells["m/score"].versus_first
    assert versus.difference.test.name == "paired t over seeds"


PLAIN = {"metric": "m", "arm": "a", "versus": "b", "supported": "s", "unsupported": "u"}


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({key: PLAIN[key] for key in PLAIN if key != "unsupported"}, "field unsupported must be text"),
        ({key: PLAIN[key] for key in PLAIN if key != "versus"}, "field versus must be text"),
        ({**PLAIN, "relation": "above"}, "relation is 'above'"),
        ({**PLAIN, "margin": -1}, "margin is -1"),
        ({**PLAIN, "relation": "within"}, "needs a margin above 0"),
        ({**PLAIN, "relation": "no_worse"}, "no_worse needs a margin above 0"),
        ({**PLAIN, "versus_metric": 3}, "field versus_metric must be text"),
        ({**PLAIN, "than": "c"}, r"a comparison is \[arm, versus\] or has"),
        ({"comparisons": [], "supported": "s", "unsupported": "u"}, "or a list of comparisons"),
        ("fusion helps", "expected fields"),
    ],
)
def test_a_claim_that_is_wrongly_written_is_named(entry, named):
    with pytest.raises(UserError, match=named):
        parse_claims([entry])


def test_pairs_share_a_metric_and_a_claim_without_wording_is_worded(finding):
    pairs = [["bidirectional_scaled", "none"], ["bidirectional_unscaled", "none"]]
    short = {"name": "what", "metric": "ball/agreement_vague", "comparisons": pairs}
    assert parse_claims([short])[0].comparisons == parse_claims(CLAIMS)[0].comparisons
    found = finding(short)
    assert found.outcome == "supported"
    assert "ball/agreement_vague of bidirectional_unscaled is better than that of none: 0.9" in found.text
    turned = {"metric": "ball/agreement_vague", "arm": "none", "versus": "bidirectional_scaled"}
    assert "the data do not show none better than bidirectional_scaled" in finding(turned).text


def test_a_claim_may_hold_two_tasks_of_one_arm_against_each_other_clip_by_clip():
    easy = [replace(run("bidirectional_scaled", s), name="a", benchmark="easy") for s in (0, 1)]
    hard = [replace(run("none", s), name="a", benchmark="hard") for s in (0, 1)]
    claim = {
        "metric": "ball/onset_f1 on easy",
        "versus_metric": "ball/onset_f1 on hard",
        "arm": "a",
        "versus": "a",
    }
    lost = {**claim, "versus_metric": "ball/onset_f1 on nothing"}
    opposed = {**claim, "versus_metric": "ball/onset_offset_ms on hard"}
    board = board_of(*easy, *hard, claims=[claim, lost])
    (found, unknown) = board.findings
    assert (found.outcome, unknown.outcome) == ("supported", "unknown")
    cells = board.arms[0].cells
    expected = cells["ball/onset_f1 on easy"].value - cells["ball/onset_f1 on hard"].value
    (evidence,) = found.evidence
    assert evidence["difference"] == pytest.approx(expected)
    assert (evidence["n"], evidence["versus_metric"]) == (40, "ball/onset_f1 on hard")
    assert "is better than ball/onset_f1 on hard of a" in found.text
    assert parse_claims(claims_as_data(board.claims)) == list(board.claims)
    with pytest.raises(UserError, match="one is best high and the other low"):
        board_of(*easy, *hard, claims=[opposed])


def test_a_wording_with_an_unknown_field_is_refused_and_reaches_no_attribute(finding):
    assert finding({**CLAIMS[1], "supported": "{a.__class__}"}).text == "{a.__class__}"
    with pytest.raises(UserError, match=r"holds \{f1\}, which is unknown; valid are a, b, clips"):
        finding({**CLAIMS[1], "supported": "{f1}"})


def test_no_claim_rests_on_values_of_far_fewer_clips_that_are_not_paired():
    few, everything = (
        plain(name, None, value, kind="measured", coverage=share, ci95=(value - 0.01, value + 0.01))
        for name, value, share in (("few", 0.9, 0.3), ("all", 0.5, 1.0))
    )
    claim = {"metric": "m/score", "arm": "few", "versus": "all", "supported": "s", "unsupported": "u"}
    finding = board_of(few, everything, claims=[claim]).findings[0]
    assert finding.outcome == "unknown"
    assert "few rests on too few of the clips" in finding.text
