"""How large a picture is made: the area a model was trained on, in the requested shape.

Sides are multiples of 32 (16 of the VAE times 2 of the patches). The rules are those of the released sampling
code, held by the cases in resolution_prompts.json. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import math
import re

from ovi_lab.errors import UserError

Size = tuple[int, int]

MULTIPLE = 32
MAX_ASPECT = 4.0
"""Longer side over shorter: beyond it no released model was trained, and 32 pixels make a coarse rule."""
MAX_SIDE = 100_000


def snapped(size: Size, area: int, multiple: int = MULTIPLE) -> Size:
    """The size scaled to about `area` pixels, each side then rounded by itself (text to video)."""
    height, width = size
    scale = math.sqrt(area / (height * width))
    # to whole pixels first: it decides cases such as 623.54, which is nearer to 608 and becomes 640
    sides = [round(side * scale) for side in (height, width)]
    up, across = (max(multiple, round(side / multiple) * multiple) for side in sides)
    return up, across


def size_for_image(size: Size, area: int, multiple: int = MULTIPLE) -> Size:
    """The size for an image's video: of candidates in its shape, the nearest in area, then in aspect.

    Candidates are the seven heights around the ideal one, each with the width that the aspect gives it, and
    the image scaled to the area with both sides rounded.
    """
    height, width = size
    aspect = width / height
    ideal = max(1, round(math.sqrt((area // multiple**2) / aspect)))
    rows = [max(1, ideal + offset) for offset in range(-3, 4)]
    candidates = [(r * multiple, max(1, round(r * aspect)) * multiple) for r in rows]
    scale = math.sqrt(area / (height * width)) / multiple
    candidates.append((max(1, round(height * scale)) * multiple, max(1, round(width * scale)) * multiple))
    return min(candidates, key=lambda c: (abs(c[0] * c[1] - area), abs(c[1] / c[0] - aspect)))


def check_shape(size: Size, what: str) -> None:
    """Raises UserError for a size that is no size, or longer than four times its shorter side."""
    height, width = size
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise UserError(f"{what} is {height}x{width}: expected sides of 1 to {MAX_SIDE} pixels")
    aspect = max(height / width, width / height)
    if aspect > MAX_ASPECT:
        raise UserError(
            f"{what} is {height}x{width} (height x width), {aspect:.1f} times as long as wide: "
            f"at most {MAX_ASPECT:g} times can be made, crop it or choose another shape"
        )


def parse_size(text: str) -> Size:
    """`720x1280`, height before width. Raises UserError for anything else and for extreme shapes."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX×]\s*(\d{1,6})\s*", text)
    if match is None:
        raise UserError(
            f"size={text} is not understood: give HEIGHTxWIDTH in pixels such as size=704x1280, or aspect=16:9"
        )
    size = int(match[1]), int(match[2])
    check_shape(size, f"size={text.strip()}")
    return size


def parse_aspect(text: str) -> Size:
    """`16:9`, width before height as screens are named. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(\d{1,4}(?:\.\d{1,4})?)\s*[:/]\s*(\d{1,4}(?:\.\d{1,4})?)\s*", text)
    if match is None or not float(match[1]) * float(match[2]):
        raise UserError(f"aspect={text} is not understood: give WIDTH:HEIGHT such as aspect=16:9")
    # in thousandths of a unit, so that 2.39:1 keeps its shape
    size = max(1, round(float(match[2]) * 1000)), max(1, round(float(match[1]) * 1000))
    scale = MAX_SIDE / max(*size, MAX_SIDE)
    size = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    check_shape(size, f"aspect={text.strip()}")
    return size


def shape_of(size: str | None, aspect: str | None) -> Size | None:
    """Height and width of a size or of an aspect; None where neither is given. Raises UserError where both are."""
    if size is not None and aspect is not None:
        raise UserError("size and aspect are both given: give one")
    if size is not None:
        return parse_size(size)
    return None if aspect is None else parse_aspect(aspect)
