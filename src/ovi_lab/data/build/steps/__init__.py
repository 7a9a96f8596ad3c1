"""The steps by name."""

from __future__ import annotations

from ovi_lab.data.build.step import BuildStep
from ovi_lab.data.build.steps.faces import Faces, LipSyncStep
from ovi_lab.data.build.steps.fingerprints import Fingerprints
from ovi_lab.data.build.steps.loudness import Loudness
from ovi_lab.data.build.steps.motion import Motion
from ovi_lab.data.build.steps.pictures import Aesthetics, ShownText
from ovi_lab.data.build.steps.speech import Speech, SpeechQuality, SpokenLanguage

_OWN: tuple[type[BuildStep], ...] = (
    *(Motion, Aesthetics, Faces, ShownText),
    *(Loudness, Speech, SpeechQuality, SpokenLanguage, LipSyncStep, Fingerprints),
)
STEPS: dict[str, type[BuildStep]] = {step.name: step for step in _OWN}
