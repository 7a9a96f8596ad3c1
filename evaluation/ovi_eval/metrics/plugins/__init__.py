"""Metrics that others' packages bring, and those here whose networks could not be run where this was written.

A package joins in by an entry point of the group "ovi_eval.metrics" that names a class, or a tuple of classes, of
`ovi_eval.metrics.base`: their metrics are then listed, scored and ranked as the others are. See
docs/metrics/plugins.md.
"""

from __future__ import annotations

from ovi_eval.metrics.plugins.audiobox import AudioBoxAesthetics
from ovi_eval.metrics.plugins.desync import DeSync
from ovi_eval.metrics.plugins.entry_points import from_packages
from ovi_eval.metrics.plugins.face import FaceSimilarity
from ovi_eval.metrics.plugins.imagebind import ImageBindScore
from ovi_eval.metrics.plugins.speaker import SpeakerSimilarity

BUILT_IN = (DeSync, ImageBindScore, AudioBoxAesthetics, SpeakerSimilarity, FaceSimilarity)

__all__ = ["BUILT_IN", "from_packages"]
