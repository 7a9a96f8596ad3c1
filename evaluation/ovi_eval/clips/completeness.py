"""Whether a file is complete: the end of its timestamps is compared with the length that it states.

Every packet's timestamps are read once, without decoding. The stated length is the tracks'
own in mp4 and mov, the segment's in mkv and webm, the streams' in avi, the samples of flac, the data of wav, the frames
of an mp3's Xing header. Ogg states none, but marks its last page, and a fragmented mp4's last box says how long it is.
A file that states nothing (an mp3 without a header, a live stream's mkv) is read to its end.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from ovi_eval.clips import container as bounds
from ovi_eval.errors import UserError

SLACK = 0.1
"""Seconds that may be missing besides two frames or packets: containers round, and codecs pad."""

Kind = Literal["video", "audio"]
_LAYER_III = re.compile(rb"\xff[\xe2\xe3\xea\xeb\xf2\xf3\xfa\xfb][\x10-\xef][\x00-\xff]")
"""The header of an mp3's frame: sync word, any version, layer III, a valid bit rate."""
_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclass(frozen=True)
class Cut:
    """Where a file that is cut off or damaged ends.

    `until`: seconds on the container's clock before which nothing is missing; `reason` names the file.
    """

    until: float
    reason: str


@dataclass
class StreamTimes:
    """The timestamps of a stream: the number of shown packets, the first one's time, the last one's end.

    `decoded_from` is the first packet's decoding time in seconds, `decoded_to` the last one's: what comes after it in
    a file is shown no earlier. `cut` where the file is cut off, which may have left a part of that last packet.
    """

    stream: Any
    packets: int = 0
    decoded_from: float | None = None
    decoded_to: float = 0.0
    cut: Cut | None = None
    first: float | None = None
    end: float | None = None
    last: float | None = None
    longest: float = 0.0

    def take(self, packet: Any) -> None:
        """Adds a packet in the file's order. Packets before an edit's beginning are decoded and not shown."""
        if packet.is_discard:
            return
        self.packets += 1
        if self.packets == 1 and packet.dts is not None:
            self.decoded_from = float(packet.dts * packet.time_base)
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:
            return
        base = packet.time_base
        self.decoded_to = float(min(time, time if packet.dts is None else packet.dts) * base)
        start, length = float(time * base), float((packet.duration or 0) * base)
        if self.first is None or start < self.first:
            self.first = start
        if self.last is not None:
            self.longest = max(self.longest, start - self.last)
        self.last = start if self.last is None else max(self.last, start)
        self.end = start + length if self.end is None else max(self.end, start + length)

    @property
    def seconds(self) -> float:
        return (self.end or 0.0) - (self.first or 0.0)

    @property
    def usual(self) -> float:
        """Mean seconds of a packet."""
        if self.first is None or self.last is None or self.packets < 2:
            return 0.0
        return (self.last - self.first) / (self.packets - 1)


def check_complete(
    source: str | Path | bytes, kind: Kind, name: str | None = None, cut_off: bool = False
) -> StreamTimes:
    """The timestamps of a file's video or audio stream, read without decoding.

    Raises UserError naming the file where it would decode to more than the bounds, or ends before its stated length;
    with `cut_off` the latter is `cut`, and only a file without a packet of the stream is refused.
    """
    with bounds.byte_file(source, name) as (file, size, shown), bounds.opened(source, name) as (container, _):
        stream = (bounds.picture_stream if kind == "video" else bounds.sound_stream)(container, shown)
        streams = [*container.streams.video, *container.streams.audio]
        tracks = {each.index: StreamTimes(each) for each in streams}
        track = tracks[stream.index]
        lost: str | None = None
        try:
            with bounds.guarded(shown):
                for packet in container.demux(streams):
                    if packet.size:
                        tracks[packet.stream.index].take(packet)
        except UserError as error:
            if not cut_off:
                raise
            lost = str(error)
        if not track.packets:
            what = "picture stream holds no frame" if kind == "video" else "sound stream holds no sample"
            raise UserError(f"{shown}: its {what}")
        _check_unfolding(track, kind, size, shown)
        format_name = container.format.name
        try:
            _check_reached(container, list(tracks.values()), track, shown)
            with bounds.guarded(shown):
                _check_structure(file, size, format_name, track, shown)
        except UserError as error:
            if not cut_off:
                raise
            lost = str(error)
    if lost is not None:
        track.cut = Cut(track.decoded_to, lost)
    return track


