"""The layout of a checkpoint folder, and finding one.

step_000500/
  checkpoint.json            format, step, and every file's size and sha256
  config.yaml                the resolved configuration of the run
  model.safetensors          raw weights, under the released checkpoint's names
  text_encoder.safetensors   where the text encoder is trained
  ema/…                      the same files, averaged
  trainer_state.pt           optimiser, schedule, loops, callbacks (tensors and plain values only)
  codec.safetensors          what turns latents into picture and sound, where the data has its own
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovi_lab.errors import UserError

FORMAT = "ovi_lab.checkpoint/1"
_STEP = re.compile(r"step_(\d+)$")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
        try:
            content = json.loads(listing.read_text())
            found, step, files = content["format"], int(content["step"]), dict(content["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{listing} cannot be read ({error}): the checkpoint is damaged, use another"
            ) from error
        if found != FORMAT:
            raise UserError(f"{path} has format {found!r}, this version reads {FORMAT!r}")
        for name, facts in files.items():
            file = path / name
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise UserError(f"{listing} lists {name!r}, which lies outside the checkpoint: refused")
            size = file.stat().st_size if file.is_file() else None
            if size != facts["size"]:
                state = "is missing" if size is None else f"has {size} of {facts['size']} bytes"
                raise UserError(f"checkpoint {path} is damaged: {name} {state}; use another checkpoint")
        return cls(path, step, files)

    def config_text(self) -> str:
        """The run's resolved configuration, YAML."""
        return (self.path / "config.yaml").read_text()

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this file."""
        return name in self.files

    def weights(self, part: str = "model", ema: bool = False) -> dict[str, Tensor]:
        """State dict of one part: "model", "text_encoder", …; averaged weights with `ema`.

        Raises:
            UserError: the checkpoint does not hold it, or its file is not safetensors.
        """
        name = f"ema/{part}.safetensors" if ema else f"{part}.safetensors"
        if not self.has(name):
            parts = ", ".join(sorted(n for n in self.files if n.endswith(".safetensors")))
            raise UserError(f"checkpoint {self.path} holds no {name}; it holds {parts}")
        try:
            return load_file(self.path / name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path / name} cannot be read ({error}): use another checkpoint") from error


def latest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the highest step under `folder/checkpoints`, or None."""
    found = []
    for path in (folder / "checkpoints").glob("step_*"):
        match = _STEP.search(path.name)
        if match and (path / "checkpoint.json").is_file():
            found.append((int(match.group(1)), path))
    return max(found)[1] if found else None


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that a user means by a checkpoint, a run, or a run's `last`.

    Raises:
        UserError: nothing there.
    """
    path = Path(path)
    if (path / "checkpoint.json").is_file():
        return path.resolve()
    run = path.parent if path.name == "last" else path
    newest = latest_checkpoint(run) if run.is_dir() else None
    if newest is None:
        raise UserError(f"no checkpoint at {path}: name a checkpoint folder, or a run such as runs/fusion")
    return newest
