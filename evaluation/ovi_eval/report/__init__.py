"""How a leaderboard is shown: on the terminal, as Markdown, as a figure and as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ovi_eval.common.files import written_together
from ovi_eval.errors import UserError
from ovi_eval.results.files import LEADERBOARD_SCHEMA, load_json

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard


def write_all(board: Leaderboard, out_dir: Path, progress: bool = False, drawn: Sequence[str] = ()) -> None:
    """Writes results.json, leaderboard.md, figure.png and leaderboard.html to `out_dir`: all of them, or none.

    `progress` shows a bar on the terminal while the clips are drawn. `drawn` holds the ids of the figure's columns, in
    their order; where none of them is there, all columns are drawn. Raises UserError where they cannot be written, or
    `out_dir` holds the results of something else.
    """
    from rich.progress import Progress

    from ovi_eval.report.curve_figure import curves_png
    from ovi_eval.report.figure import figure_png
    from ovi_eval.report.html.page import page
    from ovi_eval.report.markdown import markdown

    target = out_dir / "results.json"
    if target.is_file() and load_json(target).get("schema") != LEADERBOARD_SCHEMA:
        raise UserError(
            f"{target}: holds other results, which a leaderboard must not replace; pass another --out"
        )
    with written_together() as beside:
        results = json.dumps(board.to_dict(), indent=1, allow_nan=False) + "\n"
        beside(out_dir / "results.json").write_text(results, encoding="utf-8")
        beside(out_dir / "leaderboard.md").write_text(markdown(board), encoding="utf-8")
        by_id = {column.id: column for column in board.columns}
        columns = [by_id[name] for name in drawn if name in by_id] or board.columns
        drawn_board = replace(board, columns=columns)
        figure = figure_png(drawn_board) if board.sweep is None else curves_png(drawn_board, board.sweep)
        beside(out_dir / "figure.png").write_bytes(figure)
        with Progress(disable=not progress, transient=True) as bar:
            task = bar.add_task("leaderboard.html", total=None)
            html = page(board, lambda done, total: bar.update(task, completed=done, total=total), figure)
        beside(out_dir / "leaderboard.html").write_text(html, encoding="utf-8")
