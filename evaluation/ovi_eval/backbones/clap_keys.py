"""The mapping between the tensors of a laion_clap checkpoint and of transformers' ClapModel, in both directions.

The towers are the same: RoBERTa for the text, HTS-AT (a Swin transformer over a log-mel picture) for the sound,
each followed by a projection of two layers. What differs is names, and that laion_clap keeps queries, keys and
values of the sound's attention in one tensor. Published files hold further tensors, which `without_counterpart`
lists; the embedding does not depend on them, or they are tables that are computed here and compared.

Shapes: D features of a stage, W = 64 places of a window, V windows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ovi_eval.errors import UserError

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


def pairs(size: Size) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each name of laion_clap with the one of ClapModel, or the three that its tensor is cut into."""
    for scale in ("logit_scale_a", "logit_scale_t"):
        yield scale, (scale,)
    for tower in ("audio", "text"):
        for theirs, ours in (("0", "linear1"), ("2", "linear2")):
            yield from _renamed(f"{tower}_projection.{theirs}", f"{tower}_projection.{ours}")
    yield from _text(size)
    yield from _sound(size)


def _renamed(
    theirs: str, ours: str, parts: tuple[str, ...] = ("weight", "bias")
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for part in parts:
        yield f"{theirs}.{part}", (f"{ours}.{part}",)


def _text(size: Size) -> Iterator[tuple[str, tuple[str, ...]]]:
    """RoBERTa's tensors have the same names below another root."""
    layers = [f"encoder.layer.{place}." for place in range(size.text_layers)]
    modules = ["embeddings.LayerNorm", "pooler.dense"]
    for layer in layers:
        modules += [f"{layer}attention.self.{part}" for part in ("query", "key", "value")]
        modules += [f"{layer}attention.output.dense", f"{layer}attention.output.LayerNorm"]
        modules += [f"{layer}intermediate.dense", f"{layer}output.dense", f"{layer}output.LayerNorm"]
    for module in modules:
        yield from _renamed(f"text_branch.{module}", f"text_model.{module}")
    for table in ("word", "position", "token_type"):
        module = f"embeddings.{table}_embeddings"
        yield from _renamed(f"text_branch.{module}", f"text_model.{module}", ("weight",))


def _sound(size: Size) -> Iterator[tuple[str, tuple[str, ...]]]:
    theirs, ours = "audio_branch", "audio_model.audio_encoder"
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    yield from _renamed(f"{theirs}.bn0", f"{ours}.batch_norm", statistics)
    for module in ("patch_embed.proj", "patch_embed.norm", "norm"):
        yield from _renamed(f"{theirs}.{module}", f"{ours}.{module}")
    for stage, depth in enumerate(size.depths):
        if stage + 1 < len(size.depths):
            down = f"layers.{stage}.downsample"
            yield from _renamed(f"{theirs}.{down}.reduction", f"{ours}.{down}.reduction", ("weight",))
            yield from _renamed(f"{theirs}.{down}.norm", f"{ours}.{down}.norm")
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            yield from _block(f"{theirs}.{at}", f"{ours}.{at}")


def _block(theirs: str, ours: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for part in ("relative_position_bias_table", "relative_position_index"):
        yield f"{theirs}.attn.{part}", (f"{ours}.attention.self.{part}",)
    for part in ("weight", "bias"):
        # One tensor of 3 D rows: those of the queries, of the keys, of the values.
        cut = tuple(f"{ours}.attention.self.{kind}.{part}" for kind in ("query", "key", "value"))
        yield f"{theirs}.attn.qkv.{part}", cut
    for their_module, our_module in (
        ("attn.proj", "attention.output.dense"),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        yield from _renamed(f"{theirs}.{their_module}", f"{ours}.{our_module}")


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


def to_transformers(tensors: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
    """ClapModel's tensors of a checkpoint by laion_clap's names; those without counterpart are left out."""
    mapped: dict[str, Tensor] = {}
    for theirs, ours in pairs(size):
        tensor = tensors[theirs]
        mapped.update(zip(ours, tensor.chunk(3) if len(ours) == 3 else (tensor,), strict=True))
    return mapped


def to_laion(tensors: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
    """A checkpoint by laion_clap's names of ClapModel's tensors, but for those without counterpart."""
    return {
        theirs: torch.cat([tensors[name] for name in ours]) if len(ours) == 3 else tensors[ours[0]]
        for theirs, ours in pairs(size)
    }


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names without the wrapper's prefix, and without the count of positions."""
    return {
        plain: tensor for name, tensor in tensors.items() if (plain := name.removeprefix(PREFIX)) != POSITIONS
    }


def masks_and_indices(size: Size) -> dict[str, Tensor]:
    """The constant tensors of the sound's attention, by laion_clap's names."""
    built = {theirs: position_index() for theirs, _ in pairs(size) if theirs.endswith("_position_index")}
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


def check_names(
    tensors: Mapping[str, Tensor], size: Size, wanted: Mapping[str, Tensor], shown: str, fetch: str
) -> None:
    """Raises UserError unless the names, shapes and types are those of a published file of that size.

    `wanted`: ClapModel's state, of which only shapes and types are read; `shown` names the file, `fetch` says
    which one to get.
    """
    if any(".fusion_model." in name or ".mel_conv2d." in name for name in tensors):
        raise UserError(
            f"{shown}: is a checkpoint with feature fusion, which is not supported; fetch {fetch}, without fusion"
        )
    kinds = {name: _kind(tensor.dtype, tensor.shape) for name, tensor in to_laion(wanted, size).items()}
    for name, shape in without_counterpart(size).items():
        kinds[name] = _kind(torch.float32, shape)
    faults = [f"{name} is missing" for name in kinds if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in kinds]
    for name, kind in kinds.items():
        if name in tensors and (found := _kind(tensors[name].dtype, tensors[name].shape)) != kind:
            faults.append(f"{name} is {found} instead of {kind}")
    raise_faults(faults, size, shown, fetch)


def check_values(
    tensors: Mapping[str, Tensor], built: Mapping[str, Tensor], size: Size, shown: str, fetch: str
) -> None:
    """Raises UserError for numbers that are not finite, and for others than `built` where nothing is learnt."""
    faults = [
        f"{name} is not finite" for name, tensor in tensors.items() if not bool(tensor.isfinite().all())
    ]
    # A table that another library's release computed differs in its last digits.
    faults += [
        f"{name} holds other numbers than it is built with"
        for name, wanted in built.items()
        if not torch.allclose(tensors[name], wanted, rtol=1e-4, atol=1e-6)
    ]
    raise_faults(faults, size, shown, fetch)


def raise_faults(faults: list[str], size: Size, shown: str, fetch: str) -> None:
    """Raises UserError with the first faults, if there are any."""
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(
            f"{shown}: holds other weights than those of CLAP {size.name}: {'; '.join(faults[:3])}{more}; "
            f"fetch {fetch}"
        )


def _kind(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"
