"""What a reader should see, decided by the numbers: a study states its claims as data.

A claim is one or more comparisons of two arms on a metric, and two wordings. It is stated as supported only
where every comparison is: the arm is better than the other with an interval of the difference beyond the
margin and a p value (adjusted by Holm over all comparisons of the study) below alpha; or, for "within", the
whole interval of the difference lies inside the margin. Otherwise the page says that the data do not show
it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ovi_eval.common.number_format import format_number, format_p
from ovi_eval.errors import UserError
from ovi_eval.results.files import Direction
from ovi_eval.stats.differences import Difference, holm

Outcome = Literal["supported", "not_supported", "unknown"]
ALPHA = 0.05


@dataclass(frozen=True)
class ClaimedComparison:
    """`arm` against `versus` on the metric `metric`; relation "better" (by more than margin) or "within"
    (margin).
    """

    metric: str
    arm: str
    versus: str
    relation: str = "better"
    margin: float = 0.0


@dataclass(frozen=True)
class Claim:
    """`supported` and `unsupported` may hold {a}, {b}, {difference}, {low}, {high}, {p}, {seeds}, {clips}
    of the first comparison, {a2}, {b2}, ... of the second, and so on.
    """

    comparisons: Sequence[ClaimedComparison]
    supported: str
    unsupported: str
    name: str = ""


@dataclass(frozen=True)
class Measured:
    """What the scores say of one comparison: the two arms' means and their paired difference."""

    a: float
    b: float
    difference: Difference
    direction: Direction


@dataclass(frozen=True)
class Finding:
    """A sentence for the reader, and the numbers of each comparison it rests on."""

    outcome: Outcome
    text: str
    evidence: Sequence[Mapping[str, Any]] = field(default_factory=list)


_SHARED = ("metric", "relation", "margin")


def parse_claims(entries: Sequence[Any], source: str = "claims") -> list[Claim]:
    """Claims from plain data (YAML, JSON), each with its wordings `supported` and `unsupported`.

    One comparison: {metric, arm, versus, relation?, margin?}. Several: {comparisons: [...]}, each such an
    object or a pair [arm, versus] that takes metric, relation and margin from beside the list. `name` is
    for messages; without wordings the claim is worded by its comparisons. Raises UserError that names the
    entry and the field.
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
            shared = {key: rest.pop(key) for key in _SHARED if key in rest}
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


def _comparison(entry: Any, shared: Mapping[str, Any], where: str) -> ClaimedComparison:
    if isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 2:
        entry = {"arm": entry[0], "versus": entry[1]}
    valid = ("metric", "arm", "versus", "relation", "margin")
    if not isinstance(entry, Mapping) or set(entry) - set(valid):
        raise UserError(f"{where}: a comparison is [arm, versus] or has {', '.join(valid)}; found {entry!r}")
    entry = {**shared, **entry}
    relation, margin = entry.get("relation", "better"), entry.get("margin", 0.0)
    if relation not in ("better", "within"):
        raise UserError(f"{where}: relation is {relation!r}, expected better or within")
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise UserError(f"{where}: margin is {margin!r}, expected a number of 0 or more")
    if relation == "within" and margin == 0:
        raise UserError(f"{where}: a comparison within a margin needs a margin above 0")
    names = [_text(entry, key, where) for key in ("metric", "arm", "versus")]
    return ClaimedComparison(names[0], names[1], names[2], relation, float(margin))


def _plain_wording(comparisons: Sequence[ClaimedComparison]) -> dict[str, str]:
    """What a claim says that comes without words of its own."""
    parts, fails = [], []
    for number, c in enumerate(comparisons, 1):
        n = "" if number == 1 else str(number)
        numbers = f"{{a{n}}} for {c.arm}, {{b{n}}} for {c.versus} ({{p{n}}})"
        relation = "better than" if c.relation == "better" else f"within {format_number(c.margin)} of"
        parts.append(
            f"{c.metric} of {c.arm} is {relation} that of {c.versus}: {{a{n}}} and {{b{n}}} ({{p{n}}})."
        )
        fails.append(f"{c.metric} is {numbers}: the data do not show {c.arm} {relation} {c.versus}.")
    return {"supported": " ".join(parts), "unsupported": " ".join(fails)}


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: field {key} must be text, found {value!r}")
    return value


def claims_as_data(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The plain data that `parse_claims` reads back."""
    return [asdict(claim) for claim in claims]


