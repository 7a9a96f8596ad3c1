"""The reader of untrusted YAML and JSON: plain values only, bounded in size and depth.

Nothing is instantiated, no alias is followed and `${…}` stays text: values must never be resolved by
OmegaConf. Values are None, bool, int, float, str, list and dict with text as keys.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import MAX_BYTES, read_text
from ovi_eval.errors import UserError

MAX_DEPTH = 64
"""The deepest nesting of lists and mappings."""
_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"


def read_json(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value of a JSON file, as `parse_json`; raises UserError also as `unicode_text.read_text`."""
    return parse_json(read_text(path, max_bytes=max_bytes), str(path))


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file, as `parse_yaml`; raises UserError also as `unicode_text.read_text`."""
    return parse_yaml(read_text(path), str(path))


def parse_json(text: str | bytes, name: str, *, constants: bool = False) -> Any:
    """The value of a JSON text; `name` is its name in errors.

    NaN and Infinity, which JSON does not have, are refused unless `constants`. Raises UserError for text that is
    no JSON, nested deeper than MAX_DEPTH, naming a key twice or holding a number that no float can hold.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=float if constants else _refuse,
            parse_float=_finite,
        )
        _check_depth(value)
        return value
    except (UserError, RecursionError) as error:
        fault = error if isinstance(error, UserError) else _TOO_DEEP
        raise UserError(f"{shown(name)}: {fault}") from error
    except ValueError as error:  # also UnicodeDecodeError, and whole numbers of thousands of digits
        raise UserError(f"{shown(name)}: is no JSON ({shown(error)})") from error


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text; `name` is its name in errors.

    Numbers as YAML 1.2 has them (1e-4 is one); dates stay text. Raises UserError for text that is no YAML, holds an
    anchor, an alias or a tag, names a key twice or is nested deeper than MAX_DEPTH.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            _check_event(event, depth)
        return yaml.load(text, Loader=_Loader)
    except (UserError, RecursionError) as error:
        fault = error if isinstance(error, UserError) else _TOO_DEEP
        raise UserError(f"{shown(name)}: {fault}") from error
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{shown(name)}: is no plain YAML ({shown(problem)}{line})") from error


def _check_event(event: yaml.Event, depth: int) -> None:
    line = f"line {event.start_mark.line + 1}" if event.start_mark is not None else "a line"
    if depth > MAX_DEPTH:
        raise UserError(f"{line} {_TOO_DEEP}")
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise UserError(f"{line} has an anchor or an alias; write the value out")
    tag = getattr(event, "tag", None)
    if tag is not None and tag != "!":  # "!" says that a scalar is text
        raise UserError(f"{line} has the tag {shown(tag)}; plain values have none")


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
                    None, None, f"the key {key!r} appears twice", key_node.start_mark
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


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"names the key {shown(twice)} twice in one object")
    return found


def _refuse(word: str) -> Any:
    raise UserError(f"holds {word}, which is no JSON; write null where there is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise UserError(f"holds the number {shown(digits, 40)}, too large for any float")
    return value


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level if isinstance(outer, dict) for inner in outer.values()] + [
            inner for outer in level if isinstance(outer, list) for inner in outer
        ]
        if not level:
            return
    raise UserError(_TOO_DEEP)
