"""Real clips of a data set that generated ones are compared with.

Shape suffixes: N clips, T frames, H rows, W columns, C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch

from ovi_eval.clips.clipset import ClipSet
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.dataset import ClipDataset, media_runs
from ovi_lab.data.decode import decoded_clips
from ovi_lab.data.kinds import BOTH
from ovi_lab.errors import UserError


def clips_to_evaluate(
    dataset: ClipDataset, codec: Callable[[], LatentCodec], count: int | None = None
) -> ClipSet:
    """The first `count` (None: all) clips with picture and sound: their own media, or latents decoded by the codec.

    Raises:
        UserError: there are none, or their shapes differ.
    """
    if dataset.kinds == {"latents"}:
        numbers = dataset.shapes.with_all(BOTH)[:count].tolist()
        if not numbers:
            raise UserError("no clip to evaluate on has both video and sound: name others with data.val")
        samples = [dataset[number] for number in numbers]
        ids = [sample["id"] for sample in samples]
        clips = decoded_clips(samples, codec())
    else:
        found = ((n, clip) for run in media_runs(dataset, 1) for n, clip in run)
        chosen = list(islice((one for one in found if one[1].has_video and one[1].has_audio), count))
        if len({(clip.frames_THWC.shape, clip.wave_S.shape) for _, clip in chosen}) != 1:
            raise UserError(
                "the clips to evaluate on differ in size or length; set data.num_frames, height and width"
            )
        ids = [dataset.entries[number].key for number, _ in chosen]
        clips = [clip for _, clip in chosen]
    return ClipSet(
        ids=ids,
        captions=[clip.caption for clip in clips],
        frames_NTHWC=torch.stack([clip.frames_THWC for clip in clips]),
        fps=clips[0].fps,
        waves_NS=torch.stack([clip.wave_S for clip in clips]),
        sample_rate=clips[0].sample_rate,
        meta=[clip.meta for clip in clips],
    )
