"""Scoring a set of clips, the reference rows, the registry, and metrics over several processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from helpers.ball_clips import broken_clips, real_clips
from ovi_eval.ball.event_sync import EventSync
from ovi_eval.errors import UserError
from ovi_eval.registry import BALL, build, find
from ovi_eval.scoring.ball_world import make_references, score_clips, with_late_sound, with_others_sound

KEYS = {
    *(
        "ball/onset_f1",
        "ball/onset_iou",
        "ball/onset_offset_ms",
        "ball/agreement_full",
        "ball/agreement_vague",
    ),
    *(
        "ball/frechet_video",
        "ball/frechet_audio",
        "ball/sync_c",
        "ball/sync_d",
        "ball/sync_d0",
        "ball/sync_shift_ms",
    ),
}


def test_every_value_comes_with_what_it_rests_on() -> None:
    clips = real_clips()
    scored = score_clips(clips[:40], reference=clips[40:])
    assert set(scored.values) == KEYS
    for key, score in scored.values.items():
        assert score.value is not None, key
        assert score.coverage == 1.0
        assert score.n == (20 if "agreement" in key else 40)
        assert score.version
        assert bool(score.variant) == ("sync_" in key or "frechet" in key)
        assert (score.kind == "frechet") == ("frechet" in key)
        assert score.direction == (
            "higher" if key.split("/")[1][:8] in ("onset_f1", "onset_io", "agreemen", "sync_c") else "lower"
        )
        assert score.unit == ("ms" if key.endswith("_ms") else "")
    assert scored.provenance["sha256"]
    assert not scored.failed
    # The value is the mean of the clips' values, and a set's distance has none.
    for key, score in scored.values.items():
        own = [row[key] for row in scored.per_clip if row.get(key) is not None]
        if score.kind == "mean":
            assert len(own) == score.n
            assert score.value == pytest.approx(sum(own) / len(own), rel=1e-12)
        else:
            assert not own


def test_broken_clips_are_missing_with_a_reason() -> None:
    scored = score_clips(broken_clips(), reference=real_clips())
    assert scored.failed == {
        0: "ball/event_sync: its sound is not finite",
        1: "ball/event_sync: its sound is silence",
        2: "the solver diverged",
        3: "ball/agreement: no ball is seen",
        4: "ball/event_sync: no landing is seen and no hit is heard",
    }
    assert scored.values["ball/sync_c"].coverage == 5 / 8
    assert scored.per_clip[0]["ball/onset_f1"] is None
    nothing = score_clips(broken_clips()[:2], metrics=["ball/onset_f1"])
    assert (nothing.values["ball/onset_f1"].value, nothing.values["ball/onset_f1"].n) == (None, 0)


def test_same_clips_same_numbers() -> None:
    clips = real_clips()[:40]
    first, second = (score_clips(clips, real_clips()[40:]) for _ in range(2))
    assert first == second


def test_metrics_are_chosen_by_name_or_key() -> None:
    assert set(score_clips(real_clips()[:4], metrics=["ball/onset_f1"]).values) == {
        "ball/onset_f1",
        "ball/onset_iou",
        "ball/onset_offset_ms",
    }
    assert find(["ball/sync_c", "ball/sync", "ball/sync_d0"]) == ([BALL["ball/sync"]], [])
    assert find(["ball"]) == (list(BALL.values()), [])
    without = score_clips(real_clips()[:4])
    assert set(without.values) == {key for key in KEYS if "frechet" not in key}


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    score_clips(real_clips()[:40], metrics=["ball/agreement"], progress=lambda *now: told.append(now))
    assert told == [("clips", 32, 40), ("clips", 40, 40)]


def test_bad_wishes_are_refused() -> None:
    clips = real_clips()[:4]
    with pytest.raises(UserError, match=r"did you mean .*ball/onset_f1"):
        score_clips(clips, metrics=["onset_f1"])
    with pytest.raises(UserError, match=r"no metric is called 'zzz'.*All metrics: .*ball/event_sync"):
        score_clips(clips, metrics=["zzz"])
    with pytest.raises(UserError, match="ball/frechet_video compares with real clips; give a reference"):
        score_clips(clips, metrics=["ball/frechet_video"])
    with pytest.raises(UserError, match="no clips to score"):
        score_clips(clips[:0])


def test_registered_metrics_say_what_they_are() -> None:
    for name, metric in BALL.items():
        assert metric.name == name
        assert name.startswith("ball/")
        assert metric.version
        assert {spec.key for spec in metric.values} <= KEYS
        assert {spec.direction for spec in metric.values} <= {"higher", "lower"}
        assert build(metric).name == name
    assert {spec.key for metric in BALL.values() for spec in metric.values} == KEYS


# --- references ---


def test_references_are_a_ceiling_and_floors() -> None:
    rows = make_references(real_clips(), seed=0)
    assert list(rows) == [
        "real",
        "real_shifted_50ms",
        "real_shifted_100ms",
        "real_shifted_150ms",
        "real_shuffled",
    ]
    f1 = {
        n: score_clips(c, metrics=["ball/event_sync"]).values["ball/onset_f1"].value for n, c in rows.items()
    }
    assert f1["real"] > f1["real_shifted_50ms"] > f1["real_shuffled"] > f1["real_shifted_150ms"]
    assert f1["real_shifted_100ms"] < 0.4


def test_late_sound_is_the_same_sound_later() -> None:
    clips = real_clips()[:2]
    late = with_late_sound(clips, 0.05)
    assert not late.waves_NS[:, :400].any()
    assert torch.equal(late.waves_NS[:, 400:], clips.waves_NS[:, :-400])
    with pytest.raises(UserError, match=r"0 s to the clips' 2\.025 s"):
        with_late_sound(clips, 3.0)


def test_strangers_have_as_many_landings_and_nobody_keeps_their_own() -> None:
    clips = real_clips()
    other = with_others_sound(clips, seed=3)
    source = [
        next(i for i in range(len(clips)) if torch.equal(clips.waves_NS[i], wave)) for wave in other.waves_NS
    ]
    assert sorted(source) == list(range(len(clips)))
    assert all(own != theirs for own, theirs in enumerate(source))
    alike = [clips.meta[i]["count"] == clips.meta[n]["count"] for n, i in enumerate(source)]
    assert sum(alike) >= len(clips) - 3
    assert torch.equal(other.waves_NS, with_others_sound(clips, seed=3).waves_NS)
    assert not torch.equal(other.waves_NS, with_others_sound(clips, seed=4).waves_NS)
    with pytest.raises(UserError, match="got 1"):
        with_others_sound(clips[:1], 0)


# --- several processes ---


def _half(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metric = EventSync()
    # Uneven parts, and a clip that fails on one rank.
    metric.update(real_clips(5) if rank == 0 else broken_clips()[:3])
    values = {key: float(value) for key, value in metric.compute().items()}
    with metric.sync_context():
        torch.save((values, metric.coverage(), metric.failures()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_values_over_two_processes_are_those_of_all_clips(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_half, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    whole = EventSync()
    whole.update(real_clips(5))
    whole.update(broken_clips()[:3])
    assert first == second
    assert first[0] == {key: float(value) for key, value in whole.compute().items()}
    assert first[1:] == (whole.coverage(), whole.failures())


# --- the package alone ---


def test_scoring_loads_nothing_of_the_training_package() -> None:
    code = (
        "import sys, ovi_eval.scoring.ball_world; print([m for m in sys.modules if m.startswith('ovi_lab')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    package = Path(sys.modules["ovi_eval"].__file__ or "").parent
    pattern = re.compile(r"^\s*(import|from) ovi_lab", re.MULTILINE)
    assert not [path.name for path in package.rglob("*.py") if pattern.search(path.read_text())]