def _check_unfolding(track: StreamTimes, kind: Kind, size: int, shown: str) -> None:
    """Refuses small files that decode to huge ones, before decoding."""
    context = track.stream.codec_context
    seconds = track.seconds
    if seconds > bounds.MAX_SECONDS:
        raise UserError(
            f"{shown}: lasts {seconds / 3600:.1f} hours; up to {bounds.MAX_SECONDS / 3600:.0f} are read"
        )
    if kind == "video":
        if track.packets > bounds.MAX_FRAMES:
            raise UserError(f"{shown}: has {track.packets} frames; up to {bounds.MAX_FRAMES} are read")
        decoded = 3 * track.packets * context.width * context.height
    else:
        bounds.check_sound(context.sample_rate, context.channels, shown)
        decoded = round(4 * seconds * context.sample_rate * context.channels)
    if decoded > bounds.MAX_BYTES and decoded > size * bounds.MAX_UNFOLDING:
        raise UserError(
            f"{shown}: is {size / 1000:.0f} kB and would unfold to {decoded / 1e9:.0f} GB; it is not decoded"
        )


def _check_reached(container: Any, tracks: Sequence[StreamTimes], track: StreamTimes, shown: str) -> None:
    slack = SLACK + 2 * track.usual
    stated = reached = None
    stream = track.stream
    if "matroska" in container.format.name:
        # One length for all tracks, from 0; the last frame of an uneven picture may last as long as any.
        if container.duration:
            stated, reached = container.duration / 1e6, max(each.end or 0.0 for each in tracks)
            slack = max(slack, SLACK + max(each.longest for each in tracks))
    elif container.format.name not in ("mp3", "ogg", "wav") and stream.duration:
        stated = float(stream.duration * stream.time_base)
        begins = float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
        reached = (track.end or 0.0) - min(begins, track.first or 0.0)
    _check_stated(stated, reached, slack, shown)


def _check_stated(stated: float | None, reached: float | None, slack: float, shown: str) -> None:
    if stated is not None and reached is not None and stated > reached + slack:
        raise UserError(
            f"{shown}: is cut off or damaged: it ends after {max(reached, 0):.2f} s of the {stated:.2f} s that it "
            "states"
        )


def _check_structure(file: IO[bytes], size: int, format_name: str, track: StreamTimes, shown: str) -> None:
    """Checks the end of a file where FFmpeg does not."""
    if format_name == "wav":
        _check_bytes(_wav_bytes(file), size, shown)
    elif format_name == "mp3":
        _check_stated(_xing_seconds(file), track.end, SLACK + 2 * track.usual, shown)
    elif format_name == "ogg":
        if not _ogg_ends(file):
            raise UserError(f"{shown}: is cut off or damaged: the page that ends an ogg stream is missing")
    elif format_name.startswith("mov") and not _boxes_end(file, size):
        raise UserError(f"{shown}: is cut off or damaged: its last fragment or its media data are not whole")
    elif "matroska" in format_name:
        _check_bytes(_segment_end(file), size, shown)


def _check_bytes(stated: int | None, size: int, shown: str) -> None:
    if stated is not None and stated > size:
        raise UserError(
            f"{shown}: is cut off or damaged: {size} of the {stated} bytes that it states are there"
        )


