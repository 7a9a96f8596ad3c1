"""What one run of one model scored: typed, versioned, on disk as results.json with per_clip.jsonl beside it.

A results file is written by whoever scored the clips and may be read by a stranger, so the reader trusts
nothing: schema, fields, types and finiteness are checked, and a fault is one line that names the file and
the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn, cast, get_args

from ovi_eval.errors import EvalError
from ovi_eval.fields import Fields, kind_of
from ovi_eval.files import written_whole

SCHEMA = "ovi_eval.results/1"
LEADERBOARD_SCHEMA = "ovi_eval.leaderboard/1"
Direction = Literal["higher", "lower", "closer_to_reference"]
RunKind = Literal["measured", "reference"]
MetricKind = Literal["mean", "frechet", "set"]
# Keys of a line of per_clip.jsonl that are not metric values.
CLIP_FIELDS = ("id", "caption", "failed", "reasons")


@dataclass(frozen=True)
class MetricValue:
    """One metric of one run.

    `value` is None where no clip could be scored (n = 0). `coverage` is the share of the run's clips that
    the value rests on, in [0, 1]. `version` and `variant` part values that must never be ranked together.
    `ci95` is an interval over this run's clips, if the scorer gave one. `per_clip` of kind "mean" holds the
    values whose mean `value` is; "frechet" is a distance of two sets and "set" a statistic of one, both without
    values per clip. `dimension` and `bias` go with those: the number of features, and by how much the value is
    too high for the finite number of clips (None: not known). `weights` holds the sha256 of every weight file by
    its name. `comparable` is False where the value must be set beside no other, as of a part of the clips.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "warnings", tuple(self.warnings))


@dataclass(frozen=True)
class ClipScores:
    """One line of per_clip.jsonl: None is a metric that does not apply to the clip or could not be had.

    `failed` says what is wrong with the clip itself, `reasons` by metric why that one has no value for it.
    """

    id: str
    values: Mapping[str, float | None]
    caption: str | None = None
    failed: str | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResults:
    """One run: one arm (`name`) with one training seed, or a reference row (real, shifted, shuffled clips).

    `losses` are free scalars, lower is better. `benchmark` names the prompts or the test set: values of two
    benchmarks are never ranked together. `folder` and `source` are where it was read from, the folder and the
    file; they are not written.
    """

    name: str
    metrics: Mapping[str, MetricValue]
    n_clips: int
    seed: int | None = None
    kind: RunKind = "measured"
    clips: Sequence[ClipScores] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
    config_hash: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    benchmark: str = ""
    folder: Path | None = field(default=None, compare=False)
    source: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "clips", tuple(self.clips))
        object.__setattr__(self, "notes", tuple(self.notes))

    def label(self) -> str:
        """How messages name the run: `none, seed 2`."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    def per_clip(self, key: str) -> dict[str, float]:
        """Values of one metric by clip id, the clips without one left out."""
        return {clip.id: value for clip in self.clips if (value := clip.values.get(key)) is not None}

    def write(self, path: str | Path) -> Path:
        """Writes `path` (a .json file, or a folder that gets results.json) and the JSONL of the clips
        beside it.

        Each file appears whole or not at all, the clips' first, so that a results.json always has its clips.
        Raises EvalError where a value is not a finite number.
        """
        path = Path(path)
        if path.suffix != ".json":
            path = path / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        _check(self, str(path))
        clips_name = "per_clip.jsonl" if path.name == "results.json" else f"{path.stem}.per_clip.jsonl"
        lines = [_clip_line(clip) for clip in self.clips]
        write_text(
            path.parent / clips_name, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        )
        body = {
            "schema": SCHEMA,
            "name": self.name,
            "seed": self.seed,
            "kind": self.kind,
            "benchmark": self.benchmark,
            "created": self.created,
            "config_hash": self.config_hash,
            "provenance": dict(self.provenance),
            "n_clips": self.n_clips,
            "metrics": {key: asdict(metric) for key, metric in self.metrics.items()},
            "per_clip": clips_name,
            "losses": dict(self.losses),
            "notes": list(self.notes),
        }
        try:
            text = json.dumps(body, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise EvalError(
                f"{path}: provenance cannot be written as JSON ({error}); use plain finite values"
            ) from None
        write_text(path, text + "\n")
        return path


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text under a temporary name and then renames it, so that no reader sees half a file."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. NaN and Infinity, which are not JSON, are refused. Raises EvalError naming the
    file.
    """

    def refuse(constant: str) -> NoReturn:
        raise EvalError(
            f"{path}: holds {constant}, which is no JSON number; a value that is missing is written null"
        )

    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise EvalError(f"{path}: cannot be read ({error.strerror or error})") from None
    except EvalError:
        raise
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, a number of thousands of digits
        raise EvalError(f"{path}: not a whole JSON file ({error}); score the run again") from None
    if not isinstance(data, dict):
        raise EvalError(f"{path}: expected a JSON object, found {kind_of(data)}")
    return data


