"""metrics.csv: one row a step however it is logged, nothing twice, whole after a tear and a resume."""

import csv
from pathlib import Path

from ovi_lab.callbacks import ResumableCSVLogger


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_what_is_logged_of_a_step_in_turn_is_one_row(tmp_path):
    logger = ResumableCSVLogger(str(tmp_path))
    for step in (1, 3):
        logger.log_metrics({"speed": 10.0 * step}, step)
        logger.log_metrics({"loss": 0.5, "epoch": 0}, step)
        logger.log_metrics({"loss": 0.5, "epoch": 0}, step)  # beside a checkpoint, say
    assert rows(tmp_path) == [
        {"step": "1", "speed": "10.0", "loss": "0.5", "epoch": "0"},
        {"step": "3", "speed": "30.0", "loss": "0.5", "epoch": "0"},
    ]
    logger.log_metrics({"loss": 0.25}, 3)
    logger.log_metrics({"val": 1.0}, 3)
    assert rows(tmp_path)[2:] == [{"step": "3", "loss": "0.25", "val": "1.0"}]


def test_a_resumed_run_continues_after_a_torn_row(tmp_path):
    logger = ResumableCSVLogger(str(tmp_path))
    for step in range(4):
        logger.log_metrics({"loss": float(step)}, step)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,4.")
    logger = ResumableCSVLogger(str(tmp_path), resumed_at=3)
    logger.log_metrics({"loss": 2.0}, 2)
    logger.log_metrics({"speed": 7.0}, 2)
    logger.log_metrics({"loss": 30.0}, 3)
    assert rows(tmp_path) == [
        {"step": "0", "loss": "0.0"},
        {"step": "1", "loss": "1.0"},
        {"step": "2", "loss": "2.0", "speed": "7.0"},
        {"step": "3", "loss": "30.0"},
    ]
