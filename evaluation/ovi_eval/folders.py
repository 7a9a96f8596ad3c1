"""Clips of the ball world from anywhere: the tensor file that sampling writes, or a folder of mp4 files.

Shapes: N clips, T frames, S samples.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from ovi_eval import detectors
from ovi_eval.clipset import FAILED, ClipSet
from ovi_eval.errors import EvalError
from ovi_eval.media import Clip, read_clip

CAPTIONS = ("captions.jsonl", "captions.csv")


def read_clips(
    path: str | Path, strict: bool = False, step: Callable[[int, int], None] = lambda done, total: None
) -> ClipSet:
    """A clips.safetensors, a folder that holds one, or a folder of mp4 files with captions.

    A folder's ids are the names of its files. Its captions are in captions.jsonl ({"id", "caption"} a
    line), in captions.csv (with these two columns), or each in a .txt beside its clip; a clip without one
    has an empty caption. Frames come down to the world's 16x16 by averaging areas, sound to 8 kHz.

    A file that cannot be read, or whose length or rate is not that of most, keeps its place as a failed
    clip; with `strict` the first one raises EvalError. Raises EvalError also where there are no clips.
    `step` is told how many files of how many are read.
    """
    path = Path(path)
    if path.is_dir() and (path / "clips.safetensors").is_file():
        path = path / "clips.safetensors"
    if path.is_file():
        return ClipSet.load(path)
    if not path.is_dir():
        raise EvalError(f"{path}: no such file or folder; name a clips.safetensors or a folder of mp4 files")
    files = sorted(path.glob("*.mp4"))
    if not files:
        raise EvalError(
            f"{path}: holds no clips.safetensors and no mp4 file; name the folder the clips are in"
        )
    captions = read_captions(path)
    clips: list[Clip | None] = []
    reasons: list[str | None] = []
    for number, file in enumerate(files, 1):
        try:
            clips.append(_small(read_clip(file, detectors.RATE, name=file.name)))
            reasons.append(None)
        except EvalError as error:
            if strict:
                raise
            clips.append(None)
            reasons.append(str(error))
        step(number, len(files))
    return _together(files, clips, reasons, captions, strict)


def _small(clip: Clip) -> Clip:
    """The clip with frames of 16x16, so that many fit into memory."""
    frames_TCHW = clip.frames_THWC.permute(0, 3, 1, 2).float()
    small_TCHW = torch.nn.functional.adaptive_avg_pool2d(frames_TCHW, detectors.SIDE)
    return Clip(
        clip.name, small_TCHW.permute(0, 2, 3, 1).round().byte(), clip.fps, clip.wave_S, clip.sample_rate
    )


def _together(
    files: list[Path],
    clips: list[Clip | None],
    reasons: list[str | None],
    captions: dict[str, str],
    strict: bool,
) -> ClipSet:
    """One ClipSet of the length and rate that most clips have; the others fail."""
    shapes = Counter((len(c.frames_THWC), round(c.fps, 3), len(c.wave_S)) for c in clips if c is not None)
    if not shapes:
        raise EvalError(f"{files[0].parent}: none of its {len(files)} mp4 files can be read; {reasons[0]}")
    frames, fps, samples = shapes.most_common(1)[0][0]
    frames_NTHWC = torch.zeros(len(files), frames, detectors.SIDE, detectors.SIDE, 3, dtype=torch.uint8)
    waves_NS = torch.zeros(len(files), samples)
    exact = fps
    for i, clip in enumerate(clips):
        if clip is None:
            continue
        if (len(clip.frames_THWC), round(clip.fps, 3), len(clip.wave_S)) != (frames, fps, samples):
            found = f"{len(clip.frames_THWC)} frames at {clip.fps:.3f}/s"
            reasons[i] = f"{files[i].name}: has {found}, most have {frames} at {fps}/s"
            if strict:
                raise EvalError(str(reasons[i]))
            continue
        frames_NTHWC[i], waves_NS[i], exact = clip.frames_THWC, clip.wave_S, clip.fps
    return ClipSet(
        ids=[file.stem for file in files],
        captions=[captions.get(file.stem, "") for file in files],
        frames_NTHWC=frames_NTHWC,
        fps=exact,
        waves_NS=waves_NS,
        sample_rate=detectors.RATE,
        meta=[{} if reason is None else {FAILED: reason} for reason in reasons],
    )


def read_captions(folder: Path) -> dict[str, str]:
    """Captions by id, from captions.jsonl, captions.csv or .txt files. Raises EvalError naming a bad line."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.txt")):
        found[file.stem] = _read(file).strip()
    for name in CAPTIONS:
        path = folder / name
        if not path.is_file():
            continue
        lines = _read(path).splitlines()
        rows = (
            list(csv.DictReader(lines))
            if name.endswith("csv")
            else [_json(path, line) for line in lines if line]
        )
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not all(
                isinstance(row.get(key), str) for key in ("id", "caption")
            ):
                raise EvalError(f"{path}: row {number} must have the texts id and caption")
            found[row["id"].removesuffix(".mp4")] = row["caption"]
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"{path}: cannot be read as text ({error})") from None


def _json(path: Path, line: str) -> object:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        raise EvalError(f"{path}: the line {line[:40]!r} is not JSON") from None
