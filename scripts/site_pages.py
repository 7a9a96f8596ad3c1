"""Pages that the documentation's site takes from elsewhere: the commands' help, conf/, benchmarks, studies.

A hook of mkdocs (see mkdocs.yml). Links between pages are written as the repository has them, so that they work there
too; here those that lead out of docs/ are turned to the page's place in the site; those to source files become text.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = (
    "benchmarks/*.md", "experiments/**/*.md", "experiments/**/*.png", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md",
    "CODE_OF_CONDUCT.md",
)  # fmt: skip
COMMANDS = {
    "ovi-lab": ["ovi_lab.cli"],
    "ovi-train": ["ovi_lab.train"],
    "ovi-sample": ["ovi_lab.sample"],
    "ovi-plan": ["ovi_lab.plan"],
    "ovi-rehearse": ["ovi_lab.rehearse"],
    "ovi-stages": ["ovi_lab.stages"],
    "ovi-sync-metrics": ["ovi_lab.sync_metrics"],
    "ovi-doctor": ["ovi_lab.doctor"],
    "ovi-small": ["ovi_lab.sampling.small_ovi"],
    "ovi-attention": ["ovi_lab.sampling.attention_map"],
    "ovi-demo": ["ovi_lab.demo"],
    "ovi-data": ["ovi_lab.data.cli"],
    "ovi-data make": ["ovi_lab.data.cli", "make"],
    "ovi-data pack": ["ovi_lab.data.cli", "pack"],
    "ovi-data inspect": ["ovi_lab.data.cli", "inspect"],
    "ovi-data embed": ["ovi_lab.data.cli", "embed"],
    "ovi-data fit-codec": ["ovi_lab.data.cli", "fit-codec"],
    "ovi-data latents": ["ovi_lab.data.cli", "latents"],
    "ovi-export": ["ovi_lab.export.cli"],
    "ovi-eval": ["ovi_eval.cli"],
    "ovi-eval score": ["ovi_eval.cli", "score"],
    "ovi-eval leaderboard": ["ovi_eval.cli", "leaderboard"],
    "ovi-eval compare": ["ovi_eval.cli", "compare"],
    "ovi-eval metrics": ["ovi_eval.cli", "metrics"],
    "ovi-eval check": ["ovi_eval.cli", "check"],
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside docs/ and those made of help texts and configuration files."""
    for pattern in ELSEWHERE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    files.append(File.generated(config, "reference/commands.md", content=_commands()))
    files.append(File.generated(config, "reference/configuration.md", content="\n".join(_configuration())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links as the repository has them into links of the site."""
    here = page.file.src_uri
    generated = page.file.generated_by is not None
    folder = posixpath.dirname(here if generated else f"docs/{here}")

    def turned(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        place = posixpath.normpath(posixpath.join(folder, target)).removeprefix("docs/")
        place = {"README.md": "index.md"}.get(place, place)
        if files.get_file_from_path(place) is None and (ROOT / place).exists():
            return f"`{text.strip('`')}`"
        return f"{picture}[{text}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor or ''})"

    return LINK.sub(turned, markdown)


def _commands() -> str:
    parts = ["# Commands\n\nWhat each command answers to `--help`.\n"]
    for name, (module, *words) in COMMANDS.items():
        answer = subprocess.run(
            [sys.executable, "-m", module, *words, "--help"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        parts.append(f"## {name}\n\n```\n{answer.stdout.rstrip()}\n```\n")
    return "\n".join(parts)


def _configuration() -> Iterator[str]:
    yield "# Configuration keys\n\nThe files of `conf/`: `group=file` chooses one, `key=value` overrides a value.\n"
    for name, what in (("train", "ovi-train"), ("sample", "ovi-sample")):
        yield f"## {what}\n\n```yaml\n{(ROOT / f'conf/{name}.yaml').read_text().rstrip()}\n```\n"
    for group in sorted(p for p in (ROOT / "conf").iterdir() if p.is_dir()):
        yield f"## {group.name}\n"
        for file in sorted(group.rglob("*.yaml")):
            name = file.relative_to(group).with_suffix("").as_posix()
            yield f"### {group.name}={name}\n\n```yaml\n{file.read_text().rstrip()}\n```\n"
