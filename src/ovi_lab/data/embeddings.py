"""Texts embedded beforehand: prompts of tables and captions of shards, each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
import yaml

from ovi_eval.clips.captions import CAPTION_COLUMNS
from ovi_eval.common.shown import shown
from ovi_eval.common.tables import KINDS, read_table
from ovi_lab.common.paths import config_dir
from ovi_lab.common.progress import progress
from ovi_lab.data.decode import read_about
from ovi_lab.data.encoders import published_text
from ovi_lab.data.index import BadSampleError, read_index
from ovi_lab.data.shards import ShardReader, expand_shards
from ovi_lab.errors import UserError
from ovi_lab.text.stored import write_embeddings


def texts_of(sources: Sequence[str], clips: int | None) -> Iterator[str]:
    """The texts of tables of prompts, and the captions of the first `clips` (None: all) samples of shards.

    Raises:
        UserError: a source is neither, or a row holds no text.
    """
    for source in sources:
        if Path(source).suffix.lower() in KINDS:
            for row in read_table(source, (CAPTION_COLUMNS,), "prompts"):
                text = row.text(CAPTION_COLUMNS) if not row.fault else None
                if row.fault or (not text and not row.empty):
                    raise UserError(f"{shown(source)} line {row.line}: {row.fault or 'it has no prompt'}")
                if text:
                    yield text
        else:
            yield from islice(_captions(source), clips)


def _captions(pattern: str) -> Iterator[str]:
    reader = ShardReader()
    for shard in expand_shards(pattern):
        for entry in read_index(shard).entries:
            try:
                yield read_about(reader.read(entry, ("json", "txt")))["caption"]
            except BadSampleError as error:
                raise UserError(f"{shown(shard)}: {shown(entry.key)}: {error}") from error


def negative_texts() -> set[str]:
    """The negative prompts of the samplers in conf/."""
    files = sorted((config_dir() / "sampler").glob("*.yaml"))
    samplers = [yaml.safe_load(file.read_text()) for file in files]
    return {
        str(s[key])
        for s in samplers
        for key in ("negative_video", "negative_audio")
        if s.get(key) is not None
    }


def embed(
    texts: Iterable[str], out: Path, weights: Path, device: torch.device | str, long_captions: str
) -> tuple[int, str]:
    """Embed each different text, and the samplers' negative ones, by the umT5 of a folder of released weights.

    Returns:
        The number of texts stored in `out`, and the encoder's name with the digest of its weights.

    Raises:
        UserError: the encoder is missing or damaged, or a text longer than it reads and not to be cut.
    """
    encoder, name, _ = published_text(weights, device, long_captions)
    wanted = list(dict.fromkeys([*sorted(negative_texts()), *texts]))
    vectors = {}
    for text in progress(wanted, "embedding texts", len(wanted)):
        (vector,) = encoder([text])
        half = vector.to(torch.bfloat16)
        # the published weights are in bfloat16, and so are their vectors: nothing is lost
        vectors[text] = (half if half.float().equal(vector) else vector).cpu()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_embeddings(out, vectors, name)
    return len(vectors), name
