"""Checks plain values from a file against the types of a class's parameters."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError

__all__ = ["MAX_LAYERS", "MAX_WIDTH", "NetworkSizes", "check_sizes", "check_types"]

MAX_WIDTH, MAX_LAYERS = 2**20, 1024
"""Beyond any model: larger numbers are typing errors, or a file that attacks memory."""


def check_types(
    owner: Callable[..., Any], values: Mapping[str, Any], what: str, without: Collection[str] = ()
) -> None:
    """Compare settings with the parameters of a class: their names, and the types of its annotations.

    Args:
        owner: the class.
        values: plain values by name.
        what: the settings in words, for messages.
        without: parameters that are none of the settings.

    Raises:
        UserError: no mapping, an unknown name, a missing one, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{what} is {shown(repr(values), 60)}; expected a mapping of settings")
    parameters = {n: p for n, p in inspect.signature(owner).parameters.items() if n not in without}
    unknown = [key for key in values if key not in parameters]
    if unknown:
        raise UserError(
            f"{what} has unknown key {shown(unknown[0], 60)}; valid keys: {', '.join(sorted(parameters))}"
        )
    missing = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in values]
    if missing:
        raise UserError(f"{what} lacks {', '.join(missing)}")
    hints = get_type_hints(owner.__init__)
    for name, value in values.items():
        if not _is(value, hints.get(name, Any)):
            raise UserError(
                f"{what}: {name} is {shown(repr(value), 60)}; expected {_words(hints[name])}, as the release or run "
                "wrote it"
            )


def _is(value: Any, hint: Any) -> bool:
    """Whether a plain value (of YAML or JSON) fits a type hint; a list stands for a tuple."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in args)
    if origin is Literal:
        return value in args
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_is(v, args[1]) for v in value.values())
    if origin is tuple and args[-1] is not Ellipsis:
        return _listed(value) and len(value) == len(args) and all(map(_is, value, args))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Iterable):
        return _listed(value) and all(_is(v, args[0]) for v in value)
    return isinstance(hint, type) and isinstance(value, hint)


def _listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _words(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(one) for one in args)
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if hint in plain:
        return plain[hint]
    if hint is types.NoneType:
        return "null"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    return "a list" if isinstance(origin, type) and issubclass(origin, Iterable) else str(hint)


def check_sizes(settings: Mapping[str, Any], what: str) -> None:
    """Raises UserError for a whole number, or a list, in a network's settings that is past any network there is."""
    for key, value in settings.items():
        most = MAX_LAYERS if key in ("num_layers", "res_blocks") else MAX_WIDTH
        numbers = value if _listed(value) else [value]
        wrong = [n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and not 0 <= n <= most]
        if wrong or len(numbers) > MAX_LAYERS:
            raise UserError(f"{what}: {key} is {shown(value, 60)}; expected 0 to {most}")


class NetworkSizes:
    """Base of the dataclasses that hold a published network's sizes; lists become tuples."""

    title: ClassVar[str]
    """The settings in words, for messages."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))

    @classmethod
    def of(cls, value: Self | Mapping[str, Any] | None) -> Self:
        """The sizes themselves, those of a mapping of plain values, or for None the published ones."""
        if isinstance(value, cls):
            return value
        settings: Any = {} if value is None else value
        check_types(cls, settings, cls.title)
        check_sizes(settings, cls.title)
        return cls(**settings)
