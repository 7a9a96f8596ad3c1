"""The clips of the page: for each prompt a row, for each arm a clip with its timeline and its own scores."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ovi_eval.claims import format_number
from ovi_eval.errors import EvalError
from ovi_eval.media import read_clip
from ovi_eval.report import words
from ovi_eval.report.palette import breakable, colour
from ovi_eval.report.pictures import poster, timeline
from ovi_eval.results import RunResults
from ovi_eval.table import Column, Row

if TYPE_CHECKING:
    from ovi_eval.board import Leaderboard

MAX_PROMPTS = 8
MAX_CLIP_BYTES = 1_500_000
# Of base64 text, so that the page with its table and figure stays below 10 MB.
BUDGET = 8_500_000


@dataclass(frozen=True)
class Strand:
    """What one column of clips comes from: the run of an arm, or of a reference, that has clips on disk."""

    title: str
    run: RunResults
    tint: str | None
    files: dict[str, Path]


def strands(board: Leaderboard) -> list[Strand]:
    """Real clips first, then the arms; each by its first run that has clips. Others have no column."""
    found = []
    real = [row for row in board.references if row.name.startswith("real")] or list(board.references)
    for row in real:
        if strand := _strand(row, None):
            found.append(strand)
            break
    found += [strand for i, row in enumerate(board.arms) if (strand := _strand(row, colour(i)))]
    return found


def _strand(row: Row, tint: str | None) -> Strand | None:
    for run in row.runs:
        folder = run.folder / "clips" if run.folder is not None else None
        if folder is None or not folder.is_dir():
            continue
        files = {path.stem: path for path in sorted(folder.glob("*.mp4")) if path.is_file()}
        if files:
            seed = "" if run.seed is None else f" · seed {run.seed}"
            return Strand(row.name + seed, run, tint, files)
    return None


def prompts(columns: Sequence[Strand]) -> list[str]:
    """Clip ids to show: those that most columns have, in order, at most eight."""
    counts: dict[str, int] = {}
    for strand in columns:
        for clip in strand.files:
            counts[clip] = counts.get(clip, 0) + 1
    most = max(counts.values(), default=0)
    return [clip for clip in sorted(counts) if counts[clip] == most][:MAX_PROMPTS]


def clips_section(board: Leaderboard, step: Callable[[int, int], None] = lambda done, total: None) -> str:
    """HTML of all clips, empty where no run has any. `step` is told how many clips of how many are drawn."""
    columns = strands(board)
    chosen = prompts(columns)
    metrics = [column for column in board.columns if column.kind == "mean"]
    rows: list[str] = []
    used = 0
    for number, clip in enumerate(chosen):
        cards = []
        for place, strand in enumerate(columns):
            cards.append(_card(strand, clip, metrics))
            step(number * len(columns) + place + 1, len(chosen) * len(columns))
        row = _row(clip, columns, cards)
        if used + len(row) > BUDGET:
            break
        rows.append(row)
        used += len(row)
    if not rows:
        return ""
    left_out = len(chosen) - len(rows)
    note = (
        f"<p class='note'>{left_out} more prompts are left out to keep this file small.</p>"
        if left_out
        else ""
    )
    return "".join(rows) + note


def _row(clip: str, columns: Sequence[Strand], cards: Sequence[str]) -> str:
    captions = (entry.caption for strand in columns for entry in strand.run.clips if entry.id == clip)
    caption = next((text for text in captions if text), None)
    heading = f"“{escape(caption)}”" if caption else escape(clip)
    return (
        f'<article class="prompt"><header><h3>{heading}</h3><span class="id">{escape(clip)}</span>'
        '<button type="button" class="in-turn">Play in turn</button></header>'
        f'<div class="cards">{"".join(cards)}</div></article>'
    )


def _card(strand: Strand, clip: str, metrics: Sequence[Column]) -> str:
    dot = (
        f'<i class="dot" style="background:{strand.tint}"></i>' if strand.tint else '<i class="dot real"></i>'
    )
    head = f"<h4>{dot}{breakable(strand.title)}</h4>"
    path, scores = strand.files.get(clip), _scores(strand.run, clip, metrics)
    if path is None:
        return f'<section class="card">{head}<p class="note">no clip of this prompt</p>{scores}</section>'
    return f'<section class="card">{head}{_player(strand, clip, path, scores)}</section>'


def _player(strand: Strand, clip: str, path: Path, scores: str) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_CLIP_BYTES:
            raise EvalError(f"{path.name} has {size / 1e6:.1f} MB, too much for this page")
        content = path.read_bytes()
        read = read_clip(content, name=path.name)
    except (EvalError, OSError) as error:
        return f'<p class="note">cannot be shown: {escape(str(error))}</p>{scores}'
    seconds = len(read.frames_THWC) / read.fps
    name = escape(f"{strand.title}, {clip}", quote=True)
    picture = _data_uri("image/jpeg", timeline(read.frames_THWC, read.wave_S, read.sample_rate))
    first = _data_uri("image/jpeg", poster(read.frames_THWC))
    shape = "/".join(str(side) for side in read.frames_THWC.shape[2:0:-1])
    mp4 = base64.b64encode(content).decode()
    return (
        f'<div class="player" data-seconds="{seconds:.4f}"><div class="screen" style="aspect-ratio:{shape}">'
        f'<video playsinline preload="none" poster="{first}" aria-label="{name}" data-mp4="{mp4}"></video>'
        f'<button type="button" class="play" aria-label="Play {name}"></button></div>'
        '<div class="timeline" role="slider" tabindex="0" aria-valuemin="0" aria-valuenow="0" '
        f'aria-valuemax="{seconds:.2f}" aria-valuetext="0.00 s" aria-label="Position in {name}">'
        f'<img src="{picture}" alt="Frames above the spectrogram of {name}, {seconds:.2f} s">'
        f'<div class="playhead"></div></div>{scores}</div>'
    )


def _scores(run: RunResults, clip: str, metrics: Sequence[Column]) -> str:
    scores = next((entry for entry in run.clips if entry.id == clip), None)
    if scores is None:
        return ""
    if scores.failed:
        return f'<p class="note">not scored: {escape(scores.failed)}</p>'
    items = []
    for column in metrics:
        value = scores.values.get(column.key)
        if value is not None:
            shown = format_number(value, 0 if column.unit == "ms" else 2)
            items.append(f"<li><span>{breakable(words.short(column))}</span> {shown}</li>")
    return f'<ul class="scores">{"".join(items)}</ul>' if items else ""


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
