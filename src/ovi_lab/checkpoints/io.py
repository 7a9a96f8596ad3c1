"""How Lightning writes and reads a checkpoint folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO
from safetensors.torch import save_file
from torch import Tensor

from ovi_lab.checkpoints.folder import FORMAT, Checkpoint, file_digest
from ovi_lab.errors import UserError


def _by_part(state_dict: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`model.video_model.…` belongs to the part `model` under the name `video_model.…`."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in state_dict.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor.detach().cpu().contiguous()
    return parts


class FolderCheckpointIO(CheckpointIO):
    """Writes whole folders, atomically: a reader sees the old checkpoint or the new one, never half of one.

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
        checkpoint = dict(checkpoint)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            self._write(checkpoint, temporary)
            if path.exists():
                outdated = path.with_name(f".{path.name}.{os.getpid()}.old")
                path.replace(outdated)
                temporary.replace(path)
                shutil.rmtree(outdated)
            else:
                temporary.replace(path)
        # torch and safetensors wrap the system's error in their own
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if _is_full_or_forbidden(error):
                raise UserError(
                    f"checkpoint {path} could not be written ({error}): free space or set run_dir elsewhere; "
                    "earlier checkpoints are untouched, resume=last goes on from there"
                ) from error
            raise

    def _write(self, checkpoint: dict[str, Any], folder: Path) -> None:
        step = int(checkpoint["global_step"])
        for part, tensors in _by_part(checkpoint.pop("state_dict")).items():
            save_file(tensors, folder / f"{part}.safetensors", metadata={"format": "pt"})
        averaged = checkpoint.pop("ema_state_dict", None)
        if averaged:
            (folder / "ema").mkdir()
            for part, tensors in _by_part(averaged).items():
                save_file(tensors, folder / "ema" / f"{part}.safetensors", metadata={"format": "pt"})
        torch.save(checkpoint, folder / "trainer_state.pt")
        (folder / "config.yaml").write_text(self.config_text)
        for name, source in self.extra_files.items():
            shutil.copyfile(source, folder / name)
        files = {
            str(file.relative_to(folder)): {"size": file.stat().st_size, "sha256": file_digest(file)}
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        (folder / "checkpoint.json").write_text(
            json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1)
        )

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Lightning's checkpoint dictionary from the folder `path`; nothing but tensors and plain values is read."""
        opened = Checkpoint.open(path)
        content = torch.load(opened.path / "trainer_state.pt", map_location="cpu", weights_only=True)
        for key, prefix in (("state_dict", ""), ("ema_state_dict", "ema/")):
            state: dict[str, Tensor] = {}
            for name in opened.files:
                part = Path(name)
                if part.suffix == ".safetensors" and str(part.parent) == (prefix.rstrip("/") or "."):
                    if part.stem == "codec":
                        continue
                    weights = opened.weights(part.stem, ema=bool(prefix))
                    state.update({f"{part.stem}.{k}": v for k, v in weights.items()})
            if state:
                content[key] = state
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint folder."""
        shutil.rmtree(path)


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
