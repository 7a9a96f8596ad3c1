"""Faces followed and cut out, each step by itself."""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from ovi_eval.backbones import jpeg, ultraface
from ovi_eval.backbones.boxes import overlap, suppressed
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import FileItem, MemoryItem
from ovi_eval.clips.picture import Video
from ovi_eval.errors import UserError
from ovi_eval.faces import clip as clips
from ovi_eval.faces import crop, scenes, tracks
from ovi_eval.faces.detection import UltraFaceDetector, UltraFaceOnnxDetector
from ovi_eval.faces.frame_store import Files, Pictures

ULTRAFACE = "weights/ultraface_rfb"


@pytest.fixture
def weights(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVI_EVAL_WEIGHTS", str(shared_dir / ULTRAFACE))
    return shared_dir / ULTRAFACE


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def test_places_of_ultraface() -> None:
    places_P4 = ultraface.places()
    assert places_P4.shape == (4420, 4)
    assert places_P4[1].tolist() == pytest.approx([0.5 / 40, 0.5 / 30, 16 / 320, 16 / 240])
    assert places_P4[-1].tolist() == pytest.approx([0.9, 3.5 / 4, 256 / 320, 1.0])  # held within the frame


def test_wrong_files_of_ultraface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVI_EVAL_WEIGHTS", str(tmp_path))
    for kind, name in (
        (UltraFaceDetector, "version-RFB-320.pth"),
        (UltraFaceOnnxDetector, "version-RFB-320.onnx"),
    ):
        with pytest.raises(UserError, match=f"sync needs UltraFace RFB-320 weights: {name}"):
            kind.found("sync")
    (tmp_path / "version-RFB-320.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match=r"its sha256 begins .* that of version-RFB-320\.onnx 34cd7e60aeff"):
        UltraFaceOnnxDetector.found("sync")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "version-RFB-320.pth")
    with pytest.raises(UserError, match="holds other weights than those of UltraFace"):
        UltraFaceDetector.found("sync")


def test_overlap_and_suppression() -> None:
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [3, 3, 3, 3]], dtype=float)
    assert overlap(others[0], others).tolist() == pytest.approx([1, 50 / 150, 0, 0])
    assert overlap(others[3], others).tolist() == [0, 0, 0, 0]
    assert overlap(others[0], others[:1], epsilon=100).tolist() == [0.5]
    rows = boxes((0, 0, 10, 10, 0.8), (1, 0, 11, 10, 0.9), (50, 0, 60, 10, 0.7), (2, 0, 12, 10, 0.6))
    assert suppressed(rows, 0.5)[:, 4].tolist() == [0.9, 0.7]
    assert suppressed(rows, 0.82)[:, 4].tolist() == [0.9, 0.8, 0.7, 0.6]
    assert suppressed(rows[:0], 0.5).shape == (0, 5)


def video(fps: float, count: int, start: float = 0.0) -> Video:
    return Video(torch.zeros(count, 0), fps, start + torch.arange(count, dtype=torch.float64) / fps)


def test_frames_are_shown_by_their_times() -> None:
    assert clips.at_25_fps(video(25, 5, start=3.7)) == [0, 1, 2, 3, 4]
    twice = clips.at_25_fps(video(24, 122))
    # As `ffmpeg -r 25` and its fps filter have it: one frame of 24 is seen twice, the twelfth of each second.
    assert len(twice) == 127
    assert [a for a, b in itertools.pairwise(twice) if a == b] == [11, 35, 59, 83, 107]
    assert clips.at_25_fps(video(12.5, 3)) == [0, 0, 1, 1, 2, 2]
    # As its fps filter has it, which `-r 25` does not for rates above 25.
    assert clips.at_25_fps(video(30, 12)) == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]
    assert clips.at_25_fps(video(50, 6)) == [0, 2, 4]
    assert clips.at_25_fps(video(1000, 1)) == [0]


def test_scenes_end_at_cuts() -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.integers(low, low + 60, (90, 160, 3)).astype(np.uint8) for low in (0, 180))
    assert scenes.scenes([first] * 40 + [second] * 30 + [first] * 5, 25) == [(0, 40), (40, 70), (70, 75)]
    flash = scenes.scenes([first] * 40 + [second] * 5 + [first] * 40, 25)
    assert len(flash) == 2  # cuts less than 15 frames apart are one
    assert scenes.scenes([first] * 20, 25) == [(0, 20)]
    assert scenes.shrunk(np.zeros((1080, 1920, 3), np.uint8)).shape == (144, 256, 3)
    assert scenes.shrunk(np.zeros((1920, 1080, 3), np.uint8)).shape == (256, 144, 3)
    assert scenes.shrunk(first) is first


