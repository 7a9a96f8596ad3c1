"""DNSMOS of files and of rows of a clip set, its segments and pictures, and sound that it refuses."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.ball_clips import real_clips
from ovi_eval.backbones import dnsmos
from ovi_eval.backbones.onnx_file import OnnxFile
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import FileItem, Item, MemoryItem
from ovi_eval.clips.sound import decode_pcm16
from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import lacking
from ovi_eval.common.weights import WEIGHTS_FOLDER, find_weights, in_package
from ovi_eval.errors import UserError
from ovi_eval.metrics.dnsmos import DNSMOS, P808Score, P835Scores

RATE = dnsmos.SAMPLE_RATE
KEYS = ("dnsmos_p808", "dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")


@pytest.fixture(scope="module")
def weights(shared_dir: Path) -> Path:
    pytest.importorskip("onnxruntime", reason=f"onnxruntime is not installed: {install_hint('dnsmos')}")
    return shared_dir / "weights" / "dnsmos"


@pytest.fixture(scope="module")
def expected(goldens: Path) -> dict[str, dict[str, float | str]]:
    return json.loads((goldens / "real_clips_open.json").read_text(encoding="utf-8"))["dnsmos"]


def scores_of(item: Item) -> dict[str, float]:
    """All four values of one clip, by the metrics."""
    found: dict[str, float] = {}
    for metric in (metric() for metric in DNSMOS.values()):
        extractor = metric.extractor()
        metric.update(0, extractor.run(extractor.load(item)))
        found |= {key: float(value) for key, value in metric.compute().items()}
    assert tuple(found) == KEYS
    return found


@pytest.mark.slow
def test_files_and_rows_have_the_published_scores_and_silence_and_low_rates_have_none(
    weights: Path, shared_dir: Path, expected: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(weights))
    name = "ovi/two_men_1344x704.mp4"
    path = shared_dir / "clips" / name
    pcm_S = decode_pcm16(path, RATE)
    assert pcm_S.dtype == np.int16
    assert np.array_equal(decode_pcm16(path.read_bytes(), RATE), pcm_S)
    wave_S = torch.from_numpy(pcm_S).float() / 32768
    frames_NTHWC = torch.zeros(2, 4, 8, 8, 3, dtype=torch.uint8)
    waves_NS = torch.stack([wave_S, torch.zeros_like(wave_S)])
    clips = ClipSet(["two_men", "silent"], ["", ""], frames_NTHWC, 24.0, waves_NS, RATE)
    row = expected[name]
    for item in (FileItem(path, name), MemoryItem(clips, 0)):
        found = list(scores_of(item).values())
        assert found == pytest.approx([row[k] for k in ("P808_MOS", "SIG", "BAK", "OVRL")], abs=2e-6)
    assert P808Score().variant == "weights 9246480c5856, 16 kHz by FFmpeg"
    assert list(P835Scores().weights) == ["sig_bak_ovr.onnx"]
    for extractor in (P808Score(), P835Scores()):
        with pytest.raises(UserError, match="its sound is silence"):
            extractor.load(MemoryItem(clips, 1))
        with pytest.raises(UserError, match="its sound has 8000 Hz, a lower rate than the 16 kHz"):
            extractor.load(MemoryItem(real_clips(2), 0))


def test_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    monkeypatch.setitem(sys.modules, "speechmos", None)  # as where it is not installed
    wanted = r"dnsmos_p835 needs DNSMOS P\.835 weights: sig_bak_ovr\.onnx.*\[dnsmos\]"
    with pytest.raises(UserError, match=wanted):
        P835Scores()
    assert any(re.match(wanted, line) for line in lacking(P835Scores.needs, "dnsmos_p835"))


def test_the_package_that_carries_the_files_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    for extractor in (P808Score, P835Scores):
        if in_package(extractor.file.carried) is None:
            pytest.skip(f"speechmos is not installed: {install_hint('dnsmos')}")
        assert lacking(extractor.needs, extractor.name) == []
        assert "speechmos" in str(find_weights(extractor.file, "a test"))
        assert extractor().variant.startswith(f"weights {extractor.file.sha256[:12]}")
    assert "speechmos" not in sys.modules  # none of its code is run


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_v8.onnx"
    with pytest.raises(UserError, match="no such file"):
        OnnxFile(path, dnsmos.P808_FILE, "dnsmos")
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"its sha256 begins \w{12}, that of model_v8.onnx 9246480c5856"):
        OnnxFile(path, dnsmos.P808_FILE, "dnsmos")


def test_without_onnxruntime_the_extra_is_named(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install .*\[dnsmos\]'"):
        OnnxFile(shared_dir / "weights/dnsmos/model_v8.onnx", dnsmos.P808_FILE, "dnsmos")


def test_segments_are_the_releases() -> None:
    def starts(samples: int) -> list[int]:
        return [int(part[0]) for part in dnsmos.segments(np.arange(samples, dtype=np.float64))]

    assert starts(144160) == [0]
    assert starts(159999) == [0]
    assert starts(11 * RATE) == [0, RATE]
    assert starts(26 * RATE) == [second * RATE for second in range(7)]  # 7 and on are a sample short
    (doubled,) = dnsmos.segments(np.arange(80000.0))
    assert np.array_equal(doubled, np.arange(144160) % 80000)


def test_the_log_mel_picture_of_a_tone() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(144000) / RATE)
    picture = dnsmos.log_mel(tone)
    assert picture.shape == (900, 120)
    assert (picture.max(), picture.min()) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert picture[450].argmax() == 39  # 1000 Hz is 15 of 45.2 mel, the bands' tops lie 0.374 apart
    assert np.allclose(dnsmos.log_mel(tone / 100), picture)


@pytest.mark.parametrize(
    ("wave", "named"),
    [
        (np.zeros(0), r"got \[0\]"),
        (np.zeros((2, 9)), r"got \[2, 9\]"),
        (np.array([0.0, np.nan]), "numbers that are not finite"),
    ],
)
def test_sound_that_cannot_be_scored_is_refused(wave: np.ndarray, named: str) -> None:
    with pytest.raises(UserError, match=named):
        next(dnsmos.segments(wave))
