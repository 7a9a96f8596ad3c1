"""Clips are read by their timestamps: lost packets, variable rates, wrong headers, edits, files that were cut off."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from helpers.media_makers import EVENTS, clicks, clip, flashes, half, heard, mp3, remuxed, seen
from ovi_eval.clips import timing
from ovi_eval.clips.clip import read_clip
from ovi_eval.clips.clock import LONGEST_GAP, Clock
from ovi_eval.clips.items import FileItem
from ovi_eval.clips.picture import PictureStream, Video, decode_video
from ovi_eval.clips.sound import SoundStream, decode_audio, decode_pcm16
from ovi_eval.errors import UserError
from ovi_eval.faces.clip import at_25_fps

RATE = 16_000
SEEN = [0.52, 1.0, 1.52]
"""When a clip of 25 frames a second shows the events: a frame begins at 0.52 s and none at 0.5 s."""
KINDS = [("a.mp4", "aac"), ("a.mkv", "aac"), ("a.webm", "libopus"), ("a.mov", "aac"), ("a.mkv", "pcm_s16le")]


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_lost_packets_become_silence_of_their_length(tmp_path: Path, name: str, codec: str) -> None:
    video = "libvpx" if name.endswith("webm") else "libx264"
    made = {"audio": codec, "video": video, "seconds": 2.0}
    whole = clip(tmp_path / f"whole_{name}", **made)
    gap = clip(tmp_path / name, **made, lost=[(0.6, 0.9), (1.2, 1.3)])
    expected = decode_audio(whole, RATE)
    sound = decode_audio(gap, RATE)
    assert heard(sound.wave_S, RATE) == list(EVENTS)
    assert 0.3 < sound.filled < 0.5
    assert expected.filled == 0
    assert len(sound.wave_S) == pytest.approx(len(expected.wave_S), abs=RATE // 100)
    pcm_S = torch.from_numpy(decode_pcm16(gap, RATE).astype(np.float32)) / 32768
    assert heard(pcm_S, RATE) == list(EVENTS)
    read = read_clip(gap, RATE)
    assert seen(read.frames_THWC, read.fps) == SEEN
    assert heard(read.wave_S, RATE) == list(EVENTS)


def test_sound_that_is_mostly_missing_is_refused(tmp_path: Path) -> None:
    long = clip(
        tmp_path / "long.mkv", seconds=LONGEST_GAP + 2, fps=5, lost=[(0.5, LONGEST_GAP + 1)], audio="libopus"
    )
    with pytest.raises(UserError, match=r"long\.mkv: its sound has a gap of 5\.\d\d s at 0\.5"):
        decode_audio(long)
    some = clip(tmp_path / "some.mkv", lost=[(0.1, 0.6), (0.7, 1.4)], audio="libopus")
    with pytest.raises(UserError, match=r"some\.mkv: 1\.\d\d s of its 2\.\d\d s of sound are missing"):
        decode_pcm16(some, RATE)


def test_a_coarse_clock_neither_drops_nor_inserts_samples(tmp_path: Path) -> None:
    """mkv keeps whole milliseconds: the sound of 44.1 kHz is the mp4's to the last bit."""
    made = {"seconds": 3.0, "rate": 44_100, "fps": Fraction(30_000, 1001)}
    exact = clip(tmp_path / "a.mp4", **made)
    coarse = remuxed(exact, tmp_path / "a.mkv")
    for rate in (None, RATE):
        ours, theirs = decode_audio(exact, rate).wave_S, decode_audio(coarse, rate).wave_S
        assert torch.equal(ours[-20_000:], theirs[-20_000:])
        assert decode_audio(coarse, rate).filled == 0
    assert decode_video(coarse).fps == decode_video(exact).fps == 30_000 / 1001


def on_clock(*packets: tuple[float, np.ndarray]) -> tuple[Clock, np.ndarray]:
    """What the clock makes of packets of (time in seconds, samples [S] of int16 at 16 kHz)."""
    frames = []
    for time, wave in packets:
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.int16), "s16", "mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), round(time * RATE)
        frames.append(frame)
    clock = Clock(frames, 1 / RATE, "a.wav")
    return clock, np.concatenate([frame.to_ndarray()[0] for frame in clock])


