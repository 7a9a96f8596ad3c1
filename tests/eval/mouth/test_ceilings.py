"""Ceilings and floors: real clips through the codec, and the same clips distorted on purpose, without any training.

A study rests on these bounds: every value that it compares arms by must have its ceiling and its floor far apart.
"""

import importlib.util
from pathlib import Path

import pytest

from helpers.ball_clips import score
from helpers.mouth_clips import through_codec
from ovi_eval.ball.references import make_references
from ovi_eval.registry import ALIASES


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, float]]:
    references = make_references(through_codec(), seed=0)
    return {
        name: {
            key.removeprefix("mouth/"): found.value
            for key, found in score(clips, names=ALIASES["mouth"]).values.items()
        }
        for name, clips in references.items()
    }


@pytest.mark.slow
def test_real_clips_are_all_but_perfect(rows) -> None:
    real = rows["real"]
    assert real["onset_f1"] > 0.97
    assert real["onset_offset_ms"] < 35
    assert real["agreement_full"] == real["agreement_vague"] == 1.0
    for errors in (
        "ser_heard",
        "ver_heard",
        "ver_seen",
        "lip_error_full",
        "lip_error_vague",
    ):
        assert real[errors] < 0.02, errors


@pytest.mark.slow
def test_another_clips_sound_fits_neither_lips_nor_face_nor_caption(rows) -> None:
    other = rows["real_shuffled"]
    assert other["onset_f1"] < 0.5
    assert other["agreement_full"] < 0.45
    assert other["agreement_vague"] < 0.45
    assert other["ser_heard"] > 0.75
    assert other["lip_error_vague"] > 0.55
    assert other["ver_seen"] == rows["real"]["ver_seen"]  # the picture is the clip's own


@pytest.mark.slow
def test_another_clips_caption_is_neither_heard_nor_seen(rows) -> None:
    other = rows["real_other_captions"]
    assert other["ser_heard"] > 0.75
    assert other["ver_seen"] > 0.55
    assert other["onset_f1"] == rows["real"]["onset_f1"]


@pytest.mark.slow
def test_late_sound_is_out_of_time_and_says_the_same(rows) -> None:
    f1 = [rows[name]["onset_f1"] for name in ("real", "real_shifted_100ms", "real_shifted_150ms")]
    assert f1[1] < 0.3
    assert f1[2] < 0.1
    assert rows["real_shifted_50ms"]["ser_heard"] < 0.05
    assert rows["real_shifted_100ms"]["sync_shift_ms"] == pytest.approx(100, abs=20)


@pytest.mark.slow
def test_syncnet_tells_real_clips_from_late_and_foreign_sound(rows) -> None:
    real, other = rows["real"], rows["real_shuffled"]
    assert real["sync_shift_ms"] < 15
    assert other["sync_shift_ms"] > 150
    assert real["sync_c"] > 1.8 * other["sync_c"]
    assert real["sync_d0"] < 0.7 * min(other["sync_d0"], rows["real_shifted_150ms"]["sync_d0"])


@pytest.mark.slow
def test_the_script_shows_them(tmp_path, monkeypatch, capsys) -> None:
    path = Path(__file__).resolve().parents[3] / "scripts" / "references.py"
    spec = importlib.util.spec_from_file_location("references_script", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    small = ["data.num_train=16", "data.num_eval=12", f"data.root={tmp_path / 'data'}"]
    small += ["evaluation.num_clips=8", "evaluation.num_mp4=1"]
    command = [
        "references.py",
        "data=speaking_mouth",
        "evaluation=mouth",
        *small,
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr("sys.argv", command)
    assert script.main() == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "references.md").read_text()
    head, *lines = printed.splitlines()
    assert head.startswith("| value | real | real shifted 50ms | real shifted 100ms | real shifted 150ms |")
    assert "real other captions" in head
    assert {line.split("`")[1] for line in lines[1:]} >= {"mouth/ser_heard", "mouth/sync_d0"}
    monkeypatch.setattr("sys.argv", ["references.py", "data=pendulum"])
    assert script.main() == 2
    assert "pendulum" in capsys.readouterr().err
