"""Lightning's CheckpointIO for checkpoint folders: written atomically, by one process or sharded."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO
from safetensors.torch import save_file
from torch import Tensor

from ovi_eval.common.files import file_sha256
from ovi_lab.checkpoints.folder import FORMAT, Checkpoint
from ovi_lab.checkpoints.state import plain_content
from ovi_lab.errors import UserError


def _by_part(state_dict: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`model.video_model.…` belongs to the part `model` under the name `video_model.…`."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in state_dict.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor.detach().cpu().contiguous()
    return parts


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def facts_of(file: Path) -> dict[str, Any]:
    """A file's entry in the listing; the file is flushed to disk when this returns."""
    _flush(file)
    return {"size": file.stat().st_size, "sha256": file_sha256(file)}


class FolderCheckpointIO(CheckpointIO):
    """Writes checkpoint folders atomically: a reader sees the old checkpoint or the new one, never a part.

    Args:
        config_text: the run's resolved configuration, stored with every checkpoint.
        extra_files: further files to store, by their name in the folder (the codec of the data, say).
    """

    def __init__(self, config_text: str, extra_files: Mapping[str, Path] | None = None) -> None:
        self.config_text = config_text
        self.extra_files = dict(extra_files or {})

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to the folder `path`.

        Raises:
            UserError: the disk is full or the place cannot be written; the checkpoint before is untouched.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        content = dict(checkpoint)
        with all_or_nothing(temporary, path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for key, folder in (("state_dict", temporary), ("ema_state_dict", temporary / "ema")):
                for part, tensors in _by_part(content.pop(key, None) or {}).items():
                    folder.mkdir(exist_ok=True)
                    save_file(tensors, folder / f"{part}.safetensors", metadata={"format": "pt"})
            self.complete(temporary, path, content, {})

    def complete(
        self, temporary: Path, path: Path, content: Mapping[str, Any], known: Mapping[str, dict[str, Any]]
    ) -> None:
        """Add what one process writes to the weights in `temporary`, list it all, and give it its name.

        Args:
            temporary: the folder so far.
            path: the final folder; an existing checkpoint is replaced.
            content: the rest of Lightning's checkpoint: tensors and plain values.
            known: size and sha256 of files that other processes wrote.
        """
        torch.save(dict(content), temporary / "trainer_state.pt")
        (temporary / "config.yaml").write_text(self.config_text)
        for name, source in self.extra_files.items():
            shutil.copyfile(source, temporary / name)
        files = {
            str(file.relative_to(temporary)): known.get(str(file.relative_to(temporary))) or facts_of(file)
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        listing = temporary / "checkpoint.json"
        listing.write_text(
            json.dumps({"format": FORMAT, "step": int(content["global_step"]), "files": files}, indent=1)
        )
        _flush(listing)
        if path.exists():
            outdated = path.with_name(f".{path.name}.old")
            shutil.rmtree(outdated, ignore_errors=True)
            path.replace(outdated)
            temporary.replace(path)
            shutil.rmtree(outdated)
        else:
            temporary.replace(path)
        _flush(path.parent)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Lightning's checkpoint dictionary from the folder `path`; nothing but tensors and plain values is read.

        Weights are whole tensors under any strategy; the optimiser's state is left to the strategy (see `state`).
        """
        opened = Checkpoint.open(path)
        content = plain_content(opened)
        for key, averaged in (("state_dict", False), ("ema_state_dict", True)):
            state = {
                f"{part}.{name}": tensor
                for part in opened.parts(averaged)
                for name, tensor in opened.weights(part, ema=averaged).items()
            }
            if state:
                content[key] = state
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint folder; its listing goes first, so that a half-deleted folder is no checkpoint."""
        path = Path(path)
        doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.replace(doomed)
        shutil.rmtree(doomed)


@contextmanager
def all_or_nothing(temporary: Path, path: Path) -> Iterator[None]:
    """Context of writing the checkpoint `path` in the folder `temporary`, which is removed where that fails.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    try:
        yield
    # torch and safetensors wrap the system's error in their own
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if _is_full_or_forbidden(error):
            raise UserError(
                f"checkpoint {path} could not be written ({error}): free space or set run_dir elsewhere; "
                "earlier checkpoints are untouched, resume=last continues from there"
            ) from error
        raise


def recover(checkpoints: Path) -> None:
    """Clean up after a kill: restore a checkpoint that was being replaced, and delete unfinished ones.

    Args:
        checkpoints: the folder of a run that no process is writing to now.
    """
    for outdated in checkpoints.glob(".step_*.old"):
        path = outdated.with_name(outdated.name.removeprefix(".").removesuffix(".old"))
        if path.exists():
            shutil.rmtree(outdated)
        else:
            outdated.replace(path)
    for unfinished in checkpoints.glob(".step_*.tmp"):
        shutil.rmtree(unfinished)


def _is_full_or_forbidden(error: BaseException) -> bool:
    refused = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in refused
    # torch's zip writer and safetensors report a failed write as text
    text = str(error).lower()
    return any(
        word in text
        for word in ("no space left", "os error 28", "os error 27", "file write failed", "unexpected pos")
    )
