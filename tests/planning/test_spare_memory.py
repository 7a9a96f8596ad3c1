"""What spare memory buys, and `model.activation_checkpointing=auto`."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig

from ovi_lab.common.command_line import composed
from ovi_lab.common.paths import config_dir
from ovi_lab.common.sizes import GIB
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.job import TrainingJob
from ovi_lab.planning.spare_memory import chosen, faster_choices, offers
from ovi_lab.planning.training_planner import TrainingPlanner
from ovi_lab.runs.checkpointing import choose_checkpointing

CLIP = ClipShape((16, 16, 16), 80)


def config(choice: str) -> DictConfig:
    return composed(
        ["model=tiny", "optim=adamw", "data.batch_size=8", f"model.activation_checkpointing={choice}"],
        config_dir(),
        "train",
    )


@pytest.fixture(scope="module")
def planner() -> TrainingPlanner:
    return TrainingPlanner(TrainingJob(config("auto"), CLIP))


@pytest.mark.slow
def test_less_is_computed_again_the_more_memory_there_is(planner: TrainingPlanner) -> None:
    requested = planner.requested(1)
    assert planner.job.chooses
    assert requested.checkpointing.choice == "full"
    found = list(faster_choices(planner, requested))
    assert [work for work, _ in found] == sorted(work for work, _ in found)
    assert found[0][1].checkpointing.choice == "none"
    assert all(work < 1 for work, _ in found)

    roomy, small = chosen(planner, 1, 80 * GIB), chosen(planner, 1, GIB)
    assert roomy[0].checkpointing.choice == "none"
    assert small[0].checkpointing.choice == "full"
    between = (roomy[1].total + small[1].total) // 2
    for memory in (small[1].total, between, roomy[1].total):
        _, predicted = chosen(planner, 1, int(1.06 * memory) + GIB)
        assert predicted.fits(int(1.06 * memory) + GIB)
    assert offers(planner, requested, 80 * GIB)[0].choice == roomy[0]
    assert offers(planner, requested, GIB) == []


def test_a_run_on_a_cpu_keeps_everything() -> None:
    composed = config("auto")
    shapes = {"video": (4, 16, 16, 16), "audio": (80, 8)}
    assert choose_checkpointing(composed, shapes) == {
        "activation_checkpointing": "none", "checkpoint_every": 1,
    }  # fmt: skip
    assert composed.model.activation_checkpointing == "none"
    assert composed.task.model.activation_checkpointing == "none"
    assert choose_checkpointing(config("full"), shapes) == {}
