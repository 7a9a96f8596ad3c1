"""The reader of untrusted YAML and JSON: plain values only, bounded in size and depth.

Nothing is instantiated, no alias is followed and `${…}` stays text: values must never be resolved by
OmegaConf. Values are None, bool, int, float, str, list and dict with text as keys.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import read_bytes
from ovi_eval.errors import UserError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "parse_json", "parse_yaml", "read_json", "read_text", "read_yaml"]

MAX_BYTES = 16 * 2**20
"""The default bound on the size of a file."""
MAX_DEPTH = 64
"""The deepest nesting of lists and mappings."""


def read_json(path: str | Path, *, max_bytes: int = MAX_BYTES, constants: bool = False) -> Any:
    """The value of a JSON file in UTF-8, as `parse_json`; the path is its name in errors.

    Raises UserError also for a file that is missing, unreadable or larger than `max_bytes`.
    """
    return parse_json(read_text(path, max_bytes=max_bytes), str(path), constants=constants)


def read_yaml(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value of a YAML file in UTF-8, as `parse_yaml`; the path is its name in errors.

    Raises UserError also for a file that is missing, unreadable or larger than `max_bytes`.
    """
    return parse_yaml(read_text(path, max_bytes=max_bytes), str(path))


def read_text(path: str | Path, *, max_bytes: int = MAX_BYTES) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises UserError for a file that is missing, unreadable, no text or larger than `max_bytes`.
    """
    try:
        return read_bytes(path, max_bytes=max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown(path)}: is no UTF-8 text (byte {error.start}); save it again in UTF-8"
        ) from error


def parse_json(text: str | bytes, name: str, *, constants: bool = False) -> Any:
    """The value of a JSON text; `name` is its name in errors.

    NaN and Infinity, which JSON does not have, are refused unless `constants`. Raises UserError for text that is
    no JSON, nested deeper than MAX_DEPTH, naming a key twice or holding a number that no float can hold.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: _object(pairs, name),
            parse_constant=float if constants else lambda word: _refuse(word, name),
            parse_float=lambda digits: _finite(digits, name),
        )
    except RecursionError as error:
        raise UserError(f"{shown(name)}: is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:  # also UnicodeDecodeError, and whole numbers of thousands of digits
        raise UserError(f"{shown(name)}: is no JSON ({shown(error)})") from error
    _check_depth(value, name)
    return value


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text; `name` is its name in errors.

    Numbers as YAML 1.2 has them (1e-4 is one); dates stay text. Raises UserError for text that is no YAML, holds an
    anchor, an alias or a tag, names a key twice or is nested deeper than MAX_DEPTH.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            _check_event(event, depth, name)
        return yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise UserError(f"{shown(name)}: is nested deeper than {MAX_DEPTH} levels") from error
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{shown(name)}: is no plain YAML ({shown(problem)}{line})") from error


def _check_event(event: yaml.Event, depth: int, name: str) -> None:
    line = f"line {event.start_mark.line + 1}" if event.start_mark is not None else "a line"
    if depth > MAX_DEPTH:
        raise UserError(f"{shown(name)}: {line} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise UserError(f"{shown(name)}: {line} has an anchor or an alias; write the value out")
    tag = getattr(event, "tag", None)
    if tag is not None and tag != "!":  # "!" says that a scalar is text
        raise UserError(f"{shown(name)}: {line} has the tag {shown(tag)}; plain values have none")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2, without dates and merge keys, and with unique text keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag.rpartition(":")[2] not in ("float", "int", "timestamp", "merge")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                raise yaml.constructor.ConstructorError(
                    None, None, "a list or a mapping cannot be a key", key_node.start_mark
                )
            key = key if isinstance(key, str) else key_node.value
            if key in mapping:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
             |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
             |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
             |[-+]?\.(?:inf|Inf|INF)
             |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)$"),
    list("-+0123456789"),
)


def _object(pairs: list[tuple[str, Any]], name: str) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"{shown(name)}: names the key {shown(twice)} twice in one object")
    return made


def _refuse(word: str, name: str) -> Any:
    raise UserError(f"{shown(name)}: holds {word}, which is no JSON; write null where there is no number")


def _finite(digits: str, name: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise UserError(f"{shown(name)}: holds the number {shown(digits, 40)}, too large for any float")
    return value


def _check_depth(value: Any, name: str) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level if isinstance(outer, (list, dict)) for inner in _inside(outer)]
        if not level:
            return
    raise UserError(f"{shown(name)}: is nested deeper than {MAX_DEPTH} levels")


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


def _inside(outer: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return outer.values() if isinstance(outer, dict) else outer


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
