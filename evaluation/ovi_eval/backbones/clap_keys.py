"""The mapping between the tensors of a laion_clap checkpoint and of transformers' ClapModel, in both directions.

The towers are the same: RoBERTa for the text, HTS-AT (a Swin transformer over a log-mel picture) for the sound,
each followed by a projection of two layers. What differs is names, and that laion_clap keeps queries, keys and
values of the sound's attention in one tensor. Published files hold further tensors, which `without_counterpart`
lists; the embedding does not depend on them, or they are tables that are computed here and compared.

Shapes: D features of a stage, W = 64 places of a window, V windows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ovi_eval.common.weights import tensor_faults, tensor_kind

WINDOW = 8
"""Places along one side of an attention window."""
GRID = 64
"""Patches along one side of the picture that the first stage sees."""
TABLES = (
    "audio_branch.spectrogram_extractor.stft.conv_real.weight",
    "audio_branch.spectrogram_extractor.stft.conv_imag.weight",
    "audio_branch.logmel_extractor.melW",
)
POSITIONS = "text_branch.embeddings.position_ids"
"""Counts 0 to 513; files hold it that were written with transformers before 4.31."""
PREFIX = "module."
"""Put before each name by the data-parallel wrapper that laion_clap was trained in."""


@dataclass(frozen=True)
class Size:
    """One size of the sound's tower: `name` as laion_clap calls it, blocks of each stage, features at first.

    `text_layers`, `text_width` and `vocabulary` are RoBERTa-base's and differ only in tests.
    """

    name: str
    depths: tuple[int, ...]
    width: int
    heads: tuple[int, ...] = (4, 8, 16, 32)
    text_layers: int = 12
    text_width: int = 768
    vocabulary: int = 50265
    shared: int = 512

    @property
    def last_width(self) -> int:
        """Features of the last stage."""
        return self.width * 2 ** (len(self.depths) - 1)


TINY = Size("HTSAT-tiny", (2, 2, 6, 2), 96)
BASE = Size("HTSAT-base", (2, 2, 12, 2), 128)


_NAMES = (
    ("text_model.", "text_branch."),
    ("audio_model.audio_encoder.", "audio_branch."),
    ("_projection.linear1.", "_projection.0."),
    ("_projection.linear2.", "_projection.2."),
)
_SOUND_NAMES = (
    (".batch_norm.", ".bn0."),
    *((f".attention.self.{part}.", ".attn.qkv.") for part in ("query", "key", "value")),
    (".attention.self.", ".attn."),
    (".attention.output.dense.", ".attn.proj."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)
"""Parts of ClapModel's names and of laion_clap's, replaced in this order; the second table is for the sound alone."""
ONLY_TRANSFORMERS = (
    "text_model.embeddings.position_ids",
    "text_model.embeddings.token_type_ids",
)
"""Counts and zeros that ClapModel keeps as buffers and laion_clap makes anew."""


def laion_name(name: str) -> str:
    """The name in laion_clap of the tensor that holds one of ClapModel's, alone or with two others."""
    for ours, theirs in _NAMES + (_SOUND_NAMES if name.startswith("audio_model.") else ()):
        name = name.replace(ours, theirs)
    return name


def parts_by_laion_name(names: Iterable[str]) -> dict[str, list[str]]:
    """ClapModel's names by laion_clap's: one, or queries, keys and values, which are one tensor of 3 D rows there."""
    parts: dict[str, list[str]] = {}
    for name in names:
        if name not in ONLY_TRANSFORMERS:
            parts.setdefault(laion_name(name), []).append(name)
    return parts


