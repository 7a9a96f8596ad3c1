"""Metrics that others' packages bring, and those here whose networks could not be run where this was written.

A package joins in by an entry point of the group "ovi_eval.metrics" that names a class, or a tuple of classes, of
`ovi_eval.metrics.items`: their metrics are then listed, scored and ranked as the others are. See
docs/metrics/plugins.md.
"""

from __future__ import annotations

from .audiobox import AudioBoxAesthetics
from .desync import DeSync
from .face import FaceSimilarity
from .imagebind import ImageBindScore
from .packages import from_packages
from .speaker import SpeakerSimilarity

BUILT_IN = (DeSync, ImageBindScore, AudioBoxAesthetics, SpeakerSimilarity, FaceSimilarity)

__all__ = ["BUILT_IN", "from_packages"]