def decide(
    claims: Sequence[Claim], measure: Callable[[ClaimedComparison], Measured | str], alpha: float = ALPHA
) -> list[Finding]:
    """One finding a claim. `measure` gives the numbers of a comparison, or a sentence on why there are
    none.
    """
    answers = [[measure(comparison) for comparison in claim.comparisons] for claim in claims]
    judged = [
        _Judged(c, m) for claim, given in zip(claims, answers, strict=True) for c, m in _pairs(claim, given)
    ]
    # One family: every test that some claim of this study rests on ("within" rests on its interval alone).
    tested = [j for j in judged if j.comparison.relation == "better"]
    for one, p in zip(tested, holm([j.measured.difference.test.p for j in tested]), strict=True):
        one.p = p
    findings = []
    for claim, given in zip(claims, answers, strict=True):
        reasons = [answer for answer in given if isinstance(answer, str)]
        if reasons:
            findings.append(Finding("unknown", " ".join(dict.fromkeys(reasons))))
            continue
        mine, judged = judged[: len(given)], judged[len(given) :]
        holds = all(one.holds(alpha) for one in mine)
        fields = {key: text for number, one in enumerate(mine, 1) for key, text in one.fields(number).items()}
        findings.append(
            Finding(
                "supported" if holds else "not_supported",
                _fill(claim.supported if holds else claim.unsupported, fields),
                [one.evidence(alpha) for one in mine],
            )
        )
    return findings


def _pairs(claim: Claim, given: Sequence[Measured | str]) -> list[tuple[ClaimedComparison, Measured]]:
    """The comparisons of a claim with their numbers; none where any has no numbers, as the claim is then
    unknown.
    """
    pairs = [(c, m) for c, m in zip(claim.comparisons, given, strict=True) if isinstance(m, Measured)]
    return pairs if len(pairs) == len(given) else []


@dataclass
class _Judged:
    comparison: ClaimedComparison
    measured: Measured
    p: float | None = None

    def holds(self, alpha: float) -> bool:
        interval, margin = self.measured.difference.interval, self.comparison.margin
        if interval is None:
            return False
        if self.comparison.relation == "within":
            return -margin <= interval.low and interval.high <= margin
        gain = interval.low if self.measured.direction == "higher" else -interval.high
        return self.p is not None and self.p < alpha and gain > margin

    def evidence(self, alpha: float) -> dict[str, Any]:
        difference = self.measured.difference
        interval = difference.interval
        return {
            **asdict(self.comparison),
            "a": self.measured.a,
            "b": self.measured.b,
            "difference": difference.value,
            "interval": None if interval is None else [interval.low, interval.high],
            "interval_method": None if interval is None else interval.method,
            "test": difference.test.name,
            "n": difference.test.n,
            "p": difference.test.p,
            "p_adjusted": self.p,
            "holds": self.holds(alpha),
        }

    def fields(self, number: int) -> dict[str, str]:
        difference = self.measured.difference
        interval = difference.interval
        values = {
            "a": format_number(self.measured.a),
            "b": format_number(self.measured.b),
            "difference": format_number(difference.value),
            "low": "?" if interval is None else format_number(interval.low),
            "high": "?" if interval is None else format_number(interval.high),
            "p": format_p(difference.test.p if self.p is None else self.p),
            "seeds": str(difference.n_seeds),
            "clips": str(difference.n_clips or 0),
        }
        return values if number == 1 else {key + str(number): text for key, text in values.items()}


def _fill(wording: str, fields: Mapping[str, str]) -> str:
    """Puts numbers in braces into a wording; str.format would let a foreign file's wording reach into
    objects.
    """

    def value(match: re.Match[str]) -> str:
        key = match.group(1)
        if key not in fields:
            raise UserError(
                f"claim wording holds {{{key}}}, which is unknown; valid are {', '.join(sorted(fields))}"
            )
        return fields[key]

    return re.sub(r"\{(\w+)\}", value, wording).strip()
