"""The clips that are requested: one a row of a CSV, TSV or JSONL file, checked before anything is loaded.

Columns: `text_prompt` (or `prompt`), and where wanted `image_path` (or `image`), `video_path`, `audio_path`,
`start_path`, `clip_path` (all relative to the file's folder), `redo`, `id`, `seed`, `size` or `aspect`,
`negative_video`, `negative_audio`, `seconds`, `overlap`. Other columns are left alone. The files of prompts that came
with the released code are read as they are.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovi_eval.clips.captions import nfc
from ovi_eval.common.shown import shown
from ovi_eval.common.tables import TableRow, read_table
from ovi_eval.common.unicode_text import unusable
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.given_files import GIVEN, Redo, check_given, parse_redo
from ovi_lab.sampling.sizes import Size, shape_of
from ovi_lab.text.prompts import check_tags

PROMPT_COLUMNS = ("text_prompt", "prompt")
IMAGE_COLUMNS = ("image_path", "image")
BETWEEN_WINDOWS = "|||"
"""Stands between the prompts of a long clip's windows."""
MAX_BYTES = 64 * 2**20
MAX_SEED = 2**63 - 1
MAX_ID = 120
"""Bytes of a file's name, so that seeds and suffixes fit behind it on every file system."""


@dataclass(frozen=True)
class Request:
    """One requested clip."""

    id: str
    """Of the row: the clip's file is `<id>_seed<seed>.mp4`."""
    prompt: str
    seed: int = 0
    image: Path | None = None
    """The first frame, where it is given."""
    shape: Size | None = None
    """Height and width whose shape the picture has; None: the image's, or a square's."""
    negative_video: str | None = None
    """None: the sampler's."""
    negative_audio: str | None = None
    video: Path | None = None
    """A file whose picture is the clip's."""
    audio: Path | None = None
    """A file whose sound is the clip's."""
    start: Path | None = None
    """A clip with which this one begins."""
    clip: Path | None = None
    """A clip of which `redo` is made anew, and all else is kept."""
    redo: Redo | None = None
    keep_given: bool = True
    """What is given comes back from its file, instead of through the codec."""
    seconds: float | None = None
    """Of a clip that is longer than the model's, made window by window; None: the model's."""
    overlap: float | None = None
    """Seconds that two windows share; None: a quarter of a window."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts of its windows, the last one for all further ones; a clip of one window has one."""
        if self.seconds is None:
            return (self.prompt,)
        return tuple(text.strip() for text in self.prompt.split(BETWEEN_WINDOWS))

    @property
    def files(self) -> dict[str, Path | None]:
        """Media that are given, by the names of `GIVEN`."""
        return {name: getattr(self, name) for name in GIVEN}

    @property
    def name(self) -> str:
        """Of the clip's file, without suffix."""
        return f"{self.id}_seed{self.seed}"

    def negatives(self, settings: SamplerSettings) -> tuple[str, str]:
        """The negative prompts of video and audio: its own, or the sampler's."""
        video = settings.negative_video if self.negative_video is None else self.negative_video
        audio = settings.negative_audio if self.negative_audio is None else self.negative_audio
        return video, audio


@dataclass(frozen=True)
class BadRow:
    """A row of which no clip can be made."""

    id: str
    reason: str


def check_request(request: Request) -> Request:
    """The request itself.

    Raises UserError for broken tags, a seed out of range, files that are not there or do not go together.
    """
    if why := unusable(request.prompt):
        raise UserError(f"the prompt {why}: write it in UTF-8")
    check_windows(request)
    check_seed(request.seed)
    if request.image is not None and not _is_file(request.image):
        raise UserError(f"no image at {shown(request.image)}")
    check_given(request.files, request.image, request.redo)
    for name, file in request.files.items():
        if file is not None and not _is_file(file):
            raise UserError(f"no file at {shown(file)}, where {GIVEN[name]} should be")
    return request


