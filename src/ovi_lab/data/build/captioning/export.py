"""The clips that want a caption as plain files, for a captioner of any kind."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from ovi_eval.common.files import write_whole
from ovi_eval.common.shown import shown
from ovi_lab.common.progress import progress
from ovi_lab.data.build.assemble import ClipRow
from ovi_lab.data.build.captioning.assembled import Assembly
from ovi_lab.data.build.captioning.material import Material, materials
from ovi_lab.data.index import no_space
from ovi_lab.data.stores import RemoteShard, below, files_below, put, remove
from ovi_lab.errors import UserError

LISTING = "clips.jsonl"
FRAMES, SOUND = "frames", "sound"


def export(
    assembly: Assembly,
    out: Path | RemoteShard,
    every: bool = False,
    limit: int | None = None,
    quiet: bool = False,
) -> int:
    """Frames, sounds and a listing of the clips that want a caption; the number of clips.

    The listing is written last, so that a folder with one is whole. Raises UserError for a folder of other files.
    """
    rows = assembly.wanting(every)[:limit]
    if isinstance(out, RemoteShard):
        stale = files_below(out)
        _refuse_others(out, {name.partition("/")[0] for name in stale})
        with tempfile.TemporaryDirectory() as copies:
            _export(assembly, rows, Path(copies), quiet)
            _put_all(Path(copies), out, stale, quiet)
    else:
        _emptied(out)
        _export(assembly, rows, out, quiet)
    return len(rows)


def _export(assembly: Assembly, rows: Sequence[ClipRow], out: Path, quiet: bool) -> None:
    lines = []
    with no_space(out):
        for material in progress(materials(assembly, rows), "exporting", len(rows), not quiet):
            lines.append(json.dumps(_written(material, out), ensure_ascii=False))
        write_whole(out / LISTING, "".join(f"{line}\n" for line in lines))


def _put_all(folder: Path, address: RemoteShard, stale: Collection[str], quiet: bool) -> None:
    """Copy an export to an address in place of an earlier one."""
    remove(below(address, LISTING))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names.sort(key=lambda name: name == LISTING)
    for name in progress(names, "copying", len(names), not quiet):
        put(folder / name, below(address, name))
    for name in set(stale) - set(names):
        remove(below(address, name))


def _refuse_others(out: Path | RemoteShard, there: Collection[str]) -> None:
    if other := set(there) - {LISTING, FRAMES, SOUND}:
        raise UserError(
            f"--export {shown(out)} holds {shown(min(other))}, which is of no export; name an empty folder"
        )


def _emptied(out: Path) -> None:
    """An empty folder in place of an earlier export."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--export {shown(out)} is a file; name a folder")
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    _refuse_others(out, there)
    (out / LISTING).unlink(missing_ok=True)
    for part in there & {FRAMES, SOUND}:
        shutil.rmtree(out / part)
    out.mkdir(parents=True, exist_ok=True)


def _written(material: Material, out: Path) -> dict[str, object]:
    """A clip's files and its line of the listing."""
    key, row = material.key, material.row
    frames = [f"{FRAMES}/{key}/{number}.jpg" for number in range(len(material.frames))]
    for name, data in zip(frames, material.frames, strict=True):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    sound = None
    if material.wav is not None:
        sound = f"{SOUND}/{key}.wav"
        (out / sound).parent.mkdir(parents=True, exist_ok=True)
        (out / sound).write_bytes(material.wav)
    return {
        "id": key, "sha256": material.sha256, "frames": frames, "sound": sound, "seconds": material.seconds,
        "source": row.source.name, "start_s": row.clip["start_s"], "instructions": material.instructions,
        "caption": row.caption.text,
    }  # fmt: skip
