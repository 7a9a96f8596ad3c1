"""Folders of video files -> shards: made clips whose right answer is known, and real ones where they are at
hand.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from ovi_eval.clips.clip import read_clip
from ovi_eval.clips.writing import write_mp4
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.index import read_index
from ovi_lab.data.module import OviDataModule
from ovi_lab.data.pack import pack_folder
from ovi_lab.data.pack_options import PackOptions, PackReport
from ovi_lab.errors import UserError


def moving(
    seconds: float, fps: float = 24.0, height: int = 48, width: int = 96, rate: int = 44100, bars: int = 0
):
    """Frames whose brightness says their time (from 60 to 200 over 4 s), and a rising tone."""
    count = round(seconds * fps)
    level = 60 + 140 * torch.arange(count) / fps / 4
    frames = level[:, None, None, None].expand(-1, height, width, 3).clone()
    frames[:, :, : width // 4, 1] = 0  # red-blue at the far left and right: lost when cropped to a square
    frames[:, :, -width // 4 :, 1] = 0
    if bars:
        frames[:, :bars], frames[:, -bars:] = 0, 0
    time = torch.arange(round(seconds * rate)) / rate
    wave = 0.5 * torch.sin(2 * torch.pi * (300 * time + 100 * time**2))
    return frames.round().to(torch.uint8), fps, wave, rate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that can be packed and files that cannot; left as they are."""
    folder = tmp_path_factory.mktemp("in")
    (folder / "deep").mkdir()
    for name, caption, clip in (
        ("long.mp4", "getting brighter\n", moving(4.0)),
        ("deep/two.one.mp4", "shorter", moving(2.1, fps=30.0, rate=16000)),
        ("short.mp4", "too short", moving(1.0)),
        ("silentless.mp4", None, moving(2.1)),
    ):
        write_mp4(folder / name, *clip)
        if caption is not None:
            (folder / name).with_suffix(".txt").write_text(caption)
    data = (folder / "long.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(data[: len(data) // 3])
    (folder / "broken.txt").write_text("broken")
    (folder / "notes.pdf").write_text("not a video")
    return folder


OPTIONS = {"height": 32, "width": 32, "fps": 8.0, "sample_rate": 8000, "seconds": 2.0}


def pack(folder: Path, to: Path, captions: Path | None = None, **options: Any) -> PackReport:
    return pack_folder(folder, to, PackOptions(**{**OPTIONS, **options}), captions, quiet=True)


def test_clips_are_cut_scaled_cropped_and_resampled(folder: Path, tmp_path: Path) -> None:
    report = pack(folder, tmp_path / "out" / "a")
    assert report.files == 5
    assert report.clips == 3
    assert dict(report.resampled) == {44100: 2, 16000: 1}
    reasons = {bad.key: bad.reason for bad in report.skipped}
    assert set(reasons) == {"broken.mp4", "short.mp4", "silentless.mp4"}
    assert "is cut off or damaged: it ends after 1.25 s of the 4.00 s" in reasons["broken.mp4"]
    assert reasons["short.mp4"] == "it lasts 1.00 s, 2.00 s are wanted"
    assert reasons["silentless.mp4"] == "it has no caption"

    dataset = ClipDataset(report.shards)
    assert [e.key for e in dataset.entries] == ["deep/two_one-000", "long-000", "long-001"]
    for number in range(3):
        clip = dataset.media(number)
        assert clip.frames_THWC.shape == (16, 32, 32, 3)
        assert clip.wave_S.shape == (16000,)
        assert (clip.fps, clip.sample_rate) == (8.0, 8000)
        start = clip.meta["start_s"]
        # The picture's time: each frame is the one shown at its moment.
        expected = 60 + 140 * (start + torch.arange(16) / 8) / 4
        seen = clip.frames_THWC[..., 2].float().mean((1, 2))
        assert float((seen - expected).abs().max()) < 4
        # The crop: the middle, without the green-less quarters at the sides.
        assert float((clip.frames_THWC[..., 1].float() - clip.frames_THWC[..., 2].float()).abs().mean()) < 6
        # The sound's time: the tone has risen to where it is at the clip's middle.
        middle = clip.wave_S[7500:8500] * torch.hann_window(1000)
        peak = int(torch.fft.rfft(middle, 8000).abs().argmax())
        assert peak == pytest.approx(300 + 200 * (start + 1.0), abs=12)
    assert dataset.media(1).caption == "getting brighter"
    assert dataset.media(0).caption == "shorter"


def test_stop_at_the_first_bad_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^broken.mp4: its picture: is cut off or damaged"):
        pack(folder, tmp_path / "a", on_error="raise")
    assert not list(tmp_path.glob("a*"))
    with pytest.raises(UserError, match=r"^audio has 16000 Hz, this codec takes 8000"):
        pack(folder, tmp_path / "a", on_resample="raise")


def copied(source: Path, to: Path, seconds: float, kinds: Sequence[str] = ("video", "audio")) -> Path:
    """The packets of the first seconds of a file, of these kinds of streams."""
    with av.open(str(source)) as file, av.open(str(to), "w") as copy:
        streams = [stream for stream in file.streams if stream.type in kinds]
        into = {stream.index: copy.add_stream_from_template(stream) for stream in streams}
        for packet in file.demux(streams):
            if packet.dts is not None and packet.dts * packet.time_base < seconds:
                packet.stream = into[packet.stream.index]
                copy.mux(packet)
    to.with_suffix(".txt").write_text(f"a clip of {to.stem}")
    return to


def test_a_file_without_sound_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    copied(folder / "long.mp4", tmp_path / "in/long.mp4", 5.0)
    copied(folder / "long.mp4", tmp_path / "in/mute.mp4", 5.0, ["video"])
    (bad,) = pack(tmp_path / "in", tmp_path / "a").skipped
    assert bad.key == "mute.mp4"
    assert bad.reason.startswith("its sound: has no sound stream")


@pytest.mark.parametrize(
    "table",
    [
        'file,caption\nlong.mp4,"brighter, ""slowly"""\ndeep/two.one,two one\n',
        r"""{"file": "long.mp4", "caption": "brighter, \"slowly\""}
{"file": "deep/two.one", "caption": "two one"}""",
    ],
    ids=["csv", "jsonl"],
)
def test_captions_from_a_table(folder: Path, tmp_path: Path, table: str) -> None:
    file = tmp_path / ("captions.jsonl" if table.startswith("{") else "captions.csv")
    file.write_text(table)
    report = pack(folder, tmp_path / "a", file)
    dataset = ClipDataset(report.shards)
    assert [dataset.media(n).caption for n in range(3)] == ["two one", *['brighter, "slowly"'] * 2]
    assert len(report.skipped) == 3


def test_black_bars_are_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_mp4(folder / "a.mp4", *moving(2.1, height=64, width=64, bars=12))
    (folder / "a.txt").write_text("bars")
    dark = {}
    for crop in (False, True):
        report = pack(folder, tmp_path / f"out-{crop}", crop_bars=crop)
        clip = ClipDataset(report.shards).media(0)
        dark[crop] = float((clip.frames_THWC[8, :, :, 2] < 30).float().mean())
    assert dark[False] == pytest.approx(24 / 64, abs=0.06)
    assert dark[True] == 0


@pytest.mark.parametrize("store", ["mp4", "original"])
def test_shards_of_video_files_load_as_arrays_do(folder: Path, tmp_path: Path, store: str) -> None:
    """The loader decodes, scales and resamples what was stored as files."""
    report = pack(folder, tmp_path / "a", store=store, seconds=2.0 if store == "mp4" else None)
    assert {ext for e in read_index(report.shards[0]).entries for ext in e.members} == {"json", "mp4"}
    data = OviDataModule(
        world=None,
        root=tmp_path / "root",
        train=[str(p) for p in report.shards],
        num_frames=16,
        height=32,
        width=32,
        fps=8.0,
        sample_rate=8000,
        batch_size=2,
    )
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (2, 24, 8, 4, 4)
    assert batch["audio"].shape == (2, 80, 12)
    first = data.train_dataset.media(1)
    expected = 60 + 140 * torch.arange(16) / 8 / 4
    seen = first.frames_THWC[..., 2].float().mean((1, 2))
    assert float((seen - expected).abs().max()) < 5


def test_shards_there_are_not_overwritten_unasked(folder: Path, tmp_path: Path) -> None:
    report = pack(folder, tmp_path / "a", clips_per_shard=1)
    assert [p.name for p in report.shards] == ["a-000.tar", "a-001.tar", "a-002.tar"]
    with pytest.raises(UserError, match=r"a-000.tar is already there; pass --overwrite"):
        pack(folder, tmp_path / "a")
    pack_folder(folder, tmp_path / "a", PackOptions(**OPTIONS), overwrite=True, quiet=True)
    assert sorted(p.name for p in tmp_path.glob("a-*")) == ["a-000.index.json", "a-000.tar"]


def test_folders_with_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        pack_folder(tmp_path / "none", tmp_path / "a", PackOptions(), quiet=True)
    with pytest.raises(UserError, match=r"no .mp4, .*file is in"):
        pack_folder(tmp_path, tmp_path / "a", PackOptions(), quiet=True)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match=r"none of 1 files .* a.mp4: it has no caption"):
        pack_folder(tmp_path, tmp_path / "out", PackOptions(), quiet=True)
    for settings, message in [
        ({"fps": 0.0}, "fps is 0.0: expected a number above 0"),
        ({"seconds": 0.01}, "is no frame"),
        ({"seconds": 2.0, "store": "original"}, "leave out --seconds"),
    ]:
        with pytest.raises(UserError, match=message):
            PackOptions(**settings)


