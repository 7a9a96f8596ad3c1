"""The last lines of a command: what was made, and the command that comes next, ready to be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path


def typed(path: str | Path) -> str:
    """A path as it is typed from here, relative where it lies below the working folder, and quoted; or an address."""
    if re.match(r"[a-z][a-z0-9+.-]*://", str(path)):
        return shlex.quote(str(path))
    place = Path(path).absolute()
    here = Path.cwd()
    return shlex.quote(str(place.relative_to(here) if place.is_relative_to(here) else place))


def shard_pattern(paths: Sequence[Path]) -> str:
    """Shards as one argument: `'clips/train-{000..007}.tar'` for a gapless run of numbers, else with `*`."""
    if len(paths) == 1:
        return typed(paths[0])
    ordered = sorted(paths)
    numbers = [re.fullmatch(r"(.*-)(\d+)(\.tar)", str(path)) for path in ordered]
    found = [match for match in numbers if match is not None]
    if len(found) == len(paths) and len({match[1] for match in found}) == 1:
        first, last = found[0], found[-1]
        whole = int(last[2]) - int(first[2]) + 1 == len(found)
        return typed(f"{first[1]}{{{first[2]}..{last[2]}}}.tar" if whole else f"{first[1]}*.tar")
    return typed(ordered[0].parent / "*.tar") if ordered else "…"


def sampling(checkpoint: str, prompt: str = "…", weights: bool = False) -> str:
    """`ovi-sample` of a checkpoint; `weights`: the codecs of a released model are needed."""
    shown_prompt = re.sub(r'(["\\$`])', r"\\\1", " ".join(prompt.split()))
    return f'ovi-sample checkpoint={checkpoint}{" weights=DIR" if weights else ""} prompt="{shown_prompt}"'
