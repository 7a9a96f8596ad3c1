"""A trained text encoder for each tower, instead of one for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from ovi_lab.models.config import Modality
from ovi_lab.text.learned import LearnedText
from ovi_lab.text.parts import TextParts


class SeparateText(nn.Module):
    """A `LearnedText` for each tower that reads a part of the caption; both begin with the same values.

    A tower that reads nothing has no encoder, so that every parameter is trained.

    Args:
        dim, rows, max_words, init_seed, too_long: of each encoder, see `LearnedText`.
        reads, sound_after: see `TextParts`.
    """

    def __init__(
        self,
        dim: int,
        rows: int = 4096,
        max_words: int = 16,
        init_seed: int = 0,
        too_long: str = "cut_end",
        reads: Mapping[str, str] | None = None,
        sound_after: str | None = None,
    ) -> None:
        super().__init__()
        self.parts = TextParts(reads or {}, sound_after)
        own = [m for m, part in self.parts.reads.items() if part != "none"]
        self.encoders = nn.ModuleDict(
            {m: LearnedText(dim, rows, max_words, init_seed, too_long) for m in own}
        )

    def of_tower(self, tower: str) -> LearnedText:
        """A tower's encoder. Raises KeyError for a tower that reads nothing."""
        return cast(LearnedText, self.encoders[tower])

    def forward(self, texts: Sequence[str], tower: Modality) -> list[Tensor]:
        """Vectors [n_i, dim] of texts by a tower's encoder; n_i = 0 for a tower that reads nothing."""
        if tower in self.encoders:
            return list(self.of_tower(tower)(texts))
        (other,) = self.encoders
        return [self.of_tower(other).words[:0].detach()] * len(texts)