@pytest.mark.slow
def test_real_clips_are_packed_and_loaded(shared_dir: Path, tmp_path: Path) -> None:
    """H.264 and HEVC with AAC at 24, 44.1 and 48 kHz, upright and wide, into batches of latents by a codec of
    theirs.
    """
    (tmp_path / "in").mkdir()
    files = {
        "ltx2/ltx2.mp4": (480, 832, 24000),
        "latentsync/demo1_video.mp4": (1920, 1080, 44100),
        "mova/mova_624x352.mp4": (352, 624, 48000),
    }
    for file, (height, _, _) in files.items():  # of the largest picture, one clip
        copied(shared_dir / "clips" / file, tmp_path / "in" / Path(file).name, 2.5 if height > 1000 else 60.0)
    options = PackOptions(fps=32 / 2.025, seconds=2.025)
    report = pack_folder(tmp_path / "in", tmp_path / "real", options, quiet=True)
    assert (report.files, report.clips, report.skipped) == (3, 6, [])
    dataset = ClipDataset(report.shards)
    sources = {}
    for number in range(len(dataset)):
        clip = dataset.media(number)
        assert clip.frames_THWC.shape == (32, 64, 64, 3)
        assert clip.wave_S.shape == (16200,)
        assert float(clip.wave_S.square().mean().sqrt()) > 1e-3
        assert 20 < float(clip.frames_THWC.float().mean()) < 235
        sources[clip.meta["file"]] = (*clip.meta["source_size"], clip.meta["source_rate"])
    assert sources == {Path(file).name: about for file, about in files.items()}
    # Its second clip's sound is the whole file's, from where the clip begins.
    whole = read_clip(tmp_path / "in/ltx2.mp4", 8000)
    keys = [entry.key for entry in dataset.entries]
    first = dataset.media(keys.index("ltx2-001"))
    assert torch.allclose(whole.wave_S[16200 + 800 : 2 * 16200 - 800], first.wave_S[800:-800], atol=2e-3)

    data = OviDataModule(
        world=None, root=tmp_path / "root", train=[str(p) for p in report.shards], batch_size=4, num_workers=1
    )
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (4, 24, 16, 8, 8)
    assert batch["audio"].shape == (4, 81, 12)
    assert float(batch["video"].std()) == pytest.approx(1, abs=0.4)
    frames, waves = data.codec.decode(batch["video"], batch["audio"])
    assert frames.shape == (4, 32, 64, 64, 3)
    real = torch.stack([dataset.media(keys.index(key)).frames_THWC for key in batch["id"]])
    error = (frames.float() - real.float()).square().mean().item() / 255**2
    assert error < 10**-2.5  # 25 dB
    again = data.codec.audio.encode(waves)
    assert float((again - batch["audio"]).square().mean().sqrt()) < 0.4
