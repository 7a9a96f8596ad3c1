"""The study in small: what metrics are known to see and to be blind to comes out so; its pages; going on; bad input."""

import json

import numpy as np
import pytest
import torch

from ovi_eval.ball.extractor import small_clip
from ovi_eval.clips.items import memory_items
from ovi_lab.sync_metrics import measuring
from ovi_lab.sync_metrics.__main__ import main
from ovi_lab.sync_metrics.analysis import contradictions, ordered_sets, sensitivity
from ovi_lab.sync_metrics.faults import FAULTS
from ovi_lab.sync_metrics.measuring import FaultValues, Judge
from ovi_lab.sync_metrics.tables import smallest

LATE = FAULTS["late"]


def measured(values_KN, name="sync_d0", fault=LATE):
    """Values of a metric of which the larger is the worse one."""
    rows = np.asarray(values_KN, dtype=np.float64)
    sizes = fault.sizes[: len(rows) - 1]
    return FaultValues(
        "bouncing_ball",
        "ball",
        Judge(name, "ball/sync", ("ball/sync_d0",)),
        fault,
        sizes,
        rows,
        np.array([0.0, *sizes]),
    )


def test_a_metric_that_rises_with_the_fault_sees_it_at_once():
    noise = np.random.default_rng(0).normal(size=48)
    found = sensitivity(measured([noise, noise + 0.1, noise + 3, noise + 4]))
    assert found.rho == 1.0
    assert found.rho_of_means == 1.0
    assert found.interval.low == 1.0
    assert found.better_again == ()
    assert found.seen(found.paired) == [25.0, 50.0, 75.0]
    assert found.seen(found.independent) == [50.0, 75.0]
    assert smallest(found) == "50 (25)"


def test_a_metric_that_does_not_move_is_blind():
    same = np.random.default_rng(0).normal(size=48)
    found = sensitivity(measured([same, same, same]))
    assert (found.rho, found.rho_of_means, found.blind) == (0.0, 0.0, True)
    assert found.paired.tolist() == [0.5, 0.5]
    assert smallest(found) == "blind"


def test_a_metric_that_prefers_the_fault_is_named_wrong_and_not_monotone():
    noise = np.random.default_rng(0).normal(size=48)
    found = sensitivity(measured([noise, noise - 3, noise + 3, noise + 1]))
    assert found.wrong() == [25.0]
    assert found.better_again == (0, 2)
    assert smallest(found) == "50, wrong way at 25 (50)"


def test_clips_without_a_value_count_nowhere():
    rows = np.random.default_rng(0).normal(size=(3, 40)) + np.array([[0.0], [5.0], [9.0]])
    rows[1, :10] = np.nan
    found = sensitivity(measured(rows))
    assert found.coverage == 0.75
    assert found.paired.tolist() == [1.0, 1.0]
    assert found.rho == pytest.approx(1.0, abs=0.05)
    assert smallest(found).endswith(" †")


def test_how_far_a_fault_takes_a_metric_is_a_share_of_the_way_to_another_clips_sound():
    noise = np.random.default_rng(0).normal(size=48)
    floor = sensitivity(measured([noise, noise + 2, noise + 8]))
    some = sensitivity(measured([noise, noise + 1, noise + 2]))
    assert some.extent(floor) == pytest.approx(0.25)
    assert some.extent(sensitivity(measured([noise, noise, noise]))) is None


def test_contradictions_are_pairs_that_one_ranks_rightly_and_the_other_wrongly():
    noise = np.random.default_rng(0).normal(size=30)
    seeds = [0] * 15 + [1] * 15
    right = ordered_sets([measured([noise, noise + 1, noise + 2])], seeds)
    wrong = ordered_sets([measured([noise, noise - 1, noise - 2], "sync_c")], seeds)
    assert (right.share, wrong.share) == (1.0, 0.0)
    assert right.by_seed == {0: 1.0, 1: 1.0}
    (one,) = contradictions([right, wrong])
    assert (one.right, one.wrong, one.of) == ("sync_d0", "sync_c", 3)
    assert ("clean", "late 25 ms") in one.pairs


