"""Is a syllable heard when the mouth opens? The ball world's F1, IoU, offset and agreement, of what a mouth says."""

from __future__ import annotations

from ovi_eval.ball.agreement import Agreement
from ovi_eval.ball.event_sync import EventSync
from ovi_eval.ball.real_events import RealEvents
from ovi_eval.metrics.base import ValueSpec
from ovi_eval.mouth.extractor import MouthEvents


class MouthEventSync(EventSync):
    """Onset F1, IoU and offset (ms) between syllables seen and syllables heard."""

    name = "mouth/event_sync"
    values = (
        ValueSpec("mouth/onset_f1", "higher"),
        ValueSpec("mouth/onset_iou", "higher"),
        ValueSpec("mouth/onset_offset_ms", "lower", "ms"),
    )
    extractor = MouthEvents
    events = ("openings", "onsets")
    nothing = "no mouth is seen to open and no syllable is heard"


class MouthRealEvents(RealEvents):
    """F1 of openings, and of onsets, against the real clip of the same id."""

    name = "mouth/real_events"
    values = (ValueSpec("mouth/real_openings_f1", "higher"), ValueSpec("mouth/real_onsets_f1", "higher"))
    extractor = MouthEvents
    events = MouthEventSync.events


class MouthAgreement(Agreement):
    """Share of clips whose voice is that of the face's colour, by captions with and without it. Chance is 0.25."""

    name = "mouth/agreement"
    values = (ValueSpec("mouth/agreement_full", "higher"), ValueSpec("mouth/agreement_vague", "higher"))
    extractor = MouthEvents
    unseen = "no face is seen"
    unheard = "no syllable is heard"
