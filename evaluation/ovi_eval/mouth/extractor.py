"""What the detectors find in a clip of the speaking mouth, for all metrics that need no trained judge."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ovi_eval.ball import detectors as events
from ovi_eval.ball.extractor import BallExtractor
from ovi_eval.ball.sound_bands import TOKEN_SECONDS
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.metrics.base import Features
from ovi_eval.mouth import detectors
from ovi_eval.mouth.speech import SYLLABLES, VOWELS

_SPEECH = re.compile(r"<s>(.*?)<e>", re.IGNORECASE | re.DOTALL)


class MouthEvents(BallExtractor):
    """Of a clip with A openings of the mouth, B onsets of sound and C syllables in its caption.

    `openings` [A] and `onsets` [B], float64 seconds; `vowels_seen` [A], `syllables_heard` [B] and `syllables_told` [C],
    int64 places in VOWELS and SYLLABLES, -1 for a word that is no syllable of this world; `colour` and `pitch`, places
    in VOICES, -1 where no face is seen or nothing is heard.
    """

    name = "mouth_events"
    reads_caption = True

    def look(self, clips: ClipSet) -> list[Features]:
        frames_NTHWC, bands_NLK = events.seen(clips), events.heard(clips)
        dark_NTHW, colour_N = detectors.darkness(frames_NTHWC), events.colour(frames_NTHWC)
        opened, begun = detectors.openings(dark_NTHW), detectors.onset_tokens(bands_NLK)
        found = []
        for n, caption in enumerate(clips.captions):
            consonants = detectors.consonants_heard(bands_NLK[n], begun[n])
            pitch, vowels = detectors.voice_and_vowels(bands_NLK[n], begun[n])
            heard = [c * len(VOWELS) + v for c, v in zip(consonants, vowels, strict=True)]
            opening_times = detectors.opening_seconds(opened[n], clips.fps)
            found.append(
                {
                    "openings": torch.tensor(opening_times, dtype=torch.float64),
                    "onsets": torch.tensor([t * TOKEN_SECONDS for t in begun[n]], dtype=torch.float64),
                    "vowels_seen": _places(detectors.vowels_seen(dark_NTHW[n], opened[n])),
                    "syllables_heard": _places(heard),
                    "syllables_told": _places(syllables_told(caption) or []),
                    "colour": colour_N[n],
                    "pitch": torch.tensor(pitch),
                }
            )
        return found


def syllables_told(caption: str) -> list[int] | None:
    """The syllables between <S> and <E> as places in SYLLABLES, -1 for any other word; None without these marks."""
    spoken = _SPEECH.findall(caption)
    words = [word for part in spoken for word in part.lower().split()]
    return [SYLLABLES.index(word) if word in SYLLABLES else -1 for word in words] if spoken else None


def _places(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
