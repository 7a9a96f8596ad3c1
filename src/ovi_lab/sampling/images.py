"""First frames from image files of anybody: read with limits, as they are meant to be seen, and scaled."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError
from ovi_lab.sampling.image_colours import to_rgb
from ovi_lab.sampling.sizes import Size, check_shape

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
MIN_SIDE = 16
MAX_STRETCH = 3.0
"""Pixels of other shapes are taken for a slip of the program that wrote them."""
ORIENTATION = 0x0112


def read_image(path: str | Path) -> Any:
    """A PIL image in RGB as it is meant to be seen; the first of several pictures.

    Upright by its EXIF or XMP orientation, with square pixels, in sRGB by its colour profile, transparency on black,
    16 bits and numbers of a stated range scaled to 8 bits.

    Raises:
        UserError: missing, too large, of an unknown kind, damaged, of extreme shape or of numbers without a range.
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
    check_shape((picture.height, picture.width), f"image {name}")
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


def scaled(picture: Any, size: Size) -> Tensor:
    """uint8 [H, W, 3] of the size (bicubic, with smoothing where it shrinks)."""
    from PIL import Image

    resized = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized))
