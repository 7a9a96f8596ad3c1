"""`--help` and `--version` of the commands that Hydra runs, from the text of conf/*.yaml: nothing heavy is imported."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovi_eval.common.boundary import one_line
from ovi_lab import __version__
from ovi_lab.common.paths import config_dir

_WIDTH = 100


@dataclass(frozen=True)
class Help:
    """What `--help` of a command prints.

    Args:
        command: its name, such as `ovi-train`.
        purpose: one sentence or several.
        examples: command lines, each with what it does.
        config: the primary configuration, `<config>.yaml`.
        own: keys of the command's own, with what they are.
        hydra: whether Hydra runs the command, so that its flags are taken.
        refused: groups of the configuration that the command does not take.
    """

    command: str
    purpose: str
    examples: Sequence[tuple[str, str]]
    config: str
    own: Sequence[tuple[str, str]] = ()
    hydra: bool = True
    refused: Sequence[str] = ()

    def answered(self, arguments: Sequence[str]) -> bool:
        """Print the help or the version where the arguments ask for it. Returns whether they did."""
        if "--version" in arguments:
            text = f"{self.command} {__version__}"
        elif "--help" in arguments or "-h" in arguments:
            text = self.text(config_dir())
        else:
            return False
        with one_line(self.command):
            print(text, flush=True)
        return True

    def text(self, folder: Path) -> str:
        """The help, with groups and keys of the configuration in `folder`."""
        flags = " [--config-dir FOLDER]"
        flags += " [--multirun | --cfg job | --info | --hydra-help]" if self.hydra else ""
        content = (folder / f"{self.config}.yaml").read_text()
        keys = content[content.index("\n\n", content.index("defaults:")) :].split("\nhydra:")[0]
        return "\n".join(
            [
                f"usage: {self.command} [GROUP=FILE …] [KEY=VALUE …]{flags}\n",
                textwrap.fill(self.purpose, _WIDTH),
                "\nExamples:",
                *(f"  {line}\n      {what}" for line, what in self.examples),
                *(["\nKeys of this command alone:"] if self.own else []),
                *_table(self.own),
                "\nGroups (* the default):",
                *_groups(folder, content, self.refused),
                "\nKeys, with their defaults (nested ones with dots, as in a.b=1):",
                textwrap.indent(keys.strip("\n"), "  "),
            ]
        )


def _groups(folder: Path, content: str, refused: Sequence[str]) -> Iterator[str]:
    for group, default in re.findall(r"^  - (\w+): (\S+)$", content, re.MULTILINE):
        if group in refused:
            continue
        yield f"  {group}="
        files = sorted((folder / group).glob("*.yaml"))
        yield from _table([(f"{'*' if f.stem == default else ' '} {f.stem}", _about(f)) for f in files])


def _about(file: Path) -> str:
    """The first sentence of a configuration file's comment."""
    lines = re.match(r"(?:# @package.*\n)?((?:#.*\n)*)", file.read_text())
    comment = " ".join(line.lstrip("# ") for line in lines[1].splitlines()) if lines else ""
    return re.split(r"(?<=\.) ", comment)[0]


def _table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Lines of names and what they are, in two columns."""
    first = max((len(name) for name, _ in rows), default=0) + 2
    for name, what in rows:
        lines = textwrap.wrap(what, max(40, _WIDTH - 4 - first)) or [""]
        yield f"    {name:<{first}}{lines[0]}".rstrip()
        yield from (" " * (4 + first) + line for line in lines[1:])


def own_words(arguments: Sequence[str], command: Help) -> tuple[dict[str, str], list[str]]:
    """The arguments that are keys of the command's own, and those of its configuration."""
    words = {name.rstrip("=") for name, _ in command.own}
    pairs = [argument.partition("=") for argument in arguments]
    own = {key: value for key, equals, value in pairs if key in words and equals}
    return own, [a for a, (key, *_) in zip(arguments, pairs, strict=True) if key not in own]
