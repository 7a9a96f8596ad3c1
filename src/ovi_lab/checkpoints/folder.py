"""The layout of a checkpoint folder, and the search for one.

step_000500/
  checkpoint.json            format, step, and every file's size and sha256
  config.yaml                the resolved configuration of the run
  model.safetensors          raw weights, under the released checkpoint's names
  text_encoder.safetensors   where the text encoder is trained
  ema/…                      the same files, averaged
  trainer_state.pt           optimiser, schedule, loops, callbacks (tensors and plain values only)
  codec.safetensors          the codec of picture and sound, where the data has its own

Strategies that shard the weights (ZeRO, FSDP2) write, in place of the weights and the optimiser's state,
  shards/rank_00000.safetensors …   each process's part of weights, averages and optimiser state (see `sharded`)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ovi_eval.common.files import file_sha256
from ovi_eval.common.plain_data import read_json
from ovi_eval.common.shown import shown
from ovi_lab.checkpoints.configuration import Configuration
from ovi_lab.checkpoints.sharded import AVERAGE, BUFFER, FOLDER, WEIGHT, PieceReader, PieceTensors
from ovi_lab.common.foreign import reading
from ovi_lab.errors import UserError
from ovi_lab.weights.tensor_files import TensorFiles

FORMAT = "ovi_lab.checkpoint/1"
_STEP = re.compile(r"step_(\d+)(?:\.ckpt)?$")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _known_digest(path: Path) -> str:
    facts = path.stat()
    key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if key not in _digests:
        _digests[key] = file_sha256(path)
    return _digests[key]


_digests: dict[tuple[int, int, int, int], str] = {}
"""Digests of the files that this process has hashed, by device, inode, size and time of change."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose listing has been read and whose files are all there, at their full size."""

    path: Path
    step: int
    files: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Read the listing and check every file's size.

        Raises:
            UserError: not a checkpoint, of another format, or a file is missing or cut short.
        """
        path = Path(path)
        listing = path / "checkpoint.json"
        if not listing.is_file():
            raise UserError(
                f"{path} is not a checkpoint (no checkpoint.json in it): name a folder such as runs/fusion/last"
            )
        with reading(listing, "listing of a checkpoint"):
            content = read_json(listing)
            found, step, files = content["format"], content["step"], dict(content["files"])
            if found != FORMAT:
                raise UserError(f"{path} has format {shown(repr(found))}, this version reads {FORMAT!r}")
            if type(step) is not int or step < 0:
                raise ValueError(f"step is {step!r}")
            for name, facts in files.items():
                if type(facts["size"]) is not int or not _SHA256.fullmatch(facts["sha256"]):
                    raise ValueError(f"{name} has no size and sha256")
        if step_of(path) not in (-1, step):
            raise UserError(
                f"checkpoint {path} is named otherwise than its listing says, which is of step {step}: use another"
            )
        folder = path.resolve()
        for name, facts in files.items():
            file = path / name
            outside = ".." in Path(name).parts or Path(name).is_absolute()
            if outside or not file.resolve().is_relative_to(folder):
                raise UserError(
                    f"{listing} lists {shown(repr(name))}, which lies outside the checkpoint: refused"
                )
            size = file.stat().st_size if file.is_file() else None
            if size != facts["size"]:
                state = "is missing" if size is None else f"has {size} of {facts['size']} bytes"
                raise UserError(
                    f"checkpoint {path} is damaged: {shown(name)} {state}; use another checkpoint"
                )
        return cls(path, step, files)

    def file(self, name: str) -> Path:
        """A file of the checkpoint, compared with its sha256. UserError where it is not listed, or another."""
        if name not in self.files:
            raise UserError(f"checkpoint {self.path} holds no {name}: use another checkpoint")
        self.verify([name])
        return self.path / name

    def configuration(self) -> Configuration:
        """The run's resolved configuration, as plain values. UserError where the file was changed."""
        return Configuration.read(self.file("config.yaml"))

    @property
    def sharded(self) -> bool:
        """Whether the checkpoint is sharded: each process wrote its part."""
        return any(name.startswith(f"{FOLDER}/") for name in self.files)

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this file or, sharded, its content."""
        if name in self.files or not self.sharded or not name.endswith(".safetensors"):
            return name in self.files
        folder, _, part = name.removesuffix(".safetensors").rpartition("/")
        return part in self.parts(averaged=folder == "ema")

    def parts(self, averaged: bool = False) -> list[str]:
        """The stored parts of the LightningModule: `model`, `text_encoder`, …; with `averaged` where averages are."""
        if self.sharded:
            reader = self.pieces()
            kinds = (AVERAGE,) if averaged else (WEIGHT, BUFFER)
            return sorted({n.partition(".")[0] for kind in kinds for n in reader.names(kind)})
        prefix = "ema/" if averaged else ""
        found = [
            n.removeprefix(prefix) for n in self.files if n.startswith(prefix) and n.endswith(".safetensors")
        ]
        return sorted(
            n.removesuffix(".safetensors") for n in found if "/" not in n and n != "codec.safetensors"
        )

    def pieces(self) -> PieceReader:
        """The tables of a sharded checkpoint. UserError where they do not make up whole parameters."""
        names = [n for n in sorted(self.files) if n.startswith(f"{FOLDER}/")]
        # each file is hashed when it is first read from: a process of many reads a few of them
        return PieceReader(self.path, names, self.file)

    def stored(self, part: str = "model", ema: bool = False) -> TensorFiles | PieceTensors:
        """The tensors of one part on disk, none of them read, their file as it was written.

        Raises:
            UserError: the checkpoint does not hold it, or it cannot be read, or is not as it was written.
        """
        name = f"ema/{part}.safetensors" if ema else f"{part}.safetensors"
        if not self.has(name):
            parts = ", ".join(f"{p}.safetensors" for p in self.parts())
            raise UserError(f"checkpoint {self.path} holds no {name}; it holds {parts}")
        return PieceTensors(self.pieces(), part, ema) if self.sharded else TensorFiles.open(self.file(name))

    def weights(self, part: str = "model", ema: bool = False) -> dict[str, Tensor]:
        """State dict of one part: "model", "text_encoder", …; averaged weights with `ema`. Raises as `stored`."""
        return dict(self.stored(part, ema).stream())

    def verify(self, names: Iterable[str] | None = None, threads: int = 8) -> None:
        """Compare the files' sha256 with the listing's; of all files unless `names` are given.

        A process hashes a file once, and again where it has changed.

        Raises:
            UserError: a file is not as it was written.
        """
        with ThreadPoolExecutor(threads) as pool:
            listed = list(self.files if names is None else names)
            for name, digest in zip(
                listed, pool.map(lambda n: _known_digest(self.path / n), listed), strict=True
            ):
                if digest != self.files[name]["sha256"]:
                    raise UserError(
                        f"checkpoint {self.path} is damaged: {name} is not as it was written (another sha256); "
                        "use another checkpoint"
                    )


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder or file; -1 where it has none."""
    match = _STEP.search(path.name)
    return int(match[1]) if match else -1


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints under `folder/checkpoints`, the newest first."""
    found = [p for p in (folder / "checkpoints").glob("step_*") if (p / "checkpoint.json").is_file()]
    return sorted((p for p in found if step_of(p) >= 0), key=step_of, reverse=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the highest step under `folder/checkpoints`, or None."""
    return next(iter(checkpoints_of(folder)), None)


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder of a user's path to a checkpoint, a run, or a run's `last`.

    Raises:
        UserError: nothing there.
    """
    path = Path(path)
    if (path / "checkpoint.json").is_file():
        return path.resolve()
    run = path.parent if path.name == "last" else path
    newest = latest_checkpoint(run) if run.is_dir() else None
    if newest is None:
        state = f"{path} is a file, and no checkpoint" if path.is_file() else f"no checkpoint at {path}"
        raise UserError(f"{state}: name a checkpoint folder, or a run such as runs/fusion")
    return newest
