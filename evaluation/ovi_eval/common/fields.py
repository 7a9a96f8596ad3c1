"""Typed access to the fields of an untrusted JSON or YAML object."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError

_NULL = type(None)
_TYPE_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
    bool: "true or false",
    _NULL: "null",
}


class Fields:
    """Typed access to the fields of one object of a file; every error is a UserError that names file and field."""

    def __init__(self, path: Path, data: Any, where: str = "") -> None:
        if not isinstance(data, dict):
            field = f"field {where}" if where else "its content"
            raise UserError(f"{path}: {field} must be an object, found {kind_of(data)}")
        self.path, self.data, self.where = path, data, where

    def _name(self, key: str) -> str:
        return f"{self.path}: field {self.where}{'.' if self.where else ''}{shown(key, 60)}"

    def check_schema(self, known: str) -> None:
        if self.data.get("schema") != known:
            found = shown(repr(self.data.get("schema")), 60)
            raise UserError(f'{self.path}: schema is {found}, this version reads "{known}"')

    def get(self, key: str, types: type | tuple[type, ...], default: Any = ...) -> Any:
        if key not in self.data:
            if default is ...:
                raise UserError(f"{self._name(key)} is missing")
            return default
        value = self.data[key]
        allowed = types if isinstance(types, tuple) else (types,)
        # bool is an int to Python, and never what a number field means.
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            wanted = " or ".join(_TYPE_NAMES[t] for t in allowed if t is not int or float not in allowed)
            raise UserError(f"{self._name(key)} must be {wanted}, found {kind_of(value)}")
        return value

    def or_null(self, key: str, kind: type) -> Any:
        """The value; None where the field is missing or null."""
        return self.get(key, (kind, _NULL), None)

    def number(self, key: str, default: Any = ...) -> float:
        value = self.get(key, (int, float), default)
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:
            raise UserError(f"{self._name(key)} is too large a number") from None
        raise UserError(f"{self._name(key)} is {value}, expected a finite number")

    def number_or_null(self, key: str, default: Any = ...) -> float | None:
        return None if self.get(key, (int, float, _NULL), default) is None else self.number(key)

    def text(self, key: str) -> str:
        """A text; "" where the field is missing or null."""
        return self.or_null(key, str) or ""

    def texts(self, key: str) -> dict[str, str]:
        """An object whose values are all text; empty where the field is missing or null."""
        found = self.or_null(key, dict) or {}
        inner = Fields(self.path, found, f"{self.where}.{key}".lstrip("."))
        return {str(name): inner.get(name, str) for name in found}

    def list_of_text(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where the field is missing or null."""
        found = self.or_null(key, list) or []
        for place, value in enumerate(found):
            if not isinstance(value, str):
                raise UserError(f"{self._name(key)}[{place}] must be text, found {kind_of(value)}")
        return tuple(found)

    def choice(self, key: str, valid: tuple[str, ...]) -> Any:
        value = self.get(key, str)
        if value not in valid:
            raise UserError(
                f"{self._name(key)} is {shown(repr(value), 60)}, expected one of {', '.join(valid)}"
            )
        return value


def kind_of(value: Any) -> str:
    """A JSON value's type, as messages word it."""
    return _TYPE_NAMES.get(type(value), type(value).__name__)
