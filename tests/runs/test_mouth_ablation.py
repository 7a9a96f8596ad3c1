"""The ablation on the speaking mouth: its claims are tested, its reference rows scored by the world's own metrics."""

import json

import pytest

from helpers.forks import Fork
from helpers.sweeping import sweep

SMALL = [
    *(
        "debug=fast",
        "trainer.max_steps=3",
        "evaluation.num_clips=8",
        "evaluation.num_mp4=1",
        "sampler.steps=2",
    ),
    *("samples.every_n_steps=0", "logger.tensorboard=false", "seed=0"),
]


@pytest.mark.slow
def test_its_leaderboard_has_its_claims_and_the_worlds_references(tmp_path):
    process = Fork(sweep, ["experiment=mouth_ablation", *SMALL], cwd=tmp_path)
    assert process.wait() == 0, process.output
    board = json.loads((tmp_path / "runs" / "mouth_ablation" / "results.json").read_text())
    assert [arm["name"] for arm in board["arms"]] == [
        "bidirectional_scaled",
        "bidirectional_unscaled",
        "none",
    ]
    assert board["study"]["title"] == "Fusion ablation on the speaking mouth"
    assert len(board["findings"]) == 5
    rows = {row["name"]: row["metrics"] for row in board["references"]}
    assert {"real", "real_shuffled", "real_other_captions"} <= rows.keys()
    errors = {name: row["mouth/ser_heard"]["value"] for name, row in rows.items()}
    assert errors["real"] < 0.1 < 0.6 < errors["real_other_captions"]
    assert not any(key.startswith("ball/") for row in rows.values() for key in row)
