"""Is said what the caption has it say, and do the lips say what is heard? Error rates of syllables and vowels.

As a word error rate: the fewest substitutions, deletions and insertions over the number of units that should be there.
Each is the mean over clips. Lips show vowels, not consonants, so what is seen is counted in vowels.
"""

from __future__ import annotations

from collections.abc import Sequence

from ovi_eval.ball.agreement import is_vague
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Features, ItemMean, ValueSpec
from ovi_eval.metrics.error_rates import edit_distance
from ovi_eval.mouth.extractor import MouthEvents, syllables_told
from ovi_eval.mouth.speech import VOWELS


class SyllableErrors(ItemMean):
    """What is heard, in syllables and in vowels, and what is seen, in vowels, against the caption's syllables.

    Clips whose captions name no syllable have no value.
    """

    name = "mouth/error_rates"
    values = (
        ValueSpec("mouth/ser_heard", "lower"),
        ValueSpec("mouth/ver_heard", "lower"),
        ValueSpec("mouth/ver_seen", "lower"),
    )
    extractor = MouthEvents

    def applies(self, caption: str) -> Sequence[bool]:
        return (bool(syllables_told(caption)),) * len(self.values)

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        told = features["syllables_told"].tolist()
        if not told:
            return [float("nan")] * len(self.values)
        heard, seen = features["syllables_heard"].tolist(), features["vowels_seen"].tolist()
        vowels = _vowels(told)
        return [
            edit_distance(told, heard) / len(told),
            edit_distance(vowels, _vowels(heard)) / len(told),
            edit_distance(vowels, seen) / len(told),
        ]


class LipErrors(ItemMean):
    """Vowels heard against vowels seen, of clips whose captions name them and of those that do not."""

    name = "mouth/lip_errors"
    values = (ValueSpec("mouth/lip_error_full", "lower"), ValueSpec("mouth/lip_error_vague", "lower"))
    extractor = MouthEvents

    def applies(self, caption: str) -> Sequence[bool]:
        return (not is_vague(caption), is_vague(caption))

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        seen, heard = features["vowels_seen"].tolist(), _vowels(features["syllables_heard"].tolist())
        if not seen:
            raise UserError("no mouth is seen to open")
        return [edit_distance(seen, heard) / len(seen)] * 2


def _vowels(syllables: Sequence[int]) -> list[int]:
    """Each syllable's vowel, as a place in VOWELS; -1 stays."""
    return [syllable % len(VOWELS) if syllable >= 0 else -1 for syllable in syllables]
