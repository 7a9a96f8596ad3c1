"""Texts longer than their encoder reads: refused, or cut where the user chooses, always with a message.

The speech and the sound of a prompt stand at its end, which a tokenizer that truncates loses first.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError

__all__ = ["CHOICES", "CutTexts", "check_choice", "without_middle"]

log = logging.getLogger("ovi_lab.text")

CHOICES = ("refuse", "cut_end", "cut_middle")
_NAMED = 10
_UNIT = re.compile(r"\s*\S{1,12}")
"""Units that are never split: a word with the space before it, or twelve characters of one that is longer."""


def check_choice(choice: str, name: str) -> str:
    """One of CHOICES. Raises UserError, which calls the option `name`."""
    if choice not in CHOICES:
        raise UserError(f"{name} is {shown(choice, 40)!r}; expected one of {', '.join(CHOICES)}")
    return choice


def without_middle(text: str, limit: int, count: Callable[[str], int]) -> str:
    """The text without words from its middle, so that at most `limit` tokens are left, by `count`.

    The first and the last half of the words that fit stay.
    """
    units = _UNIT.findall(text)

    def shortened(number: int) -> str:
        last = number // 2
        return "".join(units[: number - last] + units[len(units) - last :]).strip()

    low, high = 0, len(units)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(shortened(middle)) <= limit else (low, middle - 1)
    return shortened(low)


class CutTexts:
    """Cuts texts to the length that an encoder reads; each cut is logged once, the first ten by name.

    Args:
        limit: tokens that the encoder reads.
        count: tokens of a text, as the encoder takes it.
        choice: see CHOICES.
        option: how the user chooses, for messages, such as "text.too_long=".
    """

    def __init__(self, limit: int, count: Callable[[str], int], choice: str, option: str) -> None:
        self.limit, self.count, self.option = limit, count, option
        self.choice = check_choice(choice, option.rstrip("= "))
        self._logged: set[int] = set()

    def __call__(self, text: str) -> str:
        """The text, without its middle where it is too long and that is chosen; else the tokenizer cuts its end.

        Raises UserError with "refuse" for a text that is too long.
        """
        tokens = self.count(text)
        if tokens <= self.limit:
            return text
        if self.choice == "refuse":
            raise UserError(
                f"the text {shown(text, 48)!r} has {tokens} tokens and {self.limit} are read: its last "
                f"{tokens - self.limit}, where speech and sound stand, would be lost; shorten it, or choose "
                f"{self.option}cut_middle or cut_end"
            )
        if self.choice == "cut_end":
            self._log_cut(text, tokens, self.limit)
            return text
        kept = without_middle(text, self.limit, self.count)
        self._log_cut(text, tokens, self.count(kept))
        return kept

    def _log_cut(self, text: str, tokens: int, kept: int) -> None:
        if hash(text) in self._logged or len(self._logged) > _NAMED:
            return
        self._logged.add(hash(text))
        if len(self._logged) > _NAMED:
            log.warning("more texts than %d are too long and cut; they are not named", _NAMED)
            return
        where = (
            "from its middle" if self.choice == "cut_middle" else "from its end, where speech and sound stand"
        )
        log.warning(
            "the text '%s' has %d tokens and %d are read: %d are lost %s (%s%s)",
            shown(text, 48), tokens, self.limit, tokens - kept, where, self.option, self.choice,
        )  # fmt: skip
