"""Error handling of commands: bad input is one line on standard error and an exit code, a bug is a traceback.

The type of an exception alone decides: UserError, files that cannot be opened, read or written, Ctrl-C and a closed
pipe become one line. Everything else is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import argparse
import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, ParamSpec

from ovi_eval.common.shown import did_you_mean, shown
from ovi_eval.errors import UserError

_Parameters = ParamSpec("_Parameters")

USAGE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class PrintedError(SystemExit):
    """SystemExit after the one line of an error was printed."""


def fail(error: BaseException | str, prefix: str = "error", code: int = USAGE) -> NoReturn:
    """Print one line, with control characters escaped, and exit with `code`."""
    print(f"{prefix}: {shown(error, None)}", file=sys.stderr, flush=True)
    raise PrintedError(code)


@contextmanager
def one_line(
    prefix: str,
    interrupted: str = "interrupted; nothing half-written is left",
    interrupted_code: int = INTERRUPTED,
) -> Iterator[None]:
    """Turn a user's errors into one line on standard error and SystemExit with code 2.

    Args:
        prefix: start of the line, such as "ovi-eval".
        interrupted, interrupted_code: message and exit code of Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        fail(error, prefix, error.exit_code)
    except BrokenPipeError:
        # what is left in the buffer must not fail again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise PrintedError(PIPE_CLOSED) from None
    except OSError as error:
        # one without a file is no answer of the file system but a library's own way of failing
        if error.filename is None and error.errno not in _FULL:
            raise
        where = f": {error.filename}" if error.filename is not None else ""
        fail(f"{error.strerror or error}{where}", prefix)
    except KeyboardInterrupt:
        fail(interrupted, prefix, interrupted_code)


def command(
    prefix: str, **interrupted: Any
) -> Callable[[Callable[_Parameters, int | None]], Callable[_Parameters, int]]:
    """Decorates the `main` of a command: it returns its exit code, 2 after one line for a user's error.

    The arguments are those of `one_line`.
    """

    def decorated(main: Callable[_Parameters, int | None]) -> Callable[_Parameters, int]:
        @functools.wraps(main)
        def guarded(*arguments: _Parameters.args, **named: _Parameters.kwargs) -> int:
            try:
                with one_line(prefix, **interrupted):
                    return main(*arguments, **named) or 0
            except PrintedError as error:
                return int(error.code or 0)

        return guarded

    return decorated


class LineParser(argparse.ArgumentParser):
    """argparse with one-line errors (UserError) that give the nearest valid names.

    `examples`, at the end of the help: command lines, each with what it does.
    """

    examples: Sequence[tuple[str, str]] = ()

    def format_help(self) -> str:
        """The help, with the examples."""
        shown_lines = [f"  {line}\n      {what}" for line, what in self.examples]
        return super().format_help() + "\n".join(["\nexamples:", *shown_lines, ""] if shown_lines else [])

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Options may stand anywhere, also between the words of a list.

        Raises:
            UserError: an unknown option; those of a subcommand are known here, and not to its parent.
        """
        given = sys.argv[1:] if args is None else args
        found, unknown = super().parse_known_args(options_last(self, given), namespace)
        if unknown:
            options = {option.lstrip("-"): option for option in self._option_string_actions}
            name = unknown[0].partition("=")[0] if unknown[0].startswith("-") else ""
            near = did_you_mean(name.lstrip("-"), options)
            near = re.sub(r"[\w-]+(?= or |\?$)", lambda name: options[name[0]], near)
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f", {near[:-1]}" if near else ""))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            offer = did_you_mean(str(value), names) or f"there are {', '.join(names)}"
            raise UserError(f"{action.metavar or action.dest} {value!r} is unknown; {offer}")


def say_purposes(commands: argparse._SubParsersAction[Any]) -> None:
    """Each subcommand's own help begins with its line in the list of all."""
    for listed in commands._choices_actions:
        parser, purpose = commands.choices[listed.dest.split()[0]], str(listed.help)
        parser.description = f"{purpose[0].upper()}{purpose[1:]}."


def word_groups(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[list[str]]:
    """The words of a command line: an option together with its value, each other word by itself."""
    options = parser._option_string_actions
    groups: list[list[str]] = []
    rest = list(arguments)
    while rest:
        name, equals, _ = rest[0].partition("=")
        following = rest[1] if len(rest) > 1 else ""
        action = None if equals else options.get(name)
        # an optional value is no KEY=VALUE
        takes = action is not None and (
            action.nargs is None
            or (action.nargs == "?" and "=" not in following and not following.startswith("-"))
        )
        groups.append(rest[: 1 + takes])
        del rest[: 1 + takes]
    return groups


def options_last(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments with all options after the other words, of which argparse would refuse those behind an option.

    A command line with subcommands, or with a word that argparse alone can place (`--`, an option that is cut short,
    unknown or of several values), is left as it is.
    """
    single = {
        name for name, action in parser._option_string_actions.items() if action.nargs in (None, 0, "?")
    }
    groups = word_groups(parser, arguments)
    dashed = [group for group in groups if group[0].startswith("-")]
    if parser._subparsers is not None or any(g[0].partition("=")[0] not in single for g in dashed):
        return list(arguments)
    plain = [group for group in groups if not group[0].startswith("-")]
    return [word for group in [*plain, *dashed] for word in group]
