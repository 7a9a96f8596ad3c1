"""Which files are a run's clips: those in the run's own folder, or below folders that the user names; no others.

A results file is untrusted. A page that is shared must hold no private clip of the machine that made it, so
absolute names, `..` and links that lead outside are not followed, and the reason is kept for the reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
    """A run's clips by id, and why there are none or fewer ("" where nothing was left out)."""

    files: dict[str, Path] = field(default_factory=dict)
    left_out: str = ""


class ClipFinder:
    """The clips of runs, looked for once.

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
        taken: dict[Path, set[object]] = {}
        places: dict[object, Path] = {}
        for run in runs:
            clips, place = _clips_of(run, [Path(root) for root in roots])
            self._found[_key(run)] = clips
            if place is not None:
                taken.setdefault(place, set()).add(_model(run))
                places[_key(run)] = place
        for key, place in places.items():
            if len(taken[place]) > 1:
                why = f"several runs have clips in a folder named {shown(place.name)}; lay them out as NAME/BENCHMARK"
                self._found[key] = Clips(left_out=why)

    def of(self, run: RunResults) -> Clips:
        """The run's clips; none for a run that was not among those looked for."""
        return self._found.get(_key(run), Clips())

    def notes(self, runs: Sequence[RunResults]) -> list[str]:
        """A line for each reason why clips are not shown, with the runs that it is said of."""
        told: dict[str, list[str]] = {}
        for run in runs:
            if why := self.of(run).left_out:
                told.setdefault(why, []).append(run.label())
        lines = []
        for why, labels in told.items():
            listed = list(dict.fromkeys(labels))
            more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
            lines.append(f"clips of {'; '.join(listed[:_NAMED])}{more}: {why}")
        return lines


def _key(run: RunResults) -> object:
    return run.name, run.kind, run.seed, run.benchmark, run.source


def _model(run: RunResults) -> object:
    """What must agree for two runs to be of the same clips."""
    return run.name, run.kind, run.seed, run.benchmark


def _clips_of(run: RunResults, roots: Sequence[Path]) -> tuple[Clips, Path | None]:
    """The clips and, where they lie below a root, the folder they were taken from."""
    told = run.provenance.get("clips")
    named = told if isinstance(told, str) else ""
    why = ""
    for name in dict.fromkeys(["clips", named] if run.folder is not None else []):
        if name and run.folder is not None:
            found = _below(run.folder, name, run)
            if found.files:
                return found, None
            why = found.left_out or why
    for root in roots:
        for name in _names_below(root, run, named):
            found = _below(root, name, run)
            if found.files:
                return found, (root / name).resolve()
    if not why and named:
        where = f" ({shown(PurePosixPath(named).name, 60)})"
        why = (
            f"the folder that was scored{where} is not in the run's own; name the folder above it by --clips"
        )
    return Clips(left_out=why), None


def _names_below(root: Path, run: RunResults, named: str) -> Iterator[str]:
    """Folders below a root that a run's clips may be in, the most particular first; "." is the root itself."""
    seed = [] if run.seed is None else [f"seed_{run.seed}"]
    for name in dict.fromkeys([run.name, re.sub(r"[^\w.-]+", "_", run.name)]):
        for parts in ([run.benchmark, *seed], [run.benchmark], seed, []):
            if all(parts) and (parts or not seed):
                yield "/".join([name, *parts])
    if named:
        yield named
        if PurePosixPath(named).name == root.resolve().name:
            yield "."
    if root.resolve().name == run.name and not seed:
        yield "."


def _below(base: Path, name: str, run: RunResults) -> Clips:
    """The run's clips in `name` below `base`; nothing where it is not there."""
    if not stays_inside(name):
        return Clips(
            left_out="its results name a folder outside of its own; name where the clips are by --clips"
        )
    try:
        if not (base / name).exists():
            return Clips()
    except (OSError, ValueError):
        return Clips()
    real = inside(base, base / name)
    if real is None:
        return Clips(
            left_out=f"{shown(name, 60)} is a link that leads outside; name where the clips are by --clips"
        )
    if real.is_file():
        known = {clip.id for clip in run.clips}
        clip = clip_id(Path(real.name))
        single = real.suffix.lower() in KINDS and (not known or clip in known)
        return Clips({clip: real} if single else {})
    known = {clip.id for clip in run.clips}
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
