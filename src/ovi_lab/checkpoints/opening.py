"""One reader of model weights of any trainer, for initialising a run, exporting and sampling.

It reads our own checkpoints, Lightning's files, DeepSpeed's folders and weights in the released layout. Names become
the released ones, quantised weights are refused, and listed sha256 sums are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.adapters.merging import MergedWeights
from ovi_lab.checkpoints.configuration import Configuration
from ovi_lab.checkpoints.deepspeed import is_zero, open_zero
from ovi_lab.checkpoints.folder import Checkpoint, latest_checkpoint, resolve_checkpoint, step_of
from ovi_lab.checkpoints.names import Renamed, model_of
from ovi_lab.errors import UserError
from ovi_lab.weights.pickled import PickledTensors, Pieces
from ovi_lab.weights.tensor_files import INDEX_SUFFIX, Stored, TensorFiles
from ovi_lab.weights.torch_files import load_plain, state_of

_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_TEXT = "text_encoder."
_NO_TEXT_ENCODER = (
    "The trained text encoder stays in the checkpoint: the released layout has the towers only."
)


@dataclass(frozen=True)
class Opened:
    """Opened weights: tensors on disk under released names, none of them read, with their origin."""

    path: Path
    """The checkpoint's path in its run."""
    weights: Stored
    """Weights of the model and, where the run had one, of the adapter (see `ovi_lab.adapters.MergedWeights`)."""
    step: int | None
    origin: str
    """A description of the weights."""
    averaged: bool
    has_averaged: bool
    text: Stored | None = None
    """Weights of the trained text encoder, where there is one."""
    configuration: Configuration | None = None
    """The run's configuration, where the checkpoint holds it."""
    notes: tuple[str, ...] = ()


def open_weights(path: str | Path, ema: bool | None = None) -> Opened:
    """Open the weights at `path`, of any supported kind.

    Args:
        path: a run or its `last` (the newest of its checkpoints/step_*); a checkpoint folder of ours or of
            DeepSpeed's; a Lightning .ckpt or another file of torch.save with a state dict; a .safetensors file, its
            index, or a folder of shards, in the released layout or a tower published by itself.
        ema: averaged weights, or raw; None takes averaged ones where there are some.

    Raises:
        UserError: nothing there, not whole or not as it was written, holding code, quantised, or of another model.
    """
    path = _of_run(Path(path))
    if path.is_file() and path.suffix in _PICKLED:
        return _lightning(path, ema)
    if path.is_file() and path.name.endswith((".safetensors", INDEX_SUFFIX)):
        return _released(path, ema)
    if is_zero(path):
        return _zero(path, ema)
    if path.is_file():
        raise UserError(
            f"{path} is no checkpoint: name a folder, or a file ending in .ckpt, .pt or .safetensors"
        )
    if path.is_dir() and any(path.glob(f"*{INDEX_SUFFIX}")) and not (path / "checkpoint.json").is_file():
        return _released(path, ema)
    return _own(path, ema)


def merged_weights(stored: Stored, configuration: Configuration | None) -> Stored:
    """Weights with their run's adapter merged as they are read, where its configuration has one."""
    adapter = None if configuration is None else configuration.adapter()
    return MergedWeights(stored, adapter) if adapter else stored


def model_weights(checkpoint: Checkpoint, ema: bool = False) -> Stored:
    """The model of a checkpoint of ours, of any strategy, with the adapter merged.

    With `ema` the averaged weights; frozen weights have no average, and are read as they are.

    Raises:
        UserError: the checkpoint holds no such weights, or a part of an adapter only, or is not as it was written.
    """
    return merged_weights(checkpoint.stored("model", ema=ema), checkpoint.configuration())


def _of_run(path: Path) -> Path:
    """The newest checkpoint of a run (or its `last`) if DeepSpeed or Lightning wrote it by itself; else `path`."""
    run = path.parent if path.name == "last" and not path.exists() else path
    ours = latest_checkpoint(run)
    theirs = {
        step_of(place): place
        for place in (run / "checkpoints").glob("step_*")
        if is_zero(place) or (place.is_file() and place.suffix == ".ckpt")
    }
    newest = max(theirs, default=-1)
    return theirs[newest] if newest > (-1 if ours is None else step_of(ours)) else path


