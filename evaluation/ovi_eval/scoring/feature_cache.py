"""Features on disk, by the clip's content and its extractor: a repeated scoring is quick, an interrupted one resumes.

One small safetensors file a clip and extractor, written whole or not at all. A file that cannot be read, is of another
clip or extractor, or does not hold what was written counts as not there and is made again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ovi_eval.clips.items import Item
from ovi_eval.common.files import written_whole
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features

READER = "clips 2"
"""How files are read (docs/clips.md). Features of another way of reading are not those of the same clip."""
MOST_BYTES = 2**28
"""The largest file of features that is read."""


class FeatureCache:
    """Features by clip and extractor below a folder, which is made when the first is written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, item: Item, extractor: Extractor) -> Path:
        """Where the features lie. Raises UserError where the clip's file cannot be read."""
        digest = self._entry(item, extractor)
        return self.folder / extractor.name / digest[:2] / f"{digest[2:]}.safetensors"

    def _entry(self, item: Item, extractor: Extractor) -> str:
        """sha256 of all that the features depend on."""
        parts = [READER, extractor.key, item.content()]
        if extractor.reads_caption:
            parts.append(item.caption)
        return hashlib.sha256("\0".join(parts).encode("utf-8", errors="surrogatepass")).hexdigest()

    def get(self, item: Item, extractor: Extractor) -> Features | None:
        """The features, None where they are not there or their file is not the one that `put` wrote."""
        path = self.path(item, extractor)
        try:
            if not path.is_file() or path.stat().st_size > MOST_BYTES:
                return None
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception:  # whatever a damaged file makes the library raise: the features are made again
            return None
        wanted = {"key": extractor.key, "entry": self._entry(item, extractor), "sha256": _sha256(found)}
        return found if facts == wanted and finite(found) else None

    def put(self, item: Item, extractor: Extractor, features: Features) -> None:
        """Keeps the features. Raises UserError where the folder cannot be written."""
        path = self.path(item, extractor)
        tensors = {name: tensor.contiguous() for name, tensor in features.items()}
        facts = {"key": extractor.key, "entry": self._entry(item, extractor), "sha256": _sha256(tensors)}
        try:
            with written_whole(path) as temporary:
                save_file(tensors, temporary, metadata=facts)
        except UserError as error:
            raise UserError(f"{error}; or choose another folder by --cache, or none by --no-cache") from error


def _sha256(features: Features) -> str:
    """Of the tensors' names, types, shapes and numbers; safetensors has no checksum of its own."""
    digest = hashlib.sha256()
    for name, tensor in sorted(features.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def finite(features: Features) -> bool:
    """Whether every number of the features is one."""
    return all(
        bool(torch.isfinite(tensor).all()) for tensor in features.values() if tensor.is_floating_point()
    )
