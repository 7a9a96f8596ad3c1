"""The whole check: shards and samples on several processes, then manifest, sums and list of clips against them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ovi_eval.common.files import file_sha256
from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import read_text
from ovi_lab.common.progress import progress
from ovi_lab.data.build.assemble import CLIPS, MANIFEST, SUMS
from ovi_lab.data.build.checking.samples import SampleCheck, ShardCheck, check_samples, check_shard, record_of
from ovi_lab.data.build.engine import worker_context
from ovi_lab.data.build.folder import BuiltFolder, files_at, opened_folder
from ovi_lab.data.build.items import WORK
from ovi_lab.data.index import BadSample, index_path
from ovi_lab.data.shard_files import Shard, shard_facts
from ovi_lab.data.shards import expand_shards
from ovi_lab.data.stores import RemoteShard, is_remote
from ovi_lab.errors import UserError

PORTION = 32
"""Samples that a worker decodes before it reports."""
Result = TypeVar("Result")


@dataclass
class Checked:
    """What was found. `picture`, `sound`: seconds decoded."""

    shards: int = 0
    samples: int = 0
    size: int = 0
    picture: float = 0.0
    sound: float = 0.0
    faults: list[BadSample] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    """Folders with a manifest, and addresses of such."""


def check(targets: Sequence[str], workers: int = 1, quiet: bool = False) -> Checked:
    """Check folders of shards and patterns of shards, here or on stores.

    Raises UserError for a target in which there is nothing to check, or a store that does not answer.
    """
    with ExitStack() as stack:
        return _check(targets, workers, quiet, stack)


def _check(targets: Sequence[str], workers: int, quiet: bool, stack: ExitStack) -> Checked:
    found = Checked()
    shards: dict[Shard, None] = {}
    built: list[BuiltFolder] = []
    for target in targets:
        files = _files_in(target)
        if files is None:
            shards.update(dict.fromkeys(_there(expand_shards(target))))
            continue
        tars = [files[name] for name in sorted(files) if name.endswith(".tar")]
        folder = Path(target).expanduser()
        if MANIFEST in files or (not is_remote(target) and (folder / WORK).is_dir()):
            found.built.append(target)
            try:
                built.append(stack.enter_context(opened_folder(target if is_remote(target) else folder)))
            except UserError as error:
                found.faults.append(BadSample(MANIFEST, "(whole folder)", str(error)))
        elif not tars:
            raise UserError(f"{shown(target)} holds no .tar; name a folder of shards, or a pattern of them")
        shards.update(dict.fromkeys(tars))
    by_shard: dict[Shard, list[SampleCheck]] = {shard: [] for shard in shards}
    with _workers(workers) as pool:
        hashed = _spread(check_shard, [(shard,) for shard in shards], pool, "hashing", quiet)
        facts = {own.shard: own for own in hashed}
        portions = [
            (shard, facts[shard].keys[start : start + PORTION])
            for shard in shards
            for start in range(0, len(facts[shard].keys), PORTION)
        ]
        for shard, decoded in _spread(_portion, portions, pool, "decoding", quiet):
            by_shard[shard] += decoded
    for shard in shards:
        _count(facts[shard], by_shard[shard], found)
    for whole in built:
        own = {
            name: facts[shard]
            for name, shard in whole.files.items()
            if shard in facts and name.endswith(".tar")
        }
        samples = {f.shard.name: {sample.key: sample for sample in by_shard[f.shard]} for f in own.values()}
        found.faults += _of_folder(whole, own, samples)
    return found


def _files_in(target: str) -> Mapping[str, Shard] | None:
    """The files directly in a folder, here or on a store; None for a shard or a pattern of shards."""
    if not is_remote(target):
        folder = Path(target).expanduser()
        return {file.name: file for file in folder.iterdir()} if folder.is_dir() else None
    named = str(RemoteShard(target))
    if RemoteShard(target).is_pipe or named.endswith(".tar") or any(sign in named for sign in "*?[{"):
        return None
    return files_at(RemoteShard(target))


def _there(shards: Sequence[Shard]) -> Sequence[Shard]:
    """The shards, those on stores being asked for. Raises UserError for one that is not there."""
    for shard in shards:
        if isinstance(shard, RemoteShard) and not shard.is_pipe:
            try:
                shard_facts(shard)
            except FileNotFoundError as error:
                raise UserError(f"shard {shown(shard)} does not exist; check the address") from error
    return shards


def _portion(shard: Shard, keys: list[str]) -> tuple[Shard, list[SampleCheck]]:
    return shard, check_samples(shard, keys)


@contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that serve both passes; None where this one is enough."""
    if count == 1:
        yield None
        return
    with ProcessPoolExecutor(count, worker_context()) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise UserError("a worker died (out of memory, or killed); check with fewer --workers") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _spread(
    call: Callable[..., Result],
    arguments: Sequence[tuple[Any, ...]],
    pool: ProcessPoolExecutor | None,
    what: str,
    quiet: bool,
) -> Iterator[Result]:
    """Results of the calls, in any order."""
    done: Iterable[Result]
    if pool is None:
        done = (call(*own) for own in arguments)
    else:
        done = (future.result() for future in as_completed([pool.submit(call, *own) for own in arguments]))
    return progress(done, what, len(arguments), not quiet)


