"""Mixed data on two processes: under every strategy both take batches of one kind, and a tower without clips in a step
has a gradient of 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.mixed_shards import write_mixed
from helpers.run_folders import column
from helpers.several import STEPS, assert_same_end, assert_trained_alike, start

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

STRATEGIES = ("fsdp2", "zero2", "zero3")
WEIGHTS = {"both": 0.4, "sound": 0.3, "silent_video": 0.15, "still": 0.15}
HALFWAY = "checkpoints/step_000002"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    shards = write_mixed(folder / "shards", data_root)
    listed = ", ".join(f"{{shards: '{shards[kind]}', weight: {weight}}}" for kind, weight in WEIGHTS.items())
    common = [
        f"++data.sources=[{listed}]", "data.world=null", f"++data.val=[{shards['both']},{shards['sound']}]",
        "freeze=nothing", "roles=any", "global_batch_size=4",
    ]  # fmt: skip
    two = {name: [*common, f"strategy={name}"] for name in ("ddp", *STRATEGIES)}
    two["zero3"].append("@alone:yes")  # what is to be the same to the bit
    two["zero3_again"] = [*two["zero3"], f"resume={folder}/zero3/{HALFWAY}"]
    start(two, folder, data_root, 2, together=True)
    assert not list(folder.glob("*.told")), [path.read_text() for path in folder.glob("*.told")]
    return folder


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_trains_the_same(runs: Path, name: str) -> None:
    assert_trained_alike(runs / name, runs / "ddp", 0, ("train/loss", "grad_norm/total"))
    validated = [column(runs / one, "val/loss_audio") for one in (name, "ddp")]
    assert validated[0] == pytest.approx(validated[1], abs=1e-5)


def test_some_steps_have_no_clip_of_a_tower(runs: Path) -> None:
    heard, seen = (column(runs / "ddp", f"train/loss_{m}") for m in ("audio", "video"))
    assert min(len(heard), len(seen)) < STEPS


def test_a_run_resumed_ends_with_the_same_bits(runs: Path) -> None:
    assert_same_end(runs / "zero3_again", runs / "zero3")
