"""A clip's frames one after the other, so that a long or large clip never lies in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ovi_eval.items import FileItem, Item
from ovi_eval.media import Video, decode_video


def look_at_frames(item: Item, look: Callable[[Tensor], Tensor]) -> Video:
    """What `look` made of each frame [H, W, 3] uint8, stacked as the frames of a Video.

    Of a file only what `look` returns is kept, unless another metric has decoded it and keeps it already. Raises
    EvalError as `Item.video`.
    """
    if isinstance(item, FileItem) and item._video is None:
        return decode_video(item.path, name=item.name, transform=look)
    video = item.video()
    return Video(torch.stack([look(frame_HWC) for frame_HWC in video.frames_THWC]), video.fps, video.times_T)
