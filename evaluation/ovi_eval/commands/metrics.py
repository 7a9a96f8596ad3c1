"""`ovi-eval metrics`: every metric, what it gives and needs, and where to get what is missing here."""

from __future__ import annotations

import argparse

from ovi_eval.commands.options import WEIGHTS_HELP, use_weights

HELP = "list the metrics: what each gives, needs and lacks here"
EXAMPLES = (
    ("ovi-eval metrics", "every metric, those of installed packages too"),
    ("ovi-eval metrics --weights /data/weights", "what is available with the weights in that folder"),
    ("OVI_EVAL_WEIGHTS=/data/weights ovi-eval metrics", "the same"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--weights", metavar="DIR", help=WEIGHTS_HELP)


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    from ovi_eval.report.metric_list import show_metrics

    use_weights(options.weights)
    show_metrics()
