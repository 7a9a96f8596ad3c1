"""What a run writes into its folder, by name: so that writing it anew removes that and nothing else."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ovi_eval.clips.clipset import HEADER
from ovi_eval.common.plain_data import parse_json
from ovi_eval.results.find_runs import TASKS
from ovi_lab.checkpoints.configuration import Configuration
from ovi_lab.errors import UserError

_OF_A_CHECKPOINT = (
    "checkpoint.json", "config.yaml", "trainer_state.pt", "*.safetensors", "ema/*.safetensors",
    "shards/rank_*.safetensors",
)  # fmt: skip
_OF_A_RUN = (
    "config.yaml", "done.json", "results.json", "per_clip.jsonl", "metrics.csv", "progress.json", "traceback.txt",
    "restarts.json",
    "clips.safetensors", "ball_judges.safetensors", "mouth_judge.safetensors", "last",
)  # fmt: skip
_OF_A_TASK = ("results.json", "per_clip.jsonl", "clips.safetensors")
WRITTEN: tuple[str, ...] = (
    *_OF_A_RUN,
    *(f".{name}{end}" for name in _OF_A_RUN for end in (".tmp", ".*.tmp")),
    ".last.*",
    *(f"{TASKS}/*/{name}" for name in _OF_A_TASK),
    *(f"{TASKS}/*/.{name}{end}" for name in _OF_A_TASK for end in (".tmp", ".*.tmp")),
    "tensorboard/events.out.tfevents.*",
    "tensorboard/hparams.yaml",
    "samples/step_*/*.mp4",
    "val_metrics/reference.safetensors",
    "val_metrics/samples.safetensors",
    "val_metrics/step_*.samples.safetensors",
    "val_metrics/step_*.json",
    "val_metrics/step_*.per_clip.jsonl",
    "inspect/step_*_rank_*.safetensors",
    "inspect/step_*_rank_*.json",
    *(
        f"checkpoints/{folder}/{name}"
        for folder in ("step_*", ".step_*.tmp", ".step_*.old")
        for name in _OF_A_CHECKPOINT
    ),
)
"""Patterns of a run's files, relative to its folder. Besides, in it and in each of `tasks/`: `clips/<id>.mp4` for the
ids of `clips.safetensors`."""


def remove_run(run_dir: Path) -> None:
    """Remove what the run in a folder wrote. Everything else stays, and no link is followed.

    Raises:
        UserError: the folder holds something, and it is no run; or what is to go cannot be removed.
    """
    if not run_dir.is_dir() or not any(run_dir.iterdir()):
        return
    if not _is_run(run_dir):
        known = _written(run_dir)
        other = next((entry for entry in sorted(run_dir.iterdir()) if entry not in known), None)
        if other is not None:
            raise UserError(
                f"overwrite=true removes what a run wrote, and {run_dir} is no run's folder (it holds {other.name}): "
                "choose another run_dir, or leave overwrite out"
            )
    try:
        folders: set[Path] = set()
        for path in _written(run_dir):
            path.unlink()
            folders.update(parent for parent in path.parents if parent.is_relative_to(run_dir))
        for folder in sorted(folders - {run_dir}, key=lambda f: len(f.parts), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise UserError(f"{run_dir} cannot be written anew ({error}): choose another run_dir") from error


def _is_run(run_dir: Path) -> bool:
    if not (run_dir / "config.yaml").is_file():
        return False
    try:
        found = Configuration.read(run_dir / "config.yaml").plain
    except UserError:
        return False
    return found.keys() >= {"run_dir", "seed", "task"}


def _written(run_dir: Path) -> Collection[Path]:
    below = [run_dir, *sorted(path for path in (run_dir / TASKS).glob("*") if not path.is_symlink())]
    clips = (
        f"{glob.escape(folder.relative_to(run_dir).as_posix())}/clips/{glob.escape(name)}.mp4".removeprefix(
            "./"
        )
        for folder in below
        for name in _clip_ids(folder / "clips.safetensors")
    )
    found = (path for pattern in (*WRITTEN, *clips) for path in _matching(run_dir, pattern.split("/")))
    return dict.fromkeys(found)


def _matching(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Files and links of a pattern; a link to a folder counts as a file."""
    for entry in sorted(folder.iterdir()):
        if not fnmatchcase(entry.name, parts[0]):
            continue
        if entry.is_symlink() or (len(parts) == 1 and entry.is_file()):
            yield entry
        elif len(parts) > 1 and entry.is_dir():
            yield from _matching(entry, parts[1:])


def _clip_ids(path: Path) -> list[str]:
    """Names of the clips that the run scored; none where they are unknown."""
    with suppress(OSError, SafetensorError, UserError, ValueError, AttributeError, TypeError):
        if path.is_file() and not path.is_symlink():
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get(HEADER, "{}")
            ids = parse_json(header, str(path)).get("ids", [])
            return [name for name in ids if isinstance(name, str)]
    return []
