"""What can be exported: our checkpoints, Lightning's files, DeepSpeed's folders, weights in the released layout."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ovi_lab.checkpoints.folder import Checkpoint, latest_checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.pickled import PickledTensors, Pieces, load_plain, model_tensors, state_of
from ovi_lab.checkpoints.released import released_model, released_names
from ovi_lab.checkpoints.tensor_files import INDEX_SUFFIX, Stored, TensorFiles
from ovi_lab.checkpoints.zero import is_zero, open_zero
from ovi_lab.errors import UserError

_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_CONFIG = "config.yaml"
_STEP = re.compile(r"step_(\d+)(\.ckpt)?$")
_NO_TEXT_ENCODER = (
    "The trained text encoder stays in the checkpoint: the released layout has the towers only."
)


@dataclass(frozen=True)
class Source:
    """A checkpoint, opened: everything of it that an export tells."""

    path: Path
    """The checkpoint itself, as it lies in its run."""
    weights: Stored
    config: dict[str, Any]
    """The run's whole configuration; at least its `model`."""
    step: int | None
    origin: str
    """What the weights are, in words."""
    averaged: bool
    has_averaged: bool
    notes: tuple[str, ...] = field(default=())


def open_source(path: str | Path, ema: bool | None = None, config: str | Path | None = None) -> Source:
    """Find out what `path` is, and open it.

    Args:
        path: a run or its `last` (the newest of its checkpoints/step_*); a checkpoint folder of ours or of
            DeepSpeed's; a Lightning .ckpt or another file of torch.save with a state dict; a .safetensors file
            in the released layout.
        ema: averaged weights, or raw; None takes averaged ones where there are some.
        config: the run's configuration (a YAML file with `model:`), or a released model's name. None looks for
            config.yaml beside the checkpoint and in the two folders above. Our own checkpoints bring theirs.

    Raises:
        UserError: nothing there, not whole, holding code, of another model, or without a configuration.
    """
    path = _of_run(Path(path))
    if path.is_file() and path.suffix in _PICKLED:
        return _lightning(path, ema, config)
    if path.is_file() and path.name.endswith((".safetensors", INDEX_SUFFIX)):
        return _released(path, ema, config)
    if is_zero(path):
        return _zero(path, ema, config)
    if path.is_file():
        raise UserError(
            f"{path} is no checkpoint: name a folder, or a file ending in .ckpt, .pt or .safetensors"
        )
    if config is not None:
        raise UserError(f"--config is for checkpoints of other trainers; {path} brings its own configuration")
    return _own(path, ema)


def _of_run(path: Path) -> Path:
    """The newest checkpoint of a run (or its `last`) if DeepSpeed or Lightning wrote it by itself; else `path`."""
    run = path.parent if path.name == "last" and not path.exists() else path
    theirs = {
        int(match[1]): place
        for place in (run / "checkpoints").glob("step_*")
        if (match := _STEP.search(place.name)) and (is_zero(place) or (place.is_file() and match[2]))
    }
    ours = latest_checkpoint(run)
    match = _STEP.search(ours.name) if ours is not None else None
    newest = max(theirs, default=-1)
    return theirs[newest] if newest > (int(match[1]) if match else -1) else path


def _own(path: Path, ema: bool | None) -> Source:
    checkpoint = Checkpoint.open(resolve_checkpoint(path))
    has_averaged = checkpoint.has("ema/model.safetensors")
    averaged = has_averaged if ema is None else ema
    name = "ema/model.safetensors" if averaged else "model.safetensors"
    if not checkpoint.has(name):
        hint = "use --raw" if averaged else "it holds no model"
        raise UserError(f"checkpoint {checkpoint.path} holds no {name}: {hint}")
    needed = [n for n in checkpoint.files if n == name or n.startswith("shards/")]
    checkpoint.verify(needed)
    return Source(
        path=checkpoint.path,
        weights=checkpoint.stored("model", ema=averaged),
        config=_configuration(checkpoint.path / _CONFIG),
        step=checkpoint.step,
        origin=f"a checkpoint of ovi-lab, step {checkpoint.step}, {_kind(averaged)} weights",
        averaged=averaged,
        has_averaged=has_averaged,
        notes=(_NO_TEXT_ENCODER,) if checkpoint.has("text_encoder.safetensors") else (),
    )


