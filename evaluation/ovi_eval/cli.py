"""ovi-eval: scores clips, ranks runs, lists metrics. Bad input ends with one line on stderr and code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ovi_eval import __version__
from ovi_eval.commands import check, compare, leaderboard, metrics, score
from ovi_eval.common.boundary import LineParser, command, say_purposes

# Their modules import only argparse: what a command needs, it imports when it runs.
COMMANDS = {
    "score": score,
    "leaderboard": leaderboard,
    "compare": compare,
    "metrics": metrics,
    "check": check,
}


@command("ovi-eval")
def main(argv: Sequence[str] | None = None) -> int | None:
    """Runs one command; returns 0, what the command says, or 2 for bad input and 130 where it was interrupted."""
    options = _parser().parse_args(argv)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="ovi-eval", description="Score clips of video and sound, and rank what was scored."
    )
    parser.examples = (
        (
            "ovi-eval score clips --reference real --out results.json",
            "score a folder of clips against real ones",
        ),
        ("ovi-eval leaderboard runs/fusion_ablation", "rank the runs of a study"),
        ("ovi-eval metrics", "every metric, with what it needs and what is missing here"),
    )
    parser.add_argument("--version", action="version", version=f"ovi-eval {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=LineParser
    )
    for name, module in COMMANDS.items():
        of_command = commands.add_parser(name, help=module.HELP)
        of_command.examples = module.EXAMPLES
        module.add_arguments(of_command)
        of_command.set_defaults(run=module.run)
    say_purposes(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
