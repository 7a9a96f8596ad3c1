"""The worked example of docs/adding_a_metric.md, done to a copy of the package."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ovi_eval
from helpers.small_metrics import write_clips
from ovi_eval.clips.items import items_in
from ovi_eval.results.reading import read

PAGE = Path(__file__).resolve().parents[3] / "docs" / "adding_a_metric.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def patched(text: str, diff: str) -> str:
    """The text with each line that the diff adds: before the next line it keeps, or after the last."""
    added: list[str] = []
    kept = ""
    for line in diff.splitlines():
        if line.startswith("+"):
            added.append(line[1:])
            continue
        kept = line[1:]
        assert text.count(f"{kept}\n") == 1, kept
        text = text.replace(f"{kept}\n", "\n".join([*added, kept]) + "\n")
        added = []
    return text.replace(f"{kept}\n", "\n".join([kept, *added]) + "\n")


@pytest.mark.slow
def test_the_example_works_as_it_is_written(tmp_path: Path) -> None:
    package = tmp_path / "copy" / "ovi_eval"
    shutil.copytree(Path(ovi_eval.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (source,), diffs = blocks("python"), blocks("diff")
    (package / "metrics" / "loudness.py").write_text(source)
    for name, diff in zip(("results/metric_titles.py", "registry.py"), diffs, strict=True):
        (package / name).write_text(patched((package / name).read_text(), diff))
    clips = write_clips(tmp_path / "clips", 3)

    def run(*commands: list[str]) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(tmp_path / "copy"),
            "OVI_EVAL_CACHE": str(tmp_path / "cache"),
        }
        found = subprocess.run(
            [
                sys.executable,
                "-c",
                f"from ovi_eval.cli import main\nfor words in {commands}: assert not main(words)",
            ],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    printed = run(["metrics"], ["score", str(clips), "--metrics", "loudness"])
    assert re.search(r"loudness +loudness_db +higher +dB", printed)
    assert printed.count("loudness_db") == 2  # in the list of metrics, and with its value
    results = read(tmp_path / "results.json")
    waves = [item.audio().wave_S.double() for item in items_in(clips)]
    levels = [20 * math.log10(float(wave_S.square().mean().sqrt())) for wave_S in waves]
    assert [clip.values["loudness_db"] for clip in results.clips] == pytest.approx(levels, rel=1e-9)
    assert results.metrics["loudness_db"].value == pytest.approx(sum(levels) / 3, rel=1e-9)
    assert results.metrics["loudness_db"].ci95 is not None
