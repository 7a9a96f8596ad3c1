"""WER and CER of what clips say against what their captions have them say, clip by clip and pooled.

What should be said stands in the caption between <S> and <E>, as Ovi's prompts have it; several such stretches are
joined. A clip whose caption has none is missing, not 0; OVI_EVAL_SPOKEN=caption takes a caption without these marks
as a whole, for prompts that are nothing but the text. What is said is written down by Whisper
(`ovi_eval.backbones.whisper`), or stands in the file that OVI_EVAL_TRANSCRIPTS names, which then needs no
recogniser. Both texts are brought to words and numerals alone (`error_rates.plain`).

`wer` and `cer` are means of the clips' rates, `wer_pooled` and `cer_pooled` all edits over all words or characters:
two numbers that are both called WER. A silent clip says nothing, so all it should say is missing from it, and its rate
is 1; Whisper does not run, because it makes up words for silence.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ovi_eval.backbones.whisper import SAMPLE_RATE, WEIGHTS, Whisper, published_folder
from ovi_eval.clips.captions import nfc, read_texts
from ovi_eval.clips.clipset import SILENT
from ovi_eval.clips.items import Item
from ovi_eval.common.files import file_sha256
from ovi_eval.common.needs import Need, find_folder
from ovi_eval.common.processes import CPU
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import (
    Compared,
    Details,
    Extractor,
    Features,
    ItemMean,
    ItemSet,
    variant_of,
)
from ovi_eval.metrics.error_rates import character_edits, plain, word_edits
from ovi_eval.results.files import MetricKind
from ovi_eval.stats.intervals import RESAMPLES, Interval, generator

GIVEN = "OVI_EVAL_TRANSCRIPTS"
"""The environment variable that names a CSV, TSV or JSONL file with the columns id and text."""
SPOKEN = "OVI_EVAL_SPOKEN"
SPOKEN_CHOICES = ("tags", "caption")
TEXT_COLUMNS = ("text", "transcript", "transcription")
_SPEECH = re.compile(r"<S>(.*?)<E>", re.DOTALL)
_CHUNK = 2_000_000


class _NeedsOfSource:
    """Whisper's folder, and nothing where the transcripts are given."""

    def __get__(self, instance: object, owner: type | None = None) -> tuple[Need, ...]:
        return () if os.environ.get(GIVEN) else (published_folder(),)


class Transcripts(Extractor):
    """Features, float32: `words` and `characters` [2], the fewest edits and the units they are counted over."""

    name = "transcripts"
    needs: ClassVar[Any] = _NeedsOfSource()
    preprocessing = "sound mono, 16 kHz by FFmpeg, 16 bits; texts in lower case without punctuation"
    reads_caption = True

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        self.spoken = os.environ.get(SPOKEN) or SPOKEN_CHOICES[0]
        if self.spoken not in SPOKEN_CHOICES:
            raise UserError(f"{SPOKEN} is {self.spoken!r}; choose one of {', '.join(SPOKEN_CHOICES)}")
        self.given: dict[str, str] | None = None
        if given := os.environ.get(GIVEN):
            self.given = read_transcripts(given)
            source = f"transcripts {file_sha256(given)[:12]}"
        else:
            folder = find_folder(published_folder(), self.name)
            self.whisper = Whisper(folder, device)
            self.weights = {f"{folder.name}/{WEIGHTS}": self.whisper.sha256}
            source = f"{folder.name}, weights {self.whisper.sha256[:12]}"
        self.variant = f"{source}, plain" + (", captions as spoken" if self.spoken == "caption" else "")

    def load(self, item: Item) -> tuple[str, str | list[Tensor]]:
        """What should be said, and what is said: its text, or what Whisper is to hear."""
        said = plain(words_to_say(item.caption, whole=self.spoken == "caption"))
        if not said:
            raise UserError("its caption has it say nothing that has a letter or digit")
        if self.given is not None:
            if nfc(item.id) not in self.given:
                raise UserError("the transcripts have none of it; give an empty text where nothing is said")
            return said, self.given[nfc(item.id)]
        wave_S = item.pcm16(SAMPLE_RATE) / 32768
        if np.abs(wave_S).max() < SILENT:
            return said, ""
        return said, self.whisper.prepare(wave_S)

    def run(self, loaded: Any) -> Features:
        said, sound = loaded
        heard = plain(sound if isinstance(sound, str) else self.whisper.write_down(sound))
        return {
            "words": torch.tensor(word_edits(said, heard), dtype=torch.float32),
            "characters": torch.tensor(character_edits(said, heard), dtype=torch.float32),
        }


