"""What a reader should see, decided by the numbers: a study states its claims as data.

A claim is one or more comparisons of two arms on a metric, or trends over a sweep's number (`claimed_trends`), and two
wordings. It is stated as supported only where every comparison is: the arm is better than the other with an interval of
the difference beyond the margin and a p value (adjusted by Holm over all tests of the study) below alpha; or, for
"equivalent", both one-sided tests over seeds reject a difference of the margin or more (their larger p, adjusted with
the others); or, for "within", the whole interval of the difference lies inside the margin; or, for "no_worse", no part
of it is worse than by the margin. Otherwise the page says that the data do not show it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ovi_eval.common.number_format import format_number, format_p
from ovi_eval.errors import UserError
from ovi_eval.ranking.claimed_trends import (
    ALPHA,
    ClaimedTrend,
    MeasuredTrend,
    Power,
    check_settings,
    numbered,
    parse_trend,
    power_of,
    side_name,
)
from ovi_eval.results.files import Direction
from ovi_eval.stats.differences import Difference, Test, holm
from ovi_eval.stats.intervals import Interval
from ovi_eval.stats.power import Equivalence, equivalence

Outcome = Literal["supported", "not_supported", "unknown"]
RELATIONS = ("better", "within", "no_worse", "equivalent")


@dataclass(frozen=True)
class ClaimedComparison:
    """`arm` against `versus` on a metric; relation "better" (by more than the margin), "within" (the margin),
    "no_worse" (than by the margin) or "equivalent" (within the margin, tested over seeds).

    An arm is its name, or of a sweep the values of the settings that it is at. `versus_metric`: the metric of `versus`,
    where it is another, as of another task; "" for the same. The two are of one direction, and paired over the clips
    that they have in common.
    """

    metric: str
    arm: str | Mapping[str, Any]
    versus: str | Mapping[str, Any]
    relation: str = "better"
    margin: float = 0.0
    versus_metric: str = ""

    def as_data(self) -> dict[str, Any]:
        """Plain data, without what is as usual."""
        return {key: value for key, value in asdict(self).items() if key != "versus_metric" or value}


@dataclass(frozen=True)
class Claim:
    """`supported` and `unsupported` may hold {a}, {b}, {difference}, {low}, {high}, {p}, {seeds}, {clips}, {detectable}
    of the first comparison, {a2}, {b2}, ... of the second, and so on; of a trend those of `MeasuredTrend.fields`.
    """

    comparisons: Sequence[ClaimedComparison | ClaimedTrend]
    supported: str
    unsupported: str
    name: str = ""


@dataclass(frozen=True)
class Finding:
    """A sentence for the reader, and the numbers of each comparison it rests on."""

    outcome: Outcome
    text: str
    evidence: Sequence[Mapping[str, Any]] = field(default_factory=list)
    open_arms: Sequence[str] = ()
    """Arms of which more seeds might show what is claimed; none where it is shown, or where a whole interval speaks
    against it."""


_SHARED = ("metric", "relation", "margin", "versus_metric")
_TREND = ("trend", "scale", "x", "where")


def parse_claims(entries: Sequence[Any], source: str = "claims") -> list[Claim]:
    """Claims from plain data (YAML, JSON), each with its wordings `supported` and `unsupported`.

    One comparison: {metric, arm, versus, relation?, margin?, versus_metric?}, or {metric, trend, x?, where?, scale?,
    margin?}. Several: {comparisons: [...]}, each such an object or a pair [arm, versus] that takes the other fields
    from beside the list. `name` is for messages; without wordings the claim is worded by its comparisons. Raises
    UserError that names the entry and the field.
    """
    claims = []
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, Claim):
            claims.append(entry)
            continue
        where = f"{source}, claim {number}"
        if not isinstance(entry, Mapping):
            raise UserError(f"{where}: expected fields, found {entry!r}")
        rest = dict(entry)
        name = str(rest.pop("name", ""))
        wording = {key: rest.pop(key) for key in ("supported", "unsupported") if key in rest}
        if "comparisons" in rest:
            listed = rest.pop("comparisons")
            shared = {key: rest.pop(key) for key in (*_SHARED, *_TREND) if key in rest}
            if rest or not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
                raise UserError(
                    f"{where}: give either metric, arm and versus, or a list of comparisons, and the wordings"
                )
        else:
            listed, shared = [rest], {}
        comparisons = [_comparison(item, shared, where) for item in listed]
        if not wording:
            wording = _plain_wording(comparisons)
        texts = [_text(wording, key, where) for key in ("supported", "unsupported")]
        claims.append(Claim(comparisons, texts[0], texts[1], name))
    return claims


def _comparison(entry: Any, shared: Mapping[str, Any], where: str) -> ClaimedComparison | ClaimedTrend:
    if "trend" in shared or (isinstance(entry, Mapping) and "trend" in entry):
        return parse_trend(entry, shared, where)
    if isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 2:
        entry = {"arm": entry[0], "versus": entry[1]}
    valid = ("metric", "arm", "versus", "relation", "margin", "versus_metric")
    if not isinstance(entry, Mapping) or set(entry) - set(valid):
        raise UserError(f"{where}: a comparison is [arm, versus] or has {', '.join(valid)}; found {entry!r}")
    entry = {**shared, **entry}
    relation, margin = entry.get("relation", "better"), entry.get("margin", 0.0)
    if relation not in RELATIONS:
        raise UserError(f"{where}: relation is {relation!r}, expected {', '.join(RELATIONS)}")
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise UserError(f"{where}: margin is {margin!r}, expected a number of 0 or more")
    if relation != "better" and margin == 0:
        raise UserError(f"{where}: the relation {relation} needs a margin above 0")
    metric, arm, versus = (
        _text(entry, "metric", where),
        *(_side(entry, key, where) for key in ("arm", "versus")),
    )
    other = _text(entry, "versus_metric", where) if entry.get("versus_metric") else ""
    return ClaimedComparison(metric, arm, versus, relation, float(margin), "" if other == metric else other)


def _side(entry: Mapping[str, Any], key: str, where: str) -> str | Mapping[str, Any]:
    value = entry.get(key)
    if isinstance(value, Mapping) and value:
        return check_settings(value, where, key)
    return _text(entry, key, where)


def _plain_wording(comparisons: Sequence[ClaimedComparison | ClaimedTrend]) -> dict[str, str]:
    """The wording of a claim that comes without its own."""
    holds: list[str] = []
    fails: list[str] = []
    for number, c in enumerate(comparisons, 1):
        if isinstance(c, ClaimedTrend):
            for texts, text in zip((holds, fails), c.plain_wording(number), strict=True):
                texts.append(text)
            continue
        a, b, p = (f"{{{name}{'' if number == 1 else number}}}" for name in "abp")
        by = format_number(c.margin)
        relation = {
            "within": f"within {by} of", "no_worse": f"no worse by {by} than", "equivalent": f"within {by} of"
        }.get(c.relation, "better than")  # fmt: skip
        arm, versus, other = side_name(c.arm), side_name(c.versus), c.versus_metric or "that"
        holds.append(f"{c.metric} of {arm} is {relation} {other} of {versus}: {a} and {b} ({p}).")
        values = f"{a} for {arm}, {b} for {versus} ({p})"
        against = f", with {c.versus_metric}" if c.versus_metric else ""
        fails.append(f"{c.metric} is {values}: the data do not show {arm} {relation} {versus}{against}.")
    return {"supported": " ".join(holds), "unsupported": " ".join(fails)}


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: field {key} must be text, found {value!r}")
    return value


def claims_as_data(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The plain data that `parse_claims` reads back."""
    return [{**asdict(c), "comparisons": [each.as_data() for each in c.comparisons]} for c in claims]


