"""What one run of one model scored: its fields, what must hold of them, and writing.

On disk it is results.json with per_clip.jsonl beside it (docs/results_schema.md). The checks hold of every run, whether
it was scored here or read from an untrusted file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ovi_eval.common.fields import Fields
from ovi_eval.common.files import written_together
from ovi_eval.common.plain_data import read_json
from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError
from ovi_eval.results.metric_ranges import range_of

SCHEMA = "ovi_eval.results/1"
LEADERBOARD_SCHEMA = "ovi_eval.leaderboard/1"
Direction = Literal["higher", "lower", "closer_to_reference"]
RunKind = Literal["measured", "reference"]
MetricKind = Literal["mean", "frechet", "set"]

CLIP_FIELDS = ("id", "caption", "same_as", "failed", "reasons")
"""Keys of a line of per_clip.jsonl that are not metric values."""
MOST_CLIPS, MOST_METRICS, MOST_WEIGHTS = 10_000_000, 500, 100
LONGEST_NAME, LONGEST_TEXT = 500, 20_000
"""Characters of a name (model, metric, clip, version, ...) and of a text (caption, reason, note, ...)."""
LARGEST = 1e15
"""The largest size of a value; beyond, differences of doubles mean nothing."""
_INT64 = 2**63


@dataclass(frozen=True)
class MetricValue:
    """One metric of one run.

    `value` is None where no clip could be scored (n = 0). `coverage` is the share of the run's clips that
    the value rests on, in [0, 1]. `version` and `variant` part values that must never be ranked together.
    `ci95` is an interval over this run's clips, if the scorer gave one. `per_clip` of kind "mean" holds the
    values whose mean `value` is; "frechet" is a distance of two sets and "set" a statistic of one, both without
    values per clip. `dimension` and `bias` go with those: the number of features, and by how much the value is
    too high for the finite number of clips (None: not known). `weights` holds the sha256 of every weight file by
    its name. `comparable` is False where the value must not be compared, as of a part of the clips.
    `distinct` is how many of the `n` clips differ in content, which is what the interval rests on (None: not known).
    `title` names it in words where `metric_titles` does not.
    """

    value: float | None
    n: int
    direction: Direction
    coverage: float = 1.0
    unit: str = ""
    version: str = "1"
    variant: str = ""
    kind: MetricKind = "mean"
    ci95: tuple[float, float] | None = None
    dimension: int | None = None
    bias: float | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    preprocessing: str = ""
    warnings: tuple[str, ...] = ()
    comparable: bool = True
    distinct: int | None = None
    title: str = ""

    def check(self, key: str, n_clips: int, at: str) -> None:
        """As `RunResults.check`, of a metric's own fields; `at` names it in errors."""
        _lengths(
            at,
            LONGEST_NAME,
            key=[key],
            unit=[self.unit],
            version=[self.version],
            variant=[self.variant],
            title=[self.title],
        )
        _lengths(at, LONGEST_TEXT, warnings=[*self.warnings, self.preprocessing])
        if len(self.weights) > MOST_WEIGHTS:
            raise UserError(f"{at}.weights holds {len(self.weights)} files, expected {MOST_WEIGHTS} or fewer")
        _lengths(at, LONGEST_TEXT, weights=[*self.weights, *self.weights.values()])
        _within(f"{at}.n", self.n, 0, MOST_CLIPS)
        _within(f"{at}.dimension", self.dimension, 1, _INT64)
        _within(f"{at}.distinct", self.distinct, 0, self.n)
        if self.value is None and self.n > 0:
            raise UserError(f"{at}.value is null though n is {self.n}")
        if self.value is not None and self.n == 0:
            raise UserError(f"{at}.n is 0 though it has a value; say how many clips the value rests on")
        if self.value is not None:
            _check_number(self.value, f"{at}.value", key)
        for bound in self.ci95 or ():
            _check_number(bound, f"{at}.ci95")
        if self.ci95 is not None and self.ci95[0] > self.ci95[1]:
            raise UserError(f"{at}.ci95 is {list(self.ci95)}, expected the lower bound first")
        if self.bias is not None:
            _check_number(self.bias, f"{at}.bias")
        if self.n > n_clips:
            raise UserError(f"{at}.n is {self.n}, more than the {n_clips} clips of the run (n_clips)")
        if not 0.0 <= self.coverage <= 1.0:
            raise UserError(f"{at}.coverage is {self.coverage}, expected a share between 0 and 1")
        share = self.n / n_clips if n_clips else 0.0
        # A metric that applies to half the clips has all of those; no share of fewer than all is smaller than this.
        if self.coverage < share - 1e-3:
            raise UserError(
                f"{at}.coverage is {self.coverage}, but n is {self.n} of n_clips {n_clips}, a share of {share:.3f}"
            )


