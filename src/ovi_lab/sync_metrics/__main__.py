"""`ovi-sync-metrics`, also `make sync-metrics`: which fault each sync metric sees, on worlds whose truth is known.

Faults of known kind and size are planted in clips of the worlds; every sync metric of ovi_eval that can run here scores
them; a report says what each metric follows, from which size on it sees it, and what it is blind to.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovi_eval.commands.options import WEIGHTS_HELP, names_of, use_weights
from ovi_eval.common.boundary import LineParser, command
from ovi_lab import __version__
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from ovi_lab.sync_metrics.measuring import SyncStudy

MOST_CLIPS = 4096


def _parser() -> LineParser:
    parser = LineParser(
        prog="ovi-sync-metrics",
        description="Plant faults of known kind and size in clips of worlds whose truth is known, and measure which of "
        "them each sync metric sees, from which size on, and to which it is blind. What is measured already is not "
        "measured again.",
    )
    parser.examples = (
        ("ovi-sync-metrics", "the whole study, into runs/sync_metrics"),
        (
            "ovi-sync-metrics --worlds speaking_mouth --faults late,jitter --clips 8",
            "a small part, in a minute",
        ),
        ("ovi-sync-metrics --codec --name sync_metrics_codec", "the same clips through the worlds' codecs"),
    )
    add = parser.add_argument
    add("--version", action="version", version=f"ovi-sync-metrics {__version__}")
    add(
        "--worlds",
        default="bouncing_ball,speaking_mouth",
        help="worlds, with commas (both: bouncing_ball,speaking_mouth)",
    )
    add("--clips", type=int, default=32, metavar="N", help="clips of each seed (32)")
    add("--seeds", default="0,1,2", help="seeds of the clips, with commas (0,1,2)")
    add("--faults", help="faults, with commas (all)")
    add(
        "--codec",
        action="store_true",
        help="send the faulty clips through the world's codec before they are measured",
    )
    add("--weights", metavar="DIR", help=WEIGHTS_HELP)
    add("--name", default="sync_metrics", help="everything is written below runs/NAME (sync_metrics)")
    return parser


@command(
    "ovi-sync-metrics",
    interrupted="interrupted; the same command continues with what is missing",
    interrupted_code=2,
)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    use_weights(options.weights)
    asked = _asked(options)
    from rich.markdown import Markdown

    from ovi_eval.report.terminal import narrow_console
    from ovi_lab.sync_metrics.measuring import one_thread
    from ovi_lab.sync_metrics.outcome import run

    one_thread()
    folder, board = run(asked)
    lines = [f"- **{finding.outcome.replace('_', ' ')}**: {finding.text}" for finding in board.findings]
    narrow_console().print(Markdown("\n".join(lines)))
    print(f"\n{folder / 'report.html'}\n{folder / 'report.md'}")
    return 0


def _asked(options: argparse.Namespace) -> SyncStudy:
    """What the options ask for. Raises UserError for a value that cannot be used."""
    from pathlib import Path

    from ovi_lab.sync_metrics.faults import FAULTS
    from ovi_lab.sync_metrics.measuring import SyncStudy, check_faults
    from ovi_lab.sync_metrics.scenes import scenes_of

    worlds = tuple(dict.fromkeys(names_of(options.worlds, "--worlds") or ()))
    for world in worlds:
        scenes_of(world)
    if not 2 <= options.clips <= MOST_CLIPS:
        raise UserError(f"--clips is {options.clips}: expected 2 to {MOST_CLIPS} clips of each seed")
    seeds = tuple(dict.fromkeys(_seed(text) for text in names_of(options.seeds, "--seeds") or ()))
    faults = check_faults(names_of(options.faults, "--faults") or list(FAULTS))
    for world in worlds:
        short = scenes_of(world).short
        if not any(short in FAULTS[name].worlds for name in faults):
            raise UserError(
                f"--faults {options.faults}: {world} can have none of them; name another, or another world"
            )
    folder = Path("runs") / options.name
    if not options.name or folder.parent != Path("runs"):
        raise UserError(f"--name is {options.name!r}: expected the name of a folder below runs")
    return SyncStudy(worlds, seeds, options.clips, faults, options.codec, folder)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise UserError(f"--seeds holds {text!r}: expected whole numbers of 0 or more, with commas")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
