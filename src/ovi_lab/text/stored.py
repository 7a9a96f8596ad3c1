"""Embeddings of known texts from a file, where the text encoder itself is too large to hold on every GPU."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ovi_eval.common.files import write_whole
from ovi_eval.common.plain_data import parse_json
from ovi_eval.common.shown import shown
from ovi_lab.common.foreign import reading
from ovi_lab.errors import UserError

FORMAT = "ovi_lab.text_embeddings/1"


class StoredText(nn.Module):
    """Vectors of the texts that `ovi-data embed` stored, in place of the encoder that made them.

    It has no parameters and no state: what is sampled with it is what its encoder would give.

    Args:
        embeddings: the file.
        dim: the towers' text_dim, which the vectors' width has to be; None takes any.

    Raises:
        UserError: the file is missing, damaged, of another format or width.
    """

    def __init__(self, embeddings: str | Path, dim: int | None = None) -> None:
        super().__init__()
        self.path = Path(embeddings)
        self.encoder, self._vectors = read_embeddings(self.path)
        widths = {vectors.shape[1] for vectors in self._vectors.values()}
        if dim is not None and widths != {dim}:
            raise UserError(
                f"{shown(self.path)} holds vectors of {shown(sorted(widths))} channels and the towers expect "
                f"text_dim={dim}: choose a model or embeddings that fit"
            )

    def forward(self, captions: Sequence[str]) -> list[Tensor]:
        """Vectors [n_i, dim] of each caption in float32, on the CPU. Raises as `check`."""
        self.check(captions)
        return [self._vectors[caption].float() for caption in captions]

    def check(self, texts: Iterable[str]) -> None:
        """Raises UserError where a text is not among those stored."""
        missing = [text for text in texts if text not in self._vectors]
        if missing:
            more = f" and of {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"{shown(self.path)} has no embedding of {shown(repr(missing[0]), 80)}{more}: "
                "store it too, ovi-data embed … --text"
            )


def write_embeddings(path: Path, vectors: Mapping[str, Tensor], encoder: str) -> None:
    """Write vectors [n,E] by text; `encoder` names what made them ("umt5 sha256:…")."""
    about = {"format": FORMAT, "encoder": encoder, "texts": list(vectors)}
    tensors = {str(number): tensor.contiguous() for number, tensor in enumerate(vectors.values())}
    write_whole(path, save(tensors, {"embeddings": json.dumps(about, sort_keys=True)}))


def read_embeddings(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The name of the encoder, and the vectors [n,E] by text. Raises UserError for what is no such file."""
    if not path.is_file():
        raise UserError(f"no text embeddings at {shown(path)}: make them with `ovi-data embed`")
    with reading(path, "file of text embeddings", "make it again"), safe_open(path, framework="pt") as file:
        about = parse_json((file.metadata() or {}).get("embeddings", "{}"), str(path))
        if about.get("format") != FORMAT:
            raise UserError(
                f"{shown(path)} has the format {shown(repr(about.get('format')))}, expected {FORMAT!r}"
            )
        texts = about["texts"]
        vectors = {str(text): file.get_tensor(str(number)) for number, text in enumerate(texts)}
        if not vectors or any(t.ndim != 2 or not t.isfinite().all() for t in vectors.values()):
            raise ValueError("it holds other than finite vectors [n, channels]")
    return str(about["encoder"]), vectors
