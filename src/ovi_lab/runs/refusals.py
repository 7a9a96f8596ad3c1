"""What cannot be trained on this machine, refused before anything is written, read or built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ovi_lab.common.building import build
from ovi_lab.common.settings import EXAMPLES
from ovi_lab.common.sizes import gib
from ovi_lab.errors import UserError


def refuse_what_cannot_run(config: DictConfig) -> Any:
    """Build the model's shapes, without its values, and hold them against the clips and this machine.

    Returns:
        The data module, which has made and read nothing yet; None where the run has no data.

    Raises:
        UserError: a model that cannot be, clips that it does not take, a GPU that is not there, or a model that the
            memory does not hold.
    """
    check_devices(config)
    data = build(config.data, "data") if "_target_" in config.data else None
    if "_target_" in (config.get("model") or {}):
        _refuse_model(config, data)
    return data


def _refuse_model(config: DictConfig, data: Any) -> None:
    """Raises UserError for a model that cannot be, or does not take the clips of a data module."""
    import torch
    from hydra.utils import get_class

    from ovi_lab.models.embeddings import check_clip

    try:
        task: Any = get_class(config.task._target_)
    except Exception:  # `build` says what is wrong with a target
        return
    if not getattr(task, "modalities", ()):
        return
    if data is None:
        raise UserError(
            "data=none leaves this task without clips: choose data=bouncing_ball, data=shards data.train=… or "
            "data=latents data.shards=…"
        )
    with torch.device("meta"):
        model = build(config.model, "model")(**task.model_settings())
    lacking = [m for m in task.modalities if m not in model.tower_configs]
    if lacking:
        raise UserError(
            f"this task trains {' and '.join(task.modalities)}, and model.{lacking[0]} is null: use "
            "task=video_pretraining or task=audio_pretraining for one tower"
        )
    weights: Any = config.task.get("loss_weights")
    if weights is not None and not any(weights.get(m) for m in task.modalities):
        raise UserError(
            f"no loss has a weight, so that nothing would be trained: give loss.{task.modalities[0]}=1"
        )
    if not _on_gpu(config):  # GPUs are measured once the clips' shapes are known
        _refuse_memory(config, model)
    for shapes in data.known_shapes() if hasattr(data, "known_shapes") else ():
        for modality in (m for m in task.modalities if m in shapes):
            check_clip(shapes[modality], model.tower_configs[modality])


_NEEDS = {
    "first_frame": ("video",),
    **dict.fromkeys(("video_given", "audio_given", "video_alone", "audio_alone"), ("video", "audio")),
}
"""The modalities that a clip must have for a role."""


def refuse_clips_without_use(task: Any, data: Any) -> None:
    """Raises UserError for clips of which the task trains nothing, and for roles that no training clip can have.

    Args:
        task: what is trained.
        data: the data module, set up.
    """
    from ovi_lab.flow import Roles

    if not hasattr(data, "train_dataset") or not getattr(task, "modalities", ()):
        return
    kinds = data.train_dataset.shapes.kinds
    trained = tuple(task.modalities)
    for kind in kinds:
        if not set(kind) & set(trained):
            raise UserError(
                f"this task trains {' and '.join(trained)}, and some training clips have {' and '.join(kind)} alone: "
                f"set data.modalities=[{','.join(trained)}], so that they are left out"
            )
    roles: Any = getattr(task, "roles", Roles())
    for role in roles.names:
        needed = set(_NEEDS.get(role, ()))
        if needed <= set(trained) and not any(needed <= set(kind) for kind in kinds):
            raise UserError(
                f"roles.{role} is {roles.shares[role]:g}, and no training clip has {' and '.join(_NEEDS[role])}: add "
                f"such clips, or set roles.{role}=0"
            )


def _refuse_memory(config: DictConfig, model: Any) -> None:
    """Raises UserError where this machine's memory does not hold the model in training."""
    from ovi_lab.optim.freezing import FreezeRule

    freeze: Any = config.get("freeze") or {}
    trained, total = FreezeRule(**{k: list(v) for k, v in freeze.items()}).apply(model)
    if config.get("adapter") and not any((config.get("init_from") or {}).values()):
        raise UserError(
            "init_from is not given, and an adapter needs the weights that it adapts: give "
            f"{EXAMPLES['init_from.all']}"
        )
    weight = 4
    if config.get("adapter"):  # a few parameters are trained, beside a frozen model
        trained, weight = 0, 4 if config.adapter.base_dtype in (None, "float32") else 2
    needed = least_bytes(total, trained, bool(config.ema.decay), weight) * _copies(config)
    check_memory(needed, free_memory(), total)


def check_devices(config: DictConfig) -> None:
    """Raises UserError where the trainer or the precision wants a GPU, and there is none."""
    import torch

    precision, wants = str(config.trainer.precision), _on_gpu(config)
    if wants and config.trainer.accelerator != "auto" and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator is {config.trainer.accelerator}, and torch finds no GPU here: use trainer=cpu "
            "(ovi-doctor shows what there is; ovi-plan what the run takes on a GPU)"
        )
    if not wants and precision in ("16", "16-mixed", "16-true", "transformer-engine"):
        raise UserError(
            f"trainer.precision is {precision}, which needs a GPU: use trainer=cpu with "
            "trainer.precision=32-true, or bf16-mixed"
        )


def _on_gpu(config: DictConfig) -> bool:
    import torch

    name = str(config.trainer.accelerator)
    return name in ("gpu", "cuda") or (name == "auto" and torch.cuda.is_available())


def _copies(config: DictConfig) -> int:
    """Processes of this machine that hold the whole model; sharded ones hold one together."""
    if config.strategy.name in ("zero", "fsdp2"):
        return 1
    devices = config.trainer.devices
    return int(devices) if isinstance(devices, int) or str(devices).isdigit() else 1


def least_bytes(total: int, trained: int, averaged: bool, weight: int = 4) -> int:
    """Bytes that parameters, gradients, Adam's moments and averages take on a CPU; clips come on top.

    Args:
        total: parameters.
        trained: those of them that get gradients.
        averaged: whether a second copy of the trained ones holds their average.
        weight: bytes of each parameter as it is stored.
    """
    gradient, moments, average = 4, 8, 4 * averaged
    return weight * total + (gradient + moments + average) * trained


def check_memory(needed: int, free: int | None, parameters: int) -> None:
    """Raises UserError where `needed` bytes are more than are free; what is not known refuses nothing."""
    if free is not None and needed > free:
        raise UserError(
            f"a model of {parameters / 1e9:.1f} billion parameters needs {gib(needed)} of memory and more for its "
            f"clips, and {gib(free)} are free here: use model=small, or a GPU (ovi-plan shows which)"
        )


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that new memory may take, by the kernel and the container's limit; None where neither says.

    Args:
        root: where proc and sys are.
    """
    found: list[int] = []
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = {name: words for name, _, words in (line.partition(":") for line in lines)}
        found.append(sum(int(fields[n].split()[0]) * 1024 for n in ("MemAvailable", "SwapFree")))
    except (OSError, KeyError, ValueError, IndexError):
        pass
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        group = root / "sys/fs/cgroup"
        try:
            most = int((group / limit).read_text())
            stat = (group / limit).with_name("memory.stat").read_text().split()
            # files that the kernel keeps in memory are counted as used, and given up first
            cached = int(dict(zip(stat[::2], stat[1::2], strict=True)).get("inactive_file", 0))
            found.append(max(0, most - int((group / used).read_text()) + cached))
        except (OSError, ValueError):  # "max": there is no limit
            continue
    return min(found, default=None)