def faces(frames: int, *people: dict[int, tuple[float, float, float]]) -> list[np.ndarray]:
    """Square boxes: of each person, by frame, left, top and side; the first person scores best."""
    found = []
    for number in range(frames):
        squares = [(*person[number], 0.9 - n / 10) for n, person in enumerate(people) if number in person]
        found.append(boxes(*((x, y, x + side, y + side, score) for x, y, side, score in squares)))
    return found


def test_two_people_are_followed() -> None:
    left = {i: (100.0 + i, 50.0, 120.0) for i in range(90)}
    right = {i: (600.0 - i, 60.0, 200.0) for i in range(20, 100) if i % 10}
    found = tracks.follow(faces(100, left, right), [(0, 100)])
    assert [(t.first, t.end, t.detected) for t in found] == [(0, 90, 90), (21, 100, 72)]
    # Where a face was not found its box lies between those before and after.
    assert found[1].boxes_F4[9].tolist() == [570.0, 60.0, 770.0, 260.0]


@pytest.mark.parametrize(("missed", "count"), [(25, 1), (26, 2)])
def test_a_track_bears_with_25_frames_between(missed: int, count: int) -> None:
    seen = {i: (0.0, 0.0, 150.0) for i in range(200) if not 100 <= i < 99 + missed}
    found = tracks.follow(faces(200, seen), [(0, 200)])
    assert len(found) == count
    assert sum(t.detected for t in found) == len(seen)


def test_what_is_no_track() -> None:
    still = {i: (0.0, 0.0, 150.0) for i in range(120)}
    scene = [(0, 120)]
    assert len(tracks.follow(faces(120, {i: still[i] for i in range(50)}), scene)) == 1
    assert tracks.follow(faces(120, {i: still[i] for i in range(49)}), scene) == []  # one face too few
    assert tracks.follow(faces(120, still), [(0, 49), (49, 98), (98, 120)]) == []  # scenes too short
    assert [(t.first, t.end) for t in tracks.follow(faces(120, still), [(0, 60), (60, 120)])] == [
        (0, 60),
        (60, 120),
    ]
    small = {i: (0.0, 0.0, 100.0) for i in range(120)}
    assert tracks.follow(faces(120, small), scene) == []
    assert len(tracks.follow(faces(120, small), scene, smallest=99)) == 1
    jumping = {i: (200.0 * (i % 2), 0.0, 150.0) for i in range(120)}
    assert [t.detected for t in tracks.follow(faces(120, jumping), scene)] == [60, 60]  # one each side
    assert tracks.follow([boxes()] * 120, scene) == []


def test_crops_have_the_releases_surroundings() -> None:
    x, y = np.meshgrid(np.arange(400), np.arange(300))
    frame = np.stack((x % 256, y % 256, np.zeros_like(x)), -1).astype(np.uint8)
    # 80 pixels to the middle: from 80 above to 144 below, 112 to either side; 224 pixels, so none is mixed.
    found = crop.cut(frame, 200.0, 120.0, 80.0)
    assert np.array_equal(found, frame[40:264, 88:312])
    corner = crop.cut(frame, 20.0, 10.0, 80.0)
    assert (corner[:70] == crop.GREY).all()
    assert (corner[:, :92] == crop.GREY).all()
    assert np.array_equal(corner[70:, 92:], frame[:154, :132])
    assert crop.cut(frame, 200.0, 120.0, 40.0).shape == (224, 224, 3)
    assert (crop.cut(frame, 900.0, 900.0, 80.0) == crop.GREY).all()


