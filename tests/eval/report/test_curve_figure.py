"""How the curves of a sweep look: told apart, whatever their number, and numbers that can be read."""

import pytest

from helpers.runs_in_memory import board_of, plain
from ovi_eval.ranking.sweep import Axes, Sweep, SweptArm
from ovi_eval.report.curve_figure import curve_looks, labelled
from ovi_eval.report.palette import COLOURS
from ovi_eval.report.wording import seed_counts


def sweep(*told):
    arms = [
        SweptArm(f"{number}-{at}", (at,), ", ".join(one.values()), one)
        for number, one in enumerate(told)
        for at in (1.0, 2.0)
    ]
    return Sweep(Axes(["steps"], list(told[0])), arms)


def test_of_two_settings_one_is_the_colour_and_the_other_the_marker():
    looks = curve_looks(sweep(*({"arm": arm, "dim": dim} for arm in ("a", "b", "c") for dim in ("32", "64"))))
    assert len(set(looks.values())) == 6
    for arm in "abc":
        assert looks[f"{arm}, 32"][0] == looks[f"{arm}, 64"][0]
        assert looks[f"{arm}, 32"][1:] == looks["a, 32"][1:]
    assert len({looks[f"{arm}, 32"][0] for arm in "abc"}) == 3


def test_more_curves_than_colours_have_other_markers():
    looks = list(curve_looks(sweep(*({"arm": f"arm{n}"} for n in range(2 * len(COLOURS))))).values())
    assert len(set(looks)) == len(looks)
    assert {marker for _, marker, _ in looks[: len(COLOURS)]} == {"o"}
    assert curve_looks(sweep({})) == {"": (COLOURS[0], "o", "-")}


@pytest.mark.parametrize(
    ("values", "first", "expected"),
    [
        ([0.05, 0.1, 0.2, 0.4], None, ["0.05", "0.1", "0.2", "0.4"]),
        ([0.05, 0.19676, 0.2, 0.4], 0.19676, ["0.05", "0.197", "", "0.4"]),  # the paper's comes first
        ([0.172959, 0.182116, 3.04581], None, ["0.173", "", "3.05"]),
        ([2, 3, 12, 50], None, ["2", "3", "12", "50"]),
    ],
)
def test_numbers_on_a_logarithmic_axis_do_not_overlap(values, first, expected):
    assert labelled(values, first) == expected


def test_numbers_of_seeds_are_told_in_their_order():
    seeds = {"a": 3, "b": 12, "c": 3, "d": 1}
    board = board_of(*(plain(name, seed, 0.5) for name, count in seeds.items() for seed in range(count)))
    assert seed_counts(board.arms) == "3 or 12 seeds"
    assert seed_counts([row for row in board.arms if row.name != "b"]) == "3 seeds"
    assert seed_counts([row for row in board.arms if row.name == "d"]) == ""
