"""What the metrics of this package can be at all: a value outside is no score of theirs."""

from __future__ import annotations

import math

_SHARE, _NOT_NEGATIVE = (0.0, 1.0), (0.0, math.inf)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("ball/agreement_full", "ball/agreement_vague"), _SHARE),
    **dict.fromkeys(("ball/caption_colour", "ball/caption_pitch"), _SHARE),
    **dict.fromkeys(("ball/caption_landings", "ball/caption_hits"), _SHARE),
    **dict.fromkeys(("ball/onset_f1", "ball/onset_iou"), _SHARE),
    **dict.fromkeys(("ball/real_landings_f1", "ball/real_hits_f1"), _SHARE),
    **dict.fromkeys(
        ("ball/onset_offset_ms", "ball/sync_d", "ball/sync_d0", "ball/sync_shift_ms"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("mouth/agreement_full", "mouth/agreement_vague"), _SHARE),
    **dict.fromkeys(("mouth/onset_f1", "mouth/onset_iou"), _SHARE),
    **dict.fromkeys(("mouth/real_openings_f1", "mouth/real_onsets_f1"), _SHARE),
    **dict.fromkeys(
        (
            *("mouth/onset_offset_ms", "mouth/sync_d", "mouth/sync_d0", "mouth/sync_shift_ms"),
            *("mouth/ser_heard", "mouth/ver_heard", "mouth/ver_seen"),
            *("mouth/lip_error_full", "mouth/lip_error_vague"),
        ),
        _NOT_NEGATIVE,
    ),
    "temporal_flickering": _SHARE,
    **dict.fromkeys(("wer", "wer_pooled", "cer", "cer_pooled", "desync"), _NOT_NEGATIVE),
    **dict.fromkeys(("fad_vggish", "fd_panns", "kl_panns", "kl_sigmoid_panns"), _NOT_NEGATIVE),
    **dict.fromkeys(("fvd_stylegan_v", "fvd_videogpt", "fvd_pytorch_i3d", "fvd_cd_fvd"), _NOT_NEGATIVE),
    **dict.fromkeys(("speaker_similarity", "face_similarity"), (-1.0, 1.0)),
    "speaker_ge2e": _SHARE,
    "is_panns": (1.0, math.inf),
}
"""By key the least and the greatest value; a key that is not here has no bounds that are known."""
_ROUNDING = 1e-4


def range_of(key: str) -> tuple[float, float]:
    """The least and the greatest value of a metric, a little wider for rounding; infinite where none is known."""
    low, high = RANGES.get(key, (-math.inf, math.inf))
    return low - _ROUNDING, high + _ROUNDING
