"""All cases, in the order in which they are shown. A new file of cases is a line here."""

from . import (
    cases_anchors,
    cases_audio,
    cases_clap,
    cases_clips,
    cases_distances,
    cases_faces,
    cases_plugins,
    cases_sync,
    cases_text,
    cases_video,
)
from .cases import Cases

CASES = Cases()
for part in (
    cases_distances,
    cases_audio,
    cases_clap,
    cases_video,
    cases_sync,
    cases_text,
    cases_clips,
    cases_faces,
    cases_plugins,
    cases_anchors,
):
    CASES.add(part.CASES.values())