def read(path: str | Path) -> RunResults:
    """Reads a results.json (or the folder that holds one) and its per-clip values.

    Raises EvalError that names the file and the field where the schema is another, a field is missing or of
    a wrong type, or a number is not finite.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
    data = load_json(path)
    schema = data.get("schema")
    if schema == LEADERBOARD_SCHEMA:
        raise EvalError(
            f"{path}: is a leaderboard over runs, not a run; name the folders of the runs instead"
        )
    if schema != SCHEMA:
        raise EvalError(f'{path}: schema is {schema!r}, this version reads "{SCHEMA}"')
    fields = Fields(path, data)
    metrics = {}
    for key, entry in fields.get("metrics", dict).items():
        metrics[str(key)] = _metric(Fields(path, entry, f"metrics[{key}]"))
    losses_raw = fields.get("losses", dict, {})
    losses = {
        str(k): Fields(path, losses_raw, "losses").number(k) for k in losses_raw if losses_raw[k] is not None
    }
    notes = fields.get("notes", (str, list), [])
    run = RunResults(
        name=fields.get("name", str),
        seed=fields.get("seed", (int, type(None))),
        kind=cast(RunKind, fields.choice("kind", get_args(RunKind))),
        benchmark=fields.get("benchmark", (str, type(None)), "") or "",
        created=fields.get("created", str, ""),
        config_hash=fields.get("config_hash", (str, type(None)), "") or "",
        provenance=fields.get("provenance", dict, {}),
        n_clips=fields.get("n_clips", int),
        metrics=metrics,
        clips=_read_clips(path, fields.get("per_clip", (str, type(None)), None)),
        losses=losses,
        notes=[notes] if isinstance(notes, str) else [str(note) for note in notes],
        folder=path.parent,
        source=path,
    )
    _check(run, str(path))
    return run


def _metric(fields: Fields) -> MetricValue:
    value = fields.number_or_none("value")
    ci95 = fields.get("ci95", (list, type(None)), None)
    if ci95 is not None:
        if len(ci95) != 2 or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in ci95):
            raise EvalError(
                f"{fields.path}: field {fields.where}.ci95 must be two numbers or null, found {ci95!r}"
            )
        ends = Fields(fields.path, {"low": ci95[0], "high": ci95[1]}, f"{fields.where}.ci95")
        ci95 = (ends.number("low"), ends.number("high"))
    return MetricValue(
        value=value,
        n=fields.get("n", int),
        coverage=fields.number("coverage", 1.0),
        direction=cast(Direction, fields.choice("direction", get_args(Direction))),
        unit=fields.get("unit", (str, type(None)), "") or "",
        version=str(fields.get("version", (str, int, float))),
        variant=fields.get("variant", (str, type(None)), "") or "",
        kind=cast(MetricKind, fields.choice("kind", get_args(MetricKind))),
        ci95=ci95,
        dimension=fields.get("dimension", (int, type(None)), None),
        bias=fields.number_or_none("bias", None),
        weights=fields.texts("weights"),
        preprocessing=fields.get("preprocessing", (str, type(None)), "") or "",
        warnings=fields.list_of_text("warnings"),
        comparable=fields.get("comparable", bool, True),
    )


def _read_clips(path: Path, name: str | None) -> list[ClipScores]:
    if not name:
        return []
    if Path(name).name != name:
        raise EvalError(f"{path}: field per_clip must be the name of a file beside it, found {name!r}")
    source = path.parent / name
    if not source.is_file():
        raise EvalError(
            f"{path}: its per-clip values {name} are missing; copy the file beside it or score again"
        )
    clips: list[ClipScores] = []
    seen: set[str] = set()
    for number, line in enumerate(source.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise EvalError(f"{source}: {where} is not JSON; score the run again") from None
        fields = Fields(source, entry, where)
        clip_id = str(fields.get("id", (str, int)))
        if clip_id in seen:
            raise EvalError(f"{source}: {where} has the id {clip_id!r} a second time; ids must be unique")
        seen.add(clip_id)
        values: dict[str, float | None] = {}
        for key in entry:
            if key not in CLIP_FIELDS:
                value = fields.number_or_none(key)
                values[key] = None if value is None else _finite(value, f"{source}: {where}, {key}")
        text = (str, type(None))
        caption, failed = fields.get("caption", text, None), fields.get("failed", text, None)
        clips.append(ClipScores(clip_id, values, caption, failed, fields.texts("reasons")))
    return clips


def _clip_line(clip: ClipScores) -> dict[str, Any]:
    line: dict[str, Any] = {"id": clip.id}
    if clip.caption is not None:
        line["caption"] = clip.caption
    line.update(clip.values)
    if clip.failed is not None:
        line["failed"] = clip.failed
    if clip.reasons:
        line["reasons"] = dict(clip.reasons)
    return line


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise EvalError(f"{where} is {value}; a value that could not be had is written null, with the reason")
    return value


def _check(run: RunResults, where: str) -> None:
    """Rules that hold of every run, written here or read from a stranger."""
    if not run.name.strip():
        raise EvalError(f"{where}: field name is empty; name the model or arm")
    for key, metric in run.metrics.items():
        at = f"{where}: metrics[{key}]"
        if metric.value is None and metric.n > 0:
            raise EvalError(f"{at}.value is null though n is {metric.n}")
        if metric.value is not None:
            _finite(metric.value, f"{at}.value")
        for bound in metric.ci95 or ():
            _finite(bound, f"{at}.ci95")
        if metric.ci95 is not None and metric.ci95[0] > metric.ci95[1]:
            raise EvalError(f"{at}.ci95 is {list(metric.ci95)}, expected the lower bound first")
        if metric.bias is not None:
            _finite(metric.bias, f"{at}.bias")
        for name, count, least in (("n", metric.n, 0), ("dimension", metric.dimension, 1)):
            if count is not None and count < least:
                raise EvalError(f"{at}.{name} is {count}, expected {least} or more")
        if not 0.0 <= metric.coverage <= 1.0:
            raise EvalError(f"{at}.coverage is {metric.coverage}, expected a share between 0 and 1")
    for key, loss in run.losses.items():
        _finite(loss, f"{where}: losses[{key}]")
    for clip in run.clips:
        for key, value in clip.values.items():
            if key in CLIP_FIELDS:
                raise EvalError(f"{where}: clip {clip.id}: a metric cannot be named {key!r}; that is a field")
            if value is not None:
                _finite(value, f"{where}: clip {clip.id}, {key}")
