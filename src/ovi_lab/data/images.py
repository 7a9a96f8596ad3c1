"""Pictures from untrusted image files: read with limits, as they are meant to be seen.

Pixels of any kind become RGB of 8 bits. Pillow clips integers of 16 and 32 bits and floats at 255 where it converts
them, so these are scaled here.
"""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
MIN_SIDE = 16
MAX_STRETCH = 3.0
"""The most by which a pixel may be longer than wide; more is an error of the program that wrote the file."""
ORIENTATION = 0x0112
_RANGE_TAGS = ((340, 341), (280, 281))
"""TIFF's smallest and largest value: of any sample format, and of whole numbers."""


def read_image(path: str | Path) -> Any:
    """A PIL image in RGB as it is meant to be seen; the first of several pictures.

    Upright by its EXIF or XMP orientation, with square pixels, in sRGB by its colour profile, transparency on black,
    16 bits and numbers of a stated range scaled to 8 bits.

    Raises:
        UserError: missing, too large, of an unknown kind, damaged, or of numbers without a range.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path, name = Path(path), shown(path)
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:  # such as a name that is too long
        size = None
    if size is None:
        raise UserError(f"no image at {name}")
    if size > MAX_BYTES:
        raise UserError(f"image {name} has {size} bytes: at most {MAX_BYTES} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of a damaged file is an error
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                # the header alone has been read: what it announces decides whether the rest is
                width, height = opened.size
                if width * height > MAX_PIXELS:
                    raise UserError(f"image {name} is {width}x{height}: at most {MAX_PIXELS} pixels are read")
                turned = getattr(opened, "tag_v2", {}).get(ORIENTATION, 1) > 4
                opened.load()  # which turns a TIFF
                shape = pixel_shape(opened)
                picture = to_rgb(opened, name)
                picture = _square(picture, 1 / shape if turned else shape)
                picture.info, exif = {}, opened.getexif()
                if ORIENTATION in exif:
                    picture.getexif()[ORIENTATION] = exif[ORIENTATION]
                    picture = ImageOps.exif_transpose(picture)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"image {name} cannot be read: expected {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {name} is too large: at most {MAX_PIXELS} pixels are read") from error
    # a damaged file ends in whatever its decoder meets
    except Exception as error:
        reason = shown(error, 120) or type(error).__name__
        raise UserError(f"image {name} cannot be read ({reason}): it is damaged") from error
    if min(picture.size) < MIN_SIDE:
        raise UserError(
            f"image {name} is {picture.width}x{picture.height}: expected sides of at least {MIN_SIDE} pixels"
        )
    return picture


def pixel_shape(picture: Any) -> float:
    """Width over height of a pixel, as PNG, JFIF and TIFF state it; 1 where it is not stated or not to be believed."""
    info = picture.info
    stated = {
        "PNG": info.get("aspect") or info.get("dpi"),
        "JPEG": info.get("jfif_density"),
        "TIFF": info.get("dpi") or info.get("resolution"),
    }.get(picture.format)
    try:
        across, down = (float(density) for density in stated or (1, 1))
        shape = down / across
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0
    return shape if 1 / MAX_STRETCH <= shape <= MAX_STRETCH and abs(shape - 1) > 0.01 else 1.0


def _square(picture: Any, shape: float) -> Any:
    """The image with square pixels: its shorter way is stretched."""
    from PIL import Image

    if shape == 1:
        return picture
    width = max(round(picture.width * shape), picture.width)
    height = max(round(picture.height / shape), picture.height)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


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
