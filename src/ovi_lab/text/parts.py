"""What each tower reads of a caption: all of it, what is seen, what is heard, or nothing; and the vectors of that."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.text.prompts import sound_alone, without_sound

log = logging.getLogger("ovi_lab.text")


class TextParts:
    """The part of a caption that each tower reads.

    Args:
        reads: by tower `all`, `picture` (the caption without its sound), `sound` or `none`; a tower that is not named
            reads all.
        sound_after: a word of the captions behind which they describe the sound; None: the tags `<S>…<E>`,
            `<AUDCAP>…<ENDAUDCAP>` and `Audio: …` do. A caption without the word describes no sound.

    Raises:
        UserError: another tower or part, or no tower reads anything.
    """

    def __init__(self, reads: Mapping[str, str], sound_after: str | None = None) -> None:
        check_settings("text", {"reads": dict(reads), "sound_after": sound_after})
        self.reads = {m: str(reads.get(m, "all")) for m in MODALITIES}
        self.sound_after = sound_after
        self._told = False
        if set(self.reads.values()) == {"none"}:
            raise UserError("text.reads is none for both towers: let one of them read all, picture or sound")

    def __call__(self, caption: str, tower: Modality) -> str:
        """What the tower reads of the caption."""
        part = self.reads[tower]
        if part in ("all", "none"):
            return caption if part == "all" else ""
        if self.sound_after is None:
            return without_sound(caption) if part == "picture" else sound_alone(caption)
        before, found, after = caption.partition(self.sound_after)
        return (before + found if part == "picture" else after).strip()

    def tell(self, captions: Sequence[str]) -> None:
        """Log the first caption without the word of `sound_after`."""
        missing = (text for text in captions if text and (self.sound_after or "") not in text)
        if self._told or (text := next(missing, None)) is None:
            return
        self._told = True
        log.warning(
            "the text '%s' has no '%s' (text.sound_after), so no sound is described in it; further ones are not named",
            shown(text, 48), shown(self.sound_after, 20),
        )  # fmt: skip


def parts_of(encoder: Any) -> TextParts | None:
    """What each tower reads by a text encoder; None where one text is for both."""
    found = getattr(encoder, "parts", None)
    return found if isinstance(found, TextParts) else None


def vectors_by_tower(encoder: Any, captions: Sequence[str]) -> dict[Modality, list[Tensor]]:
    """Vectors [n_i, D] of what each tower reads of the captions; one list for both where that is the same."""
    parts = parts_of(encoder)
    if parts is None:
        both = encoder(captions)
        return {m: both for m in MODALITIES}
    parts.tell(captions)
    return {m: encoder([parts(caption, m) for caption in captions], m) for m in MODALITIES}


def vectors_for(encoder: Any, texts: Sequence[str], tower: Modality) -> list[Tensor]:
    """Vectors [n_i, D] of texts that are for one tower alone and that it reads whole, as negative ones are."""
    return encoder(texts) if parts_of(encoder) is None else encoder(texts, tower)
