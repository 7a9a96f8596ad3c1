"""Which files are a run's clips: those in the run's own folder, or below folders that the user names; no others.

A results file is untrusted. A page that is shared must hold no private clip of the machine that made it, so
absolute names, `..` and links that lead outside are not followed, and the reason is kept for the reader.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ovi_eval.clips.captions import clip_id
from ovi_eval.common.places import inside, stays_inside
from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError
from ovi_eval.results.files import RunResults

KINDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".avi", ".webm", ".mkv", ".mov", ".mp4")
"""What may be a clip; of two files of one name the one with a picture is shown."""
_NAMED = 3
"""Runs named in one note."""


@dataclass(frozen=True)
class Clips:
    """A run's clips by id, and why there are none or fewer ("" where nothing was left out).

    `below_root`: the folder they were found in, where that is below a root.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left_out: str = ""
    below_root: Path | None = None


class ClipFinder:
    """The clips of runs, searched once.

    Each run's are those in `clips` beside its results, else those of the folder that its provenance names, where
    that lies in the run's own folder; else those below `roots`: in `name/benchmark/seed_N`, `name/benchmark`,
    `name/seed_N` or `name`, or in a folder named as the one that was scored (or a root that has that name itself).
    Below a root, a folder that several runs would take is given to none. Only clips with an id of the run count.

    Raises UserError for a root that is no folder.
    """

    def __init__(self, runs: Sequence[RunResults] = (), roots: Sequence[str | Path] = ()) -> None:
        for root in roots:
            if not Path(root).is_dir():
                raise UserError(f"--clips {shown(root)}: no such folder; name the one that holds the clips")
        self._found: dict[object, Clips] = {}
        models: dict[Path | None, set[object]] = defaultdict(set)
        for run in runs:
            clips = self._found[run.source, _model(run)] = _clips_of(run, [Path(root) for root in roots])
            models[clips.below_root].add(_model(run))
        for key, clips in self._found.items():
            if clips.below_root is not None and len(models[clips.below_root]) > 1:
                folder = shown(clips.below_root.name)
                why = f"several runs have clips in a folder named {folder}; lay them out as NAME/BENCHMARK"
                self._found[key] = Clips(left_out=why)

    def of(self, run: RunResults) -> Clips:
        """The run's clips; none for a run that was not given to this finder."""
        return self._found.get((run.source, _model(run)), Clips())

    def notes(self, runs: Sequence[RunResults]) -> list[str]:
        """A line for each reason why clips are not shown, with the runs that it concerns."""
        labels: dict[str, dict[str, None]] = defaultdict(dict)
        for run in runs:
            if why := self.of(run).left_out:
                labels[why][run.label()] = None
        lines = []
        for why, named in labels.items():
            more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
            lines.append(f"clips of {'; '.join([*named][:_NAMED])}{more}: {why}")
        return lines


def _model(run: RunResults) -> object:
    """What must agree for two runs to be of the same clips."""
    return run.name, run.kind, run.seed, run.benchmark


def _clips_of(run: RunResults, roots: Sequence[Path]) -> Clips:
    recorded = run.provenance.get("clips")
    scored = recorded if isinstance(recorded, str) else ""
    why = ""
    if run.folder is not None:
        for name in filter(None, dict.fromkeys(["clips", scored])):
            found = _below(run.folder, name, run)
            if found.files:
                return found
            why = found.left_out or why
    for root in roots:
        for name in _names_below(root, run, scored):
            found = _below(root, name, run)
            if found.files:
                return replace(found, below_root=(root / name).resolve())
    if not why and scored:
        where = shown(PurePosixPath(scored).name, 60)
        why = f"the folder that was scored ({where}) is not in the run's own; name the folder above it by --clips"
    return Clips(left_out=why)


def _names_below(root: Path, run: RunResults, scored: str) -> Iterator[str]:
    """Folders below a root that a run's clips may be in, the most particular first; "." is the root itself."""
    seed = [] if run.seed is None else [f"seed_{run.seed}"]
    for name in dict.fromkeys([run.name, re.sub(r"[^\w.-]+", "_", run.name)]):
        for parts in ([run.benchmark, *seed], [run.benchmark], seed, []):
            if all(parts) and (parts or not seed):
                yield "/".join([name, *parts])
    if scored:
        yield scored
        if PurePosixPath(scored).name == root.resolve().name:
            yield "."
    if root.resolve().name == run.name and not seed:
        yield "."


def _below(base: Path, name: str, run: RunResults) -> Clips:
    """The run's clips in `name` below `base`; nothing where it is not there."""
    advice = "name where the clips are by --clips"
    if not stays_inside(name):
        return Clips(left_out=f"its results name a folder outside of its own; {advice}")
    try:
        if not (base / name).exists():
            return Clips()
    except (OSError, ValueError):
        return Clips()
    real = inside(base, base / name)
    if real is None:
        return Clips(left_out=f"{shown(name, 60)} is a link that leads outside; {advice}")
    known = {clip.id for clip in run.clips}
    if real.is_file():
        clip = clip_id(Path(real.name))
        single = real.suffix.lower() in KINDS and (not known or clip in known)
        return Clips({clip: real} if single else {})
    found: dict[str, Path] = {}
    outside = 0
    for below in sorted({PurePosixPath(clip).parent.as_posix() for clip in known} or {"."}):
        folder = inside(real, real / below) if below == "." or stays_inside(below) else None
        for file in _media(folder):
            clip = clip_id(Path(below, file.name))
            if known and clip not in known:
                continue
            if inside(base, file) is None:
                outside += 1
            else:
                found[clip] = file
    links = f"{outside} files are links that lead outside" if outside else ""
    return Clips(found, links)


def _media(folder: Path | None) -> list[Path]:
    """The media files of a folder, those of the preferred kind last; none of one that cannot be read."""
    if folder is None or not folder.is_dir():
        return []
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS and path.is_file())
    except OSError:
        return []
    return sorted(files, key=lambda path: KINDS.index(path.suffix.lower()))
