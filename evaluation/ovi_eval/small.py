"""Any clip as the ball world's metrics see it: frames of 16x16 by averaging areas, sound of 8 kHz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ovi_eval import detectors
from ovi_eval.clipset import FAILED, ClipSet
from ovi_eval.errors import EvalError
from ovi_eval.items import Item, reason_of
from ovi_eval.media import aligned


def small_clips(items: Sequence[Item], strict: bool = False) -> Iterator[ClipSet]:
    """Each clip as a set of one. One that cannot be read comes as a failed clip with the reason; with `strict`
    the first raises EvalError.
    """
    for item in items:
        try:
            yield small_clip(item)
        except EvalError as error:
            if strict:
                raise
            nothing = torch.zeros(1, 1, detectors.SIDE, detectors.SIDE, 3, dtype=torch.uint8)
            silence = torch.zeros(1, 1)
            meta = [{FAILED: item.failed or reason_of(error, item)}]
            yield ClipSet([item.id], [item.caption], nothing, 25.0, silence, detectors.RATE, meta)
        finally:
            item.release()


def small_clip(item: Item) -> ClipSet:
    """One clip as a set of one. Raises EvalError naming a clip that cannot be read or has no picture or sound."""
    clip = aligned(item.name, item.video(), item.audio(detectors.RATE))
    frames_TCHW = clip.frames_THWC.permute(0, 3, 1, 2)
    small_TCHW = torch.cat(
        [
            torch.nn.functional.adaptive_avg_pool2d(frame.float(), detectors.SIDE)
            for frame in frames_TCHW.split(8)
        ]
    )
    frames_1THWC = small_TCHW.permute(0, 2, 3, 1).round().byte()[None]
    meta = [{FAILED: item.failed} if item.failed else {}]
    return ClipSet(
        [item.id], [item.caption], frames_1THWC, clip.fps, clip.wave_S[None], clip.sample_rate, meta
    )
