"""leaderboard.html: one file that needs no network and no server.

The Python files here work out what is shown, the templates (*.html) its form. Whatever comes from files (names,
captions, reasons, provenance) is escaped by the templates' environment; the page's policy forbids it to fetch anything.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment
from markupsafe import Markup

from ovi_eval.common.shown import shown
from ovi_eval.ranking.columns import Column, grouped
from ovi_eval.report import curve_tables, published, wording
from ovi_eval.report.curve_tables import value_tables
from ovi_eval.report.html.clip_store import ClipStore
from ovi_eval.report.html.clips import prompt_rows, values_shown
from ovi_eval.report.html.drawings import SIDE, WIDTH, Axis
from ovi_eval.report.html.escaping import escaping_environment
from ovi_eval.report.html.models import MAX_LACKING, PLAYED, addresses, model_pages
from ovi_eval.report.html.run_facts import facts_of_runs
from ovi_eval.report.html.tables import FEW_LINES, filters, having, metric_tables, reference_lines
from ovi_eval.report.html.timeline_picture import TIMELINE
from ovi_eval.report.palette import dash_array
from ovi_eval.report.wording import LONGEST, line
from ovi_eval.results.published import PublishedTable, by_benchmark

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

# Of base64 text: what all clips may take, those of the prompts and those of the models' own pages.
BUDGET = 11_000_000


def page(
    board: Leaderboard, step: Callable[[int, int], None] = lambda done, total: None, figure: bytes = b""
) -> str:
    """The whole page. `step` is called with how many of how many clips, and then models, have been drawn. `figure`: of
    a sweep, its curves as PNG.
    """
    store = ClipStore(BUDGET)
    prompts, left_out = prompt_rows(board, store, step)
    models = model_pages(board, store, step)
    return (
        _environment()
        .get_template("page.html")
        .render(
            board=board,
            style=Markup(_asset("page.css")),
            script=Markup(_asset("page.js") + _asset("players.js")),
            facts=_facts(board),
            filters=filters(board),
            cells=[cell for row in board.arms for cell in row.cells.values()],
            tables=metric_tables(board),
            reference_lines=reference_lines(board),
            addresses=addresses(board),
            curves=[] if board.sweep is None else value_tables(board, board.sweep),
            curves_figure=Markup(b64encode(figure).decode()),
            panels=_panels(board) if board.sweep is None else {},
            prompts=prompts,
            prompts_left_out=left_out,
            several_benchmarks=len({run.benchmark for row in board.arms for run in row.runs}) > 1,
            mean_columns=[column for column in board.columns if column.kind == "mean"],
            all_runs=facts_of_runs([*board.arms, *board.references]),
            versions=_versions(board),
            models=models,
            clips=store.added.values(),
        )
    )


@cache
def _environment() -> Environment:
    environment = escaping_environment(_asset)
    environment.filters |= {
        "as_is": Markup,
        "breakable": _breakable,
        "by_benchmark": by_benchmark,
        "cut": line,
        "evidence": _evidence,
        "having": having,
        "linked_origin": _linked_origin,
    }
    environment.globals |= {
        "FEW_LINES": FEW_LINES,
        "MAX_LACKING": MAX_LACKING,
        "PLAYED": PLAYED,
        "SIDE": SIDE,
        "TIMELINE": TIMELINE,
        "WIDTH": WIDTH,
        "curve_tables": curve_tables,
        "dash_array": dash_array,
        "published": published,
        "values_shown": values_shown,
        "wording": wording,
    }
    return environment


def _asset(name: str) -> str:
    return files("ovi_eval.report.html").joinpath(name).read_text(encoding="utf-8")


def _breakable(text: str) -> Markup:
    """Escaped text that may break after its underscores and slashes, as names here have no spaces."""
    return Markup(shown(text, LONGEST, to="html").replace("_", "_<wbr>").replace("/", "/<wbr>"))


def _linked_origin(table: PublishedTable) -> Markup:
    """Where published numbers are from, the source's address, where it begins with one, as a link."""
    text = shown(published.origin(table), LONGEST, to="html")
    address = shown(table.source.split()[0], LONGEST, to="html")
    if address.startswith("https://"):
        text = text.replace(address, f'<a href="{address}" rel="noreferrer">{address}</a>', 1)
    return Markup(text)


def _evidence(e: Mapping[str, Any]) -> str:
    between = "no interval" if e["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*e["interval"])
    p = "" if e["p"] is None else f", p = {e['p']:.2g}"
    adjusted = "" if e["p_adjusted"] is None else f", Holm p = {e['p_adjusted']:.2g}"
    if "trend" in e:
        apart = (
            f"from {e['means'][0]:.3f} to {e['means'][-1]:.3f}; slope per {e['slope_per']} {e['slope']:+.3g} "
            f"{between}, rank correlation {e['rho']:.2f}"
        )
    else:
        apart = f"{e['arm']} {e['a']:.3f}, {e['versus']} {e['b']:.3f}; difference {e['difference']:+.3f} {between}"
    return f"{e['metric']}: {apart}; {e['test']}, n = {e['n']}{p}{adjusted}"


def _facts(board: Leaderboard) -> list[str]:
    counts = sorted({len([seed for seed in row.seeds if seed is not None]) for row in board.arms})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    clips = sorted({run.n_clips for row in board.arms for run in row.runs})
    benchmarks = {column.benchmark for column in board.columns}
    found = [
        f"{len(board.arms)} {'model' if len(board.arms) == 1 else 'models'}",
        f"{seeds} {'seed' if seeds == '1' else 'seeds'} each" if counts != [0] else "",
        f"{' or '.join(map(str, clips))} clips a run",
        *(benchmarks if len(benchmarks) == 1 else ()),
        board.created[:10],
    ]
    return list(filter(None, found))


def _panels(board: Leaderboard) -> dict[str, list[tuple[Column, Axis]]]:
    """By benchmark every metric in which a row has a value, with its axis."""
    rows = [*board.arms, *board.references]
    drawn = [column for column in board.columns if any(column.id in row.cells for row in rows)]
    return {
        benchmark: [(column, Axis.of(rows, column)) for column in own]
        for benchmark, own in grouped(drawn, "benchmark").items()
    }


def _versions(board: Leaderboard) -> str:
    made = [c for c in board.columns if c.version]
    found = (f"{c.key} v{c.version}" + (f" ({c.variant})" if c.variant else "") for c in made)
    return ", ".join(dict.fromkeys(found))
