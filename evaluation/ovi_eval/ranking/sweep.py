"""Runs of different numbers in one setting: which run is where on which curve, and what must not be in one curve.

Where a run is comes from its configuration (`results.settings`). Runs of one curve differ in the number and the seed;
runs of different data in one curve are refused, what else differs is marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ovi_eval.common.shown import did_you_mean, shown
from ovi_eval.errors import UserError
from ovi_eval.ranking.columns import Column
from ovi_eval.ranking.table import Row
from ovi_eval.results.files import LARGEST, RunResults
from ovi_eval.results.settings import TFLOPS, WITHOUT_EFFECT, settings_of
from ovi_eval.stats.intervals import Array, Seed
from ovi_eval.stats.two_way import Effects, two_way

ARM = "arm"
"""As a key: the name of a run's arm, without the settings that a sweep has added to it."""
_NAMES = ("name", "arm_name", "seed")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Axes:
    """`x`: one or two settings with numbers. `by`: settings that tell curves apart. `paper`: the paper's value of a
    setting, where it names one.
    """

    x: Sequence[str]
    by: Sequence[str] = ()
    paper: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.x) <= 2 or len(set(self.x)) < len(self.x):
            raise UserError(
                f"x is {', '.join(self.x) or 'empty'}: expected one setting for a curve, or two for a table"
            )
        if twice := next((key for key in self.by if key in self.x), None):
            raise UserError(f"{twice} is both x and by: leave one of them out")


@dataclass(frozen=True)
class SweptArm:
    """An arm's place: the numbers of the settings `x`, and the curve that it is on ("" where there is one); `told`: the
    settings that tell its curve from the others, as text.
    """

    arm: str
    at: tuple[float, ...]
    series: str
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    axes: Axes
    arms: Sequence[SweptArm]

    @property
    def series(self) -> list[str]:
        """The curves' names, in the order of their arms."""
        return list(dict.fromkeys(one.series for one in self.arms))

    def values(self, axis: int = 0) -> list[float]:
        """All numbers of a setting, ascending."""
        return sorted({one.at[axis] for one in self.arms})

    def along(self, series: str, second: float | None = None) -> list[SweptArm]:
        """The arms of one curve, ascending; `second`: the number of the second setting, where there are two."""
        own = [
            one
            for one in self.arms
            if one.series == series and one.at[1:] == (() if second is None else (second,))
        ]
        return sorted(own, key=lambda one: one.at)

    def having(self, settings: Mapping[str, Any]) -> list[SweptArm]:
        """The arms with these values of some axes, and of settings that tell curves apart, ascending."""
        wanted = {key: _plain(value) for key, value in settings.items()}
        found = []
        for one in self.arms:
            own = {**one.told, **{key: _plain(value) for key, value in zip(self.axes.x, one.at, strict=True)}}
            if wanted.items() <= own.items():
                found.append(one)
        return sorted(found, key=lambda one: one.at)

    def arm_at(self, series: str, at: tuple[float, ...]) -> str | None:
        """The name of the arm there, None where there is none."""
        return next((one.arm for one in self.arms if (one.series, one.at) == (series, at)), None)

    def effects(self, rows: Mapping[str, Row], column: Column, series: str) -> Effects | None:
        """Main effects and interaction of two settings in a column; None where there is one setting, a cell is empty,
        or fewer than two seeds have all cells.
        """
        if len(self.axes.x) < 2:
            return None
        grid = [[self.arm_at(series, (a, b)) for b in self.values(1)] for a in self.values()]
        if len(grid) < 2 or len(grid[0]) < 2:
            return None
        found = complete([name for line in grid for name in line], rows, column)
        if found is None or len(found[0]) < 2:
            return None
        return two_way(found[1].reshape(-1, len(grid), len(grid[0])))

    def as_data(self, rows: Mapping[str, Row], columns: Sequence[Column]) -> dict[str, Any]:
        """Plain data for JSON."""
        effects = []
        for column in columns:
            for series in self.series:
                if (found := self.effects(rows, column, series)) is not None:
                    parts = {name: vars(getattr(found, name)) for name in ("first", "second", "interaction")}
                    effects.append({"column": column.id, "series": series, "n_seeds": found.n_seeds, **parts})
        order = self.series
        arms = sorted(self.arms, key=lambda one: (order.index(one.series), one.at))
        return {
            "x": list(self.axes.x),
            "by": list(self.axes.by),
            "paper": dict(self.axes.paper),
            "arms": [{"arm": one.arm, "at": list(one.at), "series": one.series} for one in arms],
            "effects": effects,
        }


