"""How a leaderboard is shown: on the terminal, as Markdown, as a figure and as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ovi_eval.results import write_text

if TYPE_CHECKING:
    from ovi_eval.board import Leaderboard


def write_all(board: Leaderboard, out_dir: Path, progress: bool = False) -> None:
    """Writes results.json, leaderboard.md, figure.png and leaderboard.html to `out_dir`, each whole.

    `progress` shows a bar on the terminal while the clips are drawn.
    """
    from rich.progress import Progress

    from ovi_eval.report.figure import write_figure
    from ovi_eval.report.markdown import markdown
    from ovi_eval.report.page import page

    write_text(out_dir / "results.json", json.dumps(board.to_dict(), indent=1, allow_nan=False) + "\n")
    write_text(out_dir / "leaderboard.md", markdown(board))
    write_figure(board, out_dir / "figure.png")
    with Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task("leaderboard.html", total=None)
        html = page(board, lambda done, total: bar.update(task, completed=done, total=total))
    write_text(out_dir / "leaderboard.html", html)
