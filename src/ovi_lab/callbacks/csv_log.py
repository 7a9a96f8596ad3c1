"""Logger of a run's metrics: a CSV file that a kill cannot tear and that a resumed run continues."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from ovi_eval.common.files import write_whole


class ResumableCSVLogger(Logger):
    """Writes `<run>/metrics.csv`; rows that an earlier part of the run wrote stay, up to where it resumes.

    All is on its way to the disk when `log_metrics` returns. What is logged of the same step in turn is one row; what
    is logged again unchanged, as happens at a checkpoint, is written once.

    Args:
        save_dir: the run's folder.
        resumed_at: optimiser step from which the run is resumed; later rows are dropped, since they are logged again.
    """

    def __init__(self, save_dir: str, resumed_at: int = 0) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.resumed_at = resumed_at
        self._columns: list[str] = []
        self._last: deque[dict[str, str]] = deque(maxlen=3)
        self._end = 0
        """Where in the file the last row begins."""
        self._ready = False

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> ResumableCSVLogger:
        """This logger; the first access cuts the file to where the run is resumed."""
        if not self._ready:
            self._ready = True
            earlier = [row for row in self._rows() if int(row["step"]) < self.resumed_at]
            self._last.extend({k: v for k, v in row.items() if v != ""} for row in earlier[-3:])
            self._replace(earlier)
        return self

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.experiment  # noqa: B018 - brings the file up to date
        values = {k: v.item() if isinstance(v, Tensor) else v for k, v in metrics.items()}
        row = {k: str(v) for k, v in {"step": step, **values}.items()}
        if any(row.items() <= earlier.items() for earlier in self._last):
            return
        last = self._last[-1] if self._last else {}
        continued = step is not None and all(last.get(k, v) == v for k, v in row.items()) and "step" in last
        if continued:
            row = last | row
            self._last.pop()
        self._last.append(row)
        if row.keys() <= set(self._columns):
            # one write call: a reader, and a kill, see whole rows. A continued row only fills cells, so it is longer.
            text = self._text([row])
            at = self._end if continued else self.path.stat().st_size
            with self.path.open("r+b") as file:
                file.seek(at)
                file.write(text.encode())
            self._end = at
        else:
            rows = self._rows()[:-1] if continued else self._rows()
            self._replace([*rows, row], list(dict.fromkeys([*self._columns, *row])))

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is in the run's folder."""

    def _rows(self) -> list[dict[str, Any]]:
        """Whole rows of the file; a last one that was torn is left out."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            text = file.read()
        rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
        return [row for row in rows if str(row.get("step") or "").isdigit()]

    def _text(self, rows: list[dict[str, Any]], header: bool = False) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, self._columns, restval="", extrasaction="ignore", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def _replace(self, rows: list[dict[str, Any]], columns: list[str] | None = None) -> None:
        """Write the whole file, atomically."""
        self._columns = columns if columns is not None else list(dict.fromkeys(k for r in rows for k in r))
        if not self._columns:
            self.path.unlink(missing_ok=True)
            return
        text = self._text(rows, header=True).encode()
        write_whole(self.path, text)
        self._end = len(text) - len(self._text(rows[-1:]).encode())
