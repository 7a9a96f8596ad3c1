"""`ovi-data build`: a folder of videos or sounds becomes shards, with every score kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ovi_eval.common.files import write_whole
from ovi_eval.common.folders import files_of
from ovi_eval.common.shown import shown
from ovi_eval.common.weights import PublishedFile, find_weights
from ovi_lab.common.progress import progress
from ovi_lab.data.build.assemble import Built, put_in_place, rows_of, write_all
from ovi_lab.data.build.clip_captions import CaptionBook, FileCaptions
from ovi_lab.data.build.engine import Work, run_here
from ovi_lab.data.build.given import GivenScores
from ovi_lab.data.build.items import (
    PLACE,
    WORK,
    FinishedSource,
    SourceFile,
    is_current,
    read_item,
    remove_item,
)
from ovi_lab.data.build.mix import MIXES
from ovi_lab.data.build.recipe import Recipe
from ovi_lab.data.build.remote import UPLOADED, Listed, copy_texts, listed_remotely
from ovi_lab.data.build.scenes import DETECTORS
from ovi_lab.data.build.step import BuildStep
from ovi_lab.data.build.steps.networks import digests_of, missing_of
from ovi_lab.data.captions import Captions
from ovi_lab.data.kinds import HEARD_EXTENSIONS, VIDEO_EXTENSIONS
from ovi_lab.data.pack import sample_key
from ovi_lab.data.stores import RemoteShard
from ovi_lab.errors import UserError


@dataclass(frozen=True)
class BuildOptions:
    """How a build runs; none of it changes a byte of what is built.

    Args:
        workers: processes, or actors on Ray; None: one process, or an actor for each CPU of the cluster.
        engine: `processes` of this machine, or `ray`.
        rescore: take the scores that are there, whatever recipe they are from, and decide anew: an error where one is
            missing.
        skip_missing: leave out steps whose weights or packages are missing, and say so in the manifest.
        quiet: no progress.
    """

    workers: int | None = None
    engine: str = "processes"
    rescore: bool = False
    skip_missing: bool = False
    quiet: bool = False


def build(
    folder: Path | RemoteShard,
    out: Path,
    recipe: Recipe,
    options: BuildOptions,
    captions: Path | None = None,
    given: GivenScores | None = None,
) -> tuple[Built, list[str]]:
    """Build shards of a folder; the same call continues a stopped one. Returns counts, and steps not applied.

    Args:
        folder: of videos, or an address on a store below which they are.
        captions: a table of them; None: a text beside each file.
        given: scores and captions that came with the files, the captions for files without another one.

    Raises:
        UserError: no folder or no file in it, a step that cannot run, or another build in the same folder.
    """
    if isinstance(folder, Path) and not folder.is_dir():
        raise UserError(f"the folder {shown(folder)} does not exist; name a folder of videos")
    if out.exists() and not out.is_dir():
        raise UserError(f"{shown(out)} is a file; name a folder for the shards")
    recipe, skipped = _applicable(recipe, options.skip_missing)
    given = given or GivenScores()
    listed = _listed(folder, recipe)
    sources = _sources(listed.files, given)
    work = out / WORK
    with alone(work):
        clean(out, work)
        beside = _texts_of(folder, listed, work)
        place = str(folder.absolute()) if isinstance(folder, Path) else str(folder)
        write_whole(work / PLACE, json.dumps({"folder": place}))
        texts = FileCaptions(Captions(beside, captions), given, CaptionBook(work))
        _work_through(sources, work, recipe, options)
        finished = [(source, _finished(work, source)) for source in sources]
        _forget_others(work, sources)
        rows, built = rows_of(finished, recipe, texts)
        built.failed |= listed.unusable
        steps = recipe.make_steps()
        about = {
            "scenes": _detector_of_scenes(recipe),
            "steps": {step.name: {"version": step.version, "weights": step.digests()} for step in steps},
            "not_applied": skipped,
        }
        write_all(out, work, rows, built, recipe, about)
    return built, skipped


def _detector_of_scenes(recipe: Recipe) -> dict[str, Any] | None:
    """The detector and its weights' sha256; None of sound alone."""
    if recipe.clips.frames is None:
        return None
    _, need = DETECTORS[recipe.clips.scenes]
    path = find_weights(need, "the scene detector") if isinstance(need, PublishedFile) else None
    return {"detector": recipe.clips.scenes, "weights": digests_of([path]) if path else {}}


