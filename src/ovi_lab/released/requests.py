"""What clips are asked for: one a row of a CSV, TSV or JSONL file, checked before anything is loaded.

Columns: `text_prompt` (or `prompt`), and where wanted `image_path` (or `image`; relative to the file's folder),
`id`, `seed`, `size` or `aspect`, `negative_video`, `negative_audio`. Other columns are left alone. The files of
prompts that came with the released code are read as they are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ovi_lab.errors import UserError
from ovi_lab.released.sizes import Size, parse_aspect, parse_size
from ovi_lab.text.prompts import check_tags

PROMPT_COLUMNS = ("text_prompt", "prompt")
IMAGE_COLUMNS = ("image_path", "image")
MAX_BYTES = 64 * 2**20
MAX_SEED = 2**63 - 1
MAX_ID = 120
"""Bytes of a file's name, so that seeds and suffixes fit behind it on every file system."""


@dataclass(frozen=True)
class Request:
    """One clip that is asked for."""

    id: str
    """Of the row: the clip's file is `<id>_seed<seed>.mp4`."""
    prompt: str
    seed: int = 0
    image: Path | None = None
    """The first frame, where it is given."""
    shape: Size | None = None
    """Height and width whose shape the picture is to have; None: the image's, or a square's."""
    negative_video: str | None = None
    """None: the sampler's."""
    negative_audio: str | None = None

    @property
    def name(self) -> str:
        """Of the clip's file, without suffix."""
        return f"{self.id}_seed{self.seed}"


@dataclass(frozen=True)
class BadRow:
    """A row that asks for nothing that can be made."""

    id: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """The rows of a file: what is asked for, in order, and what cannot be."""

    requests: tuple[Request, ...]
    bad: tuple[BadRow, ...] = field(default_factory=tuple)


def check_request(request: Request) -> Request:
    """The request itself. Raises UserError for broken tags, a seed out of range, an image that is not there."""
    check_tags(request.prompt)
    check_seed(request.seed)
    if request.image is not None and not request.image.is_file():
        raise UserError(f"no image at {request.image}")
    return request


def check_seed(seed: object) -> int:
    """The seed. Raises UserError unless it is a whole number that a generator takes."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed is {seed!r}: expected a whole number from 0 to {MAX_SEED}")
    return seed


def variants(requests: Iterable[Request], count: int) -> list[Request]:
    """Each request with `count` seeds: its own and the next ones. Raises UserError for a count below 1."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"variants is {count!r}: expected a whole number of at least 1")
    return [replace(r, seed=check_seed(r.seed + i)) for r in requests for i in range(count)]


def read_requests(path: str | Path, seed: int = 0, shape: Size | None = None) -> Batch:
    """The rows of a file of prompts.

    Args:
        path: .csv, .tsv or .jsonl, UTF-8.
        seed: of rows that name none.
        shape: of rows that name none and have no image.

    Raises:
        UserError: the file is missing, too large, no text, has no prompts, or no column of prompts.
    """
    path = Path(path)
    requests: list[Request] = []
    bad: list[BadRow] = []
    rows = list(_rows(path))
    if not rows:
        raise UserError(f"{path} holds no prompts")
    digits = max(4, len(str(len(rows))))
    names: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        where = f"row {number}"
        id = f"{number:0{digits}d}"
        try:
            if isinstance(row, str):
                raise UserError(row)
            id = _id(row, id)
            request = check_request(_request(row, id, path.parent, seed, shape))
            # files are made on systems that take A for a
            if id.lower() in names:
                raise UserError(f"its id {id} is that of {names[id.lower()]} too: give each row its own")
            names[id.lower()] = where
            requests.append(request)
        except UserError as error:
            bad.append(BadRow(id, f"{path.name} {where}: {error}"))
    return Batch(tuple(requests), tuple(bad))


def _rows(path: Path) -> Iterator[Mapping[str, Any] | str]:
    """Each row by its columns, or what is wrong with it."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"prompts={path}: prompts come in a .csv, .tsv or .jsonl file")
    if not path.is_file():
        raise UserError(f"prompts={path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"prompts={path} has {path.stat().st_size} bytes: at most {MAX_BYTES} are read")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start})") from error
    if kind == ".jsonl":
        yield from (_json_row(line) for line in text.split("\n") if line.strip())
        return
    # line ends inside a quoted prompt belong to it
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ",")
    try:
        columns = [str(c).strip() for c in reader.fieldnames or ()]
        if not set(columns) & set(PROMPT_COLUMNS):
            found = ", ".join(columns) or "none"
            raise UserError(
                f"{path} has the columns {found}: expected a first line that names text_prompt (and image_path)"
            )
        for row in reader:
            if row.pop(None, None):
                yield "it has more fields than the first line names: put prompts with commas in quotes"
            else:
                yield {str(k).strip(): v for k, v in row.items()}
    except csv.Error as error:
        raise UserError(
            f"{path} cannot be read as {kind[1:].upper()} (line {reader.line_num}: {error})"
        ) from error


def _json_row(line: str) -> Mapping[str, Any] | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"it is no JSON ({error})"
    return row if isinstance(row, dict) else f"it is {line.strip()[:40]}, expected an object with text_prompt"


def _request(row: Mapping[str, Any], id: str, folder: Path, seed: int, shape: Size | None) -> Request:
    prompt = _text(row, PROMPT_COLUMNS)
    if prompt is None:
        raise UserError("it has no text_prompt")
    image, own = _text(row, IMAGE_COLUMNS), _shape(row)
    return Request(
        id=id,
        prompt=prompt,
        seed=_whole(row, seed),
        image=folder / image if image is not None else None,
        shape=own or (None if image is not None else shape),
        negative_video=_text(row, ("negative_video",)),
        negative_audio=_text(row, ("negative_audio",)),
    )


def _text(row: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """The first of the columns that says anything."""
    for column in columns:
        value = row.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, str):
            raise UserError(f"its {column} is {json.dumps(value)[:40]}, expected text")
        return value.strip()
    return None


def _whole(row: Mapping[str, Any], seed: int) -> int:
    value = row.get("seed")
    if value is None or (isinstance(value, str) and not value.strip()):
        return seed
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[0-9]{1,19}\s*", value):
            raise UserError(f"its seed is {value[:40]!r}, expected a whole number")
        value = int(value)
    return check_seed(value)


def _shape(row: Mapping[str, Any]) -> Size | None:
    size, aspect = _text(row, ("size",)), _text(row, ("aspect",))
    if size is not None and aspect is not None:
        raise UserError("it has both size and aspect: give one")
    return parse_size(size) if size is not None else parse_aspect(aspect) if aspect is not None else None


def _id(row: Mapping[str, Any], number: str) -> str:
    """A row's id as a file's name can hold it; its number where it has none."""
    value = row.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return number
    if not isinstance(value, str):
        raise UserError(f"its id is {json.dumps(value)[:40]}, expected text")
    return file_name(value) or number


def file_name(text: str) -> str:
    """Letters, digits, `.`, `-` and `_` of a text; anything else becomes `_`, and no name begins with a dot."""
    name = re.sub(r"[^\w.-]+", "_", text).strip("._")
    encoded = name.encode()
    if len(encoded) <= MAX_ID:
        return name
    cut = encoded[: MAX_ID - 9].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(encoded).hexdigest()[:8]}"


def prompt_name(prompt: str) -> str:
    """A name for a prompt that has none: its first 50 characters without tags, as the released code names files."""
    return file_name(re.sub(r"<[^>]*>", "", prompt)[:50].replace(" ", "_")) or "clip"