def check_windows(request: Request) -> None:
    """Raises UserError for broken tags, and for what is of a long clip's windows where the clip is not long."""
    if request.seconds is None and BETWEEN_WINDOWS in request.prompt:
        raise UserError(
            f"the prompt has {BETWEEN_WINDOWS}, which stands between a long clip's windows: give seconds"
        )
    if request.seconds is None and request.overlap is not None:
        raise UserError("overlap is of a long clip's windows: give seconds too")
    for text in request.texts:
        if len(request.texts) > 1 and not text:
            raise UserError(f"a window has no prompt: write one on each side of {BETWEEN_WINDOWS}")
        check_tags(text)


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


def read_requests(
    path: str | Path, seed: int = 0, shape: Size | None = None
) -> tuple[list[Request], list[BadRow]]:
    """The requests of a file of prompts, in order, and the rows that are none.

    Args:
        path: .csv, .tsv or .jsonl, see `ovi_eval.common.tables`.
        seed: of rows that name none.
        shape: of rows that name none and have no image or given picture.

    Raises:
        UserError: the file is missing, too large, no text, has no prompts, no column of prompts or quotes that are
            not closed.
    """
    path = Path(path)
    requests: list[Request] = []
    bad: list[BadRow] = []
    try:
        rows = read_table(path, (PROMPT_COLUMNS,), "prompts", max_bytes=MAX_BYTES)
    except UserError as error:
        raise UserError(f"prompts: {error}") from error
    if not rows:
        raise UserError(f"{shown(path)} holds no prompts")
    digits = max(4, len(str(len(rows))))
    rows_by_id: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        id = f"{number:0{digits}d}"
        try:
            if row.fault:
                raise UserError(row.fault)
            id = file_name(nfc(row.name(("id",)) or "")) or id
            request = check_request(_request(row, id, path.parent, seed, shape))
            first = rows_by_id.setdefault(id.lower(), number)  # some file systems do not distinguish A and a
            if first != number:
                raise UserError(f"its id {id} is that of row {first} too: give each row its own")
            requests.append(request)
        except UserError as error:
            bad.append(BadRow(id, f"{shown(path.name)} row {number}: {error}"))
    return requests, bad


def _request(row: TableRow, id: str, folder: Path, seed: int, shape: Size | None) -> Request:
    prompt = row.text(PROMPT_COLUMNS)
    if not prompt:
        raise UserError("it has no text_prompt")
    image = row.text(IMAGE_COLUMNS)
    own = shape_of(row.text(("size",)) or None, row.text(("aspect",)) or None)
    named = {name: row.text((f"{name}_path",)) for name in GIVEN}
    files: dict[str, Any] = {name: _file(folder, value) for name, value in named.items() if value}
    redo = row.text(("redo",))
    return Request(
        id=id,
        prompt=prompt,
        seed=_seed(row.values.get("seed"), seed),
        image=_file(folder, image) if image else None,
        shape=own or (None if image or set(files) - {"audio"} else shape),
        negative_video=row.text(("negative_video",)) or None,
        negative_audio=row.text(("negative_audio",)) or None,
        redo=parse_redo(redo) if redo else None,
        seconds=_number(row.values, "seconds"),
        overlap=_number(row.values, "overlap"),
        **files,
    )


def _seed(value: object, seed: int) -> int:
    """A row's seed; `seed` where it has none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return seed
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[0-9]{1,19}\s*", value):
            raise UserError(f"its seed is {shown(repr(value), 40)}, expected a whole number")
        value = int(value)
    return check_seed(value)


def _number(values: Mapping[str, Any], column: str) -> float | None:
    """A row's number; None where it has none."""
    value = values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float("no number" if isinstance(value, bool) else value)
    except (TypeError, ValueError) as error:
        raise UserError(f"its {column} is {shown(repr(value), 40)}, expected a number") from error


def _file(folder: Path, name: str) -> Path:
    """The file that a table names: with / for \\, and in the form of Unicode in which it is there."""
    plain = name.replace("\\", "/")
    forms = [name, plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))]
    return next((folder / form for form in forms if _is_file(folder / form)), folder / plain)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


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
