"""The CLAP score: how well a clip's sound fits its caption, as the cosine of their features in CLAP.

`clap` is the score of the field's tables: laion_clap's music_speech_audioset checkpoint, sound through 16 bits, one
crop of what is longer than 10 s. The others change one choice each and have names of their own; `clap_laion` runs
laion_clap's own code, the reference that `clap` is checked against.

Shapes: N clips, E = 512 features.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ovi_eval.backbones.clap import (
    AUDIO_630K,
    LAION_CLAP,
    MUSIC_SPEECH,
    TOKENIZER,
    TOKENS,
    Tokenizer,
    load_clap,
)
from ovi_eval.backbones.clap_keys import BASE, TINY, Size
from ovi_eval.backbones.clap_sound import SAMPLE_RATE, Crops, Rounding, pieces
from ovi_eval.clips.captions import few
from ovi_eval.clips.items import Item
from ovi_eval.common.needs import Need, find_folder
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import PublishedFile, find_weights
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec, variant_of
from ovi_eval.metrics.sound_features import audible


class Clap(Extractor):
    """`audio` and `text`, [512] float32 of length 1 each, of a clip's sound and caption.

    Subclasses name another checkpoint, implementation or way of preparing the sound.
    """

    name = "clap"
    file: ClassVar[PublishedFile] = MUSIC_SPEECH
    size: ClassVar[Size] = BASE
    rounding: ClassVar[Rounding] = "int16"
    crops: ClassVar[Crops] = "one"
    laion: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (MUSIC_SPEECH, TOKENIZER)
    preprocessing = (
        "48 kHz by FFmpeg, mean of channels; under 10 s repeated whole, then silence; over 10 s one crop of 10 s "
        "drawn from the clip's hash; int16 round trip; captions of up to 77 RoBERTa tokens"
    )
    reads_caption = True

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        self.tokenizer = Tokenizer(find_folder(TOKENIZER, self.name), self.size)
        path = find_weights(self.file, self.name)
        self.network = self.take(load_clap(path, self.file, self.size, laion=self.laion))
        heard = {"one": "one crop", "all": "all crops"}[self.crops]
        self.variant += f", tokenizer {self.tokenizer.digest[:12]}, {self.rounding}, {heard}"
        self.weights[TOKENIZER.name] = self.tokenizer.digest

    def notes(self, items: Sequence[Item]) -> tuple[str, ...]:
        """Says whose captions are read in part, as the reference reads them."""
        cut = [item.id for item in items if self.tokenizer.is_cut(item.caption)]
        if not cut:
            return ()
        return (
            f"{len(cut)} captions have more than {TOKENS} tokens, of which CLAP reads the first: {few(cut)}",
        )

    def load(self, item: Item) -> tuple[Tensor, str]:
        """Pieces of sound [N, 480000], and the caption. The tokenizer is not made for several threads.

        Raises UserError for a clip without a caption, without sound, or whose sound is not finite or silence.
        """
        if not item.caption.strip():
            raise UserError("it has no caption, which CLAP compares its sound with")
        return pieces(audible(item, SAMPLE_RATE), item.content(), self.rounding, self.crops), item.caption

    @torch.no_grad()
    def run(self, loaded: tuple[Tensor, str]) -> Features:
        """The features; those of several pieces of sound are averaged and brought to length 1."""
        waves_NP, caption = loaded
        # One at a time, so that a long clip takes no more memory than a short one.
        audio_NE = torch.cat([self.network.sounds(wave_P[None].to(self.device)) for wave_P in waves_NP])
        audio_E = torch.nn.functional.normalize(audio_NE.mean(dim=0), dim=0)
        ids_1L, mask_1L = (tensor.to(self.device) for tensor in self.tokenizer([caption]))
        return {"audio": audio_E.float().cpu(), "text": self.network.texts(ids_1L, mask_1L)[0].float().cpu()}


class Clap630k(Clap):
    """With HTSAT-tiny, trained on 630k-audioset: the checkpoint of the paper on CLAP."""

    name = "clap_630k"
    file = AUDIO_630K
    size = TINY
    needs = (AUDIO_630K, TOKENIZER)


class ClapFloat(Clap):
    """Without the round trip through 16 bits."""

    name = "clap_float"
    rounding = "float"
    preprocessing = Clap.preprocessing.replace("int16 round trip", "as decoded, in float32")


class ClapAllCrops(Clap):
    """Every whole 10 s of a longer sound, averaged, in place of one crop."""

    name = "clap_all_crops"
    crops = "all"
    preprocessing = Clap.preprocessing.replace(
        "one crop of 10 s drawn from the clip's hash", "the mean of all whole 10 s from the beginning on"
    )


class ClapLaion(Clap):
    """Through laion_clap's own code."""

    name = "clap_laion"
    laion = True
    needs = (*Clap.needs, LAION_CLAP)


def cosines(audio_NE: Tensor, text_NE: Tensor) -> Tensor:
    """The cosine of each sound's features and its caption's: [N] float64."""
    return torch.cosine_similarity(audio_NE.double(), text_NE.double(), dim=1)


class ClapScore(ItemMean):
    """Mean cosine of the features of sound and caption."""

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        return [float(cosines(features["audio"][None], features["text"][None]))]


CLAP: dict[str, type[ClapScore]] = {
    extractor.name: variant_of(
        ClapScore,
        extractor.name,
        extractor=extractor,
        values=(ValueSpec(f"{extractor.name}_score", "higher"),),
        by_default=not extractor.laion,  # the same values as `clap` again
    )
    for extractor in (Clap, Clap630k, ClapFloat, ClapAllCrops, ClapLaion)
}
"""The score through each extractor by name."""
