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
from ovi_lab.data.kinds import BOTH

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

    def lacking(self, modality: str) -> Array:
        """Which forms have no latents of a modality [F]; one that is not known has those that any other has."""
        known = [form for form in self.forms if form is not None]
        nowhere = bool(known) and not any(modality in form for form in known)
        return np.array(
            [nowhere if form is None else modality not in form for form in self.forms] or [False], bool
        )

    def of_kind(self, number: int, others: slice) -> Array:
        """Whether others have the modalities that a sample has [bool]."""
        same_N = np.ones(len(self.form_N[others]), bool)
        for modality in BOTH:
            lacking_F = self.lacking(modality)
            same_N &= lacking_F[self.form_N[others]] == lacking_F[self.form_N[number]]
        return same_N

    @property
    def kinds(self) -> set[tuple[str, ...]]:
        """The modalities of samples, each combination that there is."""
        lacking = [self.lacking(modality) for modality in BOTH]
        return {
            tuple(m for m, lacks_F in zip(BOTH, lacking, strict=True) if not lacks_F[form])
            for form in range(len(self.forms))
        }

    def with_all(self, modalities: Sequence[str]) -> Array:
        """The numbers of the samples that have all of these modalities."""
        has_F = ~np.any([self.lacking(m) for m in modalities], axis=0)
        parts = [part.start + np.flatnonzero(has_F[self.form_N[part]]) for part in chunks(len(self))]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def pictures(self) -> tuple[list[tuple[int, ...]], Array, int]:
        """The different pictures' shapes in the order in which they appear, the number among them of each form [F],
        and the tokens of sound of a sample that is not known: shapes not known count as the commonest. A picture
        without sound is another one than the same with sound.
        """
        first: dict[int, int] = {}
        for part in chunks(len(self)):
            found, at = np.unique(self.form_N[part], return_index=True)
            for form, place in zip(found.tolist(), at.tolist(), strict=True):
                first.setdefault(form, part.start + place)
        order = sorted(first, key=first.__getitem__)
        known = [form for form in order if self.forms[form] is not None]
        common: tuple[_Picture, int] = (
            self._commonest() if len(known) < len(order) and known else (((), False), 0)
        )
        number: dict[_Picture, int] = {}
        picture_F = np.zeros(max(len(self.forms), 1), np.int64)
        for form in order:
            shapes = self.forms[form]
            picture = common[0] if shapes is None else _picture(shapes)
            picture_F[form] = number.setdefault(picture, len(number))
        return [video for video, _ in number], picture_F, common[1]

    def _commonest(self) -> tuple[_Picture, int]:
        """The picture and length of sound that most samples have; the first of them where several do."""
        count: Counter[tuple[_Picture, int]] = Counter()
        for part in chunks(len(self)):
            both_N = self.form_N[part].astype(np.uint64) << np.uint64(32) | self.length_N[part]
            found, at, often = np.unique(both_N, return_index=True, return_counts=True)
            for one in np.argsort(at).tolist():
                form = self.forms[int(found[one]) >> 32]
                if form is not None:
                    count[_picture(form), int(found[one]) & 0xFFFFFFFF] += int(often[one])
        return count.most_common(1)[0][0]


_Picture = tuple[tuple[int, ...], bool]
"""The shape of a picture, () where there is none, and whether sound goes with it."""


def _picture(form: Shapes) -> _Picture:
    return form.get("video", ()), "audio" in form


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
