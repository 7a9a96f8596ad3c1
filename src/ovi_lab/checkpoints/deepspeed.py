"""Weights of a DeepSpeed checkpoint: ZeRO's shards joined in fp32.

<checkpoint>/
  latest                                                the name of the folder below (Lightning: `checkpoint`)
  global_step500/
    mp_rank_00_model_states.pt                          stages 0-2: all weights as the network used them
    zero_pp_rank_R_mp_rank_00_model_states.pt           stage 3: names and shapes, process R's part of frozen weights
    [bf16_]zero_pp_rank_R_mp_rank_00_optim_states.pt    stages 1-3: process R's part of the fp32 master weights

Stages 1 and 2 concatenate all trained weights of an optimiser's group and cut the result into one part per
process. Stage 3 cuts every weight by itself, padded to a multiple of the processes. Nothing in the shards
says which values are whose: the order of `param_shapes` does. (Facts: DeepSpeed's runtime/engine.py and
runtime/zero; checked against running engines of 0.16.9 and 0.19.8 by tests/export/test_deepspeed.py.)

DeepSpeed need not be installed, and no code of the pickles runs: torch.load(weights_only=True), with inert
stand-ins for the few classes that DeepSpeed stores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import read_text
from ovi_lab.common.foreign import reading
from ovi_lab.errors import UserError
from ovi_lab.weights.pickled import Pieces
from ovi_lab.weights.torch_files import load_plain, state_of

_MODEL = re.compile(r"(?:zero_pp_rank_(?P<rank>\d+)_)?mp_rank_(?P<mp>\d+)_model_states\.pt$")
_OPTIM = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(?P<rank>\d+)_mp_rank_(?P<mp>\d+)_optim_states\.pt$")


class _Inert:
    """Stand-in for an object of DeepSpeed's that holds no weights: its values are kept, nothing is run."""


_STAND_INS: tuple[tuple[Callable[..., Any], str], ...] = (
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Inert, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Inert, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Inert, "deepspeed.utils.tensor_fragment.fragment_address"),
)


@dataclass(frozen=True)
class ZeroCheckpoint:
    """A DeepSpeed checkpoint whose shards are complete and consistent."""

    folder: Path
    """The folder of the shards."""
    stage: int
    processes: int
    step: int | None
    state: Mapping[str, Pieces]
    """Every weight by the name it had in training."""
    averaged: Mapping[str, Pieces] | None
    """Averaged weights, where the trainer stored some whole."""


def is_zero(path: Path) -> bool:
    """Whether the folder looks like a DeepSpeed checkpoint, or like the folder of shards in it."""
    return path.is_dir() and (
        (path / "latest").is_file()
        or any(path.glob("*_model_states.pt"))
        or any(path.glob("*/*_model_states.pt"))
    )


def open_zero(path: Path) -> ZeroCheckpoint:
    """Read all shards' tables (the weights stay on disk) and map the weights to them.

    Args:
        path: a checkpoint folder of DeepSpeed or of Lightning with DeepSpeed, or the folder of shards in it.

    Raises:
        UserError: shards are missing, cut short, of different steps, or of a kind that is not read.
    """
    with reading(path, "DeepSpeed checkpoint"):
        return _opened(_shard_folder(path))


def _opened(folder: Path) -> ZeroCheckpoint:
    models, shards = _files(folder, _MODEL), _files(folder, _OPTIM)
    if 0 not in models:
        raise UserError(f"{folder} lacks the model states of process 0: copy the whole checkpoint")
    head = _states(models[0], "module")
    stage, parts = _parts(folder, head, shards)
    if stage == 3:
        missing = [rank for rank in range(len(parts)) if rank not in models]
        if missing:
            raise UserError(
                f"{folder} lacks the model states of process {missing[0]} "
                f"({len(missing)} of {len(parts)} missing): copy the whole checkpoint"
            )
        heads = [head, *(_states(models[rank], "module") for rank in range(1, len(parts)))]
        _agree(folder, "step", [h.get("global_steps") for h in heads])
        state = _stage_three(folder, heads, parts)
    elif stage in (1, 2):
        state = _stages_one_and_two(folder, head, parts)
    else:
        state = {n: _fp32(t) for n, t in state_of(head, "module", models[0]).items()}
    for alias, name in (head.get("shared_params") or {}).items():
        if name in state:
            state[alias] = state[name]
    step = head.get("global_step", head.get("global_steps"))
    return ZeroCheckpoint(
        folder=folder,
        stage=stage,
        processes=max(len(parts), int(head.get("dp_world_size") or 1)),
        step=int(step) if isinstance(step, int) else None,
        state=state,
        averaged=_averaged(head, models[0]),
    )


