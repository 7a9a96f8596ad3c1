"""Instantiation of a composed configuration's `_target_`s, with one-line errors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from ovi_eval.common.shown import shown
from ovi_lab.common.fields import nearest
from ovi_lab.errors import UserError

_HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def build(node: Any, what: str) -> Any:
    """Instantiate a node of the configuration; `what` names it, as "data".

    Raises:
        UserError: a `_target_` in it cannot be found or takes no such settings, or what is built refuses one of them.
    """
    _check_keys(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node, what)
    try:
        return instantiate(node)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise UserError(str(cause)) from error
            cause = cause.__cause__
        raise


def _check_keys(node: Any, place: str) -> None:
    """The settings of every `_target_` inside must be arguments of it, before anything of it is called."""
    if isinstance(node, list):
        for number, inner in enumerate(node):
            _check_keys(inner, f"{place}[{number}]")
    if not isinstance(node, Mapping):
        return
    for key, inner in node.items():
        _check_keys(inner, f"{place}.{key}")
    if "_target_" not in node:
        return
    target = node["_target_"]
    parameters = _parameters(target, place)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [str(key) for key in node if key not in names and key not in _HYDRAS]
    if unknown:
        key = unknown[0]
        raise UserError(f"unknown key '{place}.{key}': {target} takes no {key!r}{nearest(key, names)}")
    lacking = [n for n in names if n not in node and parameters[n].default is inspect.Parameter.empty]
    if lacking and not node.get("_partial_") and not node.get("_args_"):
        raise UserError(f"{place}.{lacking[0]} is not given, and {target} needs it")


def _parameters(target: Any, place: str) -> Mapping[str, inspect.Parameter]:
    """The arguments that a target takes; `**any` where it does not say."""
    try:
        if not isinstance(target, str):
            raise TypeError("a name is text")
        found = get_object(target)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"{place}._target_ is {shown(repr(target))}: there is nothing of that name"
        ) from error
    if not callable(found):
        raise UserError(f"{place}._target_ is {shown(repr(target))}, which cannot be called")
    try:
        return inspect.signature(found).parameters
    except ValueError:  # of some that are written in C
        return {"any": inspect.Parameter("any", inspect.Parameter.VAR_KEYWORD)}
