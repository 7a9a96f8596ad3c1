"""`ovi-small OUT`: a whole Ovi of random weights, a few megabytes, in the released layout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ovi_eval.common.boundary import LineParser, command
from ovi_lab import __version__
from ovi_lab.errors import UserError


@command("ovi-small")
def main(arguments: Sequence[str] | None = None) -> int:
    """The command `ovi-small`; returns its exit code."""
    parser = LineParser(
        prog="ovi-small",
        description="Write a whole Ovi of random weights: towers, Wan2.2 VAE, MMAudio's VAE and vocoder, umT5. It is "
        "sampled as the released model is, in under a minute on a CPU. What it makes is noise.",
    )
    parser.examples = (
        ("ovi-small small_ovi", "14 MB in the folder small_ovi"),
        ("ovi-small small_ovi --side 64 --seed 1", "other weights, for smaller pictures"),
        ('ovi-sample checkpoint=small_ovi prompt="rain. Audio: soft rain"', "a clip of it"),
    )
    parser.add_argument("--version", action="version", version=f"ovi-small {__version__}")
    parser.add_argument("out", metavar="OUT", help="a new folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of all weights (0)")
    parser.add_argument("--side", type=int, default=96, help="side of the picture in pixels, about (96)")
    options = parser.parse_args(arguments)
    if options.side < 32:
        raise UserError(f"--side is {options.side}: pictures have sides of at least 32 pixels")
    from ovi_lab.sampling.small_weights import write_small

    out = write_small(options.out, options.seed, (options.side, options.side))
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f'{out}: {size / 1e6:.1f} MB; ovi-sample checkpoint={out} prompt="rain. Audio: soft rain"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
