"""`ovi-eval compare A B`: two models side by side on the terminal, and as JSON or Markdown."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ovi_eval.errors import UserError

HELP = "compare two models: paired differences, intervals, p values"
EXAMPLES = (
    ("ovi-eval compare runs/a/results.json runs/b/results.json", "two models, one seed each"),
    (
        "ovi-eval compare runs/fusion_ablation/none runs/fusion_ablation/bidirectional_scaled",
        "two arms, all their seeds",
    ),
    ("ovi-eval compare a0.json,a1.json b0.json,b1.json --markdown table.md", "the table in a file as well"),
)
EPILOG = """A and B are each a results file or a folder of them. Several training seeds of one model are named with
commas between, as a0.json,a1.json b0.json,b1.json, or by the folder that holds them. Differences are A minus B,
clip by clip where both sides have values per clip; p values are adjusted over all metrics. Exit code 2 where
nothing can be compared."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.epilog = EPILOG
    parser.add_argument(
        "a", metavar="A", help="results of one model: a file, a folder, or several with commas"
    )
    parser.add_argument("b", metavar="B", help="results of the other model, in the same way")
    parser.add_argument("--json", metavar="OUT", help="also write everything to this JSON file")
    parser.add_argument("--markdown", metavar="OUT", help="also write the table to this Markdown file")


def run(options: argparse.Namespace) -> None:
    """Compares, prints, and writes what was asked for. Raises UserError for bad input before anything is written."""
    from ovi_eval.common.files import written_together
    from ovi_eval.ranking.comparison import compare
    from ovi_eval.report.comparison import markdown, show

    outputs = [Path(out) for out in (options.json, options.markdown) if out]
    for out in outputs:
        if out.is_dir():
            raise UserError(f"{out}: is a folder; name the file that the comparison goes to")
    if len({out.resolve() for out in outputs}) < len(outputs):
        raise UserError(f"{outputs[0]}: is named for both outputs; name a file for each")
    sides = [_paths(text) for text in (options.a, options.b)]
    inputs = {path.resolve() for side in sides for path in side}
    for out in outputs:
        if out.resolve() in inputs:
            raise UserError(f"{out}: is one of the results compared; name another file for the comparison")
    comparison = compare(*sides)
    show(comparison)
    with written_together() as beside:
        if options.json:
            text = json.dumps(comparison.to_dict(), indent=1, allow_nan=False) + "\n"
            beside(Path(options.json)).write_text(text, encoding="utf-8")
        if options.markdown:
            beside(Path(options.markdown)).write_text(markdown(comparison), encoding="utf-8")
    for out in outputs:
        print(out)


def _paths(text: str) -> list[Path]:
    """The files of one side; a path that is there is taken whole, commas and all."""
    if Path(text).exists():
        return [Path(text)]
    return [Path(part.strip()) for part in text.split(",") if part.strip()]
