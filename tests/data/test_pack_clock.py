"""Files are packed and read by their own clock, a clip at a time, and nothing of them is lost without a word."""

import os
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from helpers.latent_shards import write_shard
from helpers.made_clips import clicks, flashes, write_clip
from ovi_eval.clips.writing import resample
from ovi_lab.data import cutting, pack
from ovi_lab.data.cutting import CutSound, seen_at
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.decode import MediaClip, array_members, read_media
from ovi_lab.data.index import BadSampleError
from ovi_lab.data.pack import pack_folder
from ovi_lab.data.pack_options import PackOptions, PackReport
from ovi_lab.data.shards import ShardReader
from ovi_lab.errors import UserError

WANTED = {"height": 32, "width": 32, "fps": 24.0, "sample_rate": 16000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def packed(folder: Path, **options: Any) -> tuple[PackReport, list[MediaClip]]:
    """The folder's clips, in place of those packed before."""
    settings = PackOptions(**{**WANTED, **options})
    report = pack_folder(folder, folder.parent / "out" / "c", settings, overwrite=True, quiet=True)
    dataset = ClipDataset(report.shards)
    return report, [dataset.media(n) for n in range(len(dataset))]


@pytest.mark.parametrize(
    ("name", "gap"), [("a.mp4", (2.5, 0.4)), ("a.mkv", (2.2, 1.5)), ("a.mov", (1.2, 0.2))]
)
def test_what_comes_after_a_hole_in_the_sound_stays_in_its_place(
    folder: Path, name: str, gap: tuple[float, float]
) -> None:
    moments = [1.0, 4.0, 5.0]
    write_clip(folder / name, 6.0, moments, gap=gap)
    report, (clip,) = packed(folder)
    assert flashes(clip.frames_THWC, clip.fps) == pytest.approx(moments, abs=1.01 / 24)
    assert clicks(clip.wave_S, clip.sample_rate) == pytest.approx(moments, abs=0.012)
    assert list(report.lost_sound.values()) == [pytest.approx(gap[1], abs=0.06)]


def test_a_hole_that_is_too_long_is_the_files_reason(folder: Path) -> None:
    write_clip(folder / "a.mkv", 12.0, (1.0, 11.0), gap=(3.0, 6.0))
    write_clip(folder / "b.mp4")
    report, clips = packed(folder)
    assert len(clips) == 1
    (bad,) = report.skipped
    assert bad.key == "a.mkv"
    assert "gap of 6.0" in bad.reason


UNEVEN = [n / 12 for n in range(24)] + [2 + n / 36 for n in range(72)]


@pytest.mark.parametrize(
    "made",
    [
        {"times": UNEVEN},
        {"times": [time for time in (n / 24 for n in range(96)) if not 1.4 < time < 1.9]},
        {"fps": Fraction(30000, 1001)},
        {"fps": 60},
        {"fps": 10},
        {"picture_start": 0.3, "moments": (1.0, 2.0, 3.0)},
        {"sound_start": 0.6, "moments": (1.0, 2.0, 3.0)},
    ],
    ids=["uneven", "dropped", "29.97", "60", "10", "late picture", "late sound"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_original_files_are_read_by_the_clock_that_arrays_are_packed_by(
    folder: Path, made: dict[str, Any], suffix: str
) -> None:
    write_clip(folder / f"a{suffix}", **made)
    expected = [moment - made.get("picture_start", 0.0) for moment in (1.0, 2.0, 3.0)]
    _, (clip,) = packed(folder)
    tolerance = 1.01 / min(24, made.get("fps", 24))
    assert flashes(clip.frames_THWC, 24) == pytest.approx(expected, abs=tolerance)
    assert clicks(clip.wave_S, 16000) == pytest.approx(expected, abs=0.012)
    report = pack_folder(
        folder, folder.parent / "o" / "c", PackOptions(**WANTED, store="original"), quiet=True
    )
    (entry,) = ClipDataset(report.shards).entries
    members = ShardReader().read(entry)
    assert members[suffix[1:]] == (folder / f"a{suffix}").read_bytes()
    original = read_media(members, fps=24.0)
    assert torch.equal(
        original.frames_THWC.float().mean((1, 2, 3)) > 110, clip.frames_THWC.float().mean((1, 2, 3)) > 110
    )
    assert clicks(original.wave_S, original.sample_rate) == pytest.approx(expected, abs=0.012)


def test_originals_of_mixed_rates_are_encoded_at_the_codecs(
    folder: Path, world_folder: Path, ovi_data: Callable[..., str]
) -> None:
    for name, fps in (("a", 24), ("b", Fraction(30000, 1001)), ("c", 16)):
        write_clip(folder / f"{name}.mp4", 2.025, (1.0,), fps=fps)
    (folder / "d.mp4").write_bytes(b"no video")
    (folder / "d.txt").write_text("x")
    out = folder.parent / "o"
    printed = ovi_data("pack", folder, out / "c", "--store", "original")
    assert "stored files as they are; --size, --fps and --sample-rate change nothing" in printed
    assert "skipped d.mp4: its picture: cannot be decoded" in printed
    frames = torch.zeros(60, 48, 64, 3, dtype=torch.uint8)
    fast = array_members("x", {}, frames, 30.0, torch.zeros(16000), 8000)
    write_shard(out / "c-001.tar", {"fast": fast})
    codec = world_folder / "codec.safetensors"
    printed = ovi_data("latents", out / "c-*.tar", "--codec", codec, "--out", out / "l")
    assert "c-000.tar: b: from 29.97 to 15.8 frames/s" in printed
    assert "skipped fast: it has 30 frames/s, the encoder takes 15.8025" in printed
    dataset = ClipDataset(str(out / "l-*.tar"))
    assert [entry.key for entry in dataset.entries] == ["a", "b", "c"]
    assert {tuple(dataset[n]["video"].shape) for n in range(3)} == {(24, 16, 6, 8)}


def test_sound_that_ends_early_is_padded_and_told_or_the_clip_left_out(folder: Path) -> None:
    write_clip(folder / "a.mp4", sound_seconds=3.7)
    write_clip(folder / "b.mp4", sound_seconds=2.0)
    report, (clip,) = packed(folder)
    assert len(clip.wave_S) == 64000
    assert report.padded == {"a.mp4": pytest.approx(0.3, abs=0.05)}
    (bad,) = report.skipped
    assert bad.key == "b.mp4"
    assert "its sound is missing for 1.9" in bad.reason
    report, clips = packed(folder, seconds=1.0)
    assert len(clips) == 4 + 2
    (left_out,) = [bad.reason for bad in report.skipped if bad.key == "b.mp4"]
    assert left_out.startswith("2 clips are left out, the first: the clip at 2.00 s is left out: its sound")
    with pytest.raises(UserError, match=r"^b.mp4: the clip at 2.00 s is left out: its sound is missing"):
        packed(folder, seconds=1.0, on_error="raise")


def test_sound_much_shorter_than_its_frames_is_a_bad_sample() -> None:
    frames = torch.zeros(32, 4, 4, 3, dtype=torch.uint8)
    members = [
        array_members("x", {}, frames, 8.0, torch.zeros(n), 8000) for n in (32000, 30400, 72000, 16000)
    ]
    assert [len(read_media(fitting).wave_S) for fitting in members[:3]] == [32000] * 3
    with pytest.raises(BadSampleError, match=r"its sound ends 2.00 s before its picture of 4.00 s"):
        read_media(members[3])


def test_what_is_dropped_replaced_and_ignored_is_reported(folder: Path, ovi_data: Callable[..., str]) -> None:
    write_clip(folder / "a.mp4", 2.7)
    (folder / "deep").mkdir()
    write_clip(folder / "deep" / "b.mp4", 2.0)
    for name in ("notes.pdf", "song.wav", ".hidden.mp4"):
        (folder / name).write_bytes(b"x")
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "linked").symlink_to(folder / "deep")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.mp4")
    command = ["pack", folder, folder.parent / "out" / "c", "--seconds", 1, "--size", "32x32"]
    printed = ovi_data(*command)
    for reported in (
        "files 4, 2 skipped",
        "clips 4",
        "tails 0.7",
        "after the last whole clip left out, in 1 file",
        "skipped gone.mp4: is a broken link",
        "skipped pipe.mp4: is a pipe",
        "2 files ignored (1 .pdf, 1 .wav)",
        "1 hidden: .hidden.mp4",
        "2 links to folders that are read already: linked, loop",
    ):
        assert reported in printed
    assert "replaced" in ovi_data(*command, "--overwrite")


def test_a_packing_that_fails_leaves_the_old_shards_as_they_were(folder: Path) -> None:
    write_clip(folder / "a.mp4", 2.0)
    packed(folder, seconds=1.0, clips_per_shard=1)
    before = {path.name: path.read_bytes() for path in (folder.parent / "out").iterdir()}
    assert len(before) == 4
    (folder / "z.mp4").write_bytes(b"no video")
    (folder / "z.txt").write_text("x")
    with pytest.raises(UserError, match=r"^z.mp4: its picture: cannot be decoded"):
        packed(folder, clips_per_shard=1, on_error="raise")
    assert {path.name: path.read_bytes() for path in (folder.parent / "out").iterdir()} == before
    report, _ = packed(folder)
    assert len(report.replaced) == 2
    assert {path.name for path in (folder.parent / "out").iterdir()} == {"c-000.index.json", "c-000.tar"}


@pytest.mark.parametrize("store", ["arrays", "mp4"])
def test_no_more_frames_are_held_than_one_clips(
    folder: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: set[int] = set()
    most = [0]
    fit_frame = pack.fit_frame

    def counted(*arguments: Any) -> torch.Tensor:
        frame = fit_frame(*arguments).clone()
        alive.add(id(frame))
        weakref.finalize(frame, alive.discard, id(frame))
        most[0] = max(most[0], len(alive))
        return frame

    monkeypatch.setattr(pack, "fit_frame", counted)
    peaks = []
    for seconds in (3.0, 6.0):
        write_clip(folder / "a.mp4", seconds)
        most[0] = 0
        report, _ = packed(folder, seconds=1.0, store=store)
        assert report.clips == seconds
        peaks.append(most[0])
    assert peaks[0] == peaks[1] <= 24 + 3


class Stream:
    """A sound that comes in blocks."""

    def __init__(self, wave_S: torch.Tensor, sample_rate: int, start: float) -> None:
        self.wave_S, self.sample_rate, self.start = wave_S, sample_rate, start

    def read(self, samples: int) -> torch.Tensor:
        block_S, self.wave_S = self.wave_S[:samples], self.wave_S[samples:]
        return block_S


@pytest.mark.parametrize("rates", [(48000, 16000), (44100, 8000), (16000, 16000), (8000, 48000)])
@pytest.mark.parametrize("start", [0.0, 0.7, -0.3])
def test_sound_cut_in_windows_is_the_whole_sound_cut(rates: tuple[int, int], start: float) -> None:
    rate, wanted = rates
    whole_S = torch.rand(round(9.3 * rate), generator=torch.Generator().manual_seed(1)) - 0.5
    expected_S = resample(whole_S, rate, wanted)
    late = round(start * wanted)
    expected_S = expected_S[-late:] if late < 0 else torch.nn.functional.pad(expected_S, (late, 0))
    cut = CutSound(Stream(whole_S, rate, start), wanted, 0.0)
    size = round(1.3 * wanted)
    for number in range(9):
        wave_S, before, after = cut.window(number * size, size)
        part_S = expected_S[number * size : (number + 1) * size]
        assert torch.equal(wave_S, torch.nn.functional.pad(part_S, (0, size - len(part_S))))
        assert before == (max(0, late) if number == 0 else 0)
        assert after == size - len(part_S)
        assert len(cut._kept) < size + 2 * wanted


def test_frames_are_seen_from_their_time_on() -> None:
    frames = [(0.5, "a"), (0.6, "b"), (0.6, "c"), (1.0, "d")]
    seen = seen_at(frames, 10.0, 1e-4)
    assert [next(seen)[1] for _ in range(8)] == ["a", "c", "c", "c", "c", "d", "d", "d"]


def test_a_file_that_is_too_long_for_one_clip_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(cutting, "MAX_MEMBER", 40 * 32 * 32 * 3)
    write_clip(folder / "a.mp4")
    write_clip(folder / "b.mp4", 1.0, (0.5,))
    report, clips = packed(folder)
    assert len(clips) == 1
    assert "cut it with --seconds" in report.skipped[0].reason
    with pytest.raises(UserError, match=r"frames of 4000x4000 are more than the 2.0 GiB of one clip"):
        PackOptions(height=4000, width=4000, seconds=10.0, store="mp4")


def test_a_small_file_of_hours_is_refused_before_it_is_cut(folder: Path) -> None:
    write_clip(folder / "a.mkv", 0.5, (0.2,), times=[0.0, 0.04, 72_000.0])
    write_clip(folder / "b.mp4", 1.0, (0.5,))
    report, _ = packed(folder, height=96, width=96, seconds=1.0)
    assert report.clips == 1
    assert report.skipped[0].key == "a.mkv"
    assert "its 20.0 hours would unfold to 48 GB of frames" in report.skipped[0].reason


def test_sound_that_is_no_number_is_not_packed(folder: Path) -> None:
    write_clip(folder / "b.mp4", 1.0, (0.5,))
    with av.open(str(folder / "b.mp4")) as source, av.open(str(folder / "a.mkv"), "w") as container:
        picture = container.add_stream_from_template(source.streams.video[0])
        sound: Any = container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = picture
                container.mux(packet)
        wave = np.zeros((1, 16_000), np.float32)
        wave[0, 9_000] = np.nan
        frame = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux([*sound.encode(frame), *sound.encode(None)])
    (folder / "a.txt").write_text("a clip")
    report, clips = packed(folder)
    assert len(clips) == 1
    assert "its sound holds values that are not finite" in report.skipped[0].reason


def test_frames_of_too_different_a_shape_are_the_files_reason(folder: Path) -> None:
    write_clip(folder / "a.mp4", 1.0, (0.5,), size=(16, 1024))
    write_clip(folder / "b.mp4", 1.0, (0.5,))
    report, clips = packed(folder)
    assert len(clips) == 1
    assert report.skipped[0].reason == "its picture of 16x1024 is of too different a shape for 32x32"
