"""Colour, pixel shape, rotation, mirroring, channels and tracks of clips; what is refused; equal bytes each time."""

import io
import math
import struct
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.forks import Fork, wait_for_all
from helpers.media_makers import clicks, clip, encoded, flashes, heard, mp3
from ovi_eval.clips import container as bounds
from ovi_eval.clips.clip import read_clip
from ovi_eval.clips.picture import decode_video
from ovi_eval.clips.sound import decode_audio, decode_pcm16
from ovi_eval.clips.writing import write_mp4
from ovi_eval.errors import UserError

RATE = 16_000
RED_GREEN = np.zeros((64, 64, 3))
RED_GREEN[:, :32, 0] = RED_GREEN[:, 32:, 1] = 1
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}
"""Kr and Kb of H.273's matrices; where none is stated BT.601's."""


def in_matrix(path: Path, matrix: int, full: bool, bits: int = 8, codec: str = "ffv1") -> Path:
    """One frame, red and green, in YUV made here by the matrix's own formula."""
    kr, kb = WEIGHTS[matrix]
    luma = RED_GREEN @ [kr, 1 - kr - kb, kb]
    blue, red = (RED_GREEN[..., 2] - luma) / (1 - kb) / 2, (RED_GREEN[..., 0] - luma) / (1 - kr) / 2
    top = 2**bits - 1
    if full:
        planes = [top * luma, 2 ** (bits - 1) + top * blue, 2 ** (bits - 1) + top * red]
    else:
        step = 2 ** (bits - 8)
        planes = [step * (16 + 219 * luma), step * (128 + 224 * blue), step * (128 + 224 * red)]
    kind = np.uint8 if bits == 8 else np.uint16
    pix_fmt = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        frame = av.VideoFrame(64, 64, pix_fmt)
        frame.colorspace, frame.color_range, frame.pts = matrix, 2 if full else 1, 0
        for plane, values in zip(frame.planes, planes, strict=True):
            rows = np.zeros((64, plane.line_size // kind().itemsize), kind)
            rows[:, :64] = values.round().clip(0, top).astype(kind)
            plane.update(rows.tobytes())
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
def test_colours_are_those_that_were_meant(tmp_path: Path, matrix: int, full: bool, bits: int) -> None:
    picture = decode_video(in_matrix(tmp_path / "a.mkv", matrix, full, bits)).frames_THWC[0].int()
    assert (picture[5, 5] - torch.tensor([255, 0, 0])).abs().max() <= 2
    assert (picture[5, 60] - torch.tensor([0, 255, 0])).abs().max() <= 2


def test_transparent_parts_lie_on_black(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    rgba = np.full((64, 64, 4), 200, np.uint8)
    rgba[:, :32, 3], rgba[:, 32:, 3] = 0, 128
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgba"
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    picture = decode_video(path).frames_THWC[0]
    assert picture[5, 5].tolist() == [0, 0, 0]
    assert picture[5, 60].tolist() == [100, 100, 100]


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        (Fraction(2), (64, 128)),
        (Fraction(1, 2), (128, 64)),
        (Fraction(12, 11), (64, 70)),
        (Fraction(20), None),
    ],
)
def test_pixels_become_square_within_reason(
    tmp_path: Path, ratio: Fraction, size: tuple[int, int] | None
) -> None:
    def stretched(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = ratio

    path = clip(tmp_path / "a.mp4", seconds=0.2, set_up=stretched)
    if size is None:
        with pytest.raises(UserError, match=r"a\.mp4: its pixels are 20:1"):
            decode_video(path)
    else:
        assert decode_video(path).frames_THWC.shape[1:3] == size


CORNERS = {
    (1, 0, 0, 1): "abcd",
    (0, 1, -1, 0): "cadb",
    (-1, 0, 0, -1): "dcba",
    (0, -1, 1, 0): "bdac",
    (-1, 0, 0, 1): "badc",
    (1, 0, 0, -1): "cdab",
    (0, 1, 1, 0): "acbd",
    (0, -1, -1, 0): "dbca",
}
"""Of each matrix a, b, c, d (ISO 14496-12): where what is stored at the corners a b / c d is seen."""


@pytest.mark.parametrize("matrix", CORNERS)
def test_turned_and_mirrored_clips_are_upright(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    levels = {"a": 20, "b": 90, "c": 160, "d": 230}
    stored = np.zeros((32, 64, 3), np.uint8)
    for letter, (row, column) in zip("abcd", ((0, 0), (0, 32), (16, 0), (16, 32)), strict=True):
        stored[row : row + 16, column : column + 32] = levels[letter]
    path = clip(tmp_path / "a.mp4", seconds=0.2, picture=lambda time: stored)
    data = bytearray(path.read_bytes())
    box = data.index(b"tkhd")
    a, b, c, d = (value * 65536 for value in matrix)
    data[box + 44 : box + 80] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))
    picture = decode_video(path).frames_THWC[0, :, :, 0].float()
    height, width = picture.shape
    assert (height, width) == ((32, 64) if matrix[0] else (64, 32))
    quarters = [
        picture[y : y + height // 2, x : x + width // 2].mean()
        for y in (0, height // 2)
        for x in (0, width // 2)
    ]
    nearest = ["abcd"[int(min(range(4), key=lambda k: abs(q - 20 - 70 * k)))] for q in quarters]
    assert "".join(nearest) == CORNERS[matrix]


LAYOUTS = [("mono", 1), ("stereo", 2), ("2.1", 3), ("quad", 4), ("5.1", 6), ("6.1", 7), ("7.1", 8)]


@pytest.mark.parametrize(("layout", "count"), LAYOUTS)
@pytest.mark.parametrize("codec", ["flac", "pcm_f32le", "pcm_s16le"])
def test_any_number_of_channels(tmp_path: Path, layout: str, count: int, codec: str) -> None:
    """Speech in the centre of 5.1 keeps FFmpeg's weight, 1 / (1 + 2 / sqrt 2 + 2 / 2), not a sixth."""
    centre = {"5.1": 2, "7.1": 2}.get(layout, 0)
    wave_CS = clicks(1.0, RATE, (0.5,), (centre,), count)
    path = clip(
        tmp_path / "a.mkv", video=None, audio=codec, layout=layout, rate=RATE, wave_CS=wave_CS, seconds=1.0
    )
    channels = decode_audio(path, 8000, mono=False).wave_S
    assert channels.shape[0] == count
    assert [bool(channel.abs().max() > 0.5) for channel in channels] == [n == centre for n in range(count)]
    mono = decode_audio(path).wave_S
    pcm = torch.from_numpy(decode_pcm16(path, RATE) / 32768)
    assert heard(mono, RATE, 0.02) == heard(pcm, RATE, 0.02) == [0.5]
    assert float(mono.abs().max()) == pytest.approx(float(pcm.abs().max()), abs=2e-4)
    if layout in ("mono", "stereo", "5.1"):
        weight = {"mono": 1, "stereo": 0.5, "5.1": 1 / (1 + 2 / 2**0.5 + 1)}[layout]
        assert float(mono.abs().max()) == pytest.approx(0.8 * weight, abs=1e-3)


def test_planar_sound_of_eight_channels_is_read(tmp_path: Path) -> None:
    """AAC decodes to planes, of which PyAV reads one too many from the eighth on."""
    path = clip(
        tmp_path / "a.mp4", layout="7.1", wave_CS=clicks(1.0, 48_000, channels=(2,), of=8), seconds=1.0
    )
    assert decode_audio(path, mono=False).wave_S.shape[0] == 8
    assert heard(read_clip(path, RATE).wave_S, RATE, 0.05) == [0.5]


def test_channels_without_places_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(12)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.full((RATE, 12), 8000, np.int16).tobytes())
    assert decode_audio(path, mono=False).wave_S.shape == (12, RATE)
    assert 0.05 < float(decode_audio(path).wave_S.mean()) <= 0.25


def test_sound_that_changes_its_setup_is_read_through(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(
        mp3(48_000, 128_000, 1.0) + mp3(32_000, 128_000, 1.0) + mp3(44_100, 128_000, 1.0, "stereo")
    )
    sound = decode_audio(path, RATE)
    assert len(sound.wave_S) / RATE == pytest.approx(3.0, abs=0.2)
    assert len(decode_pcm16(path, RATE)) / RATE == pytest.approx(3.0, abs=0.2)
    assert decode_audio(path, mono=False).wave_S.shape[0] == 1


def changing_size(path: Path, sizes: list[tuple[int, int]]) -> Path:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], "yuvj420p"
        for number, (width, height) in enumerate(size for size in sizes for _ in range(3)):
            coder: Any = av.CodecContext.create("mjpeg", "w")
            coder.width, coder.height, coder.pix_fmt, coder.time_base = (
                width,
                height,
                "yuvj420p",
                Fraction(1, 25),
            )
            frame = av.VideoFrame(width, height, "yuvj420p")
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            for packet in [*coder.encode(frame), *coder.encode(None)]:
                packet.stream, packet.pts, packet.dts, packet.time_base = (
                    stream,
                    number,
                    number,
                    Fraction(1, 25),
                )
                out.mux(packet)
    return path


def test_a_picture_that_changes_its_size_keeps_the_first_or_is_refused(tmp_path: Path) -> None:
    frames = decode_video(changing_size(tmp_path / "same.mkv", [(96, 64), (192, 128), (48, 32)])).frames_THWC
    assert frames.shape == (9, 64, 96, 3)
    with pytest.raises(UserError, match=r"other\.mkv: its picture changes from 96x96 to 128x64"):
        decode_video(changing_size(tmp_path / "other.mkv", [(96, 96), (128, 64)]))


SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n"
LIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n%s\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("name", ["a.mp4", "a.wav"])
@pytest.mark.parametrize("kind", ["sdp", "m3u8", "concat", "png", "nut", "y4m"])
def test_only_formats_that_are_meant_are_opened(tmp_path: Path, kind: str, name: str) -> None:
    secret = clip(tmp_path / "secret.mp4", seconds=0.2)
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    data = {
        "sdp": SDP,
        "m3u8": LIST % str(secret).encode(),
        "concat": b"ffconcat version 1.0\nfile secret.mp4\n",
        "png": picture.getvalue(),
        "nut": clip(tmp_path / "b.nut", seconds=0.2, audio=None).read_bytes(),
        "y4m": b"YUV4MPEG2 W2 H2 F25:1\nFRAME\n" + bytes(6),
    }[kind]
    path = tmp_path / name
    path.write_bytes(data)
    for read in (decode_video, decode_audio):
        with pytest.raises(UserError, match=rf"{name}: cannot be decoded"):
            read(path)


def test_small_files_that_unfold_beyond_bounds_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = np.zeros((256, 256, 3), np.uint8)
    path = clip(tmp_path / "a.mp4", seconds=2.0, gop=250, audio=None, picture=lambda time: black)
    monkeypatch.setattr(bounds, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(bounds, "MAX_UNFOLDING", 1000)

    def never(frame: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a frame was decoded")

    with pytest.raises(UserError, match=r"a\.mp4: is \d+ kB and would unfold to 0 GB"):
        decode_video(path, transform=never)
    monkeypatch.setattr(bounds, "MAX_UNFOLDING", 10**9)
    with pytest.raises(UserError, match="its frames take more than 0 GiB of memory"):
        decode_video(path)
    monkeypatch.setattr(bounds, "MAX_PIXELS", 60_000)
    with pytest.raises(UserError, match="its frames are 256x256"):
        decode_video(path)
    sound = clip(tmp_path / "a.wav", video=None, audio="pcm_s16le", rate=RATE)
    monkeypatch.setattr(bounds, "SAMPLE_RATES", (1000, 8000))
    with pytest.raises(UserError, match="its sound has 16000 Hz; 1000 to 8000 are read"):
        decode_audio(sound)


def test_the_default_track_is_taken_and_a_cover_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        streams: list[Any] = [out.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for stream, moment in zip(streams, (0.2, 0.7), strict=True):
            for packet in encoded(stream, clicks(1.0, RATE, (moment,)), RATE, "mono", 0.0, ()):
                out.mux(packet)
    assert heard(decode_audio(path).wave_S, RATE) == [0.7]
    cover = tmp_path / "cover.mp4"
    with av.open(str(cover), "w") as out:
        sound: Any = out.add_stream("aac", rate=RATE, layout="mono")
        art: Any = out.add_stream("png", rate=1)
        art.width = art.height = 64
        art.pix_fmt = "rgb24"
        art.disposition = av.stream.Disposition.attached_pic
        out.mux(art.encode(av.VideoFrame.from_ndarray(flashes(0.0), format="rgb24")))
        out.mux(art.encode(None))
        for packet in encoded(sound, clicks(1.0, RATE), RATE, "mono", 0.0, ()):
            out.mux(packet)
    with pytest.raises(UserError, match=r"cover\.mp4: has no picture stream"):
        decode_video(cover)


def test_tags_in_other_encodings_are_no_reason(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", seconds=0.2)
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"\xe9\xff\xfe\xe8"))
    assert len(decode_video(path).frames_THWC) == 5


def write_waves(path: Path) -> None:
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    frames = [
        torch.stack(
            [127 + 120 * torch.sin(x / 9 + n / 5 + c) * torch.cos(y / 11 - n / 7) for c in range(3)], -1
        )
        for n in range(60)
    ]
    wave_S = 0.5 * torch.sin(2 * math.pi * 300 * torch.arange(40000) / 16000)
    write_mp4(path, torch.stack(frames).round().byte(), 24.0, wave_S, 16000, enlarge_to=0)


@pytest.mark.slow
def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    here, there = tmp_path / "here.mp4", tmp_path / "there.mp4"
    write_waves(here)
    wait_for_all([Fork(write_waves, there)])
    assert here.read_bytes() == there.read_bytes()


def test_frames_beyond_the_bound_are_refused_whatever_the_header_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each PNG of a mov has a size of its own; the decoder allocates by it."""
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        stream: Any = out.add_stream("png", rate=24)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        for number, side in enumerate((32, 32, 256)):
            image = io.BytesIO()
            Image.new("RGB", (side, side)).save(image, "png")
            packet = av.Packet(image.getvalue())
            packet.stream, packet.pts, packet.dts, packet.duration = stream, number, number, 1
            packet.time_base, packet.is_keyframe = Fraction(1, 24), True
            out.mux(packet)
    assert decode_video(tmp_path / "a.mov").frames_THWC.shape == (3, 32, 32, 3)
    monkeypatch.setattr(bounds, "MAX_PIXELS", 64 * 64)
    with pytest.raises(UserError, match=r"a\.mov: cannot be decoded"):
        decode_video(tmp_path / "a.mov")