@pytest.mark.slow
def test_the_command_in_small_finds_what_is_known_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = {"late": (100.0, 200.0), "wrong_voice": (100.0,)}
    for name, sizes in few.items():
        monkeypatch.setitem(FAULTS, name, _with(FAULTS[name], sizes=sizes))
    words = ["--clips=6", "--seeds=0,1", "--faults=late,wrong_voice", "--worlds=bouncing_ball"]
    assert main(words) == 0
    report = tmp_path / "runs" / "sync_metrics" / "report"
    names = {"results.json", "sensitivity.json", "report.md", "report.html", "curves.png", "leaderboard.html"}
    assert names <= {path.name for path in report.iterdir()}
    answers = {
        (row["metric"], row["fault"]): row
        for row in json.loads((report / "sensitivity.json").read_text())["answers"]
    }
    # known of these metrics: time is not pitch
    assert answers["onset_f1", "wrong_voice"]["blind"]
    assert answers["agreement", "late"]["blind"]
    assert not answers["agreement", "wrong_voice"]["blind"]
    assert answers["onset_f1", "late"]["means"][-1] < 0.2 < 0.9 < answers["onset_f1", "late"]["means"][0]
    assert answers["onset_offset", "late"]["rank_correlation_of_means"] == 1.0
    board = json.loads((report / "results.json").read_text())
    assert {arm["name"] for arm in board["arms"]} >= {"sync_c", "av_align_mova", "agreement"}
    text = (report / "report.md").read_text()
    assert "`syncnet_c` | needs weights: sync needs SyncNet weights" in text
    assert "bouncing_ball: the smallest fault seen" in (report / "report.html").read_text()

    def never(*given):
        raise AssertionError("a set that is scored is scored again")

    monkeypatch.setattr(measuring, "score_items", never)
    assert main(words) == 0
    assert (report / "report.md").read_text() == text
    capsys.readouterr()


def _with(fault, **changes):
    from dataclasses import replace

    return replace(fault, **changes)


def test_the_worlds_metrics_get_the_clips_as_they_are_and_published_ones_larger(tmp_path):
    store = measuring._SceneStore(
        measuring.SyncStudy(("speaking_mouth",), (0,), 2, ("late",), False, tmp_path)
    )
    clips = store.scenes("speaking_mouth", 0).clips
    own, larger = store.as_seen(clips, "speaking_mouth")
    assert own is clips
    (item, _) = memory_items(larger)
    assert item.video().frames_THWC.shape[1:3] == (64, 64)
    assert torch.equal(small_clip(item).frames_NTHWC[0], clips.frames_NTHWC[0])
    assert item.audio().sample_rate == 24000
    heard = item.audio(8000).wave_S
    assert heard.shape == clips.waves_NS[0].shape
    # resampling takes away what lies close below 4 kHz, some of an s
    assert float((heard - clips.waves_NS[0]).square().mean() / clips.waves_NS[0].square().mean()) < 0.05


@pytest.mark.slow
def test_clips_through_the_codec_are_other_clips(tmp_path):
    asked = measuring.SyncStudy(("bouncing_ball",), (0,), 2, ("late",), True, tmp_path)
    store = measuring._SceneStore(asked)
    clips = store.scenes("bouncing_ball", 0).clips
    seen, _ = store.as_seen(clips, "bouncing_ball")
    assert seen.frames_NTHWC.shape == clips.frames_NTHWC.shape
    assert seen.waves_NS.shape == clips.waves_NS.shape
    assert not seen.waves_NS.equal(clips.waves_NS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--faults=lat"], "no fault is called 'lat'; did you mean late"),
        (
            ["--worlds=ball"],
            "no faults can be planted in the world 'ball': there are bouncing_ball, speaking_mouth",
        ),
        (["--worlds=bouncing_ball", "--faults=wrong_vowels"], "bouncing_ball can have none of them"),
        (["--clips=1"], "--clips is 1: expected 2 to 4096"),
        (["--seeds=0,x"], "--seeds holds 'x'"),
        (["--name=a/b"], "--name is 'a/b'"),
        (["--weights=nowhere"], "--weights nowhere: no such folder"),
    ],
)
def test_what_cannot_be_used_is_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "runs").exists()
