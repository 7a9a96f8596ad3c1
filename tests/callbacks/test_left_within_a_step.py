"""Two processes of which one gets a signal within a step of many micro-batches: all leave at most two micro-batches
later with the last whole step, and the resumed run ends with the bits of one that was never stopped."""

from pathlib import Path

import pytest

from helpers.run_folders import column, same, tensors
from helpers.several import assert_same_end, start
from ovi_lab.checkpoints import Checkpoint
from ovi_lab.checkpoints.folder import checkpoints_of, step_of

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

MICRO_BATCHES = 16
"""Of a step and process; an epoch ends within the second step."""
SETTINGS = (
    "trainer.max_steps=2", "data.num_train=36", "data.batch_size=1", f"global_batch_size={2 * MICRO_BATCHES}",
    "checkpoint.every_n_steps=0", "data.num_eval=2",
)  # fmt: skip
IN_STEP = ("zero3", "fsdp2")
"""Strategies whose processes exchange something in every micro-batch."""
NAMES = ("ddp", *IN_STEP)
TOLD = 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_root) -> Path:
    """Whole runs, those of DDP with checkpoints by the clock; runs that are left; and these resumed."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {name: [*SETTINGS, f"strategy={name}"] for name in NAMES}
    runs["ddp"].append("checkpoint.every_minutes=0.000001")
    left = {f"{name}_left": [*SETTINGS, f"strategy={name}", f"@signal:{TOLD}"] for name in NAMES}
    every_step = [*SETTINGS, "strategy=ddp", "checkpoint.every_n_steps=1"]
    lost = {"ddp_lost": [*every_step, f"@lose:{TOLD}"], "ddp_full": [*every_step, "@files:150000"]}
    start({**runs, **left, **lost}, folder, data_root, 2)
    for name in NAMES:
        assert checkpoints_of(folder / f"{name}_left")[-1].name == "step_000001"
    again = {f"{name}_left": [*SETTINGS, f"strategy={name}", "resume=last"] for name in NAMES}
    start(again, folder, data_root, 2)
    told = sorted(path.name for path in folder.glob("*.told"))
    refused = ["ddp_full.0.told", "ddp_full.1.told", "ddp_lost.0.told"]
    assert told == refused, [(folder / name).read_text() for name in told]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_all_leave_within_two_micro_batches_of_the_one_that_is_furthest_ahead(runs, name):
    first, last = (int((runs / f"{name}_left.{rank}.batches").read_text()) for rank in (0, 1))
    assert first == last
    # without an exchange in every micro-batch one process may be at the end of the step, where it waits for the other
    furthest = TOLD if name in IN_STEP else 2 * MICRO_BATCHES
    assert TOLD < last <= furthest + 2


@pytest.mark.parametrize("name", NAMES)
def test_the_resumed_run_ends_with_the_same_bits(runs, name):
    assert_same_end(runs / f"{name}_left", runs / name)
    assert column(runs / f"{name}_left", "train/loss") == column(runs / name, "train/loss")


def test_a_checkpoint_by_the_clock_is_the_same_on_all_processes_and_that_of_a_stop(runs):
    by_clock = checkpoints_of(runs / "ddp")
    assert [step_of(path) for path in by_clock] == [2, 1]
    assert same(tensors(by_clock[1]), tensors(checkpoints_of(runs / "ddp_left")[1]))


def test_a_lost_process_is_one_line_of_the_others_and_the_last_checkpoint_is_whole(runs):
    line = (runs / "ddp_lost.0.told").read_text()
    assert line.startswith("another process of this run died or cannot be reached (")
    assert line.endswith(f"; resume=last resumes from the last checkpoint of {runs / 'ddp_lost'}")
    assert "\n" not in line
    (checkpoint,) = checkpoints_of(runs / "ddp_lost")
    opened = Checkpoint.open(checkpoint)
    opened.verify()
    assert opened.step == 1


def test_a_full_disk_is_one_line_of_all_processes_and_leaves_no_part_of_a_checkpoint(runs):
    lines = {(runs / f"ddp_full.{rank}.told").read_text() for rank in (0, 1)}
    (line,) = lines
    assert line.startswith(
        f"checkpoint {runs / 'ddp_full' / 'checkpoints' / 'step_000001'} could not be written ("
    )
    assert line.endswith("earlier checkpoints are untouched, resume=last continues from there")
    assert not list((runs / "ddp_full" / "checkpoints").iterdir())
