"""What one run of one model scored: typed, versioned, on disk as results.json with per_clip.jsonl beside it.

A results file may come from anybody, so the reader trusts
nothing: schema, fields, types and finiteness are checked, and a fault is one line that names the file and
the field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ovi_eval.common.fields import Fields, kind_of
from ovi_eval.common.files import written_together
from ovi_eval.common.places import inside, stays_inside, without_hosts, without_places
from ovi_eval.common.plain_data import parse_json, read_json, read_text
from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError
from ovi_eval.results.checking import CLIP_FIELDS, MOST_CLIPS, check, unproven

SCHEMA = "ovi_eval.results/1"
LEADERBOARD_SCHEMA = "ovi_eval.leaderboard/1"
Direction = Literal["higher", "lower", "closer_to_reference"]
RunKind = Literal["measured", "reference"]
MetricKind = Literal["mean", "frechet", "set"]
MOST_BYTES_OF_CLIPS, MOST_BYTES_OF_A_LINE = 512 * 2**20, 2**20

__all__ = [
    "CLIP_FIELDS",
    "LEADERBOARD_SCHEMA",
    "SCHEMA",
    "ClipScores",
    "Direction",
    "MetricKind",
    "MetricValue",
    "RunKind",
    "RunResults",
    "load_json",
    "read",
]


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
    `distinct` is how many of the `n` clips differ in content, which is what the interval rests on (None: not known).
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "warnings", tuple(self.warnings))


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


@dataclass(frozen=True)
class RunResults:
    """One run: one arm (`name`) with one training seed, or a reference row (real, shifted, shuffled clips).

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
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    benchmark: str = ""
    folder: Path | None = field(default=None, compare=False)
    source: Path | None = field(default=None, compare=False)
    problems: Sequence[str] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "clips", tuple(self.clips))
        object.__setattr__(self, "notes", tuple(self.notes))
        object.__setattr__(self, "problems", tuple(self.problems))

    def label(self) -> str:
        """How messages name the run: `none, seed 2`."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    def per_clip(self, key: str) -> dict[str, float]:
        """Values of one metric by clip id, the clips without one left out."""
        return {clip.id: value for clip in self.clips if (value := clip.values.get(key)) is not None}

    def write(self, path: str | Path) -> Path:
        """Writes `path` (a .json file, or a folder that gets results.json) and the JSONL of the clips
        beside it.

        Both appear whole or neither does, and results.json holds the sha256 of its clips' file, so that the two are
        never of two scorings. Raises UserError where a value is not a finite number or contradicts its clips.
        """
        path = Path(path)
        if path.suffix != ".json":
            path = path / "results.json"
        check(self, str(path))
        clips_name = "per_clip.jsonl" if path.name == "results.json" else f"{path.stem}.per_clip.jsonl"
        lines = "".join(json.dumps(_clip_line(clip), allow_nan=False) + "\n" for clip in self.clips)
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
            "per_clip_sha256": _sha256(lines),
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
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{shown(path)}: expected a JSON object, found {kind_of(data)}")
    return data


def read(path: str | Path) -> RunResults:
    """Reads a results.json (or the folder that holds one) and its per-clip values.

    Raises UserError that names the file and the field where the schema is another, a field is missing or of
    a wrong type, or a number is not finite or contradicts other fields (see `checking`). An interval
    that does not hold its value is left out and named in `problems`. Places of files become the last part of their
    names, and the names of hosts and users are left out of the provenance.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
    data = load_json(path)
    schema = data.get("schema")
    if schema == LEADERBOARD_SCHEMA:
        raise UserError(
            f"{path}: is a leaderboard over runs, not a run; name the folders of the runs instead"
        )
    if schema != SCHEMA:
        raise UserError(f'{path}: schema is {shown(repr(schema), 60)}, this version reads "{SCHEMA}"')
    # places of files, wherever they stand; but for the name of the file that is to be read
    data = {key: value if key == "per_clip" else without_places(value) for key, value in data.items()}
    fields = Fields(path, data)
    n_clips = fields.get("n_clips", int)
    metrics, problems = {}, []
    for key, entry in fields.get("metrics", dict).items():
        metric = _metric(Fields(path, entry, f"metrics[{shown(key, 60)}]"), n_clips)
        if metric.ci95 is not None and metric.value is not None and not _holds(metric.ci95, metric.value):
            problems.append(
                f"{key}: its ci95 {list(metric.ci95)} does not hold its value {metric.value}; left out"
            )
            metric = replace(metric, ci95=None)
        metrics[str(key)] = metric
    losses_raw = fields.get("losses", dict, {})
    losses = {
        str(k): Fields(path, losses_raw, "losses").number(k) for k in losses_raw if losses_raw[k] is not None
    }
    notes = fields.get("notes", (str, list), [])
    clips, digest = _read_clips(path, fields.get("per_clip", (str, type(None)), None))
    if len(clips) > n_clips:
        problems.append(f"n_clips is {n_clips}, but its per-clip file has {len(clips)} clips")
    run = RunResults(
        name=fields.get("name", str),
        seed=fields.get("seed", (int, type(None))),
        kind=cast(RunKind, fields.choice("kind", get_args(RunKind))),
        benchmark=fields.get("benchmark", (str, type(None)), "") or "",
        created=fields.get("created", str, ""),
        config_hash=fields.get("config_hash", (str, type(None)), "") or "",
        provenance=without_hosts(fields.get("provenance", dict, {})),
        n_clips=n_clips,
        metrics=metrics,
        clips=clips,
        losses=losses,
        notes=[notes] if isinstance(notes, str) else [str(note) for note in notes],
        folder=path.parent,
        source=path,
    )
    check(run, str(path))
    told = fields.get("per_clip_sha256", (str, type(None)), None)
    if told is not None and digest is not None and told != digest:
        raise UserError(
            f"{path}: its per-clip file is of another scoring (per_clip_sha256 differs); score the run again"
        )
    unheld = [
        f"{key}: its per-clip file has no value of it to hold it against"
        for key in metrics
        if unproven(run, key)
    ]
    return replace(run, problems=[*problems, *unheld])