def _shard_folder(path: Path) -> Path:
    if any(path.glob("*_model_states.pt")):
        return path
    latest = path / "latest"
    if latest.is_file():
        tag = read_text(latest, max_bytes=4096).strip()
        if Path(tag).name != tag or not tag:
            raise UserError(f"{latest} names {shown(repr(tag))}, which is not a folder beside it: refused")
        if not (path / tag).is_dir():
            raise UserError(f"{latest} names {tag}, which is missing: copy the whole checkpoint")
        return path / tag
    found = sorted({file.parent for file in path.glob("*/*_model_states.pt")})
    if len(found) > 1:
        listed = ", ".join(folder.name for folder in found)
        raise UserError(f"{path} holds {listed} and no file `latest`: name one of them")
    return found[0]


def _files(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """Files by process; a file without one in its name is of process 0."""
    found: dict[int, Path] = {}
    for file in sorted(folder.glob("*_states.pt")):
        match = pattern.match(file.name)
        if match is None:
            continue
        if int(match["mp"]) != 0:
            raise UserError(
                f"{folder} was written with model parallelism ({file.name}): only data parallel shards are read"
            )
        rank = int(match["rank"] or 0)
        if rank in found:
            raise UserError(
                f"{folder} holds {found[rank].name} and {file.name}: shards of two checkpoints are in one folder"
            )
        found[rank] = file
    return found


def _states(file: Path, key: str) -> dict[str, Any]:
    content = load_plain(file, _STAND_INS)
    if not isinstance(content.get(key), Mapping):
        raise UserError(f"{file} has no {key!r}: it is not a DeepSpeed checkpoint's, use another")
    return content


def _parts(folder: Path, head: dict[str, Any], shards: dict[int, Path]) -> tuple[int, list[dict[str, Any]]]:
    """The stage, and each process's optimiser state."""
    zero = (head.get("ds_config") or {}).get("zero_optimization") or {}
    if not shards:
        stage = zero.get("stage") if isinstance(zero, Mapping) else None
        if stage or head.get("param_shapes"):
            raise UserError(
                f"{folder} lacks the optimiser shards (*_optim_states.pt), which hold the fp32 weights: "
                "copy the whole checkpoint"
            )
        return 0, []
    states = {rank: _states(file, "optimizer_state_dict") for rank, file in shards.items()}
    parts = {rank: content["optimizer_state_dict"] for rank, content in states.items()}
    counts = [_count(part.get("partition_count"), shards[rank]) for rank, part in parts.items()]
    _agree(folder, "number of processes", counts)
    missing = [rank for rank in range(counts[0]) if rank not in parts]
    if missing:
        raise UserError(
            f"{folder} lacks the optimiser shard of process {missing[0]} "
            f"({len(missing)} of {counts[0]} missing): copy the whole checkpoint"
        )
    if len(parts) > counts[0]:
        raise UserError(
            f"{folder} holds {len(parts)} optimiser shards of {counts[0]} processes: "
            "shards of two checkpoints are in one folder"
        )
    ordered = [parts[rank] for rank in range(counts[0])]
    stages = [part.get("zero_stage") for part in ordered]
    _agree(folder, "ZeRO stage", stages)
    if stages[0] not in (1, 2, 3):
        raise UserError(f"{folder} is of ZeRO stage {stages[0]!r}; stages 0 to 3 are read")
    _agree(folder, "step", [_steps(part) for part in ordered])
    return int(stages[0]), ordered


def _count(value: Any, file: Path) -> int:
    counts = value if isinstance(value, list) else [value]
    if not counts or not all(isinstance(count, int) and count > 0 for count in counts):
        raise UserError(f"{file} does not say of how many processes it is one: use another checkpoint")
    return max(counts)


def _steps(part: Mapping[str, Any]) -> tuple[float, ...]:
    """Optimiser steps taken, by group; empty where the optimiser does not count them."""
    base = part.get("base_optimizer_state", part.get("optimizer_state_dict"))
    groups = base.get("state") if isinstance(base, Mapping) else base
    found = groups.values() if isinstance(groups, Mapping) else groups if isinstance(groups, list) else []
    steps = [group["step"] for group in found if isinstance(group, Mapping) and "step" in group]
    return tuple(sorted({float(step) for step in steps}))


def _agree(folder: Path, what: str, values: Sequence[Any]) -> None:
    if any(value != values[0] for value in values):
        other = next(i for i, value in enumerate(values) if value != values[0])
        raise UserError(
            f"{folder} mixes shards of different checkpoints: {what} {_plain(values[0])} in process 0, "
            f"{_plain(values[other])} in process {other}; copy one checkpoint whole"
        )


def _plain(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _fp32(tensor: Tensor) -> Pieces:
    return Pieces.of(tensor, torch.float32)


def _groups(part: Mapping[str, Any], key: str, folder: Path) -> list[Tensor]:
    groups = part.get(key)
    if not isinstance(groups, list) or not all(isinstance(group, Tensor) for group in groups):
        raise UserError(f"{folder}: an optimiser shard holds no {key}; it was written by another DeepSpeed")
    return [group.flatten() for group in groups]


def _shapes(head: Mapping[str, Any], folder: Path) -> list[dict[str, tuple[int, ...]]]:
    groups = head.get("param_shapes")
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise UserError(
            f"{folder}: the model states hold no shapes of the trained weights; use another checkpoint"
        )
    return [{str(n): _shape(shape) for n, shape in group.items()} for group in groups]


def _shape(value: Any) -> tuple[int, ...]:
    shape = tuple(value)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{value} is no shape")
    return shape


def _stages_one_and_two(folder: Path, head: dict[str, Any], parts: list[dict[str, Any]]) -> dict[str, Pieces]:
    shapes = _shapes(head, folder)
    trained = {name for group in shapes for name in group}
    # what is not trained (frozen weights, buffers) is whole in the model states
    state = {n: _fp32(t) for n, t in state_of(head, "module", folder).items() if n not in trained}
    lines = [_groups(part, "single_partition_of_fp32_groups", folder) for part in parts]
    if any(len(line) != len(shapes) for line in lines):
        raise _other_model(folder)
    paddings = parts[0].get("param_alignment_paddings") or [[0] * len(group) for group in shapes]
    if [len(group) for group in shapes] != [len(padding) for padding in paddings]:
        raise _other_model(folder)
    if not all(type(n) is int and n >= 0 for padding in paddings for n in padding):
        raise ValueError("param_alignment_paddings are no numbers of values")
    for index, group in enumerate(shapes):
        flats = [line[index] for line in lines]
        offset = 0
        for (name, shape), padding in zip(group.items(), paddings[index], strict=True):
            state[name] = Pieces(shape, _cut(folder, flats, offset, math.prod(shape)), torch.float32)
            offset += math.prod(shape) + padding
        # the line is padded to a multiple of twice the processes, in some versions also on disk
        step = 2 * len(parts)
        if math.ceil(sum(map(len, flats)) / step) != math.ceil(offset / step):
            raise _other_model(folder)
    return state


def _stage_three(folder: Path, heads: list[dict[str, Any]], parts: list[dict[str, Any]]) -> dict[str, Pieces]:
    shapes = {name: shape for group in _shapes(heads[0], folder) for name, shape in group.items()}
    buffers = set(heads[0].get("buffer_names") or [])
    state = {n: _fp32(t) for n, t in state_of(heads[0], "module", folder).items() if n in buffers}
    flats = [_groups(part, "fp32_flat_groups", folder) for part in parts]
    offset = 0
    for name, shape in shapes.items():
        share = math.ceil(math.prod(shape) / len(parts))
        cut = [piece for line in flats for piece in _cut(folder, line, offset, share)]
        state[name] = Pieces(shape, tuple(cut), torch.float32)
        offset += share
    if any(sum(map(len, line)) != offset for line in flats):
        raise _other_model(folder)
    for name, shape in (heads[0].get("frozen_param_shapes") or {}).items():
        fragments = [(head.get("frozen_param_fragments") or {}).get(name) for head in heads]
        if not all(isinstance(fragment, Tensor) for fragment in fragments):
            raise UserError(f"{folder} lacks a part of the frozen weight {name}: copy the whole checkpoint")
        pieces = tuple(fragment.flatten() for fragment in fragments if fragment is not None)
        if sum(map(len, pieces)) < math.prod(_shape(shape)):
            raise UserError(f"{folder} lacks a part of the frozen weight {name}: copy the whole checkpoint")
        state[name] = Pieces(_shape(shape), pieces, torch.float32)
    return state


def _cut(folder: Path, flats: Sequence[Tensor], start: int, length: int) -> tuple[Tensor, ...]:
    """`length` values from `start` of the concatenated flat tensors, as views."""
    found = []
    for flat in flats:
        if length and start < len(flat):
            piece = flat[start : start + length]
            found.append(piece)
            length -= len(piece)
        start = max(start - len(flat), 0)
    if length:
        raise _other_model(folder)
    return tuple(found)


def _other_model(folder: Path) -> UserError:
    return UserError(
        f"{folder} mixes shards of different models: the optimiser shards hold another number of weights "
        "than the model states list; copy one checkpoint whole"
    )


def _averaged(head: dict[str, Any], file: Path) -> dict[str, Pieces] | None:
    """Averaged weights that a callback stored; under stage 3 it saw empty placeholders, which are none."""
    if not head.get("ema_state_dict"):
        return None
    state = state_of(head, "ema_state_dict", file)
    if not all(tensor.numel() for tensor in state.values()):
        return None
    return {name: _fp32(tensor) for name, tensor in state.items()}