def test_packets_are_laid_out_by_their_times() -> None:
    ramp = np.arange(1600)
    clock, wave = on_clock((0.5, ramp), (0.6, ramp), (0.75, ramp))
    assert wave.tolist() == [*ramp, *ramp, *np.zeros(800), *ramp]
    assert (clock.start, clock.filled, clock.now) == (0.5, 0.05, 0.85)
    # What overlaps is heard once, and a packet that lies wholly in the past not at all.
    clock, wave = on_clock((0.0, ramp), (0.06, ramp), (0.1, ramp[:800]), (0.16, ramp))
    assert wave.tolist() == [*ramp, *ramp[640:], *ramp]
    # Jitter is left alone, and does not add up: the fourth packet is 8 ms late by then.
    clock, wave = on_clock((0.0, ramp), (0.103, ramp), (0.198, ramp), (0.308, ramp))
    assert wave.tolist() == [*ramp, *ramp, *ramp, *np.zeros(128), *ramp]
    with pytest.raises(UserError, match=r"a\.wav: its sound's clock goes back by 2.10 s at 2.10 s"):
        on_clock((0.0, np.zeros(2 * RATE)), (2.0, ramp), (0.0, ramp))


def test_frames_have_their_own_times(tmp_path: Path) -> None:
    """5 frames a second, then 25: flashes and clicks are together by every reader."""
    times = [n / 5 for n in range(6)] + [1.2 + n / 25 for n in range(20)]
    path = clip(tmp_path / "vfr.mp4", times=times)
    video = decode_video(path)
    assert not video.even
    assert video.fps == pytest.approx(26 / 2.0, rel=0.01)
    assert video.end == pytest.approx(2.0, abs=0.005)
    read = read_clip(path, RATE)
    assert read.fps == 25
    # At 5 frames a second, what happens at 0.5 s is seen at 0.6 s.
    assert seen(read.frames_THWC, read.fps) == [1.0, 1.52]
    assert heard(read.wave_S, RATE) == list(EVENTS)
    places = at_25_fps(video)
    assert len(places) == 50
    assert [round(times[place], 2) for place in places[:31:5]] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]


def test_dropped_frames_move_nothing(tmp_path: Path) -> None:
    times = [n / 25 for n in range(50) if not 16 <= n <= 22 and n != 31]
    for name in ("a.mp4", "a.mkv"):
        read = read_clip(clip(tmp_path / name, times=times), RATE)
        assert (read.fps, len(read.frames_THWC)) == (25, 50)
        assert seen(read.frames_THWC, read.fps) == SEEN


@pytest.mark.parametrize("fps", [12, 24, 25, Fraction(30_000, 1001), 60])
def test_the_rate_is_what_the_timestamps_say(tmp_path: Path, fps: Fraction | int) -> None:
    """The mkv states 50 frames a second, whatever it holds."""
    times = [n / float(fps) for n in range(round(2 * float(fps)))]
    path = clip(tmp_path / "a.mkv", fps=50, times=times)
    video = decode_video(path)
    assert video.fps == float(fps)
    assert video.even
    assert video.seconds == pytest.approx(len(times) / float(fps), abs=2e-3)
    assert len(read_clip(path, RATE).wave_S) == round(len(times) / float(fps) * RATE)


@pytest.mark.parametrize("name", ["trim.mp4", "trim.mov"])
def test_trimmed_without_encoding_is_whole(tmp_path: Path, name: str) -> None:
    whole = clip(tmp_path / f"whole{name[4:]}", seconds=3.0, gop=250)
    cut = remuxed(whole, tmp_path / name, shift=-0.4, options={"avoid_negative_ts": "disabled"})
    read = read_clip(cut, RATE)
    assert len(read.frames_THWC) == 65
    assert seen(read.frames_THWC, read.fps) == pytest.approx([0.1, 0.6, 1.1], abs=0.03)
    assert heard(read.wave_S, RATE) == pytest.approx([0.1, 0.6, 1.1], abs=0.02)
    pcm_S = torch.from_numpy(decode_pcm16(cut, RATE) / 32768)
    assert heard(pcm_S, RATE) == pytest.approx([0.1, 0.6, 1.1], abs=0.02)


@pytest.mark.parametrize("start", [0.25, -0.2])
def test_late_and_early_sound_is_in_its_place(tmp_path: Path, start: float) -> None:
    read = read_clip(clip(tmp_path / "a.mkv", start=start, seconds=3.0, audio="pcm_s16le"), RATE)
    assert heard(read.wave_S, RATE) == pytest.approx([event + start for event in EVENTS], abs=0.011)
    read = read_clip(clip(tmp_path / "a.mp4", start=start, seconds=3.0), RATE)
    assert heard(read.wave_S, RATE) == pytest.approx([event + start for event in EVENTS], abs=0.011)
    assert not read.wave_S[: round(max(0, start - 0.05) * RATE)].any()


