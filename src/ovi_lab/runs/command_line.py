"""Checks what a user typed before anything starts, and says in one line what is wrong with it.

Hydra refuses an unknown key too, but over several lines and without the keys that would be right.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError


def nearest(name: str, valid: Sequence[str]) -> str:
    """`, did you mean …? Valid: …` for an unknown name."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f", did you mean {close[0]}?" if close else "."
    return f"{hint} Valid: {', '.join(sorted(valid))}"


def group_options(folder: Path, group: str) -> list[str]:
    """Names of the files of a configuration group."""
    return sorted(p.stem for p in (folder / group).glob("*.yaml"))


def _each_choice(override: Override) -> Iterator[str]:
    """An override as it reaches a job: one per value of a sweep."""
    if override.is_sweep_override() and override.is_discrete_sweep():
        key = override.get_key_element()
        yield from (f"{key}={value}" for value in override.sweep_string_iterator())
    elif override.input_line is not None:
        yield override.input_line


def _explain(override: Override, text: str, folder: Path, base: DictConfig, error: Exception) -> str:
    key = override.key_or_group
    if (folder / key).is_dir():
        name = text.partition("=")[2]
        return f"unknown {key} {name!r}{nearest(name, group_options(folder, key))}"
    node: object = base
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(node, DictConfig):
            return (
                f"unknown key {key!r}: {'.'.join(walked)} is a single value. Set {'.'.join(walked)} instead"
            )
        keys = [str(k) for k in node]
        if part not in keys:
            place = f" under {'.'.join(walked)}" if walked else ""
            return f"unknown key {key!r}: no {part!r}{place}{nearest(part, keys)}"
        walked.append(part)
        node = OmegaConf.select(base, ".".join(walked), throw_on_missing=False)
    reason = str(error.__cause__ or error).splitlines()[0]
    return f"{override.input_line!r} is not accepted: {reason}"


def prepared(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra is to see it: shard patterns as lists, and one path after init_from= for everything."""
    from ovi_lab.data.shards import joined_shards

    ready = list(arguments)
    for key in ("data.shards", "data.train", "data.val"):
        ready = joined_shards(ready, key)
    whole = "init_from="
    return [
        f"init_from.all={a.removeprefix(whole)}" if a.startswith(whole) and a[len(whole) :][:1] != "{" else a
        for a in ready
    ]


def check(arguments: Sequence[str], config_folder: Path, config_name: str) -> None:
    """Compose the configuration once per override and value.

    Args:
        arguments: the command line, without the program's name.
        config_folder: where the primary list lies.
        config_name: its name.

    Raises:
        UserError: the first override that does not hold, with the valid names.
    """
    # Hydra's own flags may be followed by a word without "=", such as `--cfg job`
    overrides = [a for a in arguments if ("=" in a or a.startswith("~")) and not a.startswith(("-", "hydra"))]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except (OverrideParseException, HydraException) as error:
        raise UserError(f"cannot read the command line: {str(error).splitlines()[0]}") from error
    # groups first: they decide which keys there are
    groups = [o for o in parsed if (config_folder / o.key_or_group).is_dir()]
    keys = [o for o in parsed if o not in groups]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder), version_base="1.3"):
        accepted: list[str] = []
        base = compose(config_name)
        for override in (*groups, *keys):
            last = ""
            for text in _each_choice(override):
                try:
                    composed = compose(config_name, overrides=[*accepted, text])
                except MissingConfigException as error:
                    if override in groups:
                        raise UserError(_explain(override, text, config_folder, base, error)) from error
                    raise UserError(str(error).splitlines()[0]) from error
                except (ConfigCompositionException, OmegaConfBaseException, HydraException) as error:
                    raise UserError(_explain(override, text, config_folder, base, error)) from error
                last = text
            base = composed
            accepted.append(last)
    GlobalHydra.instance().clear()


def fail(error: Exception) -> NoReturn:
    """Print the one line and leave with exit code 2."""
    print(f"error: {shown(error, None)}", file=sys.stderr, flush=True)
    raise SystemExit(2)
