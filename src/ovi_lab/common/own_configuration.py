"""Folders of a user's own configuration, beside ours: `--config-dir` and `hydra.searchpath`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from ovi_eval.common.shown import did_you_mean, shown
from ovi_lab.common.fields import nearest
from ovi_lab.errors import UserError

SEARCHPATH = "hydra.searchpath"


def own_places(config_dir: str | None, overrides: Sequence[Override]) -> list[str]:
    """Places of own configuration that a command line names, as `file://FOLDER` or `pkg://MODULE`.

    Raises:
        UserError: one of them is not there.
    """
    places = [] if config_dir is None else [f"file://{Path(config_dir).absolute()}"]
    for override in overrides:
        if override.key_or_group != SEARCHPATH:
            continue
        listed: Any = override.value()
        if not isinstance(listed, list) or not all(isinstance(place, str) for place in listed):
            raise UserError(
                f"{override.input_line}: expected a list, as '{SEARCHPATH}=[file:///home/me/mine]'"
            )
        for place in listed:
            if not _is_there(place):
                raise UserError(f"{SEARCHPATH} has {shown(place)}: there is no such folder or package")
        places += listed
    return places


def _is_there(place: str) -> bool:
    scheme, separator, rest = place.partition("://")
    if separator and scheme == "pkg":
        try:
            return importlib.util.find_spec(rest.replace("/", ".")) is not None
        except (ImportError, ValueError):
            return False
    return (not separator or scheme == "file") and Path(unquote(rest if separator else place)).is_dir()


def search_in(places: Sequence[str]) -> None:
    """Let Hydra, which has been initialised, look into these places for what our own folder does not have."""
    hydra: Any = GlobalHydra.instance().hydra
    path = hydra.config_loader.get_search_path()
    last = path.get_path().pop(-1)  # Hydra's own schemas stay last
    for place in places:
        path.append("command-line", place)
    path.append(last.provider, last.path)
    hydra.config_loader = ConfigLoaderImpl(config_search_path=path)


def is_group(name: str) -> bool:
    """Whether there is a configuration group of that name, ours or the user's."""
    return bool(_repository().group_exists(name))


def group_options(group: str) -> list[str]:
    """Names of the files of a configuration group, ours and the user's."""
    return list(_repository().get_group_options(group, ObjectType.CONFIG))


def _repository() -> Any:
    hydra: Any = GlobalHydra.instance().hydra
    return hydra.config_loader.repository


def missing_file(override: Override, name: str, error: Any) -> str:
    """Why a group's file could not be composed: it is not there, or it asks for another that is not."""
    group, lacking = override.key_or_group, str(error.missing_cfg_file or "")
    if lacking in (f"{group}/{name}", ""):
        return f"unknown {group} {name!r}{nearest(name, group_options(group))}"
    other, _, file = lacking.rpartition("/")
    offer = did_you_mean(file, group_options(other)) or f"there are {', '.join(group_options(other))}"
    return f"{override.input_line} asks for {shown(lacking)}, which is not there; {offer}"


def check_keys(job: DictConfig, base: DictConfig, overrides: Sequence[Override]) -> None:
    """Raises UserError for a key that own files have brought to the top of a configuration, and nothing reads."""
    added = {o.key_or_group.partition(".")[0] for o in overrides if o.is_add() or o.is_force_add()}
    unknown = [str(key) for key in job if key not in base.keys() and key not in added]  # noqa: SIM118 (`in` is False for ???)
    if unknown:
        names = [str(key) for key in base if key != "hydra"]
        raise UserError(f"unknown key {unknown[0]!r} in your configuration{nearest(unknown[0], names)}")
