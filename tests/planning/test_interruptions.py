"""What `ovi-plan` says of checkpoints and stops: a size against a real one, and limits that every experiment keeps."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ovi_lab.checkpoints import Checkpoint
from ovi_lab.common.command_line import composed as composed_by_name
from ovi_lab.common.paths import config_dir
from ovi_lab.plan import main
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.cluster import Cluster
from ovi_lab.planning.interruptions import MICRO_BATCHES, SCRIPTS, Interruptions, checkpoint_bytes
from ovi_lab.planning.job import TrainingJob
from ovi_lab.planning.training_planner import TrainingPlanner

SMALL = ("model=tiny", "optim=adamw", "video=16x16x16", "audio=80", "data.batch_size=8", "gpus=8xH100")
EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("ovi_*.yaml"))


def planned(*arguments: str) -> str:
    stream = io.StringIO()
    main(arguments, Console(file=stream, width=200))
    return stream.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_full_size_saves_within_an_hour_stops_in_time_and_logs_every_step(experiment: str) -> None:
    alone = experiment in ("ovi_lora", "ovi_partial")
    config = composed_by_name(
        [f"experiment={experiment}", *["init_from.all=weights"] * alone], config_dir(), "train"
    )
    assert config.trainer.log_every_n_steps == 1
    ten_seconds = ClipShape((61, 60, 60), 314) if experiment.endswith("10s") else None
    planner = TrainingPlanner(TrainingJob(config, ten_seconds))
    for cluster in map(Cluster.parse, ("1xH100",) if alone else ("8xH100", "64xH100")):
        choice = planner.requested(cluster.count)
        time = planner.time(choice, cluster)
        assert time is not None
        found = Interruptions.of(planner, choice, time)
        assert found.between is not None
        assert found.between < 3600
        assert found.lead >= MICRO_BATCHES * found.micro_batch + found.save
        assert found.lead <= SCRIPTS


@pytest.mark.slow
def test_a_slow_file_system_needs_more_lead_and_says_how_to_give_it() -> None:
    text = planned(*SMALL)
    assert "lead time of 300 s is enough" in text
    assert "work that a kill loses at most" in text
    text = planned(*SMALL, "storage=1e-5")
    assert "lead time of 300 s is too short; by hand: sbatch --signal=USR1@" in text
    assert "at most 1e-05 GB/s in all" in text


@pytest.mark.slow
def test_a_checkpoint_has_the_size_that_is_planned(trained, composed) -> None:
    settings = ["optim=adamw", "freeze=ffn", "samples.every_n_steps=0"]
    opened = Checkpoint.open(trained(settings) / "last")
    clip = ClipShape.of_latents(opened.configuration().plain["latent_shapes"])
    planner = TrainingPlanner(TrainingJob(composed(settings), clip))
    size = sum(file["size"] for file in opened.files.values())
    assert checkpoint_bytes(planner, planner.requested(1)) == pytest.approx(size, rel=0.1)