def noise(time: float) -> np.ndarray:
    return np.random.default_rng(round(time * 100)).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.mov", "libx264", "aac"),
        ("a.mkv", "libx264", "aac"),
        ("a.webm", "libvpx", "libopus"),
        ("a.avi", "mpeg4", "libmp3lame"),
        ("a.wav", None, "pcm_s16le"),
        ("a.flac", None, "flac"),
        ("a.ogg", None, "libopus"),
        ("a.m4a", None, "aac"),
    ],
)
def test_half_a_file_is_refused_and_the_whole_one_read(
    tmp_path: Path, name: str, video: str | None, audio: str
) -> None:
    options = {"movflags": "+faststart"} if name in ("a.mp4", "a.mov", "a.m4a") else {}
    wave_CS = np.random.default_rng(0).standard_normal((1, 96_000)).astype(np.float32) * 0.1
    made = {"video": video, "audio": audio, "options": options, "picture": noise, "wave_CS": wave_CS}
    whole = clip(tmp_path / name, **made)
    assert decode_audio(whole).wave_S.shape[-1] / 48_000 == pytest.approx(2.0, abs=0.1)
    readers: list[Any] = [decode_audio, lambda path: decode_pcm16(path, RATE)]
    if video:
        assert decode_video(whole).seconds == pytest.approx(2.0, abs=0.1)
        readers.append(decode_video)
    for read in readers:
        for share in (0.3, 0.6) if video else (0.6,):
            ends = r": it ends after \d" if video else ""
            with pytest.raises(UserError, match=rf"half_{name}: is cut off or damaged{ends}"):
                read(half(whole, share))
        if video and not name.endswith(".avi"):  # where only the last frame or packet is gone, sizes tell
            with pytest.raises(UserError, match=rf"half_{name}: (is cut off or damaged|cannot be decoded)"):
                read(half(whole, 0.99))


def test_an_mp3_without_a_header_is_read_to_its_end(tmp_path: Path) -> None:
    """Its length by bit rate would be a third of it. With a header, half of it is noticed."""
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3(48_000, 320_000, 1.0) + mp3(48_000, 32_000, 4.0))
    assert len(decode_audio(path).wave_S) / 48_000 == pytest.approx(5.0, abs=0.1)
    assert len(decode_pcm16(path, RATE)) / RATE == pytest.approx(5.0, abs=0.1)
    path.write_bytes(mp3(48_000, 64_000, 3.0, xing=True))
    assert len(decode_audio(path).wave_S) == 3 * 48_000
    with pytest.raises(UserError, match=r"half_a\.mp3: .*: it ends after 1\.\d\d s of the 3\.\d\d s"):
        decode_audio(half(path))