def without_counterpart(size: Size) -> dict[str, tuple[int, ...]]:
    """Names and shapes of laion_clap's tensors that ClapModel does not hold.

    The front end's tables and the masks of shifted windows are computed here; `tscam_conv` and `head` classify
    AudioSet and follow the embedding; `text_transform` and `audio_transform` are layers that only the
    training loss uses.
    """
    shapes: dict[str, tuple[int, ...]] = dict(
        zip(TABLES, ((513, 1, 1024), (513, 1, 1024), (513, 64)), strict=True)
    )
    for stage, depth in enumerate(size.depths):
        windows = (GRID // 2**stage // WINDOW) ** 2
        if windows > 1:  # a stage of one window has nothing to shift
            for block in range(1, depth, 2):
                name = f"audio_branch.layers.{stage}.blocks.{block}.attn_mask"
                shapes[name] = (windows, WINDOW**2, WINDOW**2)
    shapes["audio_branch.tscam_conv.weight"] = (527, size.last_width, 2, 3)
    shapes["audio_branch.head.weight"] = (527, 527)
    shapes["audio_branch.tscam_conv.bias"] = shapes["audio_branch.head.bias"] = (527,)
    for tower in ("text", "audio"):
        for place in (0, 3):
            name = f"{tower}_transform.sequential.{place}"
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (size.shared, size.shared), (size.shared,)
    return shapes


def to_transformers(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """ClapModel's tensors of a checkpoint by laion_clap's names. `names`: those of ClapModel's state."""
    return {
        name: part
        for theirs, ours in parts_by_laion_name(names).items()
        for name, part in zip(
            ours, tensors[theirs].chunk(3) if len(ours) == 3 else [tensors[theirs]], strict=True
        )
    }


def to_laion(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint by laion_clap's names of ClapModel's tensors, but for those without counterpart."""
    return {
        theirs: torch.cat([tensors[name] for name in ours]) if len(ours) == 3 else tensors[ours[0]]
        for theirs, ours in parts_by_laion_name(tensors).items()
    }


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names without the wrapper's prefix, and without the count of positions."""
    return {
        plain: tensor for name, tensor in tensors.items() if (plain := name.removeprefix(PREFIX)) != POSITIONS
    }


def masks_and_indices(size: Size) -> dict[str, Tensor]:
    """The constant tensors of the sound's attention, by laion_clap's names."""
    built = {
        f"audio_branch.layers.{stage}.blocks.{block}.attn.relative_position_index": position_index()
        for stage, depth in enumerate(size.depths)
        for block in range(depth)
    }
    masks = [name for name in without_counterpart(size) if name.endswith(".attn_mask")]
    return built | {name: shift_mask(int(name.split(".")[2])) for name in masks}


def position_index() -> Tensor:
    """[W, W] int64: which row of the table of relative positions two places of a window look up."""
    down_W, right_W = torch.arange(WINDOW**2) // WINDOW, torch.arange(WINDOW**2) % WINDOW
    down_WW, right_WW = down_W[:, None] - down_W, right_W[:, None] - right_W
    return (down_WW + WINDOW - 1) * (2 * WINDOW - 1) + right_WW + WINDOW - 1


def shift_mask(stage: int) -> Tensor:
    """[V, W, W]: the mask of a stage's shifted windows, added to attention: -100 where two places are no neighbours.

    Windows are shifted by half their side around the picture's edge, so those at the end hold places of
    opposite edges (Liu et al. 2021, "Swin transformer").
    """
    side = GRID // 2**stage
    place = torch.arange(side)
    region = (place >= side - WINDOW).long() + (place >= side - WINDOW // 2).long()
    regions_VW = (
        (3 * region[:, None] + region[None])
        .unflatten(0, (-1, WINDOW))
        .unflatten(2, (-1, WINDOW))
        .transpose(1, 2)
        .reshape(-1, WINDOW**2)
    )
    return -100.0 * (regions_VW[:, :, None] != regions_VW[:, None]).float()


def checkpoint_faults(
    tensors: Mapping[str, Tensor], size: Size, state: Mapping[str, Tensor], built: Mapping[str, Tensor]
) -> list[str]:
    """How tensors differ from a published file of that size, in a few words each.

    `state`: ClapModel's, of which only names, shapes and types are read; `built`: the tensors that are not learnt,
    by laion_clap's names.
    """
    kinds = {name: tensor_kind(tensor) for name, tensor in to_laion(state).items()}
    kinds |= {name: f"float32 {list(shape)}" for name, shape in without_counterpart(size).items()}
    # A table that another library's release computed differs in its last digits.
    return tensor_faults(kinds, tensors) or [
        f"{name} holds other numbers than it is built with"
        for name, wanted in built.items()
        if not torch.allclose(tensors[name], wanted, rtol=1e-4, atol=1e-6)
    ]
