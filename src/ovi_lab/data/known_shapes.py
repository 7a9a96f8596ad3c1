"""Shapes of training clips' latents, as far as they are known before any is made, encoded or read."""

from __future__ import annotations

from collections.abc import Mapping

from ovi_lab.codecs import LatentCodec
from ovi_lab.codecs.pair import default_codec
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.media_format import MediaFormat
from ovi_lab.data.worlds import World

KnownShapes = Mapping[str, tuple[int | None, ...]]
"""As {"video": (C,F,h,w), "audio": (L,C)}; None for a size that only the clips tell."""


def known_shapes(
    clips: World | ClipDataset, codec: LatentCodec | None = None, media_format: MediaFormat | None = None
) -> list[KnownShapes]:
    """The shapes that there are, each once.

    Args:
        clips: a world, or a data set of latents or of media.
        codec: encodes media; None: the one that is fitted on them.
        media_format: what media are converted to; None: as stored, so that their sizes are not known.
    """
    if isinstance(clips, ClipDataset) and clips.kinds == {"latents"}:
        forms = [form for form in clips.shapes.forms if form is not None]
        return [
            {m: (None, *shape[1:]) if m == "audio" else shape for m, shape in form.items()} for form in forms
        ]
    made = media_format if isinstance(clips, ClipDataset) else clips
    if made is None:
        codec = codec or default_codec(1.0, 16000)
        return [{"video": (codec.video.channels, None, None, None), "audio": (None, codec.audio.channels)}]
    codec = codec or default_codec(made.fps, made.sample_rate)
    return [codec.latent_shapes(made.num_frames, made.height, made.width)]
