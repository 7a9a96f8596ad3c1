"""What a sweep varies: which settings take which values, whether they are a study's own, and which are numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

if TYPE_CHECKING:
    from ovi_eval.ranking.sweep import Axes

_ANY_VALUE = "seed"
"""A study remains itself with other seeds."""


def varied_values(job_overrides: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """The settings whose values differ between the jobs of a sweep, with those values, both in the order they come."""
    values: dict[str, dict[str, None]] = {}
    for overrides in job_overrides:
        for key, value in map(_parts, overrides):
            values.setdefault(key, {})[value] = None
    return {key: list(seen) for key, seen in values.items() if len(seen) > 1}


def _parts(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+").partition("=")
    return key, value


def values_of(sweeper: DictConfig) -> dict[str, list[str]]:
    """The settings that an experiment's own sweep varies, with their values as jobs get them."""
    parser = OverridesParser.create()
    found = {}
    for key, value in (sweeper.get("params") or {}).items():
        override = parser.parse_override(f"{key}={value}")
        several = override.is_sweep_override()
        texts = list(override.sweep_string_iterator()) if several else [override.get_value_element_as_str()]
        found[str(key)] = texts
    return found


def is_own(job_overrides: Sequence[Sequence[str]], study: Mapping[str, Collection[str]]) -> bool:
    """Whether a sweep is an experiment's own, all of it or a part: whether its claims are about these runs.

    It varies nothing that the study does not, and each of the study's settings has values of the study. Settings that
    the whole sweep shares, such as a smaller number of steps, leave it what it is.
    """
    if not study:
        return False
    if not varied_values(job_overrides).keys() <= study.keys():
        return False
    given = [part for overrides in job_overrides for part in map(_parts, overrides)]
    return all(value in study[key] for key, value in given if key in study and key != _ANY_VALUE)


def axes_of(varied: Mapping[str, Sequence[str]], paper: Mapping[str, float]) -> Axes | None:
    """How a sweep is drawn: over its numbers, the setting with most values first; None where it varies no number.

    Of three settings with numbers or more, two are axes, and the others tell curves apart, as do those without numbers.
    """
    from ovi_eval.ranking.sweep import Axes

    kept = {key: values for key, values in varied.items() if key != _ANY_VALUE}
    numbers = [key for key, values in kept.items() if all(map(_is_number, values))]
    x = sorted(numbers, key=lambda key: -len(kept[key]))[:2]
    if not x:
        return None
    return Axes(x, [key for key in kept if key not in x], {key: paper[key] for key in x if key in paper})


def _is_number(text: Any) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
