"""Damaged data: counted, named and skipped within limits, or an error at once."""

import io
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.latent_shards import write_latents, write_shard
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.decode import array_members, latent_members
from ovi_lab.data.index import index_path, scan_shard
from ovi_lab.data.loading import ClipLoader
from ovi_lab.data.media_format import MediaFormat
from ovi_lab.data.shards import ShardReader
from ovi_lab.errors import UserError

BAD = {
    "k02": "its audio latents hold NaN",
    "k05": "its .json .or .txt. with the caption is missing",
    "k06": "its latents cannot be read",
    "k09": "its .json or .txt cannot be read",
    "k10": "have the shape .3., expected .C,F,h,w.",
}


def latents(n: int) -> dict[str, bytes]:
    return latent_members(
        f"clip {n}", {"n": n}, torch.full((2, 3, 1, 1), float(n)), torch.full((5, 3), float(n))
    )


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Twelve samples of latents, five of them bad in five ways."""
    samples = {f"k{n:02d}": latents(n) for n in range(12)}
    audio = torch.zeros(5, 3)
    audio[1, 1] = float("nan")
    samples["k02"] = latent_members("x", {}, torch.zeros(2, 3, 1, 1), audio)
    del samples["k05"]["json"]
    samples["k06"]["latents.safetensors"] = samples["k06"]["latents.safetensors"][:-3]
    samples["k09"]["json"] = b"{"
    samples["k10"] = latent_members("x", {}, torch.zeros(3), torch.zeros(5, 3))
    return write_shard(tmp_path / "bad-000.tar", samples)


def test_bad_samples_are_counted_named_and_skipped(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = ClipLoader(ClipDataset(damaged), 4, shuffle=False, name="val")
    with caplog.at_level(logging.WARNING, "ovi_lab.data"):
        for _ in range(2):
            seen = [key for batch in loader for key in batch["id"]]
    # In the place of each comes the next good one; k05 lacks a member, which the tar's headers say already.
    assert seen == ["k00", "k01", "k03", "k03", "k04", "k07", "k07", "k08", "k11", "k11", "k11"]
    assert {b.key: True for b in loader.bad.values()} == dict.fromkeys(BAD, True)
    warned = [r.message for r in caplog.records if "skipped bad-000.tar" in r.message]
    assert len(warned) == len(BAD)  # each once, though there were two epochs
    for key, reason in BAD.items():
        (line,) = [w for w in warned if key in w]
        assert re.search(reason, line), (reason, line)
    summaries = [r.message for r in caplog.records if "bad of 12 clips" in r.message]
    assert len(summaries) == 2
    assert "5 bad of 12 clips skipped" in summaries[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_keeps_the_order(damaged: Path, workers: int) -> None:
    dataset = ClipDataset(damaged)
    batches = [b["id"] for b in ClipLoader(dataset, 3, seed=8, num_workers=workers)]
    assert batches == [b["id"] for b in ClipLoader(ClipDataset(damaged), 3, seed=8)]
    assert not {k for b in batches for k in b} & set(BAD)


@pytest.mark.parametrize("workers", [0, 2])
def test_raise_stops_at_once_with_one_line(damaged: Path, workers: int) -> None:
    with pytest.raises(UserError, match=r"k05.*caption is missing.*data.on_error=raise"):
        ClipDataset(damaged, on_error="raise")
    entries = {entry.key: entry for entry in scan_shard(damaged).entries if entry.key != "k05"}
    write_shard(damaged, {key: ShardReader().read(entry) for key, entry in entries.items()})
    loader = ClipLoader(ClipDataset(damaged, on_error="raise"), 1, shuffle=False, num_workers=workers)
    with pytest.raises(UserError, match=r"^bad-000.tar: k02: its audio latents hold NaN") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


@pytest.fixture
def two_shards(tmp_path: Path) -> list[Path]:
    return [
        write_shard(tmp_path / f"a-{s:03d}.tar", {f"s{s}-{n}": latents(n) for n in range(8)})
        for s in range(2)
    ]


def test_a_truncated_shard_among_whole_ones(two_shards: list[Path], tmp_path: Path) -> None:
    cut = two_shards[1]
    offset, size = scan_shard(cut).entries[5].members["latents.safetensors"]
    cut.write_bytes(cut.read_bytes()[: offset + size // 2])
    dataset = ClipDataset(str(tmp_path / "a-{000..001}.tar"))
    assert [e.key for e in dataset.entries] == [f"s0-{n}" for n in range(8)] + [f"s1-{n}" for n in range(5)]
    assert [str(b) for b in dataset.known_bad] == [
        "a-001.tar: s1-5: the shard is truncated inside its .latents.safetensors"
    ]
    with pytest.raises(UserError, match=r"s1-5: the shard is truncated"):
        ClipDataset(str(tmp_path / "a-{000..001}.tar"), on_error="raise")


def test_shards_that_are_all_bad_or_absent(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shard .*none.tar does not exist"):
        ClipDataset(tmp_path / "none.tar")
    bad = {"json": b"{}", "latents.safetensors": b"x"}
    write_shard(tmp_path / "a.tar", {"k": bad, "l": bad})
    dataset = ClipDataset(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"none of 2 clips can be used; a.tar: k"):
        list(ClipLoader(dataset, 1, shuffle=False))
    write_shard(tmp_path / "b.tar", {"k": {"json": b"{}", "png": b"x"}})
    with pytest.raises(
        UserError, match=r"no usable clip.*it has no .mp4, .frames.npy or .latents.safetensors"
    ):
        ClipDataset(tmp_path / "b.tar")


def media(rate: int = 8000, frames: int = 32, fps: float = 32 / 2.025) -> dict[str, bytes]:
    seconds = frames / fps
    wave = torch.sin(torch.arange(round(seconds * rate)) / rate * 2 * torch.pi * 440) * 0.5
    return array_members(
        "a tone", {}, torch.full((frames, 16, 16, 3), 40, dtype=torch.uint8), fps, wave, rate
    )


def test_sound_of_another_rate_is_resampled_and_said(
    tmp_path: Path, codec: LatentCodec, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "a.tar", {"native": media(), "other": media(22050)})
    with caplog.at_level(logging.WARNING, "ovi_lab.data"):
        (batch,) = ClipLoader(ClipDataset(tmp_path / "a.tar", codec), 2, shuffle=False)
    assert batch["audio"].shape == (2, 81, 12)
    native, other = batch["audio"]
    torch.testing.assert_close(native[3:-3], other[3:-3], atol=0.2, rtol=0)
    said = [r.message for r in caplog.records if "resampled" in r.message]
    assert said == [
        "train data: sound at 22050 Hz is resampled to 8000 Hz (data.on_resample=raise refuses it)"
    ]


@pytest.mark.parametrize("wanted", [None, MediaFormat(32, 16, 16, 32 / 2.025, 8000)])
def test_sound_of_another_rate_is_refused_where_asked(tmp_path: Path, codec: LatentCodec, wanted) -> None:
    write_shard(tmp_path / "a.tar", {"other": media(22050)})
    loader = ClipLoader(ClipDataset(tmp_path / "a.tar", codec, wanted, on_resample="raise"), 1, shuffle=False)
    with pytest.raises(
        UserError, match=r"^audio has 22050 Hz, this codec takes 8000; pass on_resample=resample"
    ):
        list(loader)


def test_media_that_cannot_be_used(tmp_path: Path, codec: LatentCodec) -> None:
    """Each with its own reason."""
    object_array = io.BytesIO()
    np.save(object_array, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 9, 9, 3)}
    )
    good = media()
    cases = {
        "pickle": ({**good, "frames.npy": object_array.getvalue()}, "not a whole, plain array"),
        "huge": ({**good, "frames.npy": huge.getvalue()}, "not a whole, plain array"),
        "cut": ({**good, "wave.npy": good["wave.npy"][:-10]}, "not a whole, plain array"),
        "text": ({**good, "wave.npy": b"hello"}, "is no .npy file"),
        "half": ({k: v for k, v in good.items() if k != "wave.npy"}, "its .wave.npy is missing"),
        "rates": ({**good, "json": b'{"caption": "x"}'}, 'lacks "sample_rate" in numbers'),
        "short": (media(frames=16), "it lasts 1.01 s, 2.0[23] s are wanted"),
        "mp4": ({"json": b'{"caption": "x"}', "mp4": b"not a video"}, "its video: cannot be decoded"),
        "wordless": ({"json": b'{"caption": 3}', "mp4": b"x"}, 'no "caption" in words'),
    }
    write_shard(tmp_path / "a.tar", {"good": good, **{key: members for key, (members, _) in cases.items()}})
    wanted = MediaFormat(32, 16, 16, 32 / 2.025, 8000)
    loader = ClipLoader(ClipDataset(tmp_path / "a.tar", codec, wanted), 4, shuffle=False)
    assert {key for batch in loader for key in batch["id"]} == {"good"}
    reasons = {bad.key: bad.reason for bad in loader.bad.values()}
    assert set(reasons) == set(cases)
    for key, (_, expected) in cases.items():
        assert re.search(expected, reasons[key]), (key, reasons[key])


def test_clips_of_another_frame_rate_than_the_codecs(tmp_path: Path, codec: LatentCodec) -> None:
    write_shard(tmp_path / "a.tar", {"fast": media(fps=30.0)})
    with pytest.raises(
        UserError, match=r"clips have 30 frames/s, this codec was fitted at 15.8025; set data.fps"
    ):
        list(ClipLoader(ClipDataset(tmp_path / "a.tar", codec), 1, shuffle=False))


def test_media_without_a_codec(media_shard: Path) -> None:
    with pytest.raises(UserError, match=r"holds media, and no codec was given"):
        ClipLoader(ClipDataset(media_shard), 4)


def test_a_shard_without_an_index_loads_the_same(latents_shard: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tar"
    copy.write_bytes(latents_shard.read_bytes())
    assert not index_path(copy).exists()
    a, b = ClipDataset(latents_shard), ClipDataset(copy)
    assert [e.key for e in a.entries] == [e.key for e in b.entries]
    assert json.dumps(a[5]["meta"]) == json.dumps(b[5]["meta"])
    assert torch.equal(a[5]["video"], b[5]["video"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("what", ["gone", "replaced", "changed"])
def test_a_shard_that_vanishes_or_changes_stops_the_run_in_one_line(
    two_shards: list[Path], what: str, workers: int
) -> None:
    dataset = ClipDataset(two_shards)
    loader = ClipLoader(dataset, 2, seed=1, num_workers=workers, prefetch=1)
    assert len(list(loader)) == 8
    lost = two_shards[1]
    if what == "gone":
        lost.unlink()
        dataset._reader.close()  # as another process, or one that has closed it since, meets it
    elif what == "replaced":
        write_shard(lost, {f"s1-{n}": latents(n + 1) for n in range(8)})
        dataset._reader.close()
    else:
        with lost.open("r+b") as file:
            file.truncate(4096)
    gone = r"can no longer be read \(No such file or directory\): bring it back .*resume=last"
    expected = gone if what == "gone" else "was changed or replaced after this run had read its index"
    with pytest.raises(UserError, match=f"^shard .*a-001.tar {expected}") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert not loader.bad


def test_too_many_bad_clips_stop_the_run_with_the_reasons(tmp_path: Path) -> None:
    nan = latent_members("x", {}, torch.zeros(2, 3, 1, 1), torch.full((5, 3), float("nan")))
    write_shard(tmp_path / "a.tar", {f"k{n:03d}": latents(n) if n % 4 else nan for n in range(120)})
    dataset = ClipDataset(tmp_path / "a.tar")
    assert len(list(ClipLoader(dataset, 4, max_bad_share=0.3))) == 30
    loader = ClipLoader(ClipDataset(tmp_path / "a.tar"), 4, seed=1, max_bad_share=0.05)
    with pytest.raises(
        UserError, match=r"^train data: 2\d of \d+ clips met so far are bad, .*0.05.*hold NaN"
    ) as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    wordless = {"latents.safetensors": b""}
    write_shard(tmp_path / "b.tar", {f"k{n:03d}": wordless if n < 30 else latents(n) for n in range(60)})
    with pytest.raises(UserError, match=r"30 of 60 clips met so far are bad.*caption is missing"):
        ClipLoader(ClipDataset(tmp_path / "b.tar"), 4, max_bad_share=0.05)


def test_shards_of_text_in_some_clips_only(tmp_path: Path) -> None:
    shapes = {"video": (2, 3, 1, 1), "audio": (5, 3)}
    text = {**shapes, "text": (2, 6)}
    dataset = ClipDataset(write_latents(tmp_path / "a.tar", [text, text, shapes, text]))
    assert [str(bad) for bad in dataset.known_bad] == [
        "a.tar: a-0002: it has no text embedding, only audio and video"
    ]
    assert [len(batch["text"]) for batch in ClipLoader(dataset, 3, shuffle=False)] == [3]
    assert len(ClipDataset(tmp_path / "a.tar", stored_text=False)) == 4
