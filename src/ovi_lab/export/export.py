"""A checkpoint as weights in the released layout or ComfyUI's, with configuration, card and digests.

model.safetensors (or model-00001-of-0000N.safetensors … and their index), config.json, README.md and
SHA256SUMS, which is written last: a folder without it is not finished.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ovi_eval.common.files import file_sha256, folder_beside
from ovi_eval.common.plain_data import read_json
from ovi_eval.common.unicode_text import read_text
from ovi_lab.checkpoints.configuration import Configuration, check_model
from ovi_lab.checkpoints.opening import Opened, merged_weights, open_weights
from ovi_lab.checkpoints.presets import released_model, released_names
from ovi_lab.common.progress import progress
from ovi_lab.errors import UserError
from ovi_lab.export import TARGETS
from ovi_lab.export.comfyui import comfyui_name, comfyui_obstacles
from ovi_lab.export.model_card import model_card, results_of
from ovi_lab.models import TwinDiT
from ovi_lab.weights.fit import finite
from ovi_lab.weights.tensor_files import DTYPES, Stored, StoredTensor, dtype_word
from ovi_lab.weights.writing import save_file

FORMAT = "ovi_lab.export/1"
SUMS = "SHA256SUMS"
_LEARNED_SCALE = "audio_model.rope_scale"


@dataclass(frozen=True)
class Export:
    """The files written, and notes for their user."""

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]


def export_run(
    source: str | Path,
    out: str | Path,
    *,
    target: str = "ovi",
    ema: bool | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | None = None,
    overwrite: bool = False,
    config: str | Path | None = None,
) -> Export:
    """Write a checkpoint's model in the released layout.

    Args:
        source: a run, its `last`, or a checkpoint: a folder of ours or of DeepSpeed's, a Lightning .ckpt, …
            (see `open_weights`).
        out: the .safetensors file to write, the other files beside it; or a folder for model.safetensors.
        target: `ovi`, the names of the released file; `comfyui`, those of ComfyUI's loader.
        ema: averaged weights, or raw; None takes averaged ones where there are some.
        dtype: type of the floating-point tensors; None keeps the checkpoint's.
        max_shard_size: bytes a file may hold; None writes one file, as the released models have.
        overwrite: replace an earlier export there. Files of anything else are never replaced.
        config: the configuration of a checkpoint without one: the run's (a YAML file with `model:`), or a released
            model's name. None looks for config.yaml beside the checkpoint and in the two folders above.

    Raises:
        UserError: no such checkpoint, damaged, not a TwinDiT, the place cannot be written, or the run's results.json
            cannot be read.
    """
    if target not in TARGETS:
        raise UserError(f"--to is {target!r}; expected {' or '.join(TARGETS)}")
    if target == "comfyui" and max_shard_size is not None:
        raise UserError("ComfyUI reads no shards: leave out --max-shard-size")
    opened = open_weights(source, ema)
    if opened.configuration is not None and config is not None:
        raise UserError(
            f"--config is for checkpoints of other trainers; {source} brings its own configuration"
        )
    configuration = opened.configuration or _configuration(opened.weights.path, config)
    weights = merged_weights(opened.weights, configuration)
    settings, held, notes = _as_released(configuration.model(), weights)
    check_model(settings, held, str(weights.path))
    with torch.device("meta"):
        model = TwinDiT(**settings)
    if target == "comfyui":
        obstacles = comfyui_obstacles(model.settings)
        notes = [f"ComfyUI's loader expects otherwise: {'; '.join(obstacles)}."] if obstacles else []

    out = Path(out)
    file = out if out.suffix == ".safetensors" else out / "model.safetensors"
    shards = _shards(file.stem, held, dtype, max_shard_size)
    index = f"{file.stem}.safetensors.index.json"
    names = [*([index] if len(shards) > 1 else []), *shards, "config.json", "README.md"]
    _check_place(file.parent, [*names, SUMS], overwrite)

    notes += opened.notes
    if (configuration.plain.get("text") or {}).get("reads"):
        notes.append(
            "Each tower was trained on its part of the prompt (text.reads); the reference code gives both all of it."
        )
    results, reason = results_of(opened.path, opened.step)
    notes += _notes_on_scores(results is not None, reason, opened, dtype)
    shapes = configuration.latent_shapes()
    stored = sorted({_word(tensor, dtype) for tensor in held.values()})
    facts = {
        "format": FORMAT,
        "layout": target,
        "architecture": "TwinDiT",
        "ovi_lab": version("ovi-lab"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": ", ".join(stored),
        "weights": "ema" if opened.averaged else "raw",
        "source": opened.origin,
        "step": opened.step,
        "config_hash": results.config_hash if results is not None else None,
        "latent_shapes": None if shapes is None else {m: list(shape) for m, shape in shapes.items()},
        "model": model.settings,
    }
    title = str(configuration.plain.get("arm_name") or configuration.plain.get("name") or file.stem)
    card = model_card(title, facts, configuration.plain, results, notes, names)
    rename = comfyui_name if target == "comfyui" else str
    with _placed(file.parent, names) as folder:
        for name, tensors in progress(shards.items(), "writing", len(shards), shown=len(shards) > 1):
            listing = {rename(n): (_word(held[n], dtype), held[n].shape) for n in tensors}
            values = ((rename(n), finite(n, t, str(weights.path))) for n, t in weights.stream(tensors))
            save_file(folder / name, listing, ((n, t if dtype is None else t.to(dtype)) for n, t in values))
        if len(shards) > 1:
            size = sum((folder / name).stat().st_size for name in shards)
            places = {rename(tensor): name for name, tensors in shards.items() for tensor in tensors}
            content = {"metadata": {"total_size": size}, "weight_map": places}
            (folder / index).write_text(json.dumps(content, indent=1) + "\n")
        (folder / "config.json").write_text(json.dumps(facts, indent=1) + "\n")
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Export(file.parent, (*names, SUMS), tuple(notes))


def _configuration(checkpoint: Path, given: str | Path | None) -> Configuration:
    """The configuration of a checkpoint that brings none. Raises UserError where there is none."""
    if given is not None:
        name = str(given)
        if name in released_names():
            return Configuration(name, {"name": name, "model": released_model(name).model})
        return Configuration.read(given)
    # the run's folder holds it: <run>/checkpoints/<checkpoint>[/<tag>]
    resolved = checkpoint.resolve()
    for folder in (resolved, *list(resolved.parents)[:3]):
        if (folder / "config.yaml").is_file():
            return Configuration.read(folder / "config.yaml")
    raise UserError(
        f"no config.yaml beside {checkpoint} or above it: name the run's with --config, or a released model "
        f"({', '.join(released_names())})"
    )


def _as_released(
    model: Mapping[str, Any], weights: Stored
) -> tuple[dict[str, Any], dict[str, StoredTensor], list[str]]:
    """Arguments of TwinDiT, the tensors to write, and what the reference code does not support."""
    settings = dict(model)
    held, notes = dict(weights.tensors), []
    if "patch_embedding.weight" in held:
        raise UserError(
            f"{weights.path} is one bare tower, which init_from.video takes: export the run that was trained from it"
        )
    for tower in ("video", "audio"):
        if not any(name.startswith(f"{tower}_model.") for name in held):
            settings[tower], settings["fusion"] = None, {"direction": "none"}
            notes.append(f"There is no {tower} tower.")
    fusion, rope, audio = (
        settings.get("fusion") or {},
        dict(settings.get("rope") or {}),
        settings.get("audio") or {},
    )
    if _LEARNED_SCALE in held:
        del held[_LEARNED_SCALE]
        ((_, scale),) = weights.stream([_LEARNED_SCALE])
        if scale.numel() != 1 or not bool(scale.isfinite().all()):
            raise UserError(f"{weights.path} holds {_LEARNED_SCALE} with other than one number: use another")
        rope |= {"mode": "constant", "factor": float(scale)}
        settings["rope"] = rope
        notes.append(
            f"The trained audio RoPE scale is written as the constant {float(scale):.6g} in config.json."
        )
    if rope.get("mode") == "clip_ratio":
        notes.append(
            "Audio positions follow each clip's own ratio of latents, which the reference code cannot."
        )
    if rope.get("video_factor", 1.0) != 1.0:
        notes.append("Video positions are scaled, which the reference code cannot.")
    both = settings["video"] is not None and settings["audio"] is not None
    if both and (fusion.get("direction", "bidirectional"), fusion.get("blocks", "all")) != (
        "bidirectional",
        "all",
    ):
        notes.append("The towers do not read each other in every block, which the reference code expects.")
    if audio.get("patch_kernel_size", 7) != 7 or audio.get("patch_hidden_dim") is not None:
        notes.append("The audio patch embedding is not the released one, which the reference code expects.")
    return settings, held, notes


def _notes_on_scores(
    scored: bool, reason: str | None, source: Opened, dtype: torch.dtype | None
) -> list[str]:
    if not scored:
        return [reason] if reason else []
    notes = []
    if not source.averaged and source.has_averaged:
        notes.append("The metrics were measured with the averaged weights; these are the raw ones.")
    if dtype == torch.bfloat16:
        notes.append("The metrics were measured before the weights were rounded to bf16.")
    return notes


def _word(tensor: StoredTensor, dtype: torch.dtype | None) -> str:
    return tensor.dtype if dtype is None else dtype_word(dtype)


def _shards(
    stem: str, held: dict[str, StoredTensor], dtype: torch.dtype | None, limit: int | None
) -> dict[str, list[str]]:
    """Tensor names by file, in the model's order; a tensor above the limit has a file of its own."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, tensor in held.items():
        size = DTYPES[_word(tensor, dtype)].itemsize * math.prod(tensor.shape)
        if limit is not None and groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {f"{stem}.safetensors": groups[0]}
    return {f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def _check_place(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    taken = [name for name in names if (folder / name).exists()]
    if not taken:
        return
    if not _is_export(folder):
        raise UserError(
            f"{folder / taken[0]} exists and is no earlier export: choose an empty folder, such as --out export"
        )
    if not overwrite:
        raise UserError(
            f"{folder / taken[0]} exists: --overwrite replaces that export, or choose another --out"
        )


def _is_export(folder: Path) -> bool:
    try:
        content = read_json(folder / "config.json")
    except UserError:
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


@contextmanager
def _placed(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder; where the block ends well, its files take their places in `folder`, the sums last.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    made = not folder.exists()
    try:
        with folder_beside(folder / "export") as temporary:
            yield temporary
            sums = "".join(f"{file_sha256(temporary / name)}  {name}\n" for name in names)
            (temporary / SUMS).write_text(sums)
            outdated = _listed(folder / SUMS) - set(names)
            (folder / SUMS).unlink(missing_ok=True)
            for name in names:
                (temporary / name).replace(folder / name)
            for name in outdated:
                (folder / name).unlink(missing_ok=True)
            (temporary / SUMS).replace(folder / SUMS)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error}): free space or choose another --out"
        ) from error
    finally:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _listed(sums: Path) -> set[str]:
    """Weights of an earlier export, which must not remain beside the new ones."""
    if not sums.is_file():
        return set()
    names = {line.partition("  ")[2] for line in read_text(sums).splitlines()}
    return {n for n in names if Path(n).name == n and n.endswith((".safetensors", ".safetensors.index.json"))}
