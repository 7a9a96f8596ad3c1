"""Lightning's CSV log, kept when a run is resumed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger


class ResumableCSVLogger(CSVLogger):
    """Writes `<run>/metrics.csv`; rows that an earlier part of the run wrote stay, up to where it resumes.

    Args:
        save_dir: the run's folder.
        resumed_at: optimiser step from which the run goes on; later rows are dropped, for they are made again.
    """

    def __init__(self, save_dir: str, resumed_at: int = 0, flush_logs_every_n_steps: int = 100) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)
        self._earlier: list[dict[str, Any]] = []
        existing = Path(save_dir) / "metrics.csv"
        if existing.is_file():
            if resumed_at:
                with existing.open(newline="") as stream:
                    rows = list(csv.DictReader(stream))
                self._earlier = [row for row in rows if int(row["step"]) < resumed_at]
            # Lightning deletes a log that it finds, with a warning meant for those who did not intend to resume
            existing.unlink()

    @property
    def experiment(self) -> Any:
        """The writer; the first access puts the earlier rows back."""
        fresh = self._experiment is None
        writer = super().experiment
        if fresh and self._earlier:
            for row in self._earlier:
                writer.metrics.append({k: v for k, v in row.items() if v != ""})
            writer.save()
        return writer
