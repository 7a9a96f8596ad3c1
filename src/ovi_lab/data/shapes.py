"""The shapes of all samples' latents as two columns: which form a sample has, and how long its sound is.

Shape suffixes: N samples, F forms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ovi_lab.data.columns import Array
from ovi_lab.data.index import Shapes

CHUNK = 2**17
"""Samples handled at once: what is computed of all of them takes little memory beside the result."""


def chunks(count: int) -> Iterator[slice]:
    """The numbers below `count` in runs of at most CHUNK."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


class ClipShapes:
    """The shapes of each sample's latents by number; None where they are not known.

    Args:
        forms: the different shapes [F], each with 0 as the length of its sound.
        form_N: the form of each sample.
        length_N: its tokens of sound, 0 where it has none.
    """

    def __init__(self, forms: Sequence[Shapes | None], form_N: Array, length_N: Array) -> None:
        self.forms, self.form_N, self.length_N = list(forms), form_N, length_N

    @classmethod
    def of(cls, shapes: Sequence[Shapes | None]) -> ClipShapes:
        """Those of a list."""
        forms = Forms()
        rows = [forms.add(shape) for shape in shapes]
        columns = np.array(rows, np.uint32).reshape(-1, 2)
        return cls(forms.list, columns[:, 0], columns[:, 1])

    def __len__(self) -> int:
        return len(self.form_N)

    def __getitem__(self, number: int) -> Shapes | None:
        form = self.forms[int(self.form_N[number])]
        if form is None or "audio" not in form:
            return form
        return {**form, "audio": (int(self.length_N[number]), *form["audio"][1:])}

    def alike(self, number: int, others: slice) -> Array:
        """Whether others have the shapes of a sample, or shapes that are not known [bool]; all are like one that
        is not known.
        """
        unknown_F = np.array([form is None for form in self.forms], bool)
        form_N, length_N = self.form_N[others], self.length_N[others]
        if unknown_F[self.form_N[number]]:
            return np.ones(len(form_N), bool)
        same_N = (form_N == self.form_N[number]) & (length_N == self.length_N[number])
        return same_N | unknown_F[form_N]

    def pictures(self) -> tuple[list[tuple[int, ...]], Array, int]:
        """The different pictures' shapes in the order in which they appear, the number among them of each form [F],
        and the tokens of sound of a sample that is not known: shapes not known count as the commonest.
        """
        first: dict[int, int] = {}
        for part in chunks(len(self)):
            found, at = np.unique(self.form_N[part], return_index=True)
            for form, place in zip(found.tolist(), at.tolist(), strict=True):
                first.setdefault(form, part.start + place)
        order = sorted(first, key=first.__getitem__)
        known = [form for form in order if self.forms[form] is not None]
        common: tuple[tuple[int, ...], int] = (
            self._commonest() if len(known) < len(order) and known else ((), 0)
        )
        number: dict[tuple[int, ...], int] = {}
        picture_F = np.zeros(max(len(self.forms), 1), np.int64)
        for form in order:
            shapes = self.forms[form]
            video = common[0] if shapes is None else shapes.get("video", ())
            picture_F[form] = number.setdefault(video, len(number))
        return list(number), picture_F, common[1]

    def _commonest(self) -> tuple[tuple[int, ...], int]:
        """The picture and length of sound that most samples have; the first of them where several do."""
        count: Counter[tuple[tuple[int, ...], int]] = Counter()
        for part in chunks(len(self)):
            both_N = self.form_N[part].astype(np.uint64) << np.uint64(32) | self.length_N[part]
            found, at, often = np.unique(both_N, return_index=True, return_counts=True)
            for one in np.argsort(at).tolist():
                form = self.forms[int(found[one]) >> 32]
                if form is not None:
                    count[form.get("video", ()), int(found[one]) & 0xFFFFFFFF] += int(often[one])
        return count.most_common(1)[0][0]


class Forms:
    """Collects forms: shapes but for the length of the sound."""

    def __init__(self) -> None:
        self.list: list[Shapes | None] = []
        self._number: dict[Any, int] = {}

    def add(self, shapes: Shapes | None) -> tuple[int, int]:
        """The number of the form of these shapes, and the length of their sound."""
        length, key = 0, None
        if shapes is not None:
            audio = shapes.get("audio")
            length = 0 if audio is None else audio[0]
            key = (shapes.get("video"), None if audio is None else audio[1:])
        number = self._number.get(key)
        if number is None:
            number = self._number[key] = len(self.list)
            form: Shapes | None = None
            if shapes is not None:
                form = {part: shape for part, shape in shapes.items() if part in ("video", "audio")}
            if form is not None and "audio" in form:
                form["audio"] = (0, *form["audio"][1:])
            self.list.append(form)
        return number, length
