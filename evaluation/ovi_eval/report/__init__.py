"""How a leaderboard is shown: on the terminal, as Markdown, as a figure and as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ovi_eval.results import write_text

if TYPE_CHECKING:
    from ovi_eval.leaderboard import Leaderboard


def write_all(board: Leaderboard, out_dir: Path) -> None:
    """Writes results.json, leaderboard.md, figure.png and leaderboard.html to `out_dir`, each whole or not."""
    from ovi_eval.report.markdown import markdown

    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / "results.json", json.dumps(board.to_dict(), indent=1, allow_nan=False) + "\n")
    write_text(out_dir / "leaderboard.md", markdown(board))
