"""First frames from image files of anybody: read with limits, turned upright, scaled to the clip's size."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.released.sizes import Size, check_shape

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
MIN_SIDE = 16


def read_image(path: str | Path) -> Any:
    """A PIL image in RGB, upright by its EXIF orientation, transparency on black; the first of several pictures.

    Raises:
        UserError: missing, too large, of an unknown kind, damaged, or of extreme shape.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if not path.is_file():
        raise UserError(f"no image at {path}")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"image {path} has {path.stat().st_size} bytes: at most {MAX_BYTES} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                # the header alone has been read: what it announces decides whether the rest is
                width, height = opened.size
                if width * height > MAX_PIXELS:
                    raise UserError(f"image {path} is {width}x{height}: at most {MAX_PIXELS} pixels are read")
                upright = ImageOps.exif_transpose(opened)
                if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                    upright = upright.convert("RGBA")
                    on_black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
                    upright = Image.alpha_composite(on_black, upright)
                picture = upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise UserError(f"image {path} cannot be read: expected {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {path} is too large: at most {MAX_PIXELS} pixels are read") from error
    # a damaged file ends in whichever of these its decoder meets
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"image {path} cannot be read ({reason}): it is damaged") from error
    if min(picture.size) < MIN_SIDE:
        raise UserError(
            f"image {path} is {picture.width}x{picture.height}: expected sides of at least {MIN_SIDE} pixels"
        )
    check_shape((picture.height, picture.width), f"image {path}")
    return picture


def scaled(picture: Any, size: Size) -> Tensor:
    """uint8 [H, W, 3] of the size (bicubic, with smoothing where it shrinks)."""
    from PIL import Image

    resized = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized))
