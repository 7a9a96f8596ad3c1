"""Types of settings and the check of plain values against them: pydantic's, with one line for the first misfit.

Settings classes and tables state their fields with these types: `window: Annotated[int, whole(2)]`, `factor: Positive`.
"""

from __future__ import annotations

import inspect
import types
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from itertools import chain
from pathlib import PurePath
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NotRequired,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict, is_typeddict

from ovi_eval.common.shown import did_you_mean, shown
from ovi_lab.errors import UserError

Checked = TypeVar("Checked")
CLOSED = ConfigDict(extra="forbid")
"""The configuration of a settings class: no keys but its fields."""
_LARGEST = 2**63 - 1
MAX_WIDTH, MAX_LAYERS = 2**20, 1024
"""Beyond any model: larger numbers are typing errors, or a file that attacks memory."""


def whole(least: int | None = None, most: int | None = None) -> Any:
    """The field of a whole number of 64 bits, within bounds; a bool is none."""
    words = f"a whole number{_bounds(ge=least, le=most)}"
    ge, le = -_LARGEST if least is None else least, _LARGEST if most is None else most
    return Field(strict=True, ge=ge, le=le, description=words)


def number(**bounds: float) -> Any:
    """The field of a finite number within bounds (`ge`, `gt`, `le`, `lt`); a bool is none."""
    return Field(strict=True, allow_inf_nan=False, **bounds, description=f"a number{_bounds(**bounds)}")  # type: ignore[call-overload]


