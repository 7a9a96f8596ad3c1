"""The check of a composed configuration against common/settings.py, with one line for the first misfit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, read_write
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from ovi_eval.common.shown import shown
from ovi_lab.common.fields import as_typed, checked, field_type, fields_of
from ovi_lab.common.settings import ALTERNATIVES, EXAMPLES, TABLES, TRAIN
from ovi_lab.errors import UserError


def check_values(config: DictConfig, name: str, may_lack: bool = False) -> DictConfig:
    """Resolve every value of a composed configuration and check it against its type.

    Args:
        config: composed, without Hydra's own part.
        name: which configuration it is.
        may_lack: whether mandatory values (???) may be missing still.

    Returns:
        The configuration with numbers where text is meant as text: `data.root=2026` names a folder.

    Raises:
        UserError: the first value that does not resolve, is missing or is not of its type; a group that is no mapping
            or has a key that it does not take.
    """
    _fill_alternatives(config)
    given = _resolved(config, may_lack)
    texts = dict(_texts(given, checked(TABLES[name], given, "")))
    with read_write(config):
        for path, text in texts.items():
            OmegaConf.update(config, path, text)
    return config


def _fill_alternatives(config: DictConfig) -> None:
    """Set mandatory values to null where another key is given in their place."""
    for path, others in ALTERNATIVES.items():
        if OmegaConf.select(config, path) is None:
            continue
        for other in others:
            group, _, key = other.rpartition(".")
            node = OmegaConf.select(config, group)
            if key in node.keys() and OmegaConf.is_missing(node, key):  # noqa: SIM118
                with read_write(config):
                    OmegaConf.update(config, other, None)


def check_settings(group: str, given: Mapping[str, Any]) -> None:
    """Check the arguments of a constructor against that group of a run's settings; other names pass.

    Raises UserError naming the first value that is not of its type, and what was expected.
    """
    hint = field_type(TRAIN, group)
    checked(hint, {name: given[name] for name in fields_of(hint) if name in given}, group)


def _texts(given: Mapping[str, Any], valid: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What the check made text, by its dotted path."""
    for key, value in valid.items():
        if isinstance(value, Mapping):
            yield from _texts(given[key], value, f"{prefix}{key}.")
        elif isinstance(value, str | list) and value != given[key]:
            yield f"{prefix}{key}", value


def _resolved(config: DictConfig, may_lack: bool, prefix: str = "") -> dict[str, Any]:
    """The configuration as plain values."""
    plain: dict[str, Any] = {}
    for key in config:
        path = prefix + str(key)
        try:
            value = config[key]
            if isinstance(value, ListConfig):
                value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            if may_lack:
                continue
            name, example = _example(path)
            raise UserError(f"{name} is not given, and has no default: give {example}") from error
        except (OmegaConfBaseException, RecursionError, ValueError, TypeError) as error:
            raise UserError(_unresolved(config, key, path, error)) from error
        if isinstance(value, DictConfig):
            value = _resolved(value, may_lack, f"{path}.")
        plain[str(key)] = value
    return plain


def _example(path: str) -> tuple[str, str]:
    """The key as it is typed, where another refers to it, and an example of its value."""
    path = path.replace("task.text_encoder.", "text.").replace("task.init_from.", "init_from.")
    return path, EXAMPLES.get(path, f"{path}=…")


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