@dataclass(frozen=True)
class ClipScores:
    """One line of per_clip.jsonl: None is a metric that does not apply to the clip or could not be had.

    `failed` says what is wrong with the clip itself, `reasons` by metric why that one has no value for it.
    `same_as` is the id of the first clip of the run with the same content, None for that one and all others.
    """

    id: str
    values: Mapping[str, float | None]
    caption: str | None = None
    failed: str | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    same_as: str | None = None

    def line(self) -> str:
        before = {"id": self.id, "caption": self.caption, "same_as": self.same_as}
        after = {"failed": self.failed, "reasons": dict(self.reasons) or None}
        facts, reasons = ({k: v for k, v in part.items() if v is not None} for part in (before, after))
        return json.dumps({**facts, **self.values, **reasons}, allow_nan=False) + "\n"

    def check(self, where: str) -> None:
        """As `RunResults.check`, of one clip."""
        _lengths(where, LONGEST_NAME, id=[self.id], same_as=[self.same_as or ""])
        where = f"{where}: clip {shown(self.id, 60)}"
        reasons = [*self.reasons, *self.reasons.values()]
        _lengths(where, LONGEST_TEXT, caption=[self.caption or ""], reasons=[self.failed or "", *reasons])
        for key, value in self.values.items():
            if key in CLIP_FIELDS:
                raise UserError(f"{where}: a metric cannot be named {key!r}; that is a field")
            if value is not None:
                _check_number(value, f"{where}, {shown(key, 60)}", key)