def _count(facts: ShardCheck, samples: Sequence[SampleCheck], found: Checked) -> None:
    found.shards += 1
    found.size += facts.size
    found.faults += facts.faults
    for sample in samples:
        if sample.fault:
            found.faults.append(BadSample(facts.shard.name, sample.key, sample.fault))
        found.samples += 1
        found.picture += sample.picture
        found.sound += sample.sound


def _of_folder(
    folder: BuiltFolder, shards: dict[str, ShardCheck], samples: dict[str, dict[str, SampleCheck]]
) -> list[BadSample]:
    """What manifest, sums and list of clips say otherwise than the shards."""
    faults = [BadSample(SUMS, name, reason) for name, reason in _sums(folder, shards)]
    stated = {str(shard.get("name")): shard for shard in folder.shards}
    for name, shard in stated.items():
        if name not in shards:
            faults.append(BadSample(MANIFEST, name, "the shard is missing"))
            continue
        own = {"sha256": shards[name].sha256, "bytes": shards[name].size, "clips": len(shards[name].keys)}
        for fact, value in own.items():
            if shard.get(fact) != value:
                faults.append(
                    BadSample(MANIFEST, name, f"its {fact}: {shown(shard.get(fact))}, found {value}")
                )
    for name in folder.own_shards():
        if name not in stated:
            faults.append(BadSample(MANIFEST, name, "the shard is not of this build; remove it"))
    try:
        faults += _rows(folder, stated, samples)
    except UserError as error:
        faults.append(BadSample(CLIPS, "(whole file)", str(error)))
    return faults


def _rows(
    folder: BuiltFolder, stated: dict[str, Any], samples: dict[str, dict[str, SampleCheck]]
) -> Iterator[BadSample]:
    """Every line of clips.jsonl against its sample, and their counts against the manifest."""
    seen: set[str] = set()
    kept: Counter[str] = Counter()
    for row in folder.rows():
        key, shard = row["key"], row.get("shard")
        if key in seen:
            yield BadSample(CLIPS, key, "its key appears twice")
        seen.add(key)
        if not row["kept"]:
            continue
        kept[row["split"]] += 1
        sample = samples.get(str(shard), {}).pop(key, None) if shard in stated else None
        if sample is None:
            yield BadSample(CLIPS, key, f"it is not in {shown(shard)}, where it should be")
        elif sample.record and sample.record != record_of(
            str(row.get("caption")), row["source"], row["start_s"], row["scores"]
        ):
            yield BadSample(CLIPS, key, f"caption, source, start or scores are others in {shown(shard)}")
    for name in stated:
        for key in samples.get(name, {}):
            yield BadSample(name, key, f"{CLIPS} does not name it as kept there")
    counts = folder.manifest.get("clips")
    known = counts if isinstance(counts, dict) else {}
    for what, value in (("all", len(seen)), ("kept", dict(kept))):
        if known.get(what) != value:
            yield BadSample(MANIFEST, "clips", f"{what}: {shown(known.get(what))}, in {CLIPS} {value}")


def _sums(folder: BuiltFolder, shards: dict[str, ShardCheck]) -> Iterator[tuple[str, str]]:
    """Names and faults of the files that SHA256SUMS lists, and of those that it should."""
    if SUMS not in folder.files:
        yield "(whole file)", "is missing"
        return
    try:
        lines = read_text(folder.local(SUMS)).splitlines()
    except UserError as error:
        yield "(whole file)", str(error)
        return
    named = set()
    for line in lines:
        digest, _, name = line.partition("  ")
        named.add(name)
        if len(digest) != 64 or not name or Path(name).name != name:
            yield shown(line, 80), "is no line of a digest and a name"
        elif name not in folder.files:
            yield name, "is missing"
        elif (shards[name].sha256 if name in shards else file_sha256(folder.local(name))) != digest:
            yield name, "has another sha256"
    wanted = {MANIFEST, CLIPS, *shards} | {index_path(Path(name)).name for name in shards}
    for name in sorted(wanted - named):
        yield name, "is not listed"
