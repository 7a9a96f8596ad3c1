"""The check of a Hydra command line: composed once, with a one-line error for the first fault.

Hydra refuses an unknown key too, but over several lines and without the keys that would be right; and it takes any
value, which then fails somewhere in the run.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ovi_eval.common.boundary import LineParser, options_last, word_groups
from ovi_eval.common.shown import shown
from ovi_lab.common.fields import as_typed, checked, field_type, nearest
from ovi_lab.common.own_configuration import (
    check_keys,
    group_options,
    is_group,
    missing_file,
    own_places,
    search_in,
)
from ovi_lab.common.paths import config_dir
from ovi_lab.common.settings import TABLES
from ovi_lab.common.values import check_values
from ovi_lab.errors import UserError

# Errors of composing for a wrong command line; RecursionError: a value of a hundred brackets
_REFUSED = (
    HydraException, OmegaConfBaseException, YAMLError, RecursionError, ValueError, TypeError, OSError
)  # fmt: skip
_ONLY_TOLD = ("help", "hydra_help", "info", "shell_completion")
_OFFERED = (
    "--multirun",
    "--cfg",
    "--config-dir",
    "--config-name",
    "--hydra-help",
    "--help",
    "--version",
    "--info",
)
_ONE_OF = ("run", "multirun", "cfg", "info", "shell_completion")


@dataclass(frozen=True)
class CommandLine:
    """A command line taken apart: Hydra's flags and the overrides."""

    flags: argparse.Namespace
    overrides: tuple[Override, ...]


def check(arguments: Sequence[str], config_folder: Path, config_name: str, may_lack: bool = True) -> None:
    """`composed` for a command that Hydra runs; nothing is composed for Hydra's help and similar flags."""
    flags = read(arguments).flags
    if not any(getattr(flags, name) for name in _ONLY_TOLD):
        composed(arguments, config_folder, config_name, may_lack)


def composed(
    arguments: Sequence[str],
    config_folder: Path,
    config_name: str,
    may_lack: bool = True,
    one_run: bool = False,
) -> DictConfig:
    """Compose the configuration once, and check its values.

    Args:
        arguments: the command line, without the program's name.
        config_folder: folder of the primary configuration.
        config_name: its name.
        may_lack: whether values without a default may be missing.
        one_run: whether a study of several runs is refused.

    Returns:
        The configuration without Hydra's part; of several values of a sweep, with the first.

    Raises:
        UserError: the first flag, override or value that does not hold, with the valid names.
    """
    line = read(arguments)
    flags = line.flags
    lists = [o for o in line.overrides if o.is_sweep_override()]
    places = own_places(flags.config_dir, line.overrides)
    with composing(config_folder, places):
        first = {id(override): _first_value(override) for override in lists}
        _check_choices(lists, config_name)
        texts = [first.get(id(override), str(override.input_line)) for override in line.overrides]
        name = flags.config_name or config_name
        try:
            config = compose(name, overrides=texts, return_hydra_config=True)
        except _REFUSED as error:
            _name_the_guilty(line.overrides, texts, name, error)
        multirun = flags.multirun or (not flags.run and _looked_up(config, "mode") == "RunMode.MULTIRUN")
        if lists and not multirun:
            raise UserError(
                f"{lists[0].input_line} is several values: add --multirun for a run with each of them, or "
                "put [ ] around them for a list"
            )
        if multirun and one_run:
            raise UserError(
                "this is a study of several runs, and one is made here at a time: start it with the command, "
                f"ovi-train {' '.join(arguments)}"
            )
        job = _job(config, config_name)
        if places:
            check_keys(job, compose(config_name), line.overrides)
        _check_deletions(line.overrides, config_name)
        return check_values(job, config_name, may_lack or bool(flags.cfg))


def check_text(arguments: Sequence[str]) -> None:
    """Raises UserError for an argument that is no text, such as a file name in another encoding."""
    for argument in arguments:
        if "\x00" in argument or any(0xD800 <= ord(c) < 0xE000 for c in argument):
            raise UserError(f"cannot read the command line: {shown(argument, 80)!r} is no text in UTF-8")


def check_flags(arguments: Sequence[str], command: str) -> None:
    """Raises UserError for a flag other than --config-dir, the one that a command takes that Hydra does not run."""
    dashed = [group[0] for group in word_groups(_parser(), arguments) if group[0].startswith("-")]
    for flag in dashed:
        if flag.partition("=")[0] not in ("--config-dir", "-cd"):
            word = flag.lstrip("-") if "=" in flag else f"{flag.lstrip('-')}=…"
            raise UserError(
                f"{shown(flag, 80)} is no flag of {command}: settings are written without dashes, as {shown(word, 80)}"
            )


