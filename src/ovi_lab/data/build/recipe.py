"""A recipe: the form of clips, the steps, the bounds that a kept clip is within, and what else is decided.

A recipe is a YAML file of plain values. `paper` and `paper_audio` are built in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ovi_eval.common.plain_data import parse_yaml
from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import read_text
from ovi_lab.data.build.mix import MIXES
from ovi_lab.data.build.scenes import DETECTORS
from ovi_lab.data.build.step import BuildStep, ScoreSpec
from ovi_lab.data.build.steps import STEPS
from ovi_lab.errors import UserError

FOLDER = Path(__file__).parent / "recipes"
MAX_BYTES = 2**20

SOURCE_SCORES = (
    ScoreSpec("pixels", "height times width of the file's picture, without its bars", "pixels"),
    ScoreSpec("source_fps", "frames a second of the file", "1/s"),
    ScoreSpec("scene_seconds", "length of the scene that the clip is cut from", "s"),
    ScoreSpec("seconds", "length of the clip", "s"),
    ScoreSpec("silent_padding", "silence in place of sound that is missing", "s"),
)
"""Scores of every clip, known from its decoding."""


@dataclass(frozen=True)
class ClipForm:
    """The form of every clip that is built.

    `frames` at `fps`; with `frames` None clips of sound alone of `min_seconds` to `max_seconds`. Pictures are scaled to
    about `pixels` in multiples of `multiple`, keeping their aspect ratio, with black bars cut off where `crop_bars`.
    """

    frames: int | None = 121
    fps: float = 24.0
    pixels: int = 518_400
    multiple: int = 32
    crop_bars: bool = True
    sample_rate: int = 16_000
    min_seconds: float = 1.0
    max_seconds: float = 12.0
    clips_per_scene: int | None = None
    """Clips of a scene at most, from its beginning; None: all that fit."""
    scenes: str = "content"
    """What finds scenes: `content` (PySceneDetect) or `transnetv2`."""

    def __post_init__(self) -> None:
        for name, least in (
            ("fps", 0),
            ("pixels", 1),
            ("multiple", 1),
            ("sample_rate", 1),
            ("min_seconds", 0),
        ):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not value > 0
                or value < least
            ):
                raise UserError(f"recipe: clips.{name} is {value!r}; expected a number above 0")
        if self.frames is not None and (not isinstance(self.frames, int) or self.frames < 1):
            raise UserError(
                f"recipe: clips.frames is {self.frames!r}; expected a whole number from 1, or null for sound"
            )
        _choice(self.scenes, sorted(DETECTORS), "recipe: clips.scenes")
        if self.max_seconds < self.min_seconds:
            raise UserError(
                f"recipe: clips.max_seconds is {self.max_seconds}, less than min_seconds {self.min_seconds}"
            )


@dataclass(frozen=True)
class Bound:
    """A score's bounds, both included, or of a text the values that are taken.

    `when`: other scores' bounds: where a clip is outside of one, or has no such score, this bound does not apply.
    `otherwise`: what becomes of a clip outside: `drop`; `mark` keeps it and names the score among its marks; `mend`
    puts it right where the score says how (see `MENDABLE`). `missing`: what becomes of a clip without the score.
    """

    min: float | None = None
    max: float | None = None
    any_of: tuple[str, ...] = ()
    otherwise: Literal["drop", "mark", "mend"] = "drop"
    missing: Literal["drop", "keep"] = "keep"
    when: Mapping[str, Bound] = field(default_factory=dict)

    def holds(self, value: float | str) -> bool:
        """Whether a value is within."""
        if isinstance(value, str):
            return value in self.any_of
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


MENDABLE = {"sync_offset": "the sound is moved by the offset found"}
"""Scores that `mend` can put right."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is built of the same files."""

    name: str
    clips: ClipForm
    steps: Mapping[str, Mapping[str, Any]]
    keep: Mapping[str, Bound]
    duplicates: Mapping[str, float]
    """The share of bits in which fingerprints of one clip may differ, by score; a later clip within it is dropped."""
    val_share: float
    """The share of source files whose clips are for validation."""
    without_caption: Literal["drop", "empty"]
    shard_bytes: int
    mix: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By the name of a mix (see `ovi_lab.data.build.mix`): the most that a kind may have of the kept clips."""
    given: tuple[str, ...] = ()
    """Names of the numbers that come with the files."""

    def make_steps(self) -> list[BuildStep]:
        """The steps in order, not set up. Raises UserError for settings that a step does not take."""
        made = []
        for name, settings in self.steps.items():
            try:
                made.append(STEPS[name](**settings))
            except TypeError as error:
                raise UserError(f"recipe: step {name}: {error}") from error
        return made

    @property
    def specs(self) -> dict[str, ScoreSpec]:
        """Every score of a clip by name."""
        own = [spec for name in self.steps for spec in STEPS[name].scores]
        given = [ScoreSpec(name, "given with the files") for name in self.given]
        return {spec.name: spec for spec in (*given, *SOURCE_SCORES, *own)}

    @property
    def measured_too(self) -> list[str]:
        """Scores that come with the files and are measured as well: the measured ones hold."""
        own = {spec.name for name in self.steps for spec in STEPS[name].scores}
        return sorted(set(self.given) & (own | {spec.name for spec in SOURCE_SCORES}))

    def scored_by(self) -> str:
        """Digest of what the scores depend on: the form of clips, the steps with their settings and versions."""
        versions = {name: [STEPS[name].version, dict(settings)] for name, settings in self.steps.items()}
        text = json.dumps([asdict(self.clips), versions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def plain(self) -> dict[str, Any]:
        """In plain values, for the manifest."""
        return asdict(self)


def load_recipe(name: str, given: Sequence[str] = ()) -> Recipe:
    """A built-in recipe by name, or that of a YAML file; `given`: scores that come with the files.

    Raises UserError for anything that it should not hold.
    """
    built_in = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    path = FOLDER / f"{name}.yaml" if name in built_in else Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"recipe {shown(name)} is neither {' nor '.join(built_in)} nor a YAML file that is there"
        )
    try:
        plain = parse_yaml(read_text(path, max_bytes=MAX_BYTES), shown(path.name))
    except UserError as error:
        raise UserError(f"recipe {error}") from error
    if not isinstance(plain, dict):
        raise UserError(f"recipe {shown(name)}: expected a mapping with {', '.join(_KEYS)}")
    return read_recipe(path.stem, plain, given)


_KEYS = ("clips", "steps", "keep", "duplicates", "mix", "val_share", "without_caption", "shard_bytes")


def read_recipe(name: str, plain: Mapping[str, Any], given: Sequence[str] = ()) -> Recipe:
    """A recipe of plain values; see `load_recipe`."""
    _known(plain, _KEYS, "recipe")
    steps = plain.get("steps") or {}
    steps = {step: {} for step in steps} if isinstance(steps, list) else steps
    if not isinstance(steps, dict):
        raise UserError("recipe: steps is a list of steps, or a mapping of steps to their settings")
    _known(steps, STEPS, "recipe: steps")
    clips = _fields(ClipForm, plain.get("clips") or {}, "recipe: clips")
    recipe = Recipe(
        name,
        clips,
        {step: dict(settings or {}) for step, settings in steps.items()},
        {score: _bound(bound, f"recipe: keep.{score}") for score, bound in (plain.get("keep") or {}).items()},
        dict(plain.get("duplicates") or {}),
        _number(plain.get("val_share", 0.0), "recipe: val_share", 0, 1),
        _choice(plain.get("without_caption", "drop"), ("drop", "empty"), "recipe: without_caption"),
        int(_number(plain.get("shard_bytes", 10**9), "recipe: shard_bytes", 1, 2**40)),
        _mix(plain.get("mix") or {}),
        tuple(given),
    )
    recipe.make_steps()
    for score, bound in recipe.keep.items():
        _known([score, *bound.when], recipe.specs, "recipe: keep")
        if recipe.specs[score].kind == "print":
            raise UserError(f"recipe: keep.{score} is a fingerprint; name it under duplicates")
        text = recipe.specs[score].kind == "text"
        if text != bool(bound.any_of) and score not in recipe.given:
            wanted = "any_of, for it is a text" if text else "min or max, for it is a number"
            raise UserError(f"recipe: keep.{score} takes {wanted}")
        if bound.otherwise == "mend" and score not in MENDABLE:
            raise UserError(
                f"recipe: keep.{score}.otherwise is mend; only {', '.join(MENDABLE)} can be mended"
            )
    for name in recipe.mix:
        _known([MIXES[name].score], recipe.specs, f"recipe: mix.{name}")
    _known(recipe.duplicates, recipe.specs, "recipe: duplicates")
    for score, share in recipe.duplicates.items():
        _number(share, f"recipe: duplicates.{score}", 0, 1)
    return recipe


def _bound(plain: Any, where: str) -> Bound:
    if not isinstance(plain, dict):
        raise UserError(f"{where} is {shown(repr(plain), 40)}; expected a mapping with min or max")
    own = dict(plain)
    when = {
        name: _bound(bound, f"{where}.when.{name}") for name, bound in (own.pop("when", None) or {}).items()
    }
    bound = _fields(Bound, own, where)
    for side in ("min", "max"):
        if getattr(bound, side) is not None:
            _number(getattr(bound, side), f"{where}.{side}")
    _choice(bound.otherwise, ("drop", "mark", "mend"), f"{where}.otherwise")
    _choice(bound.missing, ("drop", "keep"), f"{where}.missing")
    texts = bound.any_of
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}.any_of is {shown(repr(texts), 40)}; expected a list of texts")
    return replace(bound, any_of=tuple(texts), when=when)


def _mix(plain: Any) -> dict[str, dict[str, float]]:
    where = "recipe: mix"
    if not isinstance(plain, dict):
        raise UserError(f"{where} is {shown(repr(plain), 40)}; expected a mapping of {', '.join(MIXES)}")
    _known(plain, MIXES, where)
    found = {}
    for name, shares in plain.items():
        if not isinstance(shares, dict) or not shares:
            raise UserError(
                f"{where}.{name} is {shown(repr(shares), 40)}; expected a mapping of kinds to shares"
            )
        _known(shares, MIXES[name].kinds, f"{where}.{name}")
        found[name] = {k: float(_number(x, f"{where}.{name}.{k}", 0, 1)) for k, x in shares.items()}
    return found


def _fields(kind: Any, plain: Mapping[str, Any], where: str) -> Any:
    if not isinstance(plain, dict):
        raise UserError(f"{where} is {shown(repr(plain), 40)}; expected a mapping")
    _known(plain, kind.__dataclass_fields__, where)
    return kind(**plain)


def _known(names: Any, known: Any, where: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{where}: {shown(str(name))} is unknown; expected one of {', '.join(known)}")


def _number(value: Any, where: str, least: float = float("-inf"), most: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        within = "" if least == float("-inf") else f" from {least:g} to {most:g}"
        raise UserError(f"{where} is {shown(repr(value), 40)}; expected a number{within}")
    return value


def _choice(value: Any, choices: Sequence[str], where: str) -> Any:
    if value not in choices:
        raise UserError(f"{where} is {shown(repr(value), 40)}; expected one of {', '.join(choices)}")
    return value
