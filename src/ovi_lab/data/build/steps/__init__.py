"""The steps by name."""

from __future__ import annotations

from ovi_lab.data.build.step import BuildStep
from ovi_lab.data.build.steps.faces import Faces, LipSyncStep
from ovi_lab.data.build.steps.fingerprints import Fingerprints
from ovi_lab.data.build.steps.loudness import Loudness
from ovi_lab.data.build.steps.motion import Motion
from ovi_lab.data.build.steps.speech import Speech, SpeechQuality

STEPS: dict[str, type[BuildStep]] = {
    step.name: step for step in (Motion, Faces, Loudness, Speech, SpeechQuality, LipSyncStep, Fingerprints)
}
