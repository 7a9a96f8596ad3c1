"""Pixels of any kind that image files hold -> RGB of 8 bits as a screen shows them, transparency on black.

Pillow clips integers of 16 and 32 bits and floats at 255 where it converts them, so these are scaled here.
"""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.sampling")

_RANGE_TAGS = ((340, 341), (280, 281))
"""TIFF's smallest and largest value: of any sample format, and of whole numbers."""


def to_rgb(picture: Any, name: str) -> Any:
    """A PIL image in RGB. The colour profile of the file is followed to sRGB; without one, colours are sRGB.

    Raises UserError for numbers whose range is not known; `name` is what it calls the image.
    """
    from PIL import Image

    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _grey(picture, name)
    alpha = None
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = _narrow_transparency(picture).convert("RGBA")
        alpha = picture.getchannel("A")
    if picture.mode not in ("RGB", "CMYK", "LAB", "L"):
        picture = picture.convert("RGB")
    picture = _managed(picture, profile, name).convert("RGB")
    if alpha is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size), alpha)
    return picture


def _grey(picture: Any, name: str) -> Any:
    """Whole numbers of 16 bits and numbers with a stated range as 8 bits; a transparent value is black."""
    from PIL import Image

    values_HW = np.array(picture).astype(np.float64)
    if picture.mode.startswith("I;16") or picture.format == "PNG":
        low, high = 0.0, 65535.0
    else:
        low, high = _stated_range(picture, values_HW, name)
    scaled_HW = ((values_HW - low) / (high - low)).clip(0, 1) * 255
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        scaled_HW[values_HW == clear] = 0
    return Image.fromarray(scaled_HW.round().astype(np.uint8))


def _stated_range(picture: Any, values_HW: np.ndarray, name: str) -> tuple[float, float]:
    if not np.isfinite(values_HW).all():
        raise UserError(f"image {name} holds NaN or infinity: save it with 8 or 16 bits")
    tags = getattr(picture, "tag_v2", {})
    for least, most in _RANGE_TAGS:
        low, high = (_number(tags.get(tag)) for tag in (least, most))
        if high is not None and high > (low or 0.0):
            return low or 0.0, high
    low, high = float(values_HW.min()), float(values_HW.max())
    if picture.mode == "F" and low >= 0 and high <= 1:
        return 0.0, 1.0  # what programs write that state nothing
    kind = "floating-point numbers" if picture.mode == "F" else "whole numbers of 32 bits"
    raise UserError(
        f"image {name} holds {kind} from {low:g} to {high:g} and does not state their range: save it with 8 or 16 bits"
    )


def _number(value: Any) -> float | None:
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if np.isfinite(number) else None


def _narrow_transparency(picture: Any) -> Any:
    """Of RGB with 16 bits, Pillow keeps the upper 8, but not of the transparent colour."""
    clear = picture.info.get("transparency")
    if picture.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        picture.info["transparency"] = tuple(value >> 8 for value in clear)
    return picture


def _managed(picture: Any, profile: bytes | None, name: str) -> Any:
    """The image in sRGB, by its profile; L*a*b* needs none."""
    from PIL import ImageCms

    if profile is None and picture.mode != "LAB":
        return picture
    target: Any = ImageCms.createProfile("sRGB")
    try:
        if picture.mode == "LAB":
            source: Any = ImageCms.createProfile("LAB")
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
            if picture.mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
                return picture
        return ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
    # littlecms refuses with errors of its own, Pillow with others
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        if picture.mode == "LAB":
            raise
        log.warning(
            "image %s: its colour profile cannot be used (%s); its colours are taken as sRGB",
            name,
            shown(error, 80),
        )
        return picture