def _applicable(recipe: Recipe, skip_missing: bool) -> tuple[Recipe, list[str]]:
    """The recipe less the steps that cannot run here, and these; UserError for the first unless they are skipped, and
    for a scene detector that is not here."""
    if recipe.clips.frames is not None:
        finder = recipe.clips.scenes
        if lack := missing_of([DETECTORS[finder][1]], f"clips.scenes {finder} of recipe {recipe.name}"):
            raise UserError(lack)
    lacking = {step.name: missing for step in recipe.make_steps() if (missing := step.missing())}
    if lacking and not skip_missing:
        name, missing = next(iter(lacking.items()))
        raise UserError(f"step {name} of recipe {recipe.name} cannot run: {missing}; or leave such steps out with "
                        "--skip-missing")  # fmt: skip
    if not lacking:
        return recipe, []
    steps = {name: settings for name, settings in recipe.steps.items() if name not in lacking}
    known = {spec.name for name in steps for spec in _scores_of(recipe, name)}
    gone = {spec.name for name in lacking for spec in _scores_of(recipe, name)} - known - set(recipe.given)
    keep = {
        name: bound
        for name, bound in recipe.keep.items()
        if name not in gone and not gone & bound.when.keys()
    }
    duplicates = {name: share for name, share in recipe.duplicates.items() if name not in gone}
    mix = {name: most for name, most in recipe.mix.items() if MIXES[name].score not in gone}
    plain = vars(recipe) | {"steps": steps, "keep": keep, "duplicates": duplicates, "mix": mix}
    return Recipe(**plain), sorted(lacking)


def _scores_of(recipe: Recipe, name: str) -> Sequence[Any]:
    found: dict[str, BuildStep] = {step.name: step for step in recipe.make_steps()}
    return found[name].scores


def _listed(folder: Path | RemoteShard, recipe: Recipe) -> Listed:
    kinds = [f".{kind}" for kind in (HEARD_EXTENSIONS if recipe.clips.frames is None else VIDEO_EXTENSIONS)]
    if isinstance(folder, RemoteShard):
        return listed_remotely(folder, kinds)
    found = files_of(folder, kinds)
    if not found.files:
        raise UserError(f"no {', '.join(kinds)} file is in {shown(folder)}")
    files = [SourceFile(file, file.relative_to(folder).as_posix(), "") for file in found.files]
    return Listed(files, {lost.path: lost.reason for lost in found.unusable})


def _texts_of(folder: Path | RemoteShard, listed: Listed, work: Path) -> Path:
    """The folder in which captions lie beside the files; those of a store are copied."""
    if isinstance(folder, Path):
        return folder
    texts = work / "texts"
    shutil.rmtree(texts, ignore_errors=True)
    copy_texts(listed.texts, texts)
    return texts


def _sources(files: Sequence[SourceFile], given: GivenScores) -> list[SourceFile]:
    """Each file with the beginning of its clips' keys and what came with it."""
    keys: set[str] = set()
    return [
        replace(file, base=sample_key(file.name, None, keys), given=given.scores(Path(file.name)))
        for file in files
    ]


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Holds the folder for this build; UserError where another has it, or it cannot be written."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / "lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another build is writing to {shown(work.parent)}; wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise UserError(f"{shown(work)} cannot be written ({error.strerror}); name another folder") from error
    try:
        yield
    finally:
        lock.release()


def clean(out: Path, work: Path) -> None:
    """Remove what a build that was killed has left half-written, and put in place what it had finished."""
    for half in work.glob(".*.tmp"):
        half.unlink(missing_ok=True)
    for half in out.glob(".shards.*.tmp"):
        shutil.rmtree(half, ignore_errors=True)
    put_in_place(out)


def _work_through(sources: Sequence[SourceFile], work: Path, recipe: Recipe, options: BuildOptions) -> None:
    unfinished = []
    for source in sources:
        item = read_item(work, source)
        if item is None or not is_current(item, source, recipe):
            if options.rescore and (item is None or item.scored_by != recipe.scored_by()):
                why = "has no scores yet" if item is None else "was scored by other steps or for other clips"
                raise UserError(f"{shown(source.name)} {why}; build without --rescore")
            unfinished.append(source)
    if not unfinished:
        return
    done: Iterator[Any]
    if options.engine == "ray":
        from ovi_lab.data.build.ray_engine import run_on_ray

        done = run_on_ray(unfinished, Work(work, recipe), options.workers)
    else:
        done = run_here(unfinished, Work(work, recipe), options.workers or 1)
    for _ in progress(done, "building", len(unfinished), not options.quiet):
        pass


def _finished(work: Path, source: SourceFile) -> FinishedSource:
    item = read_item(work, source)
    if item is None:
        return FinishedSource(source.name, [0, 0], "", "it changed or vanished while it was read", [])
    return item


def _forget_others(work: Path, sources: Sequence[SourceFile]) -> None:
    """Remove what is known of files that are no longer there."""
    known = {source.digest for source in sources}
    for path in work.glob("*.json"):
        digest = path.name.split(".")[0]
        if digest not in known and path.name not in (PLACE, UPLOADED):
            remove_item(work, digest)
