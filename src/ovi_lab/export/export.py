"""A checkpoint as weights in the released layout or ComfyUI's, with configuration, card and digests.

model.safetensors (or model-00001-of-0000N.safetensors … and their index), config.json, README.md and
SHA256SUMS, which is written last: a folder without it is not finished.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_eval.common.files import file_sha256, folder_beside
from ovi_eval.common.plain_data import read_json
from ovi_eval.common.unicode_text import read_text
from ovi_lab.checkpoints.configuration import check_model
from ovi_lab.checkpoints.opening import Opened
from ovi_lab.checkpoints.reading import merged_weights
from ovi_lab.errors import UserError
from ovi_lab.export import TARGETS
from ovi_lab.export.comfyui import comfyui_name, comfyui_obstacles
from ovi_lab.export.model_card import model_card, results_of
from ovi_lab.export.sources import open_source
from ovi_lab.models import TwinDiT
from ovi_lab.weights.fit import finite
from ovi_lab.weights.tensor_files import Stored, StoredTensor
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
            (see `open_source`).
        out: the .safetensors file to write, the other files beside it; or a folder for model.safetensors.
        target: `ovi`, the names of the released file; `comfyui`, those of ComfyUI's loader.
        ema: averaged weights, or raw; None takes averaged ones where there are some.
        dtype: type of the floating-point tensors; None keeps the checkpoint's.
        max_shard_size: bytes a file may hold; None writes one file, as the released models have.
        overwrite: replace an earlier export there. Files of anything else are never replaced.
        config: the configuration of a checkpoint without one: the run's config.yaml, or a released model's name.

    Raises:
        UserError: no such checkpoint, damaged, not a TwinDiT, the place cannot be written, or the run's results.json
            cannot be read.
    """
    if target not in TARGETS:
        raise UserError(f"--to is {target!r}; expected {' or '.join(TARGETS)}")
    if target == "comfyui" and max_shard_size is not None:
        raise UserError("ComfyUI reads no shards: leave out --max-shard-size")
    found = open_source(source, ema, config)
    opened, configuration = found.opened, found.configuration
    weights = merged_weights(opened.weights, configuration)
    settings, held, notes = _as_released(found.model, weights)
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
    try:
        _write(
            file.parent, weights, held, shards, dtype, rename, index, json.dumps(facts, indent=1) + "\n", card
        )
    except OSError as error:
        raise UserError(
            f"{file.parent} cannot be written ({error}): free space or choose another --out"
        ) from error
    return Export(file.parent, (*names, SUMS), tuple(notes))


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
    words = {torch.bfloat16: "BF16", torch.float32: "F32"}
    return tensor.dtype if dtype is None else words[dtype]


def _converted(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None else tensor.to(dtype)


def _shards(
    stem: str, held: dict[str, StoredTensor], dtype: torch.dtype | None, limit: int | None
) -> dict[str, list[str]]:
    """Tensor names by file, in the model's order; a tensor above the limit has a file of its own."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, tensor in held.items():
        bits = int(re.findall(r"\d+", _word(tensor, dtype))[0])
        size = bits // 8 * torch.Size(tensor.shape).numel()
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


def _write(
    folder: Path,
    weights: Stored,
    held: dict[str, StoredTensor],
    shards: dict[str, list[str]],
    dtype: torch.dtype | None,
    rename: Callable[[str], str],
    index: str,
    config: str,
    card: str,
) -> None:
    """All files under a temporary name first; then each takes its place, the sums last."""
    from ovi_lab.common.progress import progress

    source = str(weights.path)
    made = not folder.exists()
    try:
        with folder_beside(folder / "export") as temporary:
            for name, tensors in progress(shards.items(), "writing", len(shards), shown=len(shards) > 1):
                listing = {n: (_word(held[n], dtype), held[n].shape) for n in tensors}
                save_file(
                    temporary / name,
                    {rename(n): entry for n, entry in listing.items()},
                    (
                        (rename(n), _converted(finite(n, t, source), dtype))
                        for n, t in weights.stream(tensors)
                    ),
                )
            written = [*shards, "config.json", "README.md"]
            if len(shards) > 1:
                size = sum((temporary / name).stat().st_size for name in shards)
                places = {rename(tensor): name for name, tensors in shards.items() for tensor in tensors}
                (temporary / index).write_text(
                    json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=1) + "\n"
                )
                written.insert(0, index)
            (temporary / "config.json").write_text(config)
            (temporary / "README.md").write_text(card, encoding="utf-8")
            sums = {name: file_sha256(temporary / name) for name in written}
            (temporary / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
            outdated = _listed(folder / SUMS) - set(written)
            (folder / SUMS).unlink(missing_ok=True)
            for name in written:
                (temporary / name).replace(folder / name)
            for name in outdated:
                (folder / name).unlink(missing_ok=True)
            (temporary / SUMS).replace(folder / SUMS)
    finally:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _listed(sums: Path) -> set[str]:
    """Weights of an earlier export, which must not remain beside the new ones."""
    if not sums.is_file():
        return set()
    names = {line.partition("  ")[2] for line in read_text(sums).splitlines()}
    return {n for n in names if Path(n).name == n and n.endswith((".safetensors", ".safetensors.index.json"))}
