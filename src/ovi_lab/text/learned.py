"""A text encoder small enough to be trained with the towers: hashed words and their positions."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovi_lab.common.seeding import generator_for
from ovi_lab.common.values import check_settings
from ovi_lab.text.lengths import CutTexts

_WORD = re.compile(r"[\w']+|<[^>]*>|[^\w\s]")


def word_count(caption: str) -> int:
    """Words of a caption, each mark of punctuation being one."""
    return len(_WORD.findall(caption.lower()))


class LearnedText(nn.Module):
    """Embeds each word of a caption by its hash, plus a position.

    There is no vocabulary: a word's row is its CRC-32 modulo the number of rows, the same on every
    machine. It is meant for worlds of a few dozen words, where two words rarely share a row.

    Args:
        dim: width of the vectors, the towers' text_dim.
        rows: number of embeddings.
        max_words: longer captions are cut as `too_long` says, with a warning.
        init_seed: of the initial values.
        too_long: see `lengths.CHOICES`.
    """

    def __init__(
        self,
        dim: int,
        rows: int = 4096,
        max_words: int = 16,
        init_seed: int = 0,
        too_long: str = "cut_end",
    ) -> None:
        super().__init__()
        check_settings("text", {"dim": dim, "rows": rows, "max_words": max_words})
        self.rows, self.max_words, self.dim = rows, max_words, dim
        self.fit = CutTexts(max_words, word_count, too_long, "text.too_long=")
        self.words = nn.Parameter(torch.empty(rows, dim))
        self.positions = nn.Parameter(torch.empty(max_words, dim))
        for name, parameter, scale in (("words", self.words, 1.0), ("positions", self.positions, 0.1)):
            nn.init.normal_(parameter, std=scale, generator=generator_for(init_seed, "text", name))

    def indices(self, caption: str) -> Tensor:
        """Rows of the caption's words, [n]; an empty caption has none."""
        words = _WORD.findall(caption.lower())
        if len(words) > self.max_words:
            words = _WORD.findall(self.fit(caption).lower())[: self.max_words]
        return torch.tensor([zlib.crc32(w.encode()) % self.rows for w in words], dtype=torch.long)

    def forward(self, captions: Sequence[str]) -> list[Tensor]:
        """Vectors [n_i, dim] of each caption; an empty one, as guidance and text dropout use it, has n_i = 0."""
        rows = [self.indices(c) for c in captions]
        flat = torch.cat(rows).to(self.words.device) if rows else torch.empty(0, dtype=torch.long)
        where = torch.cat([torch.arange(len(r)) for r in rows]).to(self.words.device) if rows else flat
        vectors = self.words[flat] + self.positions[where]
        return list(vectors.split([len(r) for r in rows]))
