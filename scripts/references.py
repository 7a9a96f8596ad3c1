"""Ceilings and floors of a world: its real clips through the codec, and distorted on purpose, scored without training.

    python scripts/references.py data=speaking_mouth evaluation=mouth
    python scripts/references.py experiment=mouth_ablation --out runs/mouth_ablation/references

Prints a table of all of the world's metrics and writes it to `references.md` beside the results. The columns are the
rows that a study shows below its arms; in `references` below its folder, a study finds them made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ovi_eval.common.files import write_whole
from ovi_eval.common.number_format import digits_for, format_number
from ovi_eval.common.plain_data import read_json
from ovi_eval.errors import UserError
from ovi_lab.api import compose
from ovi_lab.runs.evaluate import evaluate_references


def table(folder: Path) -> str:
    """The references' results as a table in Markdown: a line for each value, a column for each reference.

    Raises UserError where results cannot be read.
    """
    rows = {file.parent.name: read_json(file)["metrics"] for file in sorted(folder.glob("*/results.json"))}
    names = sorted(rows, key=lambda name: (name != "real", "shifted" not in name, len(name), name))
    lines = ["| " + " | ".join(["value", *(name.replace("_", " ") for name in names)]) + " |"]
    lines.append("|---|" + "--:|" * len(names))
    for key, about in next(iter(rows.values())).items():
        values = [rows[name][key]["value"] for name in names]
        shown = ["–" if v is None else format_number(v, digits_for(v)) for v in values]
        lines.append(f"| `{key}`, {about['direction']} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Score the reference rows and show them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "overrides", nargs="+", help="as ovi-train takes them: data and evaluation, or a study"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/references"), help="folder (runs/references)")
    options = parser.parse_args()
    try:
        evaluate_references(compose(*options.overrides), options.out)
        text = table(options.out)
        write_whole(options.out / "references.md", text)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
