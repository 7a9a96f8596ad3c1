"""docs/own_clips.md, command by command as it stands, on a folder of clips; and the site that the pages make."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from helpers.forks import command
from helpers.made_clips import write_clip

ROOT = Path(__file__).resolve().parents[2]


def commands_of(page: str) -> list[list[str]]:
    """The command lines of a page's bash blocks, as words."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def modules() -> dict[str, str]:
    """The module behind each command of pyproject.toml."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    return {name: entry.partition(":")[0] for name, entry in scripts.items()}


@pytest.mark.slow
def test_the_page_for_own_clips_works_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "CLIPS").mkdir()
    for name, moments in (("kitchen", (1.0, 3.0)), ("street", (0.5, 2.0, 4.0)), ("dog", (2.5,))):
        write_clip(tmp_path / "CLIPS" / f"{name}.mp4", 5.2, moments, size=(96, 96), caption=None)
        (tmp_path / "CLIPS" / f"{name}.txt").write_text(f"A {name}. <S>Hello.<E> Audio: clicks")
    lines = commands_of("own_clips.md")
    assert len(lines) >= 10
    known = modules()
    for name, *words in lines:
        fork = command(known[name], *words, cwd=tmp_path)
        assert fork.wait() == 0, f"{shlex.join([name, *words])}\n{fork.output}"
    assert len(list((tmp_path / "made").glob("*.mp4"))) == 2
    assert len(list((tmp_path / "made_small").glob("*.mp4"))) == 1
    assert "own_clips" in (tmp_path / "board" / "leaderboard.html").read_text()
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    """Strict: a link or an anchor that leads nowhere, and a page outside the navigation, fail the build."""
    pytest.importorskip("mkdocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stdout + built.stderr
    home = (tmp_path / "site" / "index.html").read_text()
    assert "http://" not in re.sub(r"http://www.w3.org\S*", "", home)
    assert (tmp_path / "site" / "reference" / "commands.html").is_file()
