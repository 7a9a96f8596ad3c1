"""First frames from image files, and their scaling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.data import images
from ovi_lab.sampling.sizes import Size, check_shape


def read_image(path: str | Path) -> Any:
    """A PIL image in RGB as `data.images` reads it. Raises UserError as that does, and for an extreme shape."""
    picture = images.read_image(path)
    check_shape((picture.height, picture.width), f"image {shown(path)}")
    return picture


def scaled(picture: Any, size: Size) -> Tensor:
    """uint8 [H, W, 3] of the size (bicubic, with smoothing where it shrinks)."""
    from PIL import Image

    resized = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized))