@dataclass(frozen=True)
class RunResults:
    """One run: one arm (`name`) with one training seed, or a reference row (real, shifted, shuffled clips).

    `lineage` says, a line each, what the model's training has behind it that its configuration alone does not say.
    `losses` are free scalars, lower is better. `benchmark` names the prompts or the test set: values of two
    benchmarks are never ranked together. `folder` and `source` are where it was read from, the folder and the
    file, and `problems` what did not agree in it and was left out; they are not written.
    """

    name: str
    metrics: Mapping[str, MetricValue]
    n_clips: int
    seed: int | None = None
    kind: RunKind = "measured"
    clips: Sequence[ClipScores] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
    config_hash: str = ""
    lineage: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    benchmark: str = ""
    folder: Path | None = field(default=None, compare=False)
    source: Path | None = field(default=None, compare=False)
    problems: Sequence[str] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in ("clips", "lineage", "notes", "problems"):  # so that two runs with equal lists are equal
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def label(self) -> str:
        """How messages name the run: `none, seed 2`."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    def per_clip(self, key: str) -> dict[str, float]:
        """Values of one metric by clip id, the clips without one left out."""
        return {clip.id: value for clip in self.clips if (value := clip.values.get(key)) is not None}

    def unproven(self, key: str) -> bool:
        """Whether a value of kind "mean" has clips of which none has a value for it."""
        metric = self.metrics[key]
        if metric.kind != "mean" or not metric.n or not self.clips:
            return False
        return not any(key in clip.values for clip in self.clips)

    def check(self, where: str) -> None:
        """Raises UserError that begins with `where` and names the first field that cannot be true."""
        if not self.name.strip():
            raise UserError(f"{where}: field name is empty; name the model or arm")
        names = {key: [getattr(self, key)] for key in ("name", "benchmark", "config_hash", "created")}
        _lengths(where, LONGEST_NAME, **names, losses=self.losses)
        _lengths(where, LONGEST_TEXT, notes=self.notes, lineage=self.lineage)
        _within(f"{where}: field n_clips", self.n_clips, 0, MOST_CLIPS)
        if self.seed is not None and abs(self.seed) >= _INT64:
            raise UserError(f"{where}: field seed is {shown(self.seed, 40)}, expected a number of 64 bits")
        most = {"metrics": MOST_METRICS, "losses": MOST_METRICS, "clips": MOST_CLIPS}
        for name, limit in most.items():
            if len(getattr(self, name)) > limit:
                raise UserError(
                    f"{where}: holds {len(getattr(self, name))} {name}, expected {limit} or fewer"
                )
        for key, metric in self.metrics.items():
            metric.check(key, self.n_clips, f"{where}: metrics[{shown(key, 60)}]")
        for key, loss in self.losses.items():
            _check_number(loss, f"{where}: losses[{shown(key, 60)}]")
        for clip in self.clips:
            clip.check(where)
        self._check_means(where)

    def _check_means(self, where: str) -> None:
        """A value of kind "mean" is the mean of its clips' values, and n is how many of them there are.

        Where no line has the metric at all, there is nothing to compare it with; the reader reports that.
        """
        for key, metric in self.metrics.items():
            if metric.kind != "mean" or not self.clips or self.unproven(key):
                continue
            values, at = list(self.per_clip(key).values()), f"{where}: metrics[{shown(key, 60)}]"
            if len(values) != metric.n:
                raise UserError(
                    f"{at}.n is {metric.n}, but {len(values)} clips have a value in the per-clip file"
                )
            mean = math.fsum(values) / max(1, len(values))
            if metric.value is not None and not math.isclose(mean, metric.value, rel_tol=1e-3, abs_tol=1e-5):
                raise UserError(
                    f"{at}.value is {metric.value:g}, but the mean of its {len(values)} clips is {mean:g}"
                )

    def write(self, path: str | Path) -> Path:
        """Writes `path` (a .json file, or a folder that gets results.json) and the JSONL of the clips
        beside it.

        Both appear whole or neither does, and results.json holds the sha256 of its clips' file, so that the two are
        never of two scorings. Raises UserError where a value is not a finite number or contradicts its clips.
        """
        path = Path(path)
        if path.suffix != ".json":
            path = path / "results.json"
        self.check(str(path))
        clips_name = "per_clip.jsonl" if path.name == "results.json" else f"{path.stem}.per_clip.jsonl"
        lines = "".join(clip.line() for clip in self.clips)
        body = {
            "schema": SCHEMA,
            "name": self.name,
            "seed": self.seed,
            "kind": self.kind,
            "benchmark": self.benchmark,
            "created": self.created,
            "config_hash": self.config_hash,
            "lineage": list(self.lineage),
            "provenance": dict(self.provenance),
            "n_clips": self.n_clips,
            "metrics": {key: asdict(metric) for key, metric in self.metrics.items()},
            "per_clip": clips_name,
            "per_clip_sha256": text_sha256(lines),
            "losses": dict(self.losses),
            "notes": list(self.notes),
        }
        try:
            text = json.dumps(body, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path}: provenance cannot be written as JSON ({error}); use plain finite values"
            ) from None
        with written_together() as beside:
            beside(path.parent / clips_name).write_text(lines, encoding="utf-8")
            beside(path).write_text(text + "\n", encoding="utf-8")
        return path


def load_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object as `plain_data.read_json` does; UserError, naming the file, for anything else."""
    return Fields(path, read_json(path)).data


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def _check_number(value: float, where: str, key: str = "") -> None:
    """Refuses values that are not finite, of a size without meaning, or that metric `key` cannot have."""
    if not math.isfinite(value):
        raise UserError(f"{where} is {value}; a value that could not be had is written null, with the reason")
    if abs(value) > LARGEST:
        raise UserError(f"{where} is {value:g}, expected a size of {LARGEST:g} or less")
    low, high = range_of(key)
    if not low <= value <= high:
        bounds = " to ".join(f"{bound:.4g}" for bound in (low, high))
        raise UserError(f"{where} is {value:g}, which this metric cannot be (it lies in {bounds})")


def _within(where: str, count: int | None, least: int, most: int) -> None:
    if count is not None and not least <= count <= most:
        expected = f"{least} or more" if count < least else f"{most} or fewer"
        raise UserError(f"{where} is {shown(count, 40)}, expected {expected}")


def _lengths(where: str, most: int, **named: Iterable[str]) -> None:
    for name, texts in named.items():
        for text in texts:
            if len(text) > most:
                raise UserError(
                    f"{where}: {name} {shown(text, 40)} has {len(text)} characters, expected {most} or fewer"
                )
