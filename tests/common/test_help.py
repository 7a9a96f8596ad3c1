"""`--help` and `--version` of every command: quick, and complete as the configuration changes."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ovi_lab import plan, sample, train
from ovi_lab.common.paths import config_dir

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


@pytest.mark.parametrize("command", [train, sample, plan], ids=lambda module: module.HELP.command)
def test_help_shows_every_group_and_key_of_the_configuration(command):
    text = command.HELP.text(config_dir())
    content = (config_dir() / f"{command.HELP.config}.yaml").read_text()
    groups = re.findall(r"^  - (\w+): (\S+)$", content, re.MULTILINE)
    assert ("sampler", "unipc") in groups
    for group, default in groups:
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


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_a_reader_that_has_seen_enough_is_no_error(command):
    module = PROJECT["scripts"][command].partition(":")[0]
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) in (0, 141)