def complete(
    arms: Sequence[str | None], rows: Mapping[str, Row], column: Column
) -> tuple[list[Seed], Array] | None:
    """The seeds that have a value in every one of these K arms, and the values [S, K]; None where an arm has none."""
    cells = [None if name is None or name not in rows else rows[name].cells.get(column.id) for name in arms]
    held = [cell.by_seed for cell in cells if cell is not None and not cell.partial]
    if not held or len(held) < len(cells):
        return None
    seeds = [seed for seed in held[0] if all(seed in own for own in held)]
    if not seeds:
        return None
    return seeds, np.array([[own[seed] for own in held] for seed in seeds])


def swept(
    runs: Sequence[RunResults], axes: Axes, problems: list[str]
) -> tuple[list[RunResults], dict[str, SweptArm]]:
    """Each measured run's place by the name of its arm; runs of one name at several places get names of their own.

    What is not on a curve, and what differs within one beside its number, is added to `problems`.

    Raises:
        UserError: no run has a setting, it is no number, or it has one value alone; runs of different data are in one
            curve; or two arms are at one place.
    """
    settings = {id(run): settings_of(run) for run in runs if run.kind == "measured"}
    placed = [
        run for run in runs if run.kind == "measured" and _has_place(run, settings[id(run)], axes, problems)
    ]
    known = list(dict.fromkeys(key for own in settings.values() for key in own))
    for key in axes.x:
        _check_number(key, [settings[id(run)] for run in placed], list(settings.values()), known)
    told = _told(placed, settings, axes, known)
    labels = {run: _label(own) for run, own in told.items()}
    places = {
        id(run): (tuple(float(settings[id(run)][key]) for key in axes.x), labels[id(run)]) for run in placed
    }
    of_name: dict[str, set[Any]] = {}
    for run in placed:
        of_name.setdefault(run.name, set()).add(places[id(run)])
    renamed, found = [], {}
    for run in runs:
        if id(run) not in places:
            renamed.append(run)
            continue
        at, series = places[id(run)]
        name = run.name
        if len(of_name[run.name]) > 1:
            name = ",".join([name, *([series] if series else []), *_pairs(axes.x, at)])
        renamed.append(replace(run, name=name))
        found[name] = SweptArm(name, at, series, told[id(run)])
    _refuse_two_at_one_place(found, placed, settings, axes)
    for series in dict.fromkeys(labels.values()):
        own = [(run, settings[id(run)]) for run in placed if labels[id(run)] == series]
        _check_what_differs(own, axes, series, problems)
    codes = sorted({str(code) for run in placed if (code := run.provenance.get("git"))})
    if len(codes) > 1:
        problems.append(f"runs of different code are on these curves: {', '.join(codes[:4])}")
    return renamed, found


def _pairs(keys: Sequence[str], values: Sequence[Any]) -> list[str]:
    return [f"{key}={value:g}" for key, value in zip(keys, values, strict=True)]