def test_crops_are_smoothed_by_a_median() -> None:
    values = np.full(40, 100.0)
    values[20] = 500.0
    smooth = crop.smoothed(values)
    assert smooth[6:-6].tolist() == [100.0] * 28
    rising = np.arange(1.0, 41.0)
    # Zeros beyond the ends, as in the release: the first value is the smallest of the first seven.
    assert crop.smoothed(rising)[[0, 1, 6, 20, 39]].tolist() == [1.0, 2.0, 7.0, 21.0, 34.0]
    boxes_F4 = np.tile([120.0, 40.0, 280.0, 200.0], (60, 1))
    boxes_F4[30] += 50
    frame = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    requested: list[int] = []

    def picture(number: int) -> np.ndarray:
        requested.append(number)
        return frame

    found = list(crop.crops(tracks.Track(7, boxes_F4, 60), picture))
    assert requested == list(range(7, 67))
    assert all(np.array_equal(one, frame[40:264, 88:312]) for one in found)


def test_pictures_through_jpeg() -> None:
    x, y = np.meshgrid(np.arange(96), np.arange(64))
    smooth = np.stack((x, y, np.full_like(x, 90)), -1)
    picture = smooth.astype(np.uint8)
    near = jpeg.opened(jpeg.encoded_one(picture, 25, 2))
    assert near.shape == (64, 96, 3)
    assert np.abs(near[..., ::-1].astype(int) - smooth).mean() < 2
    far = jpeg.opened(jpeg.encoded_one(picture, 25, 31))
    assert (
        np.abs(far[..., ::-1].astype(int) - smooth).mean()
        > np.abs(near[..., ::-1].astype(int) - smooth).mean()
    )
    assert list(jpeg.encoded([], 25)) == []


def test_kept_pictures_and_files() -> None:
    pictures, files = Pictures(), Files()
    for number in range(150):
        pictures.append(np.full((2, 3, 3), number, np.uint8))
        files.append(bytes([number]) * (number % 4))
    assert len(pictures) == len(files) == 150
    assert [int(pictures[number][0, 0, 0]) for number in range(150)] == list(range(150))
    assert [files[n] for n in (0, 1, 149)] == [b"", b"\x01", bytes([149])]
    with pytest.raises(IndexError):
        pictures[150]


def with_sound_from(path: Path, late: float) -> Path:
    """24 grey frames at 24 fps, the sound a single click at its very beginning, `late` seconds after the picture's."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mjpeg", rate=24)
        video.width, video.height, video.pix_fmt = 160, 128, "yuvj420p"
        audio: Any = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for number in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((128, 160, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + 24, Fraction(1, 24)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        click = np.zeros((1, 16000), np.int16)
        click[0, :4] = 20000
        sound = av.AudioFrame.from_ndarray(click, format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = 16000, round(16000 * (1 + late)), Fraction(1, 16000)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    return path


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("late", [0.25, 0.0, -0.25])
def test_sound_is_heard_when_the_file_says(tmp_path: Path, late: float) -> None:
    item = FileItem(with_sound_from(tmp_path / "clip.mkv", late), "clip")
    if late < 0:  # the click was before the picture
        with pytest.raises(UserError, match="silence"):
            clips.prepare(item, UltraFaceDetector.found("sync"))
        return
    ready = clips.prepare(item, UltraFaceDetector.found("sync"))
    assert len(ready.shown) == 25
    assert int(np.argmax(ready.wave_S > 10000)) == round(16000 * late)


@pytest.mark.usefixtures("weights")
def test_a_clip_is_prepared() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (1, 48, 128, 160, 3), generator=generator, dtype=torch.uint8)
    waves = 0.1 * torch.randn(1, 32000, generator=generator)
    made = ClipSet(["one"], [""], frames, 24.0, waves, 16000)
    ready = clips.prepare(MemoryItem(made, 0), UltraFaceDetector.found("sync"))
    assert (ready.height, ready.width, len(ready.jpegs), len(ready.shown)) == (128, 160, 48, 50)
    assert ready.small[0].shape == (240, 320, 3)
    assert len(ready.wave_S) == 32000
    assert np.array_equal(ready.sound(10, 12), ready.wave_S[6400:7680])
    shown = ready.picture(12)  # the twelfth frame is seen twice
    assert np.array_equal(shown, ready.picture(11))
    assert np.abs(shown[..., ::-1].astype(int) - frames[0, 11].numpy()).mean() < 60  # noise suffers
    silent = ClipSet(["one"], [""], frames, 24.0, waves * 1e-6, 16000)
    with pytest.raises(UserError, match="one: its sound is silence"):
        clips.prepare(MemoryItem(silent, 0), UltraFaceDetector.found("sync"))
