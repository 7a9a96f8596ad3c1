"""Any clip as the ball world's metrics see it: frames of 16x16 by averaging areas, sound of 8 kHz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ovi_eval.ball import detectors
from ovi_eval.clips.clip import aligned
from ovi_eval.clips.clipset import FAILED, ClipSet
from ovi_eval.clips.items import Item, why_lost
from ovi_eval.errors import UserError


def small_clips(items: Sequence[Item], strict: bool = False) -> Iterator[ClipSet]:
    """Each clip as a set of one. One that cannot be read comes as a failed clip with the reason; with `strict`
    the first raises UserError.
    """
    for item in items:
        try:
            yield small_clip(item)
        except Exception as error:  # whatever a strange clip does to a library is that clip's reason
            if strict:
                raise UserError(f"{item.name}: {why_lost(error, item)}") from error
            nothing = torch.zeros(1, 1, detectors.SIDE, detectors.SIDE, 3, dtype=torch.uint8)
            silence = torch.zeros(1, 1)
            meta = [{FAILED: item.failed or why_lost(error, item)}]
            yield ClipSet([item.id], [item.caption], nothing, 25.0, silence, detectors.RATE, meta)
        finally:
            item.release()


def small_clip(item: Item) -> ClipSet:
    """One clip as a set of one. Raises UserError naming a clip that cannot be read or has no picture or sound."""
    clip = aligned(item.name, item.frames_through(_pooled), item.audio(detectors.RATE))
    meta = [{FAILED: item.failed} if item.failed else {}]
    return ClipSet(
        [item.id], [item.caption], clip.frames_THWC[None], clip.fps, clip.wave_S[None], clip.sample_rate, meta
    )


def _pooled(frame_HWC: Tensor) -> Tensor:
    small_CHW = torch.nn.functional.adaptive_avg_pool2d(frame_HWC.permute(2, 0, 1).float(), detectors.SIDE)
    return small_CHW.permute(1, 2, 0).round().byte()
