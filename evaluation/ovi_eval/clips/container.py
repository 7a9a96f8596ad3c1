"""Opening of media files: known formats only, from the given bytes only, within bounds.

FFmpeg gets the bytes without a name or a length, so that it can follow no reference to another file, takes
no playlist for a clip, and guesses no duration from a file's length.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import av

from ovi_eval.errors import UserError

FORMATS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "wav", "flac", "mp3", "ogg")
"""FFmpeg's names of the formats that are read."""
MAX_PIXELS = 8192 * 4320
"""Pixels of one frame."""
MAX_SECONDS = 24 * 3600.0
MAX_FRAMES = 24 * 3600 * 60
SAMPLE_RATES = (1_000, 384_000)
MAX_CHANNELS = 64
MAX_BYTES = 8 << 30
"""Bytes of frames or of samples that one clip may hold in memory, 8 GiB."""
MAX_UNFOLDING = 50_000
"""Largest ratio of decoded bytes to bytes of a file, beyond MAX_BYTES of decoded bytes."""

_OPTIONS = {
    "format_whitelist": ",".join(FORMATS),
    "protocol_whitelist": "none",
    "max_pixels": str(MAX_PIXELS),
}
_ISO = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
"""Types of the first box of an mp4 or mov."""
_READERS_FAULTS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    MemoryError,
    ArithmeticError,
    LookupError,
    BufferError,
)
"""What numpy, and FFmpeg besides its own errors, raise for a file that they cannot read."""


class _Bytes:
    """A file object for FFmpeg, which hides its length unless `tells_length`.

    With a length, FFmpeg guesses durations that a header does not state, or shortens those of a file that was cut
    off. Only MP3 needs it, to know the padding at its end.
    """

    def __init__(self, file: IO[bytes], tells_length: bool) -> None:
        self._file, self._tells_length = file, tells_length

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int) -> int:
        if whence == io.SEEK_END and not self._tells_length:
            return -1
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1  # to before the beginning, or further than any file: FFmpeg's answer, and no traceback of PyAV's

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def byte_file(source: str | Path | bytes, name: str | None) -> Iterator[tuple[IO[bytes], int, str]]:
    """The bytes as a file, their number, and their name in errors. Raises UserError where there are none."""
    shown = shown_name(source, name)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise UserError(f"{shown}: no such file")
    try:
        file: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{shown}: cannot be opened ({error.strerror or error})") from error
    with file:
        size = file.seek(0, io.SEEK_END)
        if not size:
            raise UserError(f"{shown}: is empty (0 bytes); fetch or make it again")
        file.seek(0)
        yield file, size, shown


def shown_name(source: str | Path | bytes, name: str | None) -> str:
    return name or ("bytes" if isinstance(source, bytes) else str(source))


@contextmanager
def guarded(shown: str) -> Iterator[None]:
    """Context that turns errors of FFmpeg and numpy into a UserError that names the file."""
    try:
        yield
    except (av.FFmpegError, *_READERS_FAULTS) as error:
        text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, MemoryError):
            text = "there is not enough memory for it"
        raise UserError(
            f"{shown}: cannot be decoded ({text}); the file is damaged or of no known kind"
        ) from error


@contextmanager
def opened(source: str | Path | bytes, name: str | None = None) -> Iterator[tuple[Any, str]]:
    """An open container and its name in errors; FFmpeg's errors become UserErrors that name it."""
    with byte_file(source, name) as (file, _, shown), guarded(shown):
        head = file.read(16)
        file.seek(0)
        iso_or_matroska_or_avi = head[4:8] in _ISO or head[:4] == b"\x1aE\xdf\xa3" or head[8:12] == b"AVI "
        source_bytes = _Bytes(file, tells_length=not iso_or_matroska_or_avi)
        # Tags in other encodings than UTF-8 are no reason to refuse a clip.
        with av.open(source_bytes, options=dict(_OPTIONS), metadata_errors="replace") as container:
            yield container, shown


def picture_stream(container: Any, shown: str) -> Any:
    """The video stream to read: the one marked as default, else the first; a sound file's cover is none.

    Raises UserError where there is none, or its frames are larger than the bound.
    """
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    stream = _default(streams)
    if stream is None:
        raise UserError(f"{shown}: has no picture stream; a clip needs picture and sound")
    if stream.codec_context is None:
        raise UserError(f"{shown}: its picture is of a codec that is not known here")
    check_pixels(stream.codec_context.width, stream.codec_context.height, shown)
    # Frames may differ from the container's header: each has its own size.
    stream.codec_context.options = {**stream.codec_context.options, "max_pixels": str(MAX_PIXELS)}
    return stream


def sound_stream(container: Any, shown: str) -> Any:
    """The audio stream to read: the one marked as default, else the first. Raises UserError where there is none."""
    stream = _default(list(container.streams.audio))
    if stream is None:
        raise UserError(f"{shown}: has no sound stream; a clip needs picture and sound")
    if stream.codec_context is None:
        raise UserError(f"{shown}: its sound is of a codec that is not known here")
    return stream


def _default(streams: list[Any]) -> Any:
    marked = [stream for stream in streams if stream.disposition & av.stream.Disposition.default]
    return (marked or streams or [None])[0]


def check_pixels(width: int, height: int, shown: str) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{shown}: its frames are {width}x{height}; up to {MAX_PIXELS / 1e6:.0f} million pixels are read"
        )


def check_sound(sample_rate: int, channels: int, shown: str) -> None:
    low, high = SAMPLE_RATES
    if not low <= sample_rate <= high:
        raise UserError(f"{shown}: its sound has {sample_rate} Hz; {low} to {high} are read")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UserError(f"{shown}: its sound has {channels} channels; 1 to {MAX_CHANNELS} are read")
