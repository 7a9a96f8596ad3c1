"""Starting a run from the weights of others: `init_from`, as opposed to `resume`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ovi_lab.checkpoints.folder import Checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.tensor_files import INDEX_SUFFIX, TensorFiles
from ovi_lab.errors import UserError

_TOWERS = {"video": "video_model.", "audio": "audio_model."}
# What a tower has only since it was fused; a tower pretrained alone comes without.
_FUSION = ("k_fusion.", "v_fusion.", "norm_k_fusion.", "pre_attn_norm_fusion.")
_BARE_MODULATION = re.compile(r"(blocks\.\d+\.modulation)$")


def is_fusion_parameter(name: str) -> bool:
    """Whether the parameter exists only for the exchange between the towers."""
    return any(part in name for part in _FUSION)


def _read(source: str | Path, use_ema: bool) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Weights of the model, and of the text encoder where there is one."""
    source = Path(source)
    if source.is_file() or (source.is_dir() and list(source.glob(f"*{INDEX_SUFFIX}"))):
        if source.is_file() and not source.name.endswith((".safetensors", INDEX_SUFFIX)):
            raise UserError(f"init_from takes a checkpoint folder or a .safetensors file, got {source}")
        return dict(TensorFiles.open(source).stream()), None
    checkpoint = Checkpoint.open(resolve_checkpoint(source))
    ema = use_ema and checkpoint.has("ema/model.safetensors")
    text = "ema/text_encoder.safetensors" if ema else "text_encoder.safetensors"
    return (
        checkpoint.weights("model", ema=ema),
        checkpoint.weights("text_encoder", ema=ema) if checkpoint.has(text) else None,
    )


def _named_as_ours(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A video tower published by itself (Wan2.2) under its names in the twin model; other weights unchanged."""
    if prefix != _TOWERS["video"] or "patch_embedding.weight" not in weights:
        return weights
    return {prefix + _BARE_MODULATION.sub(r"\1.modulation", name): w for name, w in weights.items()}


def _check_shapes(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    wrong = [n for n, w in weights.items() if n in own and own[n].shape != w.shape]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"init_from {source} does not fit this model: {name} is {list(weights[name].shape)} there and "
            f"{list(own[name].shape)} here ({len(wrong)} tensors differ): choose the model it was trained with"
        )


def initialise_from(
    model: nn.Module,
    text_encoder: nn.Module | None,
    sources: str | Path | Mapping[str, str | Path],
    use_ema: bool = True,
) -> list[str]:
    """Load pretrained weights in place.

    Args:
        model: a TwinDiT.
        text_encoder: loaded too where the source holds one; with several sources, the last one that does.
        sources: one checkpoint for everything, or one each under "video" and "audio" for its tower. The
            video's may be the published Wan2.2 tower: its .safetensors file, or the folder or index of its shards.
        use_ema: prefer averaged weights.

    Returns:
        Names of the parameters that no source gave (fusion parameters, as a rule).

    Raises:
        UserError: a source is unreadable, does not fit, or leaves other than fusion parameters unset.
    """
    named = (
        {"": sources}
        if isinstance(sources, str | Path)
        else {k: v for k, v in sources.items() if v is not None}
    )
    unknown = set(named) - {"", *_TOWERS}
    if unknown:
        raise UserError(
            f"init_from.{sorted(unknown)[0]} is unknown: give one path, or init_from.video / init_from.audio"
        )
    own = model.state_dict()
    given: set[str] = set()
    for tower, source in named.items():
        weights, text = _read(source, use_ema)
        prefix = _TOWERS.get(tower, "")
        if not prefix and not weights.keys() & own.keys():
            raise UserError(
                f"init_from.all {source} has no weight of this model's names: give a tower published by itself "
                "as init_from.video"
            )
        weights = {n: w for n, w in _named_as_ours(weights, prefix).items() if n.startswith(prefix)}
        if not weights:
            raise UserError(
                f"init_from.{tower} {source} holds no {prefix}* weights: it is not a {tower} tower"
            )
        _check_shapes(weights, own, str(source))
        surplus = [n for n in weights if n not in own and not is_fusion_parameter(n) and prefix]
        if surplus:
            raise UserError(
                f"init_from {source} has {surplus[0]}, which this model lacks: choose its own model size"
            )
        model.load_state_dict({n: w for n, w in weights.items() if n in own}, strict=False)
        given.update(n for n in weights if n in own)
        if text is not None and text_encoder is not None:
            _check_shapes(text, text_encoder.state_dict(), str(source))
            text_encoder.load_state_dict(text)
    left = [n for n in own if n not in given]
    towers = [p for t, p in _TOWERS.items() if t in named or "" in named]
    unexplained = [n for n in left if not is_fusion_parameter(n) and n.startswith(tuple(towers))]
    if "" in named:
        # one source for everything may be a single tower: the other then starts fresh
        touched = {n.split(".")[0] for n in given}
        unexplained = [n for n in unexplained if n.split(".")[0] in touched and "rope_scale" not in n]
    if unexplained:
        raise UserError(
            f"init_from gives no {unexplained[0]} ({len(unexplained)} parameters missing): "
            "the checkpoint is of another configuration"
        )
    return left
