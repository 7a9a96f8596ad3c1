"""The reader of results files, which may come from anybody.

Schema, fields, types and finiteness are checked, and a fault is one line that names the file and the field.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from ovi_eval.common.fields import Fields
from ovi_eval.common.places import inside, stays_inside, without_hosts, without_places
from ovi_eval.common.plain_data import parse_json
from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import read_text
from ovi_eval.errors import UserError
from ovi_eval.results.files import (
    CLIP_FIELDS,
    LEADERBOARD_SCHEMA,
    MOST_CLIPS,
    SCHEMA,
    ClipScores,
    Direction,
    MetricKind,
    MetricValue,
    RunKind,
    RunResults,
    load_json,
    text_sha256,
)

MOST_BYTES_OF_CLIPS, MOST_BYTES_OF_A_LINE = 512 * 2**20, 2**20


def read(path: str | Path) -> RunResults:
    """Reads a results.json (or the folder that holds one) and its per-clip values.

    Raises UserError that names the file and the field where the schema is another, a field is missing or of
    a wrong type, or a number is not finite or contradicts other fields (see `RunResults.check`). An interval
    that does not hold its value is left out and named in `problems`. Places of files become the last part of their
    names, and the names of hosts and users are left out of the provenance.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
    # places of files, wherever they stand; but for the name of the file that is to be read
    data = {
        key: value if key == "per_clip" else without_places(value) for key, value in load_json(path).items()
    }
    fields = Fields(path, data)
    if data.get("schema") == LEADERBOARD_SCHEMA:
        raise UserError(
            f"{path}: is a leaderboard over runs, not a run; name the folders of the runs instead"
        )
    fields.check_schema(SCHEMA)
    n_clips = fields.get("n_clips", int)
    metrics, problems = {}, []
    for key, entry in fields.get("metrics", dict).items():
        metric = _metric(Fields(path, entry, f"metrics[{shown(key, 60)}]"), n_clips)
        if metric.ci95 is not None and metric.value is not None and not _holds(metric.ci95, metric.value):
            problems.append(
                f"{key}: its ci95 {list(metric.ci95)} does not hold its value {metric.value}; left out"
            )
            metric = replace(metric, ci95=None)
        metrics[key] = metric
    losses = Fields(path, fields.get("losses", dict, {}), "losses")
    notes = fields.get("notes", (str, list), [])
    clips, digest = _read_clips(path, fields.text("per_clip"))
    if len(clips) > n_clips:
        problems.append(f"n_clips is {n_clips}, but its per-clip file has {len(clips)} clips")
    run = RunResults(
        name=fields.get("name", str),
        seed=fields.get("seed", (int, type(None))),
        kind=fields.choice("kind", get_args(RunKind)),
        benchmark=fields.text("benchmark"),
        created=fields.text("created"),
        config_hash=fields.text("config_hash"),
        lineage=fields.list_of_text("lineage"),
        provenance=without_hosts(fields.get("provenance", dict, {})),
        n_clips=n_clips,
        metrics=metrics,
        clips=clips,
        losses={key: losses.number(key) for key in losses.data if losses.data[key] is not None},
        notes=[notes] if isinstance(notes, str) else [str(note) for note in notes],
        folder=path.parent,
        source=path,
    )
    run.check(str(path))
    if digest and fields.text("per_clip_sha256") not in ("", digest):
        raise UserError(
            f"{path}: its per-clip file is of another scoring (per_clip_sha256 differs); score the run again"
        )
    unproven = [key for key in metrics if run.unproven(key)]
    problems += [f"{key}: its per-clip file has no value of it to hold it against" for key in unproven]
    return replace(run, problems=problems)


def _holds(ci95: tuple[float, float], value: float) -> bool:
    """Whether the value lies in its interval, but for rounding in a file written by hand; ends in the wrong order are
    another fault.
    """
    slack = 1e-6 * max(1.0, abs(value))
    return ci95[0] > ci95[1] or ci95[0] - slack <= value <= ci95[1] + slack


def _metric(fields: Fields, n_clips: int) -> MetricValue:
    interval = fields.or_null("ci95", list)
    if interval is not None and len(interval) != 2:
        raise UserError(
            f"{fields.path}: field {fields.where}.ci95 must be two numbers or null, found {shown(interval, 60)}"
        )
    ends = Fields(
        fields.path, dict(zip(("low", "high"), interval or (), strict=False)), f"{fields.where}.ci95"
    )
    n = fields.get("n", int)
    return MetricValue(
        value=fields.number_or_null("value"),
        n=n,
        coverage=fields.number("coverage", min(1.0, max(0, n) / n_clips) if n_clips > 0 else 0.0),
        direction=fields.choice("direction", get_args(Direction)),
        unit=fields.text("unit"),
        version=str(fields.get("version", (str, int, float))),
        variant=fields.text("variant"),
        kind=fields.choice("kind", get_args(MetricKind)),
        ci95=(ends.number("low"), ends.number("high")) if interval else None,
        dimension=fields.or_null("dimension", int),
        bias=fields.number_or_null("bias", None),
        weights=fields.texts("weights"),
        preprocessing=fields.text("preprocessing"),
        warnings=fields.list_of_text("warnings"),
        comparable=fields.get("comparable", bool, True),
        distinct=fields.or_null("distinct", int),
        title=fields.text("title"),
    )


def _read_clips(path: Path, name: str) -> tuple[list[ClipScores], str]:
    """The clips and the sha256 of their file; none where the results name no file."""
    if not name:
        return [], ""
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
    clips: dict[str, ClipScores] = {}
    # Not splitlines: U+2028 in a caption ends no line of JSON.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        if len(line) > MOST_BYTES_OF_A_LINE or len(clips) >= MOST_CLIPS:
            raise UserError(f"{source}: {where} is too long, or there are too many; score the run again")
        fields = Fields(source, parse_json(line, f"{source}: {where}"), where)
        clip = ClipScores(
            str(fields.get("id", (str, int))),
            {key: fields.number_or_null(key) for key in fields.data if key not in CLIP_FIELDS},
            fields.or_null("caption", str),
            without_places(fields.or_null("failed", str)),
            without_places(fields.texts("reasons")),
            fields.or_null("same_as", str),
        )
        if clip.id in clips:
            raise UserError(
                f"{source}: {where} has the id {shown(repr(clip.id), 60)} a second time; ids must be unique"
            )
        clips[clip.id] = clip
    return list(clips.values()), text_sha256(text)
