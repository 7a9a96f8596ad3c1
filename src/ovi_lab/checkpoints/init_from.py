"""Starting a run from the weights of others: `init_from`, as opposed to `resume`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ovi_eval.common.shown import shown
from ovi_lab.checkpoints.opening import merged_weights, open_weights
from ovi_lab.errors import UserError
from ovi_lab.weights.fit import check_fit, check_shapes, finite
from ovi_lab.weights.tensor_files import Stored

_TOWERS = {"video": "video_model.", "audio": "audio_model."}
_FROM_VIDEO = "audio_from_video"
# Parts of a tower that take in and put out its own modality: another one's would mean nothing.
_OF_ITS_MODALITY = ("patch_embedding.", "head.", "rope_scale")
# Parameters that only a fused tower has; a tower pretrained alone lacks them.
_FUSION = ("k_fusion.", "v_fusion.", "norm_k_fusion.", "pre_attn_norm_fusion.")
_BARE_MODULATION = re.compile(r"(blocks\.\d+\.modulation)$")


def is_fusion_parameter(name: str) -> bool:
    """Whether the parameter exists only for the exchange between the towers."""
    return any(part in name for part in _FUSION)


def _part(name: str) -> str:
    """The part of a tower that a parameter is of, as a reader knows it."""
    if is_fusion_parameter(name):
        return "fusion"
    return name.removeprefix(_TOWERS["audio"]).partition(".")[0]


@dataclass
class Beginning:
    """The sources of a model's pretrained parameters; no tensor is read yet."""

    weights: dict[str, tuple[Stored, str]] = field(default_factory=dict)
    """The file and the name in it, by parameter."""
    text: Stored | None = None
    """Weights of the text encoder, where a source holds one."""
    left: list[str] = field(default_factory=list)
    """Parameters that no source gives (usually fusion parameters)."""
    note: str = ""
    """What was taken of another tower, and what not."""

    def value(self, name: str, rows: slice | None = None) -> Tensor:
        """The tensor of a parameter, or some of its rows. UserError where it holds NaN or an infinite value."""
        stored, key = self.weights[name]
        if rows is None:
            return finite(key, next(iter(stored.stream([key])))[1], str(stored.path))
        return finite(key, stored.rows(key, rows.start, rows.stop), str(stored.path))


def _named_as_ours(names: Collection[str], prefix: str) -> dict[str, str]:
    """Stored name by our name; a video tower published by itself (Wan2.2) has names of its own."""
    if prefix != _TOWERS["video"] or "patch_embedding.weight" not in names:
        return {name: name for name in names}
    return {prefix + _BARE_MODULATION.sub(r"\1.modulation", name): name for name in names}


def _of_video_tower(stored: Stored, own: Mapping[str, Tensor], source: str | Path) -> dict[str, str]:
    """The stored name of each parameter of the audio tower that the video tower has too: all of the blocks but fusion,
    and those around the blocks that have the same shape.

    Raises:
        UserError: there is no video tower, or the blocks differ.
    """
    video, audio = _TOWERS["video"], _TOWERS["audio"]
    theirs = {
        ours.removeprefix(video): name
        for ours, name in _named_as_ours(stored.tensors, video).items()
        if ours.startswith(video)
    }
    if not theirs:
        raise UserError(
            f"init_from.{_FROM_VIDEO} {source} holds no {video}* weights: it is not a video tower"
        )
    taken: dict[str, str] = {}
    for name in own:
        short = name.removeprefix(audio)
        if not name.startswith(audio) or is_fusion_parameter(name) or short.startswith(_OF_ITS_MODALITY):
            continue
        there = stored.tensors[theirs[short]].shape if short in theirs else None
        if there == tuple(own[name].shape):
            taken[name] = theirs[short]
        elif short.startswith("blocks."):
            found = "is not in the video tower" if there is None else f"is {list(there)} in the video tower"
            raise UserError(
                f"init_from.{_FROM_VIDEO} {source}: {short} {found} and {list(own[name].shape)} in the audio tower; "
                "only towers of one width and depth can share weights: give model.audio those of the video tower"
            )
    return taken


