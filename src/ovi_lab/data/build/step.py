"""A step of the pipeline: what it reads of a clip, what scores it gives, and its version.

A step never decides: it gives scores, all of which are kept. Which of them a clip must reach is the recipe's.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ovi_eval.common.needs import Package
from ovi_lab.data.build.clip import Candidate, Scores
from ovi_lab.errors import UserError

Media = Literal["picture", "sound"]


@dataclass(frozen=True)
class ScoreSpec:
    """A score that a step gives."""

    name: str
    meaning: str
    """In words, for the report."""
    unit: str = ""
    kind: Literal["number", "text", "print"] = "number"
    """`text`: one of few, such as a language; `print`: a fingerprint, which is compared alone."""


def lacking(package: Package) -> str | None:
    """What to type where a package is not installed; None where it is."""
    if importlib.util.find_spec(package.module) is not None:
        return None
    return f"the package {package.module} is not installed: {package.install}"


class BuildStep(ABC):
    """One step. Made from its settings in the recipe; `setup` loads what it needs, once in each worker.

    The version belongs to the scores: one that changes any number gets another, and its scores are computed anew.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    scores: ClassVar[tuple[ScoreSpec, ...]]
    needs: ClassVar[frozenset[Media]]
    """What a clip must have; of one that lacks it all scores are None."""

    def __init__(self, **settings: Any) -> None:
        if settings:
            raise UserError(f"step {self.name} takes no settings, and {', '.join(sorted(settings))} is given")

    def missing(self) -> str | None:
        """What is not installed or which file is not there, and where to get it; None where the step can run."""
        return None

    def digests(self) -> dict[str, str]:
        """sha256 of the weights that it uses, by file name."""
        return {}

    def setup(self) -> None:  # noqa: B027
        """Load networks and tables; called once in each worker, before the first clip."""

    @abstractmethod
    def measure(self, clip: Candidate) -> Scores:
        """The scores of one clip that has what the step needs."""

    def process(self, batch: Sequence[Candidate]) -> list[Scores]:
        """The scores of each clip, all of `scores` by name."""
        found: list[Scores] = []
        for clip in batch:
            has = {"picture": clip.frames_THWC is not None, "sound": clip.wave_S is not None}
            own: Scores = {spec.name: None for spec in self.scores}
            if all(has[media] for media in self.needs):
                own |= self.measure(clip)
            found.append(own)
        return found