def _holds(ci95: tuple[float, float], value: float) -> bool:
    """Whether the value lies in its interval, but for rounding in a file written by hand; ends in the wrong order are
    another fault.
    """
    slack = 1e-6 * max(1.0, abs(value))
    return ci95[0] > ci95[1] or ci95[0] - slack <= value <= ci95[1] + slack


def _metric(fields: Fields, n_clips: int) -> MetricValue:
    value = fields.number_or_none("value")
    ci95 = fields.get("ci95", (list, type(None)), None)
    if ci95 is not None:
        if len(ci95) != 2 or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in ci95):
            raise UserError(
                f"{fields.path}: field {fields.where}.ci95 must be two numbers or null, found {shown(ci95, 60)}"
            )
        ends = Fields(fields.path, {"low": ci95[0], "high": ci95[1]}, f"{fields.where}.ci95")
        ci95 = (ends.number("low"), ends.number("high"))
    n = fields.get("n", int)
    return MetricValue(
        value=value,
        n=n,
        coverage=fields.number("coverage", min(1.0, max(0, n) / n_clips) if n_clips > 0 else 0.0),
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
        distinct=fields.get("distinct", (int, type(None)), None),
    )


def _read_clips(path: Path, name: str | None) -> tuple[list[ClipScores], str | None]:
    """The clips and the sha256 of their file; none where the results name no file."""
    if not name:
        return [], None
    if Path(name).name != name or not stays_inside(name):
        raise UserError(
            f"{path}: field per_clip must be the name of a file beside it, found {shown(repr(name), 60)}"
        )
    source = path.parent / name
    if not source.is_file():
        raise UserError(
            f"{path}: its per-clip values {shown(name, 60)} are missing; copy the file beside it or score again"
        )
    if inside(path.parent, source) is None:
        raise UserError(
            f"{path}: its per-clip values {shown(name, 60)} are a link that leads outside of its folder; "
            "put a copy there"
        )
    text = read_text(source, max_bytes=MOST_BYTES_OF_CLIPS)
    clips: list[ClipScores] = []
    seen: set[str] = set()
    # Not splitlines: U+2028 in a caption ends no line of JSON.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        if len(line) > MOST_BYTES_OF_A_LINE or len(clips) >= MOST_CLIPS:
            raise UserError(f"{source}: {where} is too long, or there are too many; score the run again")
        fields = Fields(source, parse_json(line, f"{source}: {where}"), where)
        clip_id = str(fields.get("id", (str, int)))
        if clip_id in seen:
            raise UserError(
                f"{source}: {where} has the id {shown(repr(clip_id), 60)} a second time; ids must be unique"
            )
        seen.add(clip_id)
        values = {key: fields.number_or_none(key) for key in fields.data if key not in CLIP_FIELDS}
        optional = (str, type(None))
        failed = fields.get("failed", optional, None)
        clips.append(
            ClipScores(
                clip_id,
                values,
                fields.get("caption", optional, None),
                None if failed is None else without_places(failed),
                without_places(fields.texts("reasons")),
                fields.get("same_as", optional, None),
            )
        )
    return clips, _sha256(text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def _clip_line(clip: ClipScores) -> dict[str, Any]:
    line: dict[str, Any] = {"id": clip.id}
    if clip.caption is not None:
        line["caption"] = clip.caption
    if clip.same_as is not None:
        line["same_as"] = clip.same_as
    line.update(clip.values)
    if clip.failed is not None:
        line["failed"] = clip.failed
    if clip.reasons:
        line["reasons"] = dict(clip.reasons)
    return line
