"""What is recomputed and compared by ovi-eval check, by topic; CASES has all, in the order in which they are shown.

A new file of cases is a line here.
"""

from ovi_eval.check.case import Cases
from ovi_eval.check.cases import (
    anchors,
    audio,
    clap,
    clips,
    distances,
    faces,
    motion,
    packages,
    plugins,
    sync,
    text,
    video,
)

CASES = Cases()
for part in (distances, audio, clap, video, sync, text, clips, faces, motion, packages, plugins, anchors):
    CASES.add(part.CASES.values())
