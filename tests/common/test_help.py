"""`--help` and `--version` of every command: quick, and complete as the configuration changes."""

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest

from ovi_eval import cli as eval_cli
from ovi_lab import cli, demo, doctor, plan, sample, train
from ovi_lab.common.paths import config_dir
from ovi_lab.data import cli as data_cli
from ovi_lab.export import cli as export_cli
from ovi_lab.sampling import attention_map
from ovi_lab.stages import __main__ as stages
from ovi_lab.sync_metrics import __main__ as sync_metrics

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "lightning", "transformers", "hydra", "omegaconf", "numpy", "scipy", "pydantic"}


@pytest.mark.parametrize("flag", ["--help", "--version"])
@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_every_command_answers_without_a_heavy_import(command, flag):
    module = PROJECT["scripts"][command].partition(":")[0]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, flag], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", done.stderr, re.MULTILINE))
    assert "argparse" in imported
    assert not imported & HEAVY
    if flag == "--version":
        assert re.fullmatch(rf"{command} \d+\.\d+\.\d+\n", done.stdout)
    else:
        assert f"usage: {command}" in done.stdout


@pytest.mark.parametrize("command", [train, sample, plan, stages], ids=lambda module: module.HELP.command)
def test_help_shows_every_group_and_key_of_the_configuration(command):
    text = command.HELP.text(config_dir())
    content = (config_dir() / f"{command.HELP.config}.yaml").read_text()
    groups = re.findall(r"^  - (\w+): (\S+)$", content, re.MULTILINE)
    assert ("sampler", "unipc") in groups
    for group, default in groups:
        if group in command.HELP.refused:
            assert f"\n  {group}=\n" not in text
            continue
        listed = re.search(rf"^  {group}=\n((?:    .*\n)+)", text, re.MULTILINE)[1]
        rows = re.findall(r"^    ([* ]) (\S+)  +\S", listed, re.MULTILINE)
        assert {name for _, name in rows} == {f.stem for f in (config_dir() / group).glob("*.yaml")}, group
        assert [name for mark, name in rows if mark == "*"] == [default] * (default != "null")
    for key in re.findall(r"^(\w+):", content, re.MULTILINE):
        assert (f"\n  {key}:" in text) == (key not in ("defaults", "hydra")), key
    assert len(command.HELP.examples) == 3


def test_help_of_a_command_of_hydras_names_hydras_flags():
    assert "--hydra-help" in train.HELP.text(config_dir())
    assert "--hydra-help" not in plan.HELP.text(config_dir())


PARSERS = {"ovi-data": data_cli._parser, "ovi-export": export_cli._parser, "ovi-eval": eval_cli._parser}
PARSERS |= {"ovi-attention": attention_map._parser, "ovi-doctor": doctor._parser, "ovi-demo": demo._parser}
PARSERS |= {"ovi-sync-metrics": sync_metrics._parser}


def every_parser():
    """The parsers of commands and subcommands, by what is typed."""
    for name, parser in PARSERS.items():
        whole = parser()
        yield name, whole
        for action in whole._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from ((f"{name} {word}", inner) for word, inner in action.choices.items())


EVERY_PARSER = dict(every_parser())


@pytest.mark.parametrize("typed", EVERY_PARSER)
def test_help_has_three_examples_that_the_command_itself_reads(typed):
    parser = EVERY_PARSER[typed]
    text = parser.format_help()
    assert len(parser.examples) == 3
    assert " ".join(parser.description.split()) in " ".join(text.split())  # its purpose
    for line, what in parser.examples:
        assert f"  {line}\n      {what}\n" in text
        words = [word for word in shlex.split(line) if not re.match(r"\w+=/", word)]
        if words[0] in PARSERS:
            PARSERS[words[0]]().parse_args(words[1:])


@pytest.mark.parametrize("typed", EVERY_PARSER)
def test_a_misspelt_option_is_answered_with_the_nearest(typed, capsys):
    module = importlib.import_module(PROJECT["scripts"][typed.split()[0]].partition(":")[0])
    actions = EVERY_PARSER[typed]._actions
    option = next(name for a in actions for name in a.option_strings if len(name) > 4)
    needed = {"ovi-data": ["make", "x"], "ovi-eval": ["metrics"]}.get(typed)
    if needed is None:
        needed = ["x" for a in actions if not a.option_strings]
        needed += [w for a in actions if a.option_strings and a.required for w in (a.option_strings[0], "x")]
    wrong = f"{option[:-2]}{option[-1]}{option[-2]}"
    assert module.main([*typed.split()[1:], *needed, wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert wrong in line
    assert "did you mean --" in line


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_one_command_has_all_the_others(monkeypatch, capsys):
    own = {name.removeprefix("ovi-"): target.partition(":")[0] for name, target in PROJECT["scripts"].items()}
    assert own.pop("lab") == "ovi_lab.cli"
    assert {name: module for name, (module, _) in cli.COMMANDS.items()} == own
    assert [name for name, module in own.items() if importlib.util.find_spec(module) is None] == []
    for word in own:
        monkeypatch.setattr(sys, "argv", ["ovi-lab", word, "--version"])
        with suppress(SystemExit):
            cli.main()
        assert re.fullmatch(rf"ovi-{word} [\d.]+\n", capsys.readouterr().out)
    monkeypatch.setattr(sys, "argv", ["ovi-lab", "smaple"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "unknown command 'smaple'; did you mean sample" in capsys.readouterr().err


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_a_reader_that_has_seen_enough_is_no_error(command):
    module = PROJECT["scripts"][command].partition(":")[0]
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) in (0, 141)
