"""What measures a GPU, with the CPU in its place: training, sampling, the report, and what does not fit."""

from __future__ import annotations

import resource
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.rehearsal.gpu import DrawnValues, MeasuredGpu, waits_heard
from ovi_lab.rehearsal.inference import Bench, solvers
from ovi_lab.rehearsal.measure import measure_training, measured
from ovi_lab.rehearsal.page import markdown
from ovi_lab.rehearsal.report import measured_blocks

CLIP = ClipShape((3, 4, 4), 16)
BLOCKS = ("model.video.num_layers=2", "model.audio.num_layers=2")


class Host(MeasuredGpu):
    """The CPU. Its memory is all that is resident, and nothing waits for it."""

    accelerator = "cpu"

    def __init__(self, full: int = 0) -> None:
        self.device, self.name = torch.device("cpu"), "NVIDIA H100 80GB HBM3"
        self.free = self.memory = 2**40
        self.full = full
        """So many waits end for want of memory."""

    def wait(self) -> None:
        self.full -= 1
        if self.full >= 0:
            raise torch.OutOfMemoryError("out of memory\nand more about it")

    def forget_peaks(self) -> None:
        pass

    def held(self) -> int:
        return 0

    def peaks(self) -> tuple[int, int]:
        most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most, most

    def release(self) -> None:
        pass

    @contextmanager
    def waits(self, found: Counter[str]) -> Iterator[None]:
        with waits_heard(found):
            yield
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)


@pytest.fixture
def config(composed: Callable[..., DictConfig]) -> DictConfig:
    return composed(BLOCKS)


@pytest.mark.slow
def test_training_is_measured_and_what_does_not_fit_is_tried_smaller(config: DictConfig) -> None:
    found = measure_training(config, "full", Host(full=1), CLIP)
    assert (found["blocks"], found["too_many"], found["checkpointing"]) == (1, [2], "full")
    tokens = 3 * 4 * 4 + 16
    assert found["tokens_per_s"] == pytest.approx(tokens * found["micro"] / found["seconds"])
    assert 0 < found["mfu"] < 1
    assert found["peak_bytes"] > found["planned_bytes"] > 0
    assert sum(found["waits"].values()) == 1
    blocks, failed = measured_blocks({"measured full": found, "measured none": {"failed": "exit code 1"}})
    text = markdown(blocks)
    assert failed == 1
    assert "- none: exit code 1" in text
    assert "| full | 1, not 2 |" in text


def test_sampling_is_measured_part_by_part(config: DictConfig) -> None:
    host = Host()
    values = DrawnValues(host.device)
    bench = Bench(host.device, values, values.drawn, CLIP)
    first = next(solvers(config, bench))

    def parts() -> Iterator[Any]:
        yield first
        host.full = 1
        yield "too large", first[1]
        yield "after it", first[1]

    found = measured(parts(), host)
    name = first[0]
    assert found[name]["out"] == "2x24x3x4x4 on cpu, 2x16x12 on cpu"
    assert found[name]["seconds"] > 0
    assert found["too large"] == {"failed": "out of memory"}
    assert found["after it"]["out"] == found[name]["out"]
    blocks, failed = measured_blocks({"measured inference": {"sections": found}})
    assert failed == 1
    assert [row[0] for block in blocks for row in block.rows if block.columns[0] == "part"] == [
        name,
        "after it",
    ]


def test_drawn_values_are_small_and_no_zeros() -> None:
    layer = torch.nn.Linear(50, 40, device="meta")
    norm = torch.nn.LayerNorm(8, device="meta")
    values = DrawnValues(torch.device("cpu"))
    weight = values("layer.weight", layer, "weight")
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert values("layer.weight", layer, "weight", slice(3, 5)).shape == (2, 50)
    assert values("norm.weight", norm, "weight").tolist() == [1.0] * 8
    assert values("norm.bias", norm, "bias").tolist() == [0.0] * 8
    assert values.drawn(torch.tensor([7, 8])).tolist() == [0, 0]


def test_every_wait_is_heard_and_other_warnings_are_not() -> None:
    found: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("ignore")
        with waits_heard(found):
            for _ in range(3):
                warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
                warnings.warn("something else", stacklevel=1)
    assert found.total() == 3
    assert told == []