def test_streams_that_state_no_length_are_whole(tmp_path: Path) -> None:
    live = clip(tmp_path / "live.mkv", options={"live": "1"})
    assert decode_video(live).seconds == pytest.approx(2.0, abs=0.01)
    wav = clip(tmp_path / "a.wav", video=None, audio="pcm_s16le")
    data = bytearray(wav.read_bytes())
    at = data.index(b"data") + 4
    for size in (b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f", bytes(4)):
        data[at : at + 4] = size
        wav.write_bytes(bytes(data))
        assert len(decode_audio(wav).wave_S) == 96_000
    fragments = clip(tmp_path / "a.mp4", options={"movflags": "frag_keyframe+empty_moov"})
    assert decode_video(fragments).seconds == pytest.approx(2.0, abs=0.1)
    with pytest.raises(UserError, match=r"half_a\.mp4: is cut off"):
        decode_video(half(fragments))


@pytest.mark.parametrize(("video", "frames_between"), [("libx264", "0"), ("libx264", "2"), ("mpeg4", "2")])
def test_an_avi_begins_with_its_first_packet(tmp_path: Path, video: str, frames_between: str) -> None:
    """FFmpeg's guess at its frames' times is a frame late for these codecs."""
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(video, rate=25, options={"bf": frames_between})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(flashes(number / 25), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    read = decode_video(path)
    assert (read.fps, float(read.times_T[0]), read.end) == (25, 0, pytest.approx(2.0))
    assert seen(read.frames_THWC, read.fps) == SEEN


def test_padding_behind_the_last_box_is_no_missing_end(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes() + b"\x7f\xff\xff\xffTAGS and more")
    assert decode_video(path).seconds == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", ["a.wav", "a.mkv", "a.mov"])
def test_sound_that_is_no_number_is_the_clips_reason(tmp_path: Path, name: str, value: float) -> None:
    wave_CS = np.full((1, 96_000), 0.1, np.float32)
    wave_CS[0, 48_500] = value
    path = clip(tmp_path / name, video=None, audio="pcm_f32le", wave_CS=wave_CS)
    for read in (decode_audio, lambda path: decode_pcm16(path, RATE)):
        with pytest.raises(
            UserError, match=rf"{name}: its sound holds values that are not finite .* at about (0\.9|1\.0)"
        ):
            read(path)


def test_sound_on_the_scale_of_integers_is_read(tmp_path: Path) -> None:
    path = clip(
        tmp_path / "a.wav", video=None, audio="pcm_f32le", wave_CS=np.full((1, 9600), 2e9, np.float32)
    )
    assert float(decode_audio(path).wave_S.max()) == pytest.approx(2e9)


def test_sound_shorter_than_the_picture_is_padded_within_a_bound(tmp_path: Path) -> None:
    short = clip(tmp_path / "short.mp4", wave_CS=clicks(1.7, 48_000))
    assert read_clip(short, RATE).missing == pytest.approx(0.3, abs=0.03)
    assert read_clip(clip(tmp_path / "a.mp4"), RATE).missing == 0
    shorter = clip(tmp_path / "shorter.mp4", wave_CS=clicks(1.2, 48_000))
    with pytest.raises(
        UserError, match=r"shorter\.mp4: its sound ends 0\.\d+ s before its picture of 2\.00 s"
    ):
        read_clip(shorter, RATE)


def test_streams_give_what_whole_readers_give(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", times=[n / 25 for n in range(50) if n % 7], lost=[(0.7, 0.8)], start=0.1)
    video, sound = decode_video(path), decode_audio(path, RATE)
    with PictureStream(path) as picture:
        start = picture.start
        even = torch.stack(list(picture.at_rate(25)))
        assert (picture.fps, picture.end) == (video.fps, video.end)
        assert torch.equal(picture.times_T, video.times_T)
    assert torch.equal(even, video.frames_THWC[video.seen(25)])
    with SoundStream(path, RATE) as stream:
        stream.begin_at(start)
        pieces = []
        while len(piece := stream.read(1000)):
            pieces.append(piece)
        assert {len(piece) for piece in pieces[:-1]} == {1000}
        assert stream.filled == sound.filled > 0
    whole = torch.cat(pieces)
    late = round((sound.start - start) * RATE)
    assert not whole[:late].any()
    assert torch.equal(whole[late:], sound.wave_S)


def test_memory_does_not_grow_with_a_clip(tmp_path: Path) -> None:
    """What is held is counted, not measured: of a streamed clip never more than one frame and a block of sound."""
    path = clip(tmp_path / "a.mp4", seconds=4.0)
    held = 0
    with PictureStream(path) as picture:
        for _ in picture:
            held = max(held, sum(isinstance(value, torch.Tensor) for value in vars(picture).values()))
    with SoundStream(path, RATE) as sound:
        longest = 0
        while len(sound.read(800)):
            longest = max(longest, sum(part.shape[-1] for part in sound._kept))
    assert held == 0
    assert longest < 4000


def test_which_frame_is_seen_when() -> None:
    times_T = torch.tensor([2.0, 2.1, 2.4, 2.45], dtype=torch.float64)
    video = Video(torch.arange(4).view(4, 1, 1, 1).byte(), 10.0, times_T, 2.6)
    assert video.seen(10).tolist() == [0, 1, 1, 1, 2, 3]
    assert video.seen(20).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2, 3, 3, 3]
    frames = zip(times_T.tolist(), "abcd", strict=True)
    assert "".join(timing.at_rate(frames, 10, lambda: 2.6)) == "abbbcd"
    assert not video.even
    assert video.constant().fps == 20
    assert timing.even_rate(torch.tensor([0.0, 0.042, 0.083, 0.125], dtype=torch.float64), 1e-3, []) == 24


def test_a_damaged_clip_is_that_clips_reason(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    item = FileItem(half(path), "a")
    with pytest.raises(UserError, match=r"half_a\.mp4"):
        item.video()
