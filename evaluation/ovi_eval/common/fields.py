"""Typed access to the fields of an untrusted JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError


class Fields:
    """Typed access to the fields of one object of a file, with errors that name both."""

    def __init__(self, path: Path, data: Any, where: str = "") -> None:
        if not isinstance(data, dict):
            raise UserError(f"{path}: field {where} must be an object, found {kind_of(data)}")
        self.path, self.data, self.where = path, data, where

    def _name(self, key: str) -> str:
        return f"{self.where}.{shown(key, 60)}" if self.where else shown(key, 60)

    def has(self, key: str) -> bool:
        """Whether the field is present and not null."""
        return self.data.get(key) is not None

    def get(self, key: str, types: type | tuple[type, ...], default: Any = ...) -> Any:
        if key not in self.data:
            if default is ...:
                raise UserError(f"{self.path}: field {self._name(key)} is missing")
            return default
        value = self.data[key]
        allowed = types if isinstance(types, tuple) else (types,)
        # bool is an int to Python, and never what a number field means.
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            wanted = " or ".join(_TYPE_NAMES[t] for t in allowed if t is not int or float not in allowed)
            raise UserError(f"{self.path}: field {self._name(key)} must be {wanted}, found {kind_of(value)}")
        return value

    def number(self, key: str, default: Any = ...) -> float:
        value = self.get(key, (int, float), default)
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{self.path}: field {self._name(key)} is too large a number") from None

    def number_or_none(self, key: str, default: Any = ...) -> float | None:
        self.get(key, (int, float, type(None)), default)
        return self.number(key) if self.has(key) else None

    def texts(self, key: str) -> dict[str, str]:
        """An object whose values are all text; empty where the field is missing or null."""
        found = self.get(key, (dict, type(None)), None) or {}
        inner = Fields(self.path, found, self._name(key))
        return {str(name): inner.get(name, str) for name in found}

    def list_of_text(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where the field is missing or null."""
        found = self.get(key, (list, type(None)), None) or []
        for place, value in enumerate(found):
            if not isinstance(value, str):
                raise UserError(
                    f"{self.path}: field {self._name(key)}[{place}] must be text, found {kind_of(value)}"
                )
        return tuple(found)

    def choice(self, key: str, valid: tuple[str, ...]) -> str:
        value = str(self.get(key, str))
        if value not in valid:
            raise UserError(
                f"{self.path}: field {self._name(key)} is {shown(repr(value), 60)}, expected one of {', '.join(valid)}"
            )
        return value


_TYPE_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
    bool: "true or false",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    """A JSON value's type, as messages word it."""
    return _TYPE_NAMES.get(type(value), type(value).__name__)