def _is_number(value: Any) -> bool:
    """Whether it is a number that an axis can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _has_place(run: RunResults, own: Mapping[str, Any], axes: Axes, problems: list[str]) -> bool:
    if not own:
        problems.append(f"{run.label()}: has no config.yaml beside its results, so it is on no curve")
        return False
    for key in axes.x:
        if not _is_number(own.get(key)):
            said = f"its {key} is {shown(own[key], 60)}, no number" if key in own else f"it has no {key}"
            problems.append(f"{run.label()}: {said}, so it is on no curve")
            return False
    return True


def _check_number(
    key: str, placed: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]], known: Sequence[str]
) -> None:
    if key not in known:
        if not known:
            raise UserError(
                f"no run says what its {shown(key, 60)} was: no config.yaml lies beside any results"
            )
        numbers = [name for name in known if any(_is_number(own.get(name)) for own in every)]
        near = did_you_mean(key, numbers)
        raise UserError(f"no run has a setting {shown(key, 60)}" + (f"; {near}" if near else ""))
    if not placed:
        values = list(dict.fromkeys(shown(repr(own[key]), 40) for own in every if key in own))
        raise UserError(
            f"{key} is {', '.join(values[:3])} in these runs: x takes a number, and by what tells curves apart"
        )
    values = sorted({own[key] for own in placed})
    if len(values) < 2:
        raise UserError(f"{key} is {values[0]:g} in all of these runs: a curve needs two values or more")


def _told(
    placed: Sequence[RunResults], settings: Mapping[int, Mapping[str, Any]], axes: Axes, known: Sequence[str]
) -> dict[int, dict[str, str]]:
    """What tells the curve of each run from the others: settings with their values as text."""
    told: dict[int, dict[str, str]] = {id(run): {} for run in placed}
    for key in axes.by:
        if key == ARM:
            for run in placed:
                told[id(run)][ARM] = run.name.partition(",")[0]
            continue
        below = [name for name in known if name == key or name.startswith(f"{key}.")]
        if not below:
            near = did_you_mean(key, known)
            raise UserError(f"no run has a setting {shown(key, 60)}" + (f"; {near}" if near else ""))
        own = [settings[id(run)] for run in placed]
        options = None if key in below else _options(placed, own, key, below)
        if options is not None:
            for run, option in zip(placed, options, strict=True):
                told[id(run)][key] = option
            continue
        apart = [name for name in below if name == key] or [
            name
            for name in below
            if len({repr(one.get(name)) for one in own}) > 1 and not _copies_x(own, name, axes)
        ]
        for run in placed:
            told[id(run)] |= {name: _plain(settings[id(run)].get(name)) for name in apart}
    return told


def _options(
    placed: Sequence[RunResults], own: Sequence[Mapping[str, Any]], key: str, below: Sequence[str]
) -> list[str] | None:
    """The option of a group that each run has, as a sweep has written it into the run's name ("rope=scaled").

    None where a name has none, or where names and settings do not go with each other one to one.
    """
    found: list[str] = []
    values: dict[str, set[str]] = {}
    for run, settings in zip(placed, own, strict=True):
        parts = [part.partition("=") for part in run.name.split(",")]
        option = next((value for name, _, value in parts if name == key and value), None)
        if option is None:
            return None
        found.append(shown(option, 60))
        values.setdefault(option, set()).add(repr([settings.get(name) for name in below]))
    distinct = {next(iter(group)) for group in values.values() if len(group) == 1}
    return found if len(distinct) == len(values) else None


def _label(told: Mapping[str, str]) -> str:
    return ", ".join(
        value if key == ARM else f"{key.rpartition('.')[2]}={value}" for key, value in told.items()
    )


def _plain(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else shown(str(value), 60)


def _copies_x(runs: Sequence[Mapping[str, Any]], name: str, axes: Axes) -> bool:
    """Whether a setting has the number of an axis, or the seed, in every run."""
    return any(all(own.get(name) == own.get(key) for own in runs) for key in (*axes.x, "seed"))


def _refuse_two_at_one_place(
    found: Mapping[str, SweptArm],
    placed: Sequence[RunResults],
    settings: Mapping[int, Mapping[str, Any]],
    axes: Axes,
) -> None:
    at: dict[Any, str] = {}
    of = {run.name: settings[id(run)] for run in placed}
    for one in found.values():
        other = at.setdefault((one.at, one.series), one.arm)
        if other == one.arm:
            continue
        apart = _differing([of.get(other, {}), of.get(one.arm, {})], axes)
        hint = f"tell them apart with by, as --by {apart[0]}" if apart else "leave one of them out"
        raise UserError(
            f"{shown(other, 60)} and {shown(one.arm, 60)} are both at {', '.join(_pairs(axes.x, one.at))}: {hint}"
        )


def _differing(runs: Sequence[Mapping[str, Any]], axes: Axes) -> list[str]:
    """Settings with an effect, beside those of the axes and their copies, that are not the same in all runs."""
    skipped = (*WITHOUT_EFFECT, *_NAMES, TFLOPS, *axes.x, *axes.by)
    names = dict.fromkeys(name for own in runs for name in own)
    found = [
        name
        for name in names
        if not any(name == key or name.startswith(f"{key}.") for key in skipped)
        and len({repr(own.get(name)) for own in runs}) > 1
        and not _copies_x(runs, name, axes)
    ]
    # task and the rest repeat what other settings say; the shortest names say it best
    found.sort(key=lambda name: name.count("."))
    return [name for name in found if not any(name.endswith(f".{other}") for other in found)]


def _check_what_differs(
    runs: Sequence[tuple[RunResults, Mapping[str, Any]]], axes: Axes, series: str, problems: list[str]
) -> None:
    differing = _differing([own for _, own in runs], axes)
    where = f" of {series}" if series else ""
    for name in differing:
        if name.startswith("data."):
            first, *others = ((run, own.get(name)) for run, own in runs)
            run, value = next(other for other in others if repr(other[1]) != repr(first[1]))
            raise UserError(
                f"runs of different data are in one curve{where}: {name} is {shown(repr(first[1]), 40)} in "
                f"{shown(first[0].label(), 60)} and {shown(repr(value), 40)} in {shown(run.label(), 60)}; name runs of "
                f"one, or give --by {name}"
            )
    if differing:
        more = f" and {len(differing) - _MOST_NAMED} more" if len(differing) > _MOST_NAMED else ""
        listed = ", ".join(differing[:_MOST_NAMED])
        problems.append(
            f"runs of the curve{where} differ in more than {' and '.join(axes.x)}: {listed}{more}"
        )