def _lightning(path: Path, ema: bool | None, config: str | Path | None) -> Source:
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
    weights, others = model_tensors(state, path)
    step = content.get("global_step")
    step = step if isinstance(step, int) else None
    return Source(
        path=path,
        weights=weights,
        config=_configuration(_find_config(path, config)),
        step=step,
        origin=f"a Lightning checkpoint, {_at(step)}{_kind(averaged)} weights",
        averaged=averaged,
        has_averaged=has_averaged,
        notes=_left_out(others),
    )


def _zero(path: Path, ema: bool | None, config: str | Path | None) -> Source:
    zero = open_zero(path)
    averaged = _choose(path, ema, zero.averaged is not None)
    state = zero.averaged if averaged and zero.averaged is not None else zero.state
    weights, others = model_tensors(state, zero.folder)
    kind = "averaged weights" if averaged else "raw fp32 master weights" if zero.stage else "raw weights"
    processes = f"{zero.processes} process{'es' if zero.processes > 1 else ''}"
    return Source(
        path=path,
        weights=weights,
        config=_configuration(_find_config(zero.folder, config)),
        step=zero.step,
        origin=f"a DeepSpeed checkpoint of ZeRO-{zero.stage}, {processes}, {_at(zero.step)}{kind}",
        averaged=averaged,
        has_averaged=zero.averaged is not None,
        notes=(*_lesser(weights, zero.stage), *_left_out(others)),
    )


def _lesser(weights: PickledTensors, stage: int) -> list[str]:
    """Weights that were never in fp32 are no worse for being written so, but their user should know."""
    stored = [piece.parts[0].dtype for piece in weights.pieces.values() if piece.parts]
    lesser = [str(dtype).removeprefix("torch.") for dtype in stored if dtype != torch.float32]
    if not lesser:
        return []
    why = "not trained" if stage else "stage 0 keeps its master weights without names"
    return [
        f"The checkpoint keeps {len(lesser)} of {len(stored)} weights in {', '.join(sorted(set(lesser)))} ({why})."
    ]


def _released(path: Path, ema: bool | None, config: str | Path | None) -> Source:
    if ema:
        raise UserError(f"{path} holds one set of weights, which may be averaged or not: leave out --ema")
    return Source(
        path=path,
        weights=TensorFiles.open(path, "model weights"),
        config=_configuration(_find_config(path, config)),
        step=None,
        origin=f"{path.name}, weights in the released layout",
        averaged=False,
        has_averaged=False,
    )


def _choose(path: Path, ema: bool | None, has_averaged: bool) -> bool:
    if ema and not has_averaged:
        raise UserError(f"checkpoint {path} holds no averaged weights: use --raw")
    return has_averaged if ema is None else ema


def _kind(averaged: bool) -> str:
    return "averaged" if averaged else "raw"


def _at(step: int | None) -> str:
    return "" if step is None else f"step {step}, "


def _left_out(others: list[str]) -> tuple[str, ...]:
    if any(name.partition(".")[0] == "text_encoder" for name in others):
        return (_NO_TEXT_ENCODER,)
    return (
        (f"{len(others)} tensors of the checkpoint are not the model's, as {others[0]}.",) if others else ()
    )


def _find_config(checkpoint: Path, given: str | Path | None) -> Path | str:
    if given is not None:
        return str(given) if str(given) in released_names() else Path(given)
    # the run's folder holds it: <run>/checkpoints/<checkpoint>[/<tag>]
    resolved = checkpoint.resolve()
    for folder in (resolved, *list(resolved.parents)[:3]):
        if (folder / _CONFIG).is_file():
            return folder / _CONFIG
    raise UserError(
        f"no {_CONFIG} beside {checkpoint} or above it: name the run's with --config, or a released model "
        f"({', '.join(released_names())})"
    )


def _configuration(source: Path | str) -> dict[str, Any]:
    if isinstance(source, str):
        return {"name": source, "model": released_model(source).model_config}
    try:
        loaded = OmegaConf.load(source)
        config = OmegaConf.to_container(loaded, resolve=True) if isinstance(loaded, DictConfig) else None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{source} cannot be read as a configuration ({reason}): give the run's") from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{source} configures no model: use another checkpoint, or the run's own config.yaml")
    return {str(key): value for key, value in config.items()}
