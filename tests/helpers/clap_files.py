"""A small CLAP checkpoint of random numbers and tokenizers, as tests write them."""

import json
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from ovi_eval.backbones.clap import TransformersTowers, as_built
from ovi_eval.backbones.clap_keys import Size, to_laion, without_counterpart

SMALL = Size(
    "HTSAT-small", (2, 2, 4, 2), 16, (1, 2, 4, 8), text_layers=2, text_width=48, vocabulary=400, shared=24
)


def small_checkpoint(seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of a small checkpoint, by laion_clap's names."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        learnt = to_laion(TransformersTowers(SMALL).model.state_dict())
        rest = {name: torch.randn(shape) for name, shape in without_counterpart(SMALL).items()}
    return learnt | rest | as_built(SMALL)


def published(tensors: dict[str, Tensor]) -> dict[str, object]:
    """The tensors as a published file holds them."""
    return {"epoch": 15, "state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}


def write_tokenizer(folder: Path, vocabulary: int = SMALL.vocabulary) -> Path:
    """A tokenizer of bytes, of "dog" and " b", filled up with tokens that no text has."""
    folder.mkdir(parents=True)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "do", "dog", "Ġb"]
    tokens += [f"<unused {place}>" for place in range(len(tokens), vocabulary - 1)] + ["<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nd o\ndo g\nĠ b\n")
    return folder
