"""What a user can mend is one line and an exit code; what only a programmer can mend keeps its traceback."""

import errno
import subprocess
import sys

import pytest

from ovi_eval.common.boundary import LineParser, command, one_line
from ovi_lab.errors import UserError


def raising(error):
    @command("ovi-test")
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("seed is 'x'"), "ovi-test: seed is 'x'\n"),
        (UserError("two\n lines\tof it"), "ovi-test: two lines of it\n"),
        (UserError("a name \x1b[31mred\x1b[0m \u202e"), "ovi-test: a name \\x1b[31mred\\x1b[0m \\u202e\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x/y"), "ovi-test: No such file: /x/y\n"),
        (OSError(errno.ENOSPC, "No space left"), "ovi-test: No space left\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line(capsys, error, line):
    assert raising(error)() == 2
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    "error", [ValueError("x"), TypeError("x"), KeyError("x"), OSError("a library's own"), AssertionError()]
)
def test_what_only_a_programmer_can_mend_is_raised(error):
    with pytest.raises(type(error)):
        raising(error)()


def test_interruption_and_exit_codes_are_kept(capsys):
    assert raising(KeyboardInterrupt())() == 130
    assert capsys.readouterr().err == "ovi-test: interrupted; nothing half-written is left\n"
    assert command("x")(lambda: 1)() == 1
    assert command("x")(lambda: None)() == 0
    with pytest.raises(SystemExit) as left, one_line("error", interrupted="go on", interrupted_code=2):
        raise KeyboardInterrupt
    assert left.value.code == 2
    with pytest.raises(SystemExit) as left:
        raising(SystemExit(7))()  # not the boundary's own
    assert left.value.code == 7


def test_a_closed_pipe_is_no_error():
    code = (
        "from ovi_eval.common.boundary import command\n"
        "@command('x')\n"
        "def main():\n"
        "    for _ in range(100000): print('y')\n"
        "raise SystemExit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_a_parser_refuses_in_one_line_with_the_nearest_name():
    parser = LineParser(prog="ovi-test")
    parser.add_argument("--to", choices=("ovi", "comfyui"))
    with pytest.raises(UserError, match="to 'comfui' is unknown; did you mean comfyui"):
        parser.parse_args(["--to", "comfui"])
    with pytest.raises(UserError, match="unrecognized arguments: --nope; see ovi-test --help"):
        parser.parse_args(["--nope"])


def test_options_may_stand_between_the_words_of_a_list():
    parser = LineParser(prog="ovi-test")
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--to", choices=("ovi", "comfyui"))
    parser.add_argument("--quiet", action="store_true")
    for words in (["a", "--to", "ovi", "b", "--quiet", "c"], ["--quiet", "a", "--to=ovi", "b", "c"]):
        found = parser.parse_args(words)
        assert (found.shards, found.to, found.quiet) == (["a", "b", "c"], "ovi", True)
    assert parser.parse_args(["a", "--", "--to"]).shards == ["a", "--to"]