def _wav_bytes(file: IO[bytes]) -> int | None:
    """Where the data of a RIFF or RF64 wave file end by its header; None where a stream's header leaves it open."""
    file.seek(0)
    kind = file.read(12)[:4]
    long_size = None
    while len(head := file.read(8)) == 8:
        tag, length = struct.unpack("<4sI", head)
        at = file.tell()
        if tag == b"ds64":
            long_size = struct.unpack("<QQ", file.read(16))[1]
        if tag == b"data":
            if kind == b"RF64" and length == 0xFFFFFFFF and long_size is not None:
                length = long_size
            # Programs that write to a pipe leave 0 or about the largest number (SoX 0x7FFFF000).
            return at + length if 0 < length < 0x7FFF0000 or long_size is not None else None
        file.seek(at + length + length % 2)
    return None


def _xing_seconds(file: IO[bytes]) -> float | None:
    """The length that an mp3 states in its first frame (Xing or Info, VBRI); None without one."""
    file.seek(0)
    at = 0
    while (head := file.read(10))[:3] == b"ID3" and len(head) == 10:
        at += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        at += 10 if head[5] & 0x10 else 0
        file.seek(at)
    file.seek(at)
    data = file.read(4096)
    header = _LAYER_III.search(data)
    if header is None:
        return None
    frame = data[header.start() :]
    version, rate_index = (frame[1] >> 3) & 3, (frame[2] >> 2) & 3
    lsf, mono = version != 3, frame[3] >> 6 == 3
    if rate_index == 3 or version == 1:
        return None
    side = (9 if mono else 17) if lsf else (17 if mono else 32)
    tag = frame[4 + side : 4 + side + 12]
    frames = None
    if tag[:4] in (b"Xing", b"Info") and len(tag) == 12 and tag[7] & 1:
        frames = struct.unpack(">I", tag[8:12])[0]
    elif frame[36:40] == b"VBRI" and len(frame) >= 54:
        frames = struct.unpack(">I", frame[50:54])[0]
    return frames * (576 if lsf else 1152) / _MP3_RATES[version][rate_index] if frames else None


def _ogg_ends(file: IO[bytes]) -> bool:
    """Whether every stream that began in an ogg file has its last page, and that page is whole (RFC 3533)."""
    file.seek(0, 2)
    size, at = file.tell(), 0
    open_streams: set[int] = set()
    begun = False
    file.seek(0)
    while len(head := file.read(27)) == 27 and head[:4] == b"OggS":
        flags, serial, segments = head[5], struct.unpack("<I", head[14:18])[0], head[26]
        at = file.tell() + segments
        at += sum(file.read(segments))
        if at > size:
            return False
        if flags & 2:
            open_streams.add(serial)
            begun = True
        if flags & 4:
            open_streams.discard(serial)
        file.seek(at)
    return begun and not open_streams


def _boxes_end(file: IO[bytes], size: int) -> bool:
    """Whether an mp4 has its last fragment and its media data to their ends (top-level boxes: ISO 14496-12, 4.2).

    What follows the last box of another mp4 may be padding that is no box.
    """
    at, fragments = 0, False
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        fragments |= head[4:8] == b"moof"
        if length == 0:  # to the end of the file
            return True
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            return True
        at += length
        if head[4:8] == b"mdat" and at > size:
            return False
    return at <= size or not fragments


def _segment_end(file: IO[bytes]) -> int | None:
    """Where the segment of an mkv or webm ends by its header (RFC 8794); None where a stream's does not know."""
    at = 0
    for wanted in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):  # the EBML header, then the segment
        file.seek(at)
        head = file.read(12)
        if head[:4] != wanted or len(head) < 12 or not head[4]:
            return None
        length = 9 - head[4].bit_length()
        unknown = (1 << 7 * length) - 1
        value = int.from_bytes(head[4 : 4 + length], "big") & unknown
        if value == unknown:
            return None
        at += 4 + length + value
    return at
