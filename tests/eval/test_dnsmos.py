"""DNSMOS equals the published script's scores of real clips, from the samples up."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ball_clips import real_clips
from safetensors.torch import save_file

from ovi_eval.backbones import dnsmos
from ovi_eval.backbones.published import WEIGHTS_FOLDER
from ovi_eval.clipset import ClipSet
from ovi_eval.errors import EvalError
from ovi_eval.metrics.dnsmos import DnsmosP808, DnsmosP835
from ovi_eval.pcm import decode_pcm16
from ovi_eval.registry import PUBLISHED, find
from ovi_eval.score import score_clips

RATE = dnsmos.SAMPLE_RATE
CLIPS = (
    "latentsync/demo1_video.mp4",
    "ltx2/ltx2.mp4",
    "mova/mova_624x352.mp4",
    "ovi/kitchen_two_women_1280x704.mp4",
    "ovi/man_red_1504x608.mp4",
    "ovi/two_men_1344x704.mp4",
)


@pytest.fixture(scope="module")
def weights(shared_dir: Path) -> Path:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'ovi-lab[dnsmos]'")
    return shared_dir / "weights" / "dnsmos"


@pytest.fixture(scope="module")
def expected(goldens: Path) -> dict[str, dict[str, float | str]]:
    return json.loads((goldens / "dnsmos_golden.json").read_text(encoding="utf-8"))["clips"]


@pytest.mark.parametrize("name", CLIPS)
def test_samples_are_those_that_ffmpeg_writes(shared_dir: Path, expected: dict, name: str) -> None:
    path = shared_dir / "clips" / name
    pcm_S = decode_pcm16(path, RATE)
    assert pcm_S.dtype == np.int16
    assert hashlib.sha256(pcm_S.tobytes()).hexdigest() == expected[name]["pcm16k_sha256"]
    assert np.array_equal(decode_pcm16(path.read_bytes(), RATE), pcm_S)


def test_scores_equal_the_published_scripts(weights: Path, shared_dir: Path, expected: dict) -> None:
    assert set(CLIPS) == set(expected)
    overall = dnsmos.OnnxNetwork(weights / "model_v8.onnx", dnsmos.P808_FILE)
    parts = dnsmos.OnnxNetwork(weights / "sig_bak_ovr.onnx", dnsmos.P835_FILE)
    for name, row in expected.items():
        wave_S = decode_pcm16(shared_dir / "clips" / name, RATE) / 32768
        assert len(list(dnsmos.segments(wave_S))) == row["num_hops"]
        assert dnsmos.p808(overall, wave_S) == pytest.approx(row["P808_MOS"], abs=2e-6)
        scores, raw = dnsmos.p835(parts, wave_S)
        assert scores == pytest.approx([row["SIG"], row["BAK"], row["OVRL"]], abs=2e-6)
        assert raw == pytest.approx([row["SIG_raw"], row["BAK_raw"], row["OVRL_raw"]], abs=2e-6)


def test_as_a_metric_it_scores_clips_and_leaves_silence_out(
    weights: Path, shared_dir: Path, expected: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(weights))
    name = "ovi/two_men_1344x704.mp4"
    wave_S = torch.from_numpy(decode_pcm16(shared_dir / "clips" / name, RATE)).float() / 32768
    waves_NS = torch.stack([wave_S, torch.zeros_like(wave_S)])
    clips = ClipSet(
        ["two_men", "silent"],
        ["", ""],
        torch.zeros(2, 4, 8, 8, 3, dtype=torch.uint8),
        24.0,
        waves_NS,
        RATE,
        [{}, {}],
    )
    scored = score_clips(clips, metrics=["dnsmos_p808", "dnsmos_ovrl"])
    assert set(scored.values) == {"dnsmos_p808", "dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"}
    row = expected[name]
    names = {"p808": "P808_MOS", "sig": "SIG", "bak": "BAK", "ovrl": "OVRL"}
    for key, wanted in ((f"dnsmos_{short}", name) for short, name in names.items()):
        score = scored.values[key]
        assert score.value == pytest.approx(row[wanted], abs=2e-6)
        assert (score.n, score.coverage, score.direction) == (1, 0.5, "higher")
        assert scored.per_clip[1][key] is None
    assert scored.values["dnsmos_p808"].variant == "weights 9246480c5856, 16 kHz by FFmpeg"
    assert "silence" in scored.failed[1]
    assert 0 not in scored.failed


def test_a_file_is_scored_and_sound_of_a_low_rate_is_not(
    weights: Path, shared_dir: Path, expected: dict
) -> None:
    name = "latentsync/demo1_video.mp4"
    overall = DnsmosP808(weights / "model_v8.onnx")
    parts = DnsmosP835(weights / "sig_bak_ovr.onnx")
    row = expected[name]
    found = overall.score_file(shared_dir / "clips" / name) | parts.score_file(shared_dir / "clips" / name)
    wanted = dict(zip(found, (row[key] for key in ("P808_MOS", "SIG", "BAK", "OVRL")), strict=True))
    assert found == pytest.approx(wanted, abs=2e-6)
    clips = real_clips(2)
    assert clips.sample_rate == 8000
    overall.update(clips)
    assert overall.failures() == ["its sound has a lower rate than 16 kHz"] * 2
    assert overall.coverage() == {"dnsmos_p808": (0, 0.0)}
    assert overall.compute()["dnsmos_p808"].isnan()


def test_it_is_registered_and_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    assert PUBLISHED["dnsmos_p808"] is DnsmosP808
    with pytest.raises(EvalError, match=r"dnsmos_bak needs DNSMOS P\.835 weights: sig_bak_ovr\.onnx"):
        find(["dnsmos_bak"])


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_v8.onnx"
    with pytest.raises(EvalError, match="no such file"):
        dnsmos.OnnxNetwork(path, dnsmos.P808_FILE)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(EvalError, match=r"its sha256 begins \w{12}, that of model_v8.onnx 9246480c5856"):
        dnsmos.OnnxNetwork(path, dnsmos.P808_FILE)


def test_without_onnxruntime_the_extra_is_named(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EvalError, match=r"pip install 'ovi-lab\[dnsmos\]'"):
        dnsmos.OnnxNetwork(shared_dir / "weights" / "dnsmos" / "model_v8.onnx", dnsmos.P808_FILE)


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
    with pytest.raises(EvalError, match=named):
        next(dnsmos.segments(wave))


def test_files_without_sound_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(EvalError, match=r"a\.mp4: no such file"):
        decode_pcm16(path, RATE)
    path.write_bytes(b"not sound at all")
    with pytest.raises(EvalError, match=r"a\.mp4: cannot be decoded"):
        decode_pcm16(path, RATE)
