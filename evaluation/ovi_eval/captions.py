"""Captions of clips by id: from a CSV, TSV or JSONL file, or a text file beside each clip."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from ovi_eval.errors import EvalError

IN_FOLDER = ("captions.jsonl", "captions.csv", "captions.tsv")
ID_COLUMNS = ("id", "name", "file", "filename", "file_name", "path", "video", "audio")
CAPTION_COLUMNS = ("caption", "prompt", "text_prompt", "text", "description")
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")


def read_captions(folder: Path, only: Path | None = None) -> dict[str, str]:
    """Captions of a folder: .txt files beside the clips (below it too), then captions.jsonl, .csv and .tsv.

    `only`: that clip's text file alone is read besides. A later source wins. Raises EvalError naming a bad
    line.
    """
    texts = [only.with_suffix(".txt")] if only is not None else sorted(folder.rglob("*.txt"))
    found: dict[str, str] = {}
    for file in texts:
        if file.is_file():
            found[file.relative_to(folder).with_suffix("").as_posix()] = _text(file).strip()
    for name in IN_FOLDER:
        if (folder / name).is_file():
            found |= read_caption_file(folder / name)
    return found


def read_caption_file(path: str | Path) -> dict[str, str]:
    """Captions by id of one CSV, TSV or JSONL file.

    A row's id is in one of the columns id, name, file, filename, path, video or audio (a media suffix is
    left out), its caption in caption, prompt, text_prompt, text or description. Raises EvalError naming the
    file and row where these are not there, are no text, or an id comes twice with other words.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl"):
        raise EvalError(f"{path}: captions come in a .csv, .tsv or .jsonl file")
    if not path.is_file():
        raise EvalError(f"{path}: no such file")
    lines = _text(path).splitlines()
    if kind == ".jsonl":
        rows = [_json(path, line) for line in lines if line.strip()]
    else:
        rows = list(csv.DictReader(lines, delimiter="\t" if kind == ".tsv" else ","))
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise EvalError(
                f"{path}: row {number} is {json.dumps(row)[:40]}, expected an object with id and caption"
            )
        id, caption = _first(row, ID_COLUMNS), _first(row, CAPTION_COLUMNS)
        if id is None or caption is None:
            raise EvalError(f"{path}: row {number} must have the texts id and caption")
        id = plain_id(id)
        if found.get(id, caption) != caption:
            raise EvalError(f"{path}: row {number} gives {id!r} a second, other caption; keep one")
        found[id] = caption
    return found


def clip_id(path: PurePath) -> str:
    """The id of a clip: its relative path without the suffix, with forward slashes, in Unicode's form NFC."""
    return unicodedata.normalize("NFC", path.with_suffix("").as_posix())


def plain_id(name: str) -> str:
    """The id of a clip's file name: without a media suffix, with forward slashes."""
    name = name.replace("\\", "/").removeprefix("./")
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


def _first(row: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    named = {
        str(key).strip().lower().removeprefix("\ufeff"): value
        for key, value in row.items()
        if key is not None
    }
    return next((named[column] for column in columns if isinstance(named.get(column), str)), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"{path}: cannot be read as text ({error})") from None


def _json(path: Path, line: str) -> object:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        raise EvalError(f"{path}: the line {line[:40]!r} is not JSON") from None
