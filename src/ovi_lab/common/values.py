"""The check of a composed configuration against the forms in settings.yaml, with one line for the first misfit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, read_write
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from ovi_eval.common.shown import did_you_mean, shown
from ovi_lab.common.forms import misfit
from ovi_lab.errors import UserError

SETTINGS = Path(__file__).with_name("settings.yaml")


@cache
def forms(name: str) -> dict[str, str]:
    """The form of each setting of a configuration ("train", "sample"), by its dotted path."""
    return dict(_leaves(_read()[name]))


@cache
def closed() -> tuple[str, ...]:
    """Groups that take the keys of settings.yaml and no others."""
    return tuple(_read()["closed"])


@cache
def _read() -> dict[str, Any]:
    import yaml

    # our own file: its anchors are welcome
    content: dict[str, Any] = yaml.safe_load(SETTINGS.read_text())
    return content


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nearest(name: str, valid: Sequence[str]) -> str:
    """`, did you mean …? Valid: …` for an unknown name."""
    hint = did_you_mean(name, valid, most=1)
    return f"{f', {hint}' if hint else '.'} Valid: {', '.join(sorted(valid))}"


def check_values(config: DictConfig, name: str, may_lack: bool = False) -> None:
    """Resolve every value of a composed configuration and check it against its form.

    Args:
        config: composed, without Hydra's own part.
        name: which configuration it is.
        may_lack: whether mandatory values (???) may be missing still.

    Raises:
        UserError: the first value that does not resolve, is missing or is not of its form; a group that is no mapping
            or has a key that it does not take.
    """
    expected = forms(name)
    groups = {path.rpartition(".")[0] for path in expected}
    groups |= {outer.rpartition(".")[0] for outer in groups}
    for path, value in _resolved(config, "", may_lack):
        if path in expected:
            words = misfit(value, expected[path])
            if words is not None:
                raise UserError(f"{path} is {as_typed(value)}: expected {words}")
        elif path in groups and not isinstance(value, Mapping):
            if value is not None or path not in _read()["optional"]:
                raise UserError(
                    f"{path} is {as_typed(value)}: expected settings such as {path}.{_first(path, expected)}=…"
                )
        elif (group := path.rpartition(".")[0]) in closed() and path not in groups:
            keys = [p.removeprefix(f"{group}.") for p in expected if p.startswith(f"{group}.")]
            key = path.removeprefix(f"{group}.")
            raise UserError(f"unknown key {path!r}: no {key!r} under {group}{nearest(key, keys)}")


def check_settings(group: str, given: Mapping[str, Any]) -> None:
    """Hold the arguments of a constructor against the forms of that group of a run's settings; other names pass.

    Raises UserError naming the first value that is not of its form, and what was expected.
    """
    expected = forms("train")
    for name, value in given.items():
        form = expected.get(f"{group}.{name}")
        if form is not None and (words := misfit(value, form)) is not None:
            raise UserError(f"{group}.{name} is {as_typed(value)}: expected {words}")


def with_texts(config: DictConfig, name: str) -> DictConfig:
    """The configuration with numbers where text is meant as text: `data.root=2026` names a folder."""
    numbers: dict[str, Any] = {}
    for path, form in forms(name).items():
        kinds = {part.strip() for part in form.split("|")}
        try:
            value = OmegaConf.select(config, path)
        except (
            OmegaConfBaseException,
            RecursionError,
            ValueError,
            TypeError,
        ):  # reported by `check_values` where it matters
            continue
        if kinds & {"text", "name"} and misfit(value, form) is None and _is_number(value):
            if all(misfit(value, kind) for kind in kinds - {"text", "name"}):
                numbers[path] = str(value)
        elif kinds & {"list of text"} and isinstance(value, ListConfig) and any(map(_is_number, value)):
            numbers[path] = [str(one) if _is_number(one) else one for one in value]
    with read_write(config):
        for path, text in numbers.items():
            OmegaConf.update(config, path, text)
    return config


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_typed(value: Any) -> str:
    """A value as its user would write it."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return shown(repr(value) if isinstance(value, str) else value, 80)


def _first(group: str, expected: Mapping[str, str]) -> str:
    return next(path.removeprefix(f"{group}.") for path in expected if path.startswith(f"{group}."))


def _resolved(config: DictConfig, prefix: str, may_lack: bool) -> Iterator[tuple[str, Any]]:
    """Every value by its dotted path, mappings before their contents."""
    for key in config:
        path = prefix + str(key)
        try:
            value = config[key]
            if isinstance(value, ListConfig):
                value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            if may_lack:
                continue
            raise UserError(f"{path} is not given, and has no default: {path}=…") from error
        except (OmegaConfBaseException, RecursionError, ValueError, TypeError) as error:
            raise UserError(_unresolved(config, key, path, error)) from error
        if isinstance(value, DictConfig):
            yield path, {}
            yield from _resolved(value, f"{path}.", may_lack)
        else:
            yield path, value


def _unresolved(config: DictConfig, key: Any, path: str, error: Exception) -> str:
    raw = as_typed(OmegaConf.to_container(config, resolve=False)[key])  # type: ignore[index]
    reason = str(error.__cause__ or error).strip()
    if "recursi" in reason.lower():
        return f"{path} is {raw}, which refers to itself"
    reason = reason.splitlines()[0] if reason else type(error).__name__
    reason = reason.rpartition(" raised while resolving interpolation: ")[2].strip("'\"")
    if isinstance(error, InterpolationKeyError):
        reason = "there is no such key"
    return f"{path} is {raw}, which cannot be looked up: {shown(reason)}"
