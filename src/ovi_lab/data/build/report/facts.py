"""What the report tells of all clips: read once, a few numbers a clip."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ovi_lab.data.build.clip import Scores
from ovi_lab.data.build.decide import applies
from ovi_lab.data.build.folder import BuiltFolder
from ovi_lab.data.build.recipe import Bound

FEW_VALUES = 40
"""A text score with more different values is a name or a fingerprint, and is not counted."""
SPEECH_SHARE = 0.5
"""KindShare of a clip from which on it is mostly speech."""


@dataclass(slots=True)
class ClipFacts:
    """A clip of the report. `words`: of its caption; `size`: height and width, None of sound alone."""

    key: str
    source: str
    start_s: float
    shard: str | None
    dropped_by: Sequence[str]
    scores: dict[str, float]
    texts: dict[str, str]
    words: int
    size: tuple[int, int] | None

    @property
    def kept(self) -> bool:
        return not self.dropped_by

    @property
    def seconds(self) -> float:
        return self.scores.get("seconds", 0.0)


def facts_of(folder: BuiltFolder) -> list[ClipFacts]:
    """Every clip, in the order of clips.jsonl."""
    prints = {spec.name for spec in folder.recipe.specs.values() if spec.kind == "print"}
    found = []
    for row in folder.rows():
        scores = {n: float(v) for n, v in row["scores"].items() if isinstance(v, int | float)}
        texts = {n: v for n, v in row["scores"].items() if isinstance(v, str) and n not in prints}
        size = row["facts"].get("size")
        sides = (int(size[0]), int(size[1])) if _is_size(size) else None
        dropped = [str(name) for name in row.get("dropped_by") or ()]
        words = len(str(row.get("caption") or "").split())
        place = (row["key"], row["source"], float(row["start_s"]), row.get("shard"))
        found.append(ClipFacts(*place, dropped, scores, texts, words, sides))
    return found


def _is_size(size: Any) -> bool:
    return (
        isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    )


@dataclass
class Stage:
    """A line of the funnel: what is left after it.

    `rule`: in words; `removed`: here; `outside`: all clips beyond it, those of earlier rules too; `alone`: those that
    nothing else keeps out.
    """

    name: str
    rule: str
    left: int
    seconds: float
    removed: int = 0
    outside: int | None = None
    alone: int = 0


def funnel(folder: BuiltFolder, clips: Sequence[ClipFacts]) -> list[Stage]:
    """From the clips that were cut to those that are kept, rule by rule in the order in which they decide."""
    recipe = folder.recipe
    left, seconds = len(clips), sum(clip.seconds for clip in clips)
    stages = [Stage("clips cut", _form(folder), left, seconds)]
    rules = [(name, rule(name, bound, folder)) for name, bound in recipe.keep.items()]
    rules += [("caption", "has a caption")] * (recipe.without_caption == "drop")
    prints = ", ".join(
        f"{name} differs in more than {share:.0%} of the bits" for name, share in recipe.duplicates.items()
    )
    rules += [("duplicate", f"no earlier clip is near it: {prints}")] * bool(recipe.duplicates)
    rules += [
        (f"mix of {name}", "at most " + ", ".join(f"{share:.0%} {kind}" for kind, share in most.items()))
        for name, most in recipe.mix.items()
    ]
    for name, text in rules:
        removed = [clip for clip in clips if clip.dropped_by[:1] == [name]]
        outside = [clip for clip in clips if name in clip.dropped_by]
        alone = sum(len(clip.dropped_by) == 1 for clip in outside)
        left -= len(removed)
        seconds -= sum(clip.seconds for clip in removed)
        stages.append(Stage(name, text, left, seconds, len(removed), len(outside), alone))
    return stages


def _form(folder: BuiltFolder) -> str:
    form = folder.recipe.clips
    if form.frames is None:
        return f"sound of {form.min_seconds:g} to {form.max_seconds:g} s"
    return f"{form.frames} frames at {form.fps:g} a second, within scenes"


def rule(name: str, bound: Bound, folder: BuiltFolder) -> str:
    """A bound in words: `at least −60 dB; without it dropped`."""
    unit = folder.recipe.specs[name].unit
    text = _range(bound) + (f" {unit}" if unit not in ("", "share", name) else "")
    if bound.when:
        text += ", where " + " and ".join(f"{other} is {_range(own)}" for other, own in bound.when.items())
    text += {"drop": "", "mark": "; else kept and marked", "mend": "; else the sound is moved"}[
        bound.otherwise
    ]
    return text + "; without it dropped" * (bound.missing == "drop")


def _range(bound: Bound) -> str:
    if bound.any_of:
        return " or ".join(bound.any_of)
    low, high = (None if side is None else plain_number(side) for side in (bound.min, bound.max))
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else "any"


def plain_number(value: float, digits: int = 10) -> str:
    """A number with so many digits at most, thousands apart, with a real minus sign."""
    if abs(value) >= 10_000:
        return f"{value:,.0f}".replace(",", " ").replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


@dataclass
class KindShare:
    """A kind of clips: how many, and how long, of all and of those that are kept."""

    name: str
    clips: int = 0
    seconds: float = 0.0
    kept: int = 0
    kept_seconds: float = 0.0


def shares(clips: Sequence[ClipFacts], kind_of: Any) -> list[KindShare]:
    """Clips by the kind that `kind_of` gives them (None: of no kind), the most frequent first."""
    found: dict[str, KindShare] = {}
    for clip in clips:
        if (kind := kind_of(clip)) is not None:
            own = found.setdefault(kind, KindShare(kind))
            own.clips += 1
            own.seconds += clip.seconds
            own.kept += clip.kept
            own.kept_seconds += clip.seconds * clip.kept
    return sorted(found.values(), key=lambda share: (-share.clips, share.name))


def kind_media(clip: ClipFacts) -> str:
    """Which modalities a clip has."""
    if "pixels" not in clip.scores:
        return "sound alone"
    padding = clip.scores.get("silent_padding", clip.seconds)
    return "silent picture" if padding >= clip.seconds else "picture with sound"


def kind_faces(clip: ClipFacts) -> str | None:
    """Faces that were counted."""
    if "faces" not in clip.scores:
        return None
    faces = round(clip.scores["faces"])
    return "no face" if not faces else "one face" if faces == 1 else "several faces"


def kind_speech(clip: ClipFacts) -> str | None:
    """Speech that was found."""
    if "speech_share" not in clip.scores:
        return None
    share = clip.scores["speech_share"]
    return "mostly speech" if share >= SPEECH_SHARE else "some speech" if share > 0 else "no speech"


def kind_shape(clip: ClipFacts) -> str | None:
    """Width by height."""
    return None if clip.size is None else f"{clip.size[1]} × {clip.size[0]}"


def kinds_by_text(clips: Sequence[ClipFacts]) -> dict[str, list[KindShare]]:
    """Shares by each score that is one of few texts, such as the language of speech."""
    names = dict.fromkeys(name for clip in clips for name in clip.texts)
    found = {name: shares(clips, lambda clip, name=name: clip.texts.get(name)) for name in names}
    return {name: own for name, own in found.items() if len(own) <= FEW_VALUES}


@dataclass
class Reason:
    """A reason for which files could not be used, with its numbers left out."""

    text: str
    files: int = 0
    names: list[str] = field(default_factory=list)


def errors(folder: BuiltFolder) -> list[Reason]:
    """Why files could not be used, or not to their end, the most frequent first."""
    failed = folder.manifest["sources"].get("failed")
    found: dict[str, Reason] = {}
    for name, reason in sorted(failed.items()) if isinstance(failed, dict) else ():
        text = re.sub(r"\d+(\.\d+)?", "…", str(reason))
        own = found.setdefault(text, Reason(text))
        own.files += 1
        own.names.append(name)
    return sorted(found.values(), key=lambda reason: -reason.files)


def marked(folder: BuiltFolder, clips: Sequence[ClipFacts]) -> Counter[str]:
    """Kept clips outside of bounds that mark or mend, by score."""
    soft = {name: bound for name, bound in folder.recipe.keep.items() if bound.otherwise != "drop"}
    found: Counter[str] = Counter()
    for clip in clips:
        for name, bound in soft.items():
            scores: Scores = {**clip.scores, **clip.texts}
            value = scores.get(name)
            if clip.kept and value is not None and applies(bound, scores) and not bound.holds(value):
                found[name] += 1
    return found
