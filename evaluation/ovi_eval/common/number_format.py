"""Numbers as people read them."""

from __future__ import annotations


def digits_for(size: float) -> int:
    """Decimals that mean something for a value of this size."""
    return 3 if abs(size) < 10 else 1 if abs(size) < 1000 else 0


def format_number(value: float, digits: int | None = None) -> str:
    """A value for people, with a real minus sign and no minus zero: 0.852, 61.3, 1240."""
    text = f"{value:.{digits_for(value) if digits is None else digits}f}"
    return text.replace("-", "\u2212") if float(text) != 0 else text.lstrip("-")


def format_p(p: float | None) -> str:
    """`p = 0.031`, `p < 0.001`, or that there is none."""
    if p is None:
        return "no p value"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"