def words_to_say(caption: str, whole: bool = False) -> str:
    """The text between <S> and <E>, several joined by a space; without any, with `whole`, the caption.

    Raises UserError where there is none, or a mark stands alone.
    """
    if not caption.strip():
        raise UserError("it has no caption, so what it should say is not known")
    found = _SPEECH.findall(caption)
    rest = _SPEECH.sub(" ", caption)
    if "<S>" in rest or "<E>" in rest or any("<S>" in text for text in found):
        raise UserError(
            "its caption has <S> without <E>, or <E> without <S>, so what it should say is not clear"
        )
    if found:
        return " ".join(found)
    if not whole:
        raise UserError(
            f"its caption has no speech between <S> and <E>; {SPOKEN}=caption takes captions whole"
        )
    return caption


def read_transcripts(path: str | Path) -> dict[str, str]:
    """Texts by the clips' ids, of a CSV, TSV or JSONL file with the columns id and text; see `captions.read_texts`."""
    return read_texts(path, TEXT_COLUMNS, "transcripts")


class _MeanRate(ItemMean):
    """The mean of the clips' rates."""

    extractor = Transcripts
    feature: ClassVar[str]

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        edits, units = features[self.feature].tolist()
        return [edits / units]


class _PooledRate(ItemSet):
    """All edits over all units of the reference texts."""

    kind: ClassVar[MetricKind] = "set"
    compares: ClassVar[Compared] = "alone"
    extractor = Transcripts

    def value(self, scored_RD: Tensor, reference_RD: Tensor) -> dict[str, float]:
        edits, units = scored_RD.double().sum(dim=0).tolist() if len(scored_RD) else (0.0, 0.0)
        return {self.name: edits / units if units else float("nan")}

    def details(self, seed: int, resamples: int) -> dict[str, Details]:
        rows_R2, places_R = self.measured()
        if not resamples or not len(rows_R2):
            return {}
        # Copies of a clip are drawn together, with all that they have above and below the line.
        clips, clip_R = torch.unique(places_R, return_inverse=True)
        counts_N2 = (
            torch.zeros(len(clips), 2, dtype=torch.float64).index_add(0, clip_R, rows_R2.double()).numpy()
        )
        if len(counts_N2) < 2:
            return {}
        return {self.name: Details(interval=_interval(counts_N2, generator(seed, self.name)))}


def _interval(counts_N2: np.ndarray, rng: np.random.Generator) -> Interval:
    """95 % percentile bootstrap of a ratio of sums, clips drawn with what they have above and below the line."""
    n = len(counts_N2)
    ratios: list[float] = []
    while len(ratios) < RESAMPLES:
        rows = min(RESAMPLES - len(ratios), max(1, _CHUNK // n))
        sums_R2 = counts_N2[rng.integers(0, n, size=(rows, n))].sum(axis=1)
        ratios += (sums_R2[:, 0] / sums_R2[:, 1]).tolist()
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(low), float(high), "percentile bootstrap of a ratio over clips", n)


RATES: dict[str, type[_MeanRate] | type[_PooledRate]] = {
    "wer": variant_of(_MeanRate, "wer", feature="words"),
    "wer_pooled": variant_of(_PooledRate, "wer_pooled", feature="words"),
    "cer": variant_of(_MeanRate, "cer", feature="characters"),
    "cer_pooled": variant_of(_PooledRate, "cer_pooled", feature="characters"),
}
"""Word and character error rates by name."""
