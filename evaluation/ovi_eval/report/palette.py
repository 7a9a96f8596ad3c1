"""Colours of arms, dashes of references and names that may break: what the parts of the page share."""

from ovi_eval.report.text import escape

# Told apart with any colour vision, and legible on white and on black.
COLOURS = ("#2f7fd6", "#d9730d", "#159a76", "#b35bb5", "#c8513f", "#7d8b1f", "#5f6bd8", "#9a6a3a")
# Lengths of dash and gap.
DASHES = ((7.0, 3.0), (1.5, 2.5), (7.0, 2.5, 1.5, 2.5), (3.5, 2.0), (10.0, 2.5), (1.0, 4.0))


def colour(index: int) -> str:
    """The colour of the arm at this place of the leaderboard."""
    return COLOURS[index % len(COLOURS)]


def dot(tint: str | None) -> str:
    """The mark before an arm's name; dashed for a reference, which has no colour."""
    return f'<i class="dot" style="background:{tint}"></i>' if tint else '<i class="dot real"></i>'


def breakable(text: str) -> str:
    """Escaped text that may break after its underscores and slashes, as names here have no spaces."""
    return escape(text).replace("_", "_<wbr>").replace("/", "/<wbr>")
