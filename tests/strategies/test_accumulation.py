"""Epochs that accumulated batches do not divide, on one process: every strategy takes the same whole steps, and is
resumed to the bit after any of them. test_equivalence.py holds the same on two processes."""

import csv
from pathlib import Path

import pytest

from helpers.several import STEPS, assert_same_end, assert_trained_alike, start

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

BY_2 = ("data.batch_size=4",)
"""5 batches an epoch, 2 a step."""
BY_8 = ("data.num_train=1", "data.batch_size=1")
"""Eight epochs a step."""
KEEP_ALL = ("checkpoint.every_n_steps=1", "checkpoint.keep_last=-1")
ALONE = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
RESUMED = (("auto", 1), ("auto", 2), ("auto", 3), ("zero2", 2), ("zero3", 3), ("any", 2))
"""The epoch ends within the third step: before, right before and after it."""
SETTINGS = {name: (f"strategy={name}",) for name in ("auto", *ALONE)} | {
    "any": ("strategy=auto", "roles=any")
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_root) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    runs = {f"by2_{name}": [*BY_2, *KEEP_ALL, *settings] for name, settings in SETTINGS.items()}
    runs |= {f"by8_{name}": [*BY_8, f"strategy={name}"] for name in ("auto", "zero2")}
    for name, step in RESUMED:
        runs[f"by2_{name}_from_{step}"] = [
            *BY_2, *SETTINGS[name], f"resume={folder}/by2_{name}/checkpoints/step_{step:06d}",
        ]  # fmt: skip
    # in the first batch of the second epoch, which the third step takes with the last one of the first
    runs["by2_killed"] = [*BY_2, *KEEP_ALL, "strategy=zero2", "@kill:6"]
    start(runs, folder, data_root, 1)
    start({"by2_killed": [*BY_2, *KEEP_ALL, "strategy=zero2", "resume=last"]}, folder, data_root, 1)
    assert not list(folder.glob("*.told")), [path.read_text() for path in folder.glob("*.told")]
    return folder


@pytest.mark.parametrize("name", [*(f"by2_{name}" for name in ALONE), "by8_zero2"])
def test_every_strategy_takes_the_steps_of_one_process(runs, name):
    reference = runs / f"{name.partition('_')[0]}_auto"
    assert_trained_alike(runs / name, reference, 0, ("train/loss", "grad_norm/total", "lr"))


@pytest.mark.parametrize(
    ("resumed", "whole"),
    [*((f"by2_{name}_from_{step}", f"by2_{name}") for name, step in RESUMED), ("by2_killed", "by2_zero2")],
)
def test_a_run_resumed_after_any_step_or_a_kill_within_one_ends_with_the_same_bits(runs, resumed, whole):
    assert_same_end(runs / resumed, runs / whole)


def test_the_learning_rate_is_logged_once_a_step(runs):
    for name in ("by2_auto", "by2_zero3", "by2_killed"):
        with (runs / name / "metrics.csv").open() as file:
            rows = [(int(row["step"]), float(row["lr"])) for row in csv.DictReader(file) if row["lr"]]
        assert [step for step, _ in rows] == list(range(STEPS))
        assert [rate for _, rate in rows] == pytest.approx([1.5e-3, 3e-3, *[rate for _, rate in rows[2:]]])
        assert all(rate <= 3e-3 for _, rate in rows)