def _bounds(
    ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> str:
    if le is not None or lt is not None:
        return f" from {ge if gt is None else gt} to {le if lt is None else f'below {lt}'}"
    return f" above {gt}" if gt is not None else "" if ge is None else f" of at least {ge}"


def _as_text(value: Any) -> Any:
    # 2026 is a good name and a good prompt, and YAML makes a number of it
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _one_line(value: str) -> str:
    if not value.strip() or any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError("empty, or with control characters")
    return value


def _relative(value: str) -> str:
    path = PurePath(value)
    if path.is_absolute() or ".." in path.parts or len(value.encode()) > 200:
        raise ValueError("no name of a file")
    return value


Count = Annotated[int, whole(0)]
AtLeastOne = Annotated[int, whole(1)]
Width = Annotated[int, whole(1, MAX_WIDTH)]
Layers = Annotated[int, whole(1, MAX_LAYERS)]
Widths = Annotated[tuple[Width, ...], Field(max_length=MAX_LAYERS)]
Seed = Annotated[int, whole(0, 2**32 - 1)]
Number = Annotated[float, number()]
Positive = Annotated[float, number(gt=0)]
NotNegative = Annotated[float, number(ge=0)]
Share = Annotated[float, number(ge=0, le=1)]
YesNo = Annotated[bool, Field(strict=True)]
AnyText = Annotated[str, Field(strict=True)]
Text = Annotated[
    str, BeforeValidator(_as_text), AfterValidator(_one_line), Field(description="text on one line")
]
Name = Annotated[
    Text, AfterValidator(_relative), Field(description="a name without .. and control characters")
]


def group(fields: Mapping[str, Any], required: bool = False, **config: Any) -> Any:
    """A type of mappings with fields, and with ConfigDict's settings: `extra="forbid"` refuses other keys."""
    typed_dict: Any = TypedDict
    made = typed_dict("group", dict(fields), total=required)
    made.__pydantic_config__ = config
    return made


def signature(owner: Callable[..., Any]) -> Any:
    """A type of the mappings that are arguments of a class: its parameters, of the types that it annotates."""
    hints = get_type_hints(owner.__init__, include_extras=True)
    fields = {
        name: hints.get(name, Any)
        if parameter.default is parameter.empty
        else NotRequired[hints.get(name, Any)]
        for name, parameter in inspect.signature(owner).parameters.items()
    }
    return group(fields, required=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


@overload
def checked(hint: type[Checked], value: Any, what: str, **own: Any) -> Checked: ...
@overload
def checked(hint: Any, value: Any, what: str, **own: Any) -> Any: ...
def checked(hint: Any, value: Any, what: str, **own: Any) -> Any:
    """A plain value (of YAML, JSON or a caller) as a value of a type: an instance of it where it is a settings class.

    Args:
        hint: the type, of this file's ones.
        value: for a settings class its fields by name.
        what: the value in messages: a dotted key such as `model.video`, or words.
        own: further fields, which the caller sets.

    Raises:
        UserError: an unknown or missing key, or a value that is not of its type; the message names it, and what was
            expected.
    """
    plain = _plain(value)
    try:
        return _adapter(hint).validate_python(plain | own if own and isinstance(plain, dict) else plain)
    except ValidationError as error:
        raise UserError(_line(error, hint, plain, what, own)) from error


class PlainSettings:
    """Base of settings classes: pydantic dataclasses that are made from mappings of plain values."""

    title: ClassVar[str]
    """The settings in messages."""

    @classmethod
    def of(cls, value: Self | Mapping[str, Any] | None) -> Self:
        """The settings themselves, those of a mapping, or for None the defaults; UserError as `checked`."""
        return checked(cls, {} if value is None else value, cls.title)


def _plain(value: Any) -> Any:
    """Mappings and sequences of any class, OmegaConf's too, as dict and list."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(inner) for inner in value]
    return value


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _line(error: ValidationError, hint: Any, value: Any, what: str, own: Mapping[str, Any]) -> str:
    """The first misfit, of an unknown key before others: which value, and what was expected."""
    misfits = error.errors(include_url=False, include_input=False)
    first = min(misfits, key=lambda misfit: misfit["type"] not in _UNKNOWN)
    for key in first["loc"]:
        fields = fields_of(hint)
        if not fields:
            break
        if key not in fields:
            return f"{what} has unknown key {shown(key, 60)!r}{nearest(str(key), list(fields.keys() - own.keys()))}"
        hint = fields[str(key)]
        what = f"{what}{': ' if ' ' in what.rpartition(': ')[2] else '.' if what else ''}{key}"
        if first["type"] != "missing":
            value = value[key]
    if first["type"] == "missing":
        return f"{what} is not given: expected {_words(hint, what)}"
    return f"{what} is {as_typed(value)}: expected {_words(hint, what)}"


def fields_of(hint: Any) -> dict[str, Any]:
    """The types of a group of settings by key; none for a single setting."""
    optional = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
    for one in (hint, *optional):
        if is_typeddict(one) or is_dataclass(one):
            hints = get_type_hints(one, include_extras=True).items()
            return {
                key: get_args(hint)[0] if get_origin(hint) is NotRequired else hint for key, hint in hints
            }
    return {}


def field_type(hint: Any, path: str) -> Any:
    """The type of a setting or a group below a type, by its dotted path; None where there is none."""
    for key in path.split("."):
        hint = fields_of(hint).get(key)
    return hint


def _words(hint: Any, what: str) -> str:
    """The values of a type, in words."""
    details = getattr(hint, "__metadata__", ())
    if described := [d.description for d in details if getattr(d, "description", None)]:
        return str(described[-1])
    args = get_args(hint)
    if details:
        hint = args[0]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType, Literal):
        alternatives = (hint,) if origin is Literal else args
        choices = (
            get_args(one) if get_origin(one) is Literal else [_words(one, what)] for one in alternatives
        )
        words = [str(choice) for choice in chain.from_iterable(choices)]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if fields := fields_of(hint):
        return "a mapping of settings" if " " in what else f"settings such as {what}.{next(iter(fields))}=…"
    if origin in (list, tuple, Sequence):
        count = next((f"{d.min_length}: " for d in details if getattr(d, "min_length", None)), "")
        example = next((e for kind, e in _EXAMPLES.items() if kind in get_args(args[0])), "[a, b]")
        return f"a list of {count}{_words(args[0], what)}, such as {example}"
    return _PLAIN.get(origin or hint, str(hint))


_PLAIN: dict[Any, str] = {
    type(None): "null", bool: "true or false", int: "a whole number", float: "a number", str: "text",
    dict: "keys with values", Mapping: "keys with values",
}  # fmt: skip
_EXAMPLES = {int: "[1, 2]", float: "[0.9, 0.95]"}


def nearest(name: str, valid: Sequence[str]) -> str:
    """`, did you mean …? Valid: …` for an unknown name."""
    hint = did_you_mean(name, valid, most=1)
    return f"{f', {hint}' if hint else '.'} Valid: {', '.join(sorted(valid))}"


def as_typed(value: Any) -> str:
    """A value as its user would write it."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return shown(repr(value) if isinstance(value, str) else value, 80)