def _own(path: Path, ema: bool | None) -> Opened:
    checkpoint = Checkpoint.open(resolve_checkpoint(path))
    has_averaged = checkpoint.has("ema/model.safetensors")
    averaged = has_averaged if ema is None else ema
    name = "ema/model.safetensors" if averaged else "model.safetensors"
    if not checkpoint.has(name):
        hint = "use --raw" if averaged else "it holds no model"
        raise UserError(f"checkpoint {checkpoint.path} holds no {name}: {hint}")
    text = "ema/text_encoder.safetensors" if averaged else "text_encoder.safetensors"
    trained_text = checkpoint.has(text)
    return Opened(
        path=checkpoint.path,
        weights=checkpoint.stored("model", ema=averaged),
        step=checkpoint.step,
        origin=f"a checkpoint of ovi-lab, step {checkpoint.step}, {_kind(averaged)} weights",
        averaged=averaged,
        has_averaged=has_averaged,
        text=checkpoint.stored("text_encoder", ema=averaged) if trained_text else None,
        configuration=checkpoint.configuration(),
        notes=(_NO_TEXT_ENCODER,) if trained_text else (),
    )


def _lightning(path: Path, ema: bool | None) -> Opened:
    content = load_plain(path)
    if "state_dict" not in content and all(isinstance(value, Tensor) for value in content.values()):
        content = {"state_dict": content}
    if "state_dict" not in content:
        raise UserError(f"{path} holds no state_dict: it is no checkpoint of Lightning's, use another")
    raw, average = "state_dict", "ema_state_dict"
    if "current_model_state" in content:  # Lightning's own averaging callbacks swap the two
        raw, average = "current_model_state", "state_dict"
    has_averaged = bool(content.get(average))
    averaged = _choose(path, ema, has_averaged)
    state = {n: Pieces.of(t) for n, t in state_of(content, average if averaged else raw, path).items()}
    step = content.get("global_step")
    step = step if type(step) is int and step >= 0 else None
    origin = f"a Lightning checkpoint, {_at(step)}{_kind(averaged)} weights"
    return _of_trainer(path, PickledTensors(path, state), origin, step, averaged, has_averaged)


def _zero(path: Path, ema: bool | None) -> Opened:
    zero = open_zero(path)
    averaged = _choose(path, ema, zero.averaged is not None)
    state = zero.averaged if averaged and zero.averaged is not None else zero.state
    kind = "averaged weights" if averaged else "raw fp32 master weights" if zero.stage else "raw weights"
    processes = f"{zero.processes} process{'es' if zero.processes > 1 else ''}"
    origin = f"a DeepSpeed checkpoint of ZeRO-{zero.stage}, {processes}, {_at(zero.step)}{kind}"
    stored = PickledTensors(zero.folder, state)
    opened = _of_trainer(path, stored, origin, zero.step, averaged, zero.averaged is not None)
    return replace(opened, notes=(*_lesser(opened.weights, state, zero.stage), *opened.notes))


def _lesser(weights: Stored, state: Mapping[str, Pieces], stage: int) -> list[str]:
    """Notes on weights that the checkpoint holds in less than fp32."""
    names = weights.names.values() if isinstance(weights, Renamed) else weights.tensors
    stored = [state[name].parts[0].dtype for name in names if state[name].parts]
    lesser = [str(dtype).removeprefix("torch.") for dtype in stored if dtype != torch.float32]
    if not lesser:
        return []
    why = "not trained" if stage else "stage 0 keeps its master weights without names"
    return [
        f"The checkpoint keeps {len(lesser)} of {len(stored)} weights in {', '.join(sorted(set(lesser)))} ({why})."
    ]


def _released(path: Path, ema: bool | None) -> Opened:
    if ema:
        raise UserError(f"{path} holds one set of weights, which may be averaged or not: leave out --ema")
    files = TensorFiles.open(path, "model weights")
    return _of_trainer(files.path, files, f"{shown(path.name)}, weights in the released layout")


def _of_trainer(
    path: Path,
    stored: Stored,
    origin: str,
    step: int | None = None,
    averaged: bool = False,
    has_averaged: bool = False,
) -> Opened:
    """The model among the tensors, the text encoder where there is one, and notes on the remaining ones."""
    model, surplus = model_of(stored)
    names = {name.removeprefix(_TEXT): name for name in surplus if name.startswith(_TEXT)}
    notes = [_NO_TEXT_ENCODER] if names else []
    if surplus and not names:
        notes = [f"{len(surplus)} tensors of the checkpoint are not the model's, as {shown(surplus[0])}."]
    text = Renamed(stored, names) if names else None
    return Opened(path, model, step, origin, averaged, has_averaged, text, notes=tuple(notes))


def _choose(path: Path, ema: bool | None, has_averaged: bool) -> bool:
    if ema and not has_averaged:
        raise UserError(f"checkpoint {path} holds no averaged weights: use --raw")
    return has_averaged if ema is None else ema


def _kind(averaged: bool) -> str:
    return "averaged" if averaged else "raw"


def _at(step: int | None) -> str:
    return "" if step is None else f"step {step}, "
