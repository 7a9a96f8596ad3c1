"""Colours of arms and dashes of references: what the page and the figure share."""

# Told apart with any colour vision, and legible on white and on black.
COLOURS = ("#2f7fd6", "#d9730d", "#159a76", "#b35bb5", "#c8513f", "#7d8b1f", "#5f6bd8", "#9a6a3a")
# Lengths of dash and gap.
DASHES = ((7.0, 3.0), (1.5, 2.5), (7.0, 2.5, 1.5, 2.5), (3.5, 2.0), (10.0, 2.5), (1.0, 4.0))


def colour(index: int) -> str:
    """The colour of the arm at this place of the leaderboard."""
    return COLOURS[index % len(COLOURS)]


def dash_array(index: int) -> str:
    """The dashes of the reference at this place, as SVG writes them."""
    return " ".join(f"{length:g}" for length in DASHES[index % len(DASHES)])
