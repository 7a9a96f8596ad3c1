"""Clips written, read back and refused."""

import gc
import math
from collections import deque
from itertools import islice
from pathlib import Path

import av
import pytest
import torch

from helpers.media_makers import clip
from ovi_eval.clips.clip import read_clip
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.picture import PictureStream, decode_video
from ovi_eval.clips.sound import decode_audio
from ovi_eval.clips.writing import resample, write_mp4
from ovi_eval.errors import UserError

FPS = 32 / 2.025


def some_clips(count: int = 3) -> ClipSet:
    generator = torch.Generator().manual_seed(3)
    return ClipSet(
        ids=[f"c{i}" for i in range(count)],
        captions=[f"clip {i}" for i in range(count)],
        frames_NTHWC=torch.randint(0, 256, (count, 4, 6, 8, 3), dtype=torch.uint8, generator=generator),
        fps=FPS,
        waves_NS=torch.rand(count, 2000, generator=generator) * 2 - 1,
        sample_rate=8000,
        meta=[{"colour": "red", "landings_s": [0.1 * i]} for i in range(count)],
    )


def flash_and_click(at_frame: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Black frames with one white from `at_frame` on; a burst of 1 kHz that begins in the same moment."""
    frames = torch.zeros(32, 16, 16, 3, dtype=torch.uint8)
    frames[at_frame:] = 255
    wave = torch.zeros(16200)
    start = round(at_frame / FPS * 8000)
    wave[start : start + 800] = 0.8 * torch.sin(2 * math.pi * 1000 * torch.arange(800) / 8000)
    return frames, wave


def test_clips_survive_the_disk(tmp_path: Path) -> None:
    clips = some_clips()
    loaded = ClipSet.load(clips.save(tmp_path / "sub" / "clips.safetensors"))
    assert (loaded.ids, loaded.captions, loaded.meta) == (clips.ids, clips.captions, clips.meta)
    assert loaded.fps == clips.fps
    assert loaded.sample_rate == 8000
    assert torch.equal(loaded.frames_NTHWC, clips.frames_NTHWC)
    assert float((loaded.waves_NS - clips.waves_NS).abs().max()) <= 0.5 / 32767 + 1e-7
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["clips.safetensors"]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (some_clips().save(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_sound_that_is_not_finite_is_stored_as_failed(tmp_path: Path) -> None:
    clips = some_clips()
    clips.waves_NS[1, 7] = float("nan")
    loaded = ClipSet.load(clips.save(tmp_path / "clips.safetensors"))
    assert "failed" not in loaded.meta[0]
    assert loaded.meta[1]["failed"] == "its sound is not finite"
    assert not loaded.waves_NS[1].any()


def test_slices_keep_order() -> None:
    clips = some_clips()
    assert clips[[2, 0]].ids == ["c2", "c0"]
    assert clips[-1].ids == ["c2"]
    assert clips[1:].ids == ["c1", "c2"]
    assert clips[torch.tensor([True, False, True])].ids == ["c0", "c2"]
    assert torch.equal(clips[[2, 0]].waves_NS[0], clips.waves_NS[2])


def test_clips_that_do_not_fit_are_refused() -> None:
    clips = some_clips()
    with pytest.raises(UserError, match="2 ids, 3 captions"):
        ClipSet(["a", "b"], clips.captions, clips.frames_NTHWC, FPS, clips.waves_NS, 8000)
    with pytest.raises(UserError, match="float32"):
        ClipSet(clips.ids, clips.captions, clips.frames_NTHWC.float(), FPS, clips.waves_NS, 8000)


def test_broken_clip_files_are_named(tmp_path: Path) -> None:
    path = some_clips().save(tmp_path / "clips.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"clips\.safetensors: is no readable file"):
        ClipSet.load(path)
    path.write_bytes(data.replace(b"ovi_eval.clips/1", b"ovi_eval.clips/9"))
    with pytest.raises(UserError, match="clips/9"):
        ClipSet.load(path)
    with pytest.raises(UserError, match="no such file"):
        ClipSet.load(tmp_path / "absent.safetensors")


def test_mp4_round_trip_keeps_frames_length_and_timing(tmp_path: Path) -> None:
    frames, wave = flash_and_click()
    path = write_mp4(tmp_path / "a.mp4", frames, FPS, wave, 8000)
    read = read_clip(path, 8000)
    assert read.frames_THWC.shape == (32, 256, 256, 3)
    assert read.fps == pytest.approx(FPS, abs=1e-9)
    assert read.wave_S.shape == (16200,)
    small = read.frames_THWC.float().mean(dim=(1, 2, 3))
    assert float(small[:16].max()) < 6
    assert float(small[16:].min()) > 249
    # The burst comes back in its place: the energy before it is small, and within 2 ms it has risen.
    start = round(16 / FPS * 8000)
    assert float(read.wave_S[: start - 80].abs().max()) < 0.05
    assert float(read.wave_S[start : start + 16].abs().max()) > 0.4
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    with av.open(str(path)) as container:
        lengths = [float(s.duration * s.time_base) for s in container.streams]
    assert lengths == pytest.approx([2.025, 2.025], abs=1e-6)


def test_bytes_are_read_like_the_file(tmp_path: Path) -> None:
    frames, wave = flash_and_click()
    path = write_mp4(tmp_path / "a.mp4", frames, FPS, wave, 8000)
    from_path, from_bytes = read_clip(path, 8000), read_clip(path.read_bytes(), 8000, name="shard 3, clip a")
    assert torch.equal(from_path.frames_THWC, from_bytes.frames_THWC)
    assert torch.equal(from_path.wave_S, from_bytes.wave_S)
    assert from_bytes.name == "shard 3, clip a"


def test_resampling_keeps_a_tone() -> None:
    low = torch.sin(2 * math.pi * 440 * torch.arange(8000) / 8000)
    high = resample(low, 8000, 48000)
    assert high.shape == (48000,)
    expected = torch.sin(2 * math.pi * 440 * torch.arange(48000) / 48000)
    assert float((high - expected)[500:-500].abs().max()) < 0.01
    assert resample(low, 8000, 8000) is low


def test_bad_files_are_named(tmp_path: Path) -> None:
    frames, wave = flash_and_click()
    good = write_mp4(tmp_path / "good.mp4", frames, FPS, wave, 8000)
    truncated = tmp_path / "truncated.mp4"
    truncated.write_bytes(good.read_bytes()[:700])
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("this is no clip")
    for path in (truncated, empty, text, tmp_path / "absent.mp4"):
        for read in (decode_video, decode_audio, read_clip):
            with pytest.raises(UserError, match=path.name):
                read(path)
    with pytest.raises(UserError, match="member 7"):
        decode_video(b"no clip either", name="member 7")


def test_a_missing_stream_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"silent\.mp4: has no sound stream"):
        read_clip(clip(tmp_path / "silent.mp4", seconds=0.2, audio=None))
    with pytest.raises(UserError, match=r"sound\.wav: has no picture stream"):
        decode_video(clip(tmp_path / "sound.wav", seconds=0.2, video=None, audio="pcm_s16le"))


def test_odd_sizes_and_large_frames_are_written(tmp_path: Path) -> None:
    frames = torch.full((3, 15, 301, 3), 90, dtype=torch.uint8)
    video = decode_video(write_mp4(tmp_path / "odd.mp4", frames, 12.5, torch.zeros(100), 44100))
    assert (video.frames_THWC.shape, video.fps, video.even) == ((3, 16, 302, 3), 12.5, True)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    frames, wave = flash_and_click()
    with pytest.raises(UserError, match="T >= 1"):
        write_mp4(tmp_path / "a.mp4", frames[:0], FPS, wave, 8000)
    with pytest.raises(UserError, match="not finite"):
        write_mp4(tmp_path / "a.mp4", frames, FPS, wave * float("nan"), 8000)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_mp4(tmp_path / "file" / "a.mp4", frames, FPS, wave, 8000)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "frames", "decoded", "size", "fps"),
    [
        ("ovi/two_men_1344x704.mp4", 122, 30, (704, 1344), 24.0),
        ("latentsync/demo1_video.mp4", 250, 30, (1920, 1080), 25.0),
        ("ltx2/ltx2.mp4", 120, 120, (480, 832), 24.0),
    ],
)
def test_real_clips_decode(
    shared_dir: Path, name: str, frames: int, decoded: int, size: tuple[int, int], fps: float
) -> None:
    """All frames of the smallest; of the others the first, and the times of all."""
    path = shared_dir / "clips" / name
    with PictureStream(path, transform=lambda frame: frame[::64, ::64]) as picture:
        assert sum(1 for _ in islice(picture, None if decoded == frames else decoded)) == decoded
        assert (picture.size, picture.fps) == (size, fps)
        assert picture.spans == pytest.approx(frames / fps, abs=1e-3)
    audio = decode_audio(path, 16000)
    assert len(audio.wave_S) / 16000 == pytest.approx(frames / fps, abs=0.06)
    assert 0.05 < float(audio.wave_S.abs().max()) <= 1.0


def test_decoded_frames_do_not_wait_for_the_garbage_collector(tmp_path: Path) -> None:
    frames = torch.zeros(24, 16, 16, 3, dtype=torch.uint8)
    file = write_mp4(tmp_path / "a.mp4", frames, 8, None, 8000, enlarge_to=0)

    def there() -> int:
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        with PictureStream(file) as picture:
            deque(islice(picture, 20), maxlen=0)
            assert there() <= 3  # of 20: what the decoder has ready
    finally:
        gc.enable()
    assert there() == 0