def find_beginning(
    model: nn.Module, sources: str | Path | Mapping[str, str | Path], use_ema: bool = True
) -> Beginning:
    """The source of each parameter, found by the names and shapes in the sources' tables.

    Args:
        model: a TwinDiT, on the meta device or not.
        sources: one checkpoint for everything, or one each under "video" and "audio" for its tower, of any kind that
            `open_weights` reads. The video's may be the published Wan2.2 tower: its .safetensors file, or the folder
            or index of its shards. Under "audio_from_video" a video tower that the audio tower begins from: its blocks
            without fusion, and what around them has the same shape, but nothing that takes in or puts out a modality.
        use_ema: prefer averaged weights.

    Raises:
        UserError: a source is unreadable, does not fit, or leaves other than fusion parameters unset.
    """
    named = (
        {"": sources}
        if isinstance(sources, str | Path)
        else {k: v for k, v in sources.items() if v is not None}
    )
    unknown = set(named) - {"", *_TOWERS, _FROM_VIDEO}
    if unknown:
        raise UserError(
            f"init_from.{sorted(unknown)[0]} is unknown: give one path, or init_from.video / init_from.audio"
        )
    if {"audio", _FROM_VIDEO} <= named.keys():
        raise UserError(
            f"init_from.audio and init_from.{_FROM_VIDEO} both set the audio tower: give one of them"
        )
    own = model.state_dict()
    found = Beginning()
    for tower, source in named.items():
        opened = open_weights(source, None if use_ema else False)
        stored = merged_weights(opened.weights, opened.configuration)
        if tower == _FROM_VIDEO:
            taken = _of_video_tower(stored, own, source)
            found.weights.update({ours: (stored, n) for ours, n in taken.items()})
            found.text = opened.text or found.text
            new = [n for n in own if n.startswith(_TOWERS["audio"]) and n not in taken]
            parts = dict.fromkeys(_part(n) for n in new)
            found.note = (
                f"init_from.{_FROM_VIDEO} {source}: the audio tower begins with {len(taken)} of the video tower's "
                f"parameters; its own initial values have {', '.join(parts)}"
            )
            continue
        prefix = _TOWERS.get(tower, "")
        tensors = stored.tensors
        if not prefix and not tensors.keys() & own.keys():
            raise UserError(
                f"init_from.all {source} has no weight of this model's names: give a tower published by itself "
                "as init_from.video"
            )
        names = {ours: n for ours, n in _named_as_ours(tensors, prefix).items() if ours.startswith(prefix)}
        if not names:
            raise UserError(
                f"init_from.{tower} {source} holds no {prefix}* weights: it is not a {tower} tower"
            )
        check_shapes({ours: tensors[n] for ours, n in names.items()}, own, f"init_from {source}")
        # of a tower that this model has: a source for everything may have another one besides
        built = tuple(p for p in _TOWERS.values() if any(n.startswith(p) for n in own))
        surplus = [n for n in names if n not in own and not is_fusion_parameter(n) and n.startswith(built)]
        if surplus:
            raise UserError(
                f"init_from {source} has {shown(surplus[0])}, which this model lacks: choose its own model size"
            )
        found.weights.update({ours: (stored, n) for ours, n in names.items() if ours in own})
        found.text = opened.text or found.text
    found.left = [n for n in own if n not in found.weights]
    towers = tuple(p for t, p in _TOWERS.items() if t in named or "" in named)
    unexplained = [n for n in found.left if not is_fusion_parameter(n) and n.startswith(towers)]
    if "" in named:
        # one source for everything may be a single tower: the other keeps its initial values
        touched = {n.split(".")[0] for n in found.weights}
        unexplained = [n for n in unexplained if n.split(".")[0] in touched and "rope_scale" not in n]
    if unexplained:
        raise UserError(
            f"init_from gives no {unexplained[0]} ({len(unexplained)} parameters missing): "
            "the checkpoint is of another configuration"
        )
    return found


@torch.no_grad()
def load_text_encoder(text_encoder: nn.Module, beginning: Beginning) -> None:
    """The text encoder's weights, where a source holds them. UserError where they do not fit."""
    if beginning.text is not None:
        source = str(beginning.text.path)
        check_fit(
            beginning.text.tensors, text_encoder.state_dict(), f"the text encoder of init_from {source}"
        )
        text_encoder.load_state_dict({n: finite(n, t, source) for n, t in beginning.text.stream()})


@torch.no_grad()
def initialise_from(
    model: nn.Module,
    text_encoder: nn.Module | None,
    sources: str | Path | Mapping[str, str | Path],
    use_ema: bool = True,
) -> list[str]:
    """Load pretrained weights in place, into a model whose parameters have memory already.

    Args:
        model, sources, use_ema: see `find_beginning`.
        text_encoder: loaded too where a source holds one; with several sources, the last one that does.

    Returns:
        Names of the parameters that no source gave.

    Raises:
        UserError: as `find_beginning`.
    """
    beginning = find_beginning(model, sources, use_ema)
    own = model.state_dict()
    for name in beginning.weights:
        own[name].copy_(beginning.value(name))
    if text_encoder is not None:
        load_text_encoder(text_encoder, beginning)
    return beginning.left
