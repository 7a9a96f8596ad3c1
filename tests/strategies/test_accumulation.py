"""Epochs that accumulated batches do not divide: every strategy takes the same whole steps, and resumes to the bit."""

import csv
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from helpers.several import start
from ovi_lab.checkpoints import Checkpoint

pytest.importorskip("deepspeed")

STEPS = 4
SHORT = (
    f"trainer.max_steps={STEPS}",
    "data.num_eval=4",
    "schedule.warmup_steps=2",
    "checkpoint.every_n_steps=0",
)
KEPT = ("checkpoint.every_n_steps=1", "checkpoint.keep_last=-1")
BY_2 = (*SHORT, "data.num_train=20", "data.batch_size=4")
"""On one process 5 batches an epoch, 2 a step."""
BY_8 = (*SHORT, "data.num_train=1", "data.batch_size=1")
"""Eight epochs a step."""
BY_4 = (*SHORT, "data.num_train=14", "data.batch_size=1")
"""On each of two processes 7 batches an epoch, 4 a step."""
ALONE = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
TOGETHER = (*ALONE, "zero2_offload", "zero3_offload", "ddp_sequence")
RESUMED = (
    [("auto", n) for n in range(1, STEPS)]
    + [("zero2", n) for n in range(1, STEPS)]
    + [("zero3", 2), ("zero3", 3)]
)
RESUMED_TOGETHER = [("zero2", 2), ("zero3", 3)]


def zero_3_last(runs: dict[str, list[str]]) -> dict[str, list[str]]:
    """DeepSpeed puts its own linear layers into a process for good, which round otherwise than PyTorch's."""
    return dict(sorted(runs.items(), key=lambda run: "zero3" in run[0]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """All runs: one that is killed, those of one process, those of two."""
    folder = tmp_path_factory.mktemp("accumulated")
    port = random.Random(str(folder)).randrange(20000, 50000)
    # in the first batch of the second epoch, which the third step is to see with the last one of the first epoch
    start({"by2_killed": [*BY_2, *KEPT, "strategy=zero2", "@kill:6"]}, folder, 1, port, killed=True)
    kept = (
        {f"by2_{name}" for name, _ in RESUMED}
        | {f"by4_{name}" for name, _ in RESUMED_TOGETHER}
        | {"by4_auto"}
    )

    def run(name: str, settings: Sequence[str], source: str | None = None, strategy: str = "auto") -> None:
        resume = [] if source is None else [f"resume={folder}/{source}"]
        launch[name] = [*settings, *(KEPT if name in kept else ()), f"strategy={strategy}", *resume]

    launch: dict[str, list[str]] = {}
    for name in ("auto", *ALONE):
        run(f"by2_{name}", BY_2, strategy=name)
    for name in ("auto", "zero2"):
        run(f"by8_{name}", BY_8, strategy=name)
    run("by4_auto", BY_4)
    for name, step in RESUMED:
        run(f"by2_{name}_from_{step}", BY_2, f"by2_{name}/checkpoints/step_{step:06d}", name)
    run("by2_killed", BY_2, "by2_killed/checkpoints/step_000002", "zero2")
    start(zero_3_last(launch), folder, 1, port + 100)
    launch = {}
    for name in TOGETHER:
        run(f"by4_{name}", BY_4, strategy=name.removesuffix("_sequence"))
    launch["by4_ddp_sequence"].append("strategy.sequence_parallel=2")
    for name, step in RESUMED_TOGETHER:
        run(f"by4_{name}_from_{step}", BY_4, f"by4_{name}/checkpoints/step_{step:06d}", name)
    # from one process, in the middle of an epoch: 16 clips are 2 of the second 14
    run("by4_zero2_of_one", BY_4, "by4_auto/checkpoints/step_000002", "zero2")
    start(zero_3_last(launch), folder, 2, port + 200)
    assert not list(folder.glob("*.told")), [path.read_text() for path in folder.glob("*.told")]
    return folder


def column(run: Path, name: str) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


def tensors(run: Path) -> Iterator[tuple[str, torch.Tensor]]:
    checkpoint = Checkpoint.open(run / "last")
    for ema in (False, True):
        for part in ("model", "text_encoder"):
            for name, tensor in checkpoint.weights(part, ema=ema).items():
                yield f"{ema} {part} {name}", tensor


CASES = (
    *(f"by2_{name}" for name in ALONE),
    "by8_zero2",
    *(f"by4_{name}" for name in (*TOGETHER, "zero2_of_one")),
)


@pytest.mark.parametrize("name", CASES)
def test_every_strategy_takes_the_steps_of_one_process(runs, name):
    first = 2 if name.endswith("_of_one") else 0
    reference = runs / f"{name.partition('_')[0]}_auto"
    for what in ("train/loss", "grad_norm/total", "lr"):
        expected = {step: value for step, value in column(reference, what).items() if step >= first}
        found = column(runs / name, what)
        assert found.keys() == expected.keys() == set(range(first, STEPS))
        assert max(abs(found[step] - value) for step, value in expected.items()) < 1e-5
    expected_weights, found_weights = dict(tensors(reference)), dict(tensors(runs / name))
    assert found_weights.keys() == expected_weights.keys()
    assert all((found_weights[n] - w).abs().max() < 1e-5 for n, w in expected_weights.items())


@pytest.mark.parametrize(
    ("resumed", "whole"),
    [
        *((f"by2_{name}_from_{step}", f"by2_{name}") for name, step in RESUMED),
        *((f"by4_{name}_from_{step}", f"by4_{name}") for name, step in RESUMED_TOGETHER),
        ("by2_killed", "by2_zero2"),
    ],
)
def test_a_run_goes_on_to_the_same_bits_after_any_step_and_after_a_kill_within_one(runs, resumed, whole):
    expected, found = dict(tensors(runs / whole)), dict(tensors(runs / resumed))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    for what in ("train/loss", "val/loss", "grad_norm/total"):
        before, after = column(runs / whole, what), column(runs / resumed, what)
        assert after == {step: value for step, value in before.items() if step in after}
        assert max(after) == max(before)


def test_the_learning_rate_is_logged_once_a_step(runs):
    for name in ("by2_auto", "by2_zero3", "by4_ddp", "by2_killed"):
        with (runs / name / "metrics.csv").open() as file:
            rows = [(int(row["step"]), float(row["lr"])) for row in csv.DictReader(file) if row["lr"]]
        assert [step for step, _ in rows] == list(range(STEPS))
        assert [rate for _, rate in rows] == pytest.approx([1.5e-3, 3e-3, *[rate for _, rate in rows[2:]]])
        assert all(rate <= 3e-3 for _, rate in rows)