def read(arguments: Sequence[str]) -> CommandLine:
    """Take a command line apart.

    Raises:
        UserError: a flag or an override that cannot be read.
    """
    check_text(arguments)
    _check_words(arguments)
    flags = _parser().parse_args(arguments)
    if flags.config_path is not None:
        raise UserError(
            "--config-path would replace all of ovi-lab's configuration: add yours with --config-dir"
        )
    if flags.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun would unpickle a file, which may run anything: type the overrides again"
        )
    if flags.config_dir is not None and not Path(flags.config_dir).is_dir():
        raise UserError(f"--config-dir {flags.config_dir} is no folder")
    given = [f"--{name.replace('_', '-')}" for name in _ONE_OF if getattr(flags, name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are different things to do: give one of them")
    if flags.resolve and not (flags.cfg or flags.help):
        raise UserError("--resolve goes with --cfg")
    return CommandLine(flags, tuple(_parsed(text) for text in flags.overrides))


def _check_words(arguments: Sequence[str]) -> None:
    """Raises UserError for settings as argparse takes them, and for words that set nothing, with what is meant."""
    flags = _parser()._option_string_actions
    groups = word_groups(_parser(), arguments)
    before = ""
    for place, (argument, *_) in enumerate(groups):
        rest = [word for group in groups[place + 1 :] for word in group]
        name, _, value = argument.partition("=")
        following = rest[0] if rest else ""
        if name not in flags and re.fullmatch(r"--?[A-Za-z][\w./-]*", name):
            value = value or ("…" if following.startswith("-") or "=" in following else following) or "…"
            near = difflib.get_close_matches(name, _OFFERED, 1, 0.75)
            raise UserError(
                f"{shown(argument, 80)} is no flag: settings are written without dashes and with =, as "
                f"{shown(name.lstrip('-'), 60)}={shown(value, 60)}"
                + (f"; as a flag, {near[0]}" if near else "")
            )
        if re.fullmatch(r"[A-Za-z][\w./,-]*:?", argument):
            raise UserError(
                f"cannot read the command line: {shown(argument, 80)!r} sets nothing; "
                f"write {_meant(argument, before, rest)}"
            )
        before = argument


def _meant(word: str, before: str, rest: Sequence[str]) -> str:
    """The setting that a bare word on the command line may belong to."""
    word = shown(word.rstrip(":"), 60)
    if (config_dir() / "experiment" / f"{word}.yaml").is_file():
        return f"experiment={word}"
    if word == "help":
        return "--help for help"
    following = next((text for text in rest if text != "="), "").removeprefix("=")
    if (config_dir() / word).is_dir() and following:
        return f"{word}={shown(following, 60)}, without spaces"
    key, equals, value = before.replace("'", "").partition("=")
    if equals and not key.startswith("-"):
        return f'KEY=VALUE, with quotes around a value with spaces, as {shown(key, 60)}="{shown(value, 60)} {word}"'
    return f"KEY=VALUE, as {word}=…"


def flags_last(arguments: Sequence[str]) -> list[str]:
    """The command line with Hydra's flags after the overrides: Hydra refuses overrides on both sides of a flag."""
    return options_last(_parser(), arguments)


def _parser() -> LineParser:
    from hydra._internal.utils import get_args_parser

    # Hydra's own flags, so that both parse in the same way
    return LineParser(prog="this command", parents=[get_args_parser()], add_help=False)


def _parsed(text: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(text)
        override.value()
    except (HydraException, RecursionError, ValueError) as error:
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        if reason == "None":
            reason = "a value is missing at its end" if text.endswith(",") else "it is no KEY=VALUE"
        raise UserError(
            f"cannot read the command line: {shown(text, 80)!r} ({shown(reason, 120)})"
        ) from error
    return override


def _first_value(override: Override) -> str:
    """An override of several values as its first job sees it. Raises UserError where there are none to write out."""
    if not override.is_discrete_sweep():
        raise UserError(
            f"{override.input_line} is no list of values: write them out, as {override.key_or_group}=1,2,3"
        )
    hydra: Any = GlobalHydra.instance().hydra
    override.config_loader = hydra.config_loader  # glob() looks among the files of a group
    try:
        text = next(iter(override.sweep_string_iterator()), None)
    except (HydraException, ValueError, TypeError) as error:
        raise UserError(f"{override.input_line} is no list of values: {_reason(error)}") from error
    if text is None:
        raise UserError(f"{override.input_line} gives no value at all: write them out, as 1,2,3")
    return f"{override.get_key_element()}={text}"


def _check_choices(lists: Sequence[Override], config_name: str) -> None:
    """Each of several values must hold by itself."""
    for override in lists:
        key = override.key_or_group
        options = group_options(key) if is_group(key) else None
        hint = field_type(TABLES[config_name], key)
        for value in override.sweep_iterator():
            plain = value if not hasattr(value, "text") else value.text
            if options is not None:
                if value is not None and str(value) not in options and "/" not in str(value):
                    raise UserError(f"unknown {key} {str(value)!r}{nearest(str(value), options)}")
            elif hint is not None and not (isinstance(plain, str) and "${" in plain):
                checked(hint, plain, key)


def _check_deletions(overrides: Sequence[Override], config_name: str) -> None:
    for override in overrides:
        key = override.key_or_group
        known = field_type(TABLES[config_name], key) is not None or key.endswith(("._target_", "._partial_"))
        if override.is_delete() and known:
            raise UserError(f"{override.input_line}: the command needs {key}; set it to another value")


@contextmanager
def composing(config_folder: Path, places: Sequence[str] = ()) -> Iterator[None]:
    """Hydra's `compose` over a folder, and over other places for what it does not have."""
    GlobalHydra.instance().clear()
    before = HydraConfig.instance().cfg
    try:
        with initialize_config_dir(str(config_folder), version_base="1.3"):
            if places:
                search_in(places)
            yield
    finally:
        HydraConfig.instance().cfg = before
        GlobalHydra.instance().clear()


def _looked_up(config: DictConfig, name: str) -> str:
    """A value of Hydra's own part. Raises UserError where it refers to what there is not, or to another type."""
    try:
        return str(OmegaConf.select(config, f"hydra.{name}"))
    except (OmegaConfBaseException, RecursionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it refers to itself"
        raise UserError(f"hydra.{name} cannot be looked up: {shown(reason)}") from error


def _job(config: DictConfig, config_name: str) -> DictConfig:
    """The configuration without Hydra's part, whose values it may look up."""
    with read_write(config), open_dict(config):
        # filled in by Hydra when a job starts
        config.hydra.job.num, config.hydra.job.id, config.hydra.runtime.output_dir = 0, "0", "."
        job = OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"])
    HydraConfig.instance().set_config(config)
    for name in ("run.dir", "sweep.dir", "sweep.subdir"):
        try:
            place = _looked_up(config, name)
        except UserError:
            # where a value of the job is the cause, the message has its own name
            check_values(job, config_name, may_lack=True)
            raise
        if not place.strip() or place == "None":
            raise UserError(f"hydra.{name} is {as_typed(place)}: expected a folder")
    return job


def _name_the_guilty(
    overrides: Sequence[Override], texts: Sequence[str], config_name: str, error: BaseException
) -> None:
    """Compose override by override, and raise for the first that is refused; groups first, which decide the keys."""
    pairs = list(zip(overrides, texts, strict=True))
    pairs.sort(key=lambda pair: not is_group(pair[0].key_or_group))
    try:
        base = compose(config_name)
    except _REFUSED as refused:
        raise UserError(shown(str(refused).splitlines()[0])) from refused
    accepted: list[str] = []
    for override, text in pairs:
        try:
            base = compose(config_name, overrides=[*accepted, text])
        except _REFUSED as refused:
            raise UserError(_explain(override, text, base, refused)) from refused
        accepted.append(text)
    raise UserError(f"the overrides do not go together: {shown(str(error).splitlines()[0])}") from error


def _explain(override: Override, text: str, base: DictConfig, error: BaseException) -> str:
    key = override.key_or_group
    if is_group(key) and override.value() is None:
        stored = "; where the shards hold text embeddings, task.text_encoder=null" if key == "text" else ""
        return f"{key}=null leaves out what the configuration needs{nearest('', group_options(key))}{stored}"
    if is_group(key) and isinstance(error, MissingConfigException):
        return missing_file(override, text.partition("=")[2], error)
    if isinstance(error, YAMLError):
        return f"{override.input_line}: its file is no YAML: {shown(error)}"
    if override.is_add() or key.partition(".")[0].partition("/")[0] == "hydra":
        return f"{override.input_line!r} is not accepted: {_reason(error)}"
    node: object = base
    walked: list[str] = []
    for part in key.split("."):
        place = ".".join(walked)
        if not isinstance(node, DictConfig):
            return f"unknown key {key!r}: {place} is a single value. Set {place} instead"
        keys = [str(k) for k in node]
        if part not in keys:
            under = f" under {place}" if walked else ""
            return f"unknown key {key!r}: no {part!r}{under}{nearest(part, keys)}"
        walked.append(part)
        try:
            node = OmegaConf.select(base, ".".join(walked), throw_on_missing=False)
        except OmegaConfBaseException:
            break
    return f"{override.input_line!r} is not accepted: {_reason(error)}"


def _reason(error: BaseException) -> str:
    text = str(error.__cause__ or error).strip()
    return shown(text.splitlines()[0] if text else type(error).__name__)