def decide(
    claims: Sequence[Claim],
    measure: Callable[[ClaimedComparison | ClaimedTrend], Measured | MeasuredTrend | str],
) -> list[Finding]:
    """One finding a claim. `measure` gives the numbers of a comparison, or a sentence on why there are none."""
    answers = [[measure(comparison) for comparison in claim.comparisons] for claim in claims]
    reasons = [dict.fromkeys(answer for answer in given if isinstance(answer, str)) for given in answers]
    judged = [
        [answer for answer in given if not isinstance(answer, str) and not unknown]
        for given, unknown in zip(answers, reasons, strict=True)
    ]
    # One family: every test that some claim of this study rests on (the others rest on their intervals alone).
    tested = [one for of_claim in judged for one in of_claim if one.test is not None]
    for one, p in zip(tested, holm([one.test.p if one.test else None for one in tested]), strict=True):
        one.p_adjusted = p
    return [
        Finding("unknown", " ".join(unknown)) if unknown else _finding(claim, of_claim)
        for claim, of_claim, unknown in zip(claims, judged, reasons, strict=True)
    ]


def _finding(claim: Claim, judged: Sequence[Measured | MeasuredTrend]) -> Finding:
    holds = all(one.holds() for one in judged)
    fields = {key: text for number, one in enumerate(judged, 1) for key, text in one.fields(number).items()}
    text = _fill(claim.supported if holds else claim.unsupported, fields)
    evidence = [one.evidence() for one in judged]
    if holds:
        return Finding("supported", text, evidence)
    refuted = any(one.is_refuted() for one in judged)
    arms = () if refuted else tuple(dict.fromkeys(a for one in judged if not one.holds() for a in one.arms))
    return Finding("not_supported", text, evidence, arms)


@dataclass
class Measured:
    """The numbers of one comparison: the arms' means, their paired difference, and its p value over all claims."""

    comparison: ClaimedComparison
    a: float
    b: float
    difference: Difference
    direction: Direction
    arms: tuple[str, str]
    """Their names."""
    p_adjusted: float | None = None

    @property
    def test(self) -> Test | None:
        """The test that the claim rests on, None where it rests on the interval alone."""
        if self.comparison.relation == "equivalent":
            return self._equivalence().test
        return self.difference.test if self.comparison.relation == "better" else None

    def _equivalence(self) -> Equivalence:
        return equivalence(list(self.difference.by_seed.values()), self.comparison.margin)

    def holds(self) -> bool:
        """Whether the data show what is claimed."""
        interval, margin = self.difference.interval, self.comparison.margin
        if self.comparison.relation == "equivalent":
            return self.p_adjusted is not None and self.p_adjusted < ALPHA
        if interval is None:
            return False
        if self.comparison.relation == "within":
            return -margin <= interval.low and interval.high <= margin
        gain = interval.low if self.direction == "higher" else -interval.high
        if self.comparison.relation == "no_worse":
            return gain >= -margin
        return self.p_adjusted is not None and self.p_adjusted < ALPHA and gain > margin

    def is_refuted(self) -> bool:
        """Whether no part of the interval agrees with what is claimed."""
        interval, margin = self._shown_interval(), self.comparison.margin
        if interval is None:
            return False
        if self.comparison.relation in ("within", "equivalent"):
            return interval.low >= margin or interval.high <= -margin
        gain = interval.high if self.direction == "higher" else -interval.low
        return gain < -margin if self.comparison.relation == "no_worse" else gain <= margin

    def _shown_interval(self) -> Interval | None:
        if self.comparison.relation == "equivalent":
            return self._equivalence().interval
        return self.difference.interval

    def power(self) -> Power | None:
        """What these seeds could have shown; None with fewer than two in common."""
        return power_of(list(self.difference.by_seed.values()), self.comparison.relation)

    def evidence(self) -> dict[str, Any]:
        """Plain data for JSON."""
        difference = self.difference
        test, interval = self.test or difference.test, self._shown_interval()
        power = self.power()
        return {
            **self.comparison.as_data(),
            "arm": self.arms[0],
            "versus": self.arms[1],
            "a": self.a,
            "b": self.b,
            "difference": difference.value,
            "interval": None if interval is None else [interval.low, interval.high],
            "interval_method": None if interval is None else interval.method,
            "test": test.name,
            "n": test.n,
            "p": test.p,
            "p_adjusted": self.p_adjusted,
            "holds": self.holds(),
            "power": None if power is None else asdict(power),
        }

    def fields(self, number: int) -> dict[str, str]:
        """The texts that a wording may hold of the claim's comparison of this number."""
        difference, power, interval = self.difference, self.power(), self._shown_interval()
        test = self.test or difference.test
        values = {
            "a": format_number(self.a),
            "b": format_number(self.b),
            "difference": format_number(difference.value),
            "low": "?" if interval is None else format_number(interval.low),
            "high": "?" if interval is None else format_number(interval.high),
            "p": format_p(test.p if self.p_adjusted is None else self.p_adjusted),
            "seeds": str(difference.n_seeds),
            "clips": str(difference.n_clips or 0),
            "detectable": "?" if power is None else format_number(power.detectable),
        }
        return numbered(values, number)


def _fill(wording: str, fields: Mapping[str, str]) -> str:
    """Puts numbers in braces into a wording; str.format would let a foreign file's wording reach into objects."""

    def value(match: re.Match[str]) -> str:
        key = match.group(1)
        if key not in fields:
            raise UserError(
                f"claim wording holds {{{key}}}, which is unknown; valid are {', '.join(sorted(fields))}"
            )
        return fields[key]

    return re.sub(r"\{(\w+)\}", value, wording).strip()
