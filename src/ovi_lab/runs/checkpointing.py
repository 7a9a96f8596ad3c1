"""`model.activation_checkpointing=auto`: chosen when a run starts, by the plan's numbers and the GPU's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ovi_lab.models.recomputation import AUTO


def choose_checkpointing(config: DictConfig, latent_shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Set `model.activation_checkpointing` and `model.checkpoint_every` where they are left open.

    Args:
        config: of the run; changed in place.
        latent_shapes: of a clip.

    Returns:
        What was chosen and from which numbers, for the run's record; empty where nothing was open. On a CPU everything
        is kept: its memory is that of the machine, and computing is what it lacks.
    """
    if (config.get("model") or {}).get("activation_checkpointing") != AUTO:
        return {}
    import torch

    settings: Any = OmegaConf.to_container(config.trainer, resolve=True)
    on_gpu = str(settings["accelerator"]) in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    found: dict[str, Any] = {"activation_checkpointing": "none", "checkpoint_every": 1}
    if on_gpu:
        from ovi_lab.planning.clip_shape import ClipShape
        from ovi_lab.planning.job import TrainingJob
        from ovi_lab.planning.spare_memory import chosen
        from ovi_lab.planning.training_planner import TrainingPlanner
        from ovi_lab.strategies import process_count

        planner = TrainingPlanner(TrainingJob(config, ClipShape.of_latents(latent_shapes)))
        memory = torch.cuda.mem_get_info()[1]
        gpus = process_count(settings)
        choice, predicted = chosen(planner, gpus, memory)
        found = {
            "activation_checkpointing": choice.checkpointing.choice,
            "checkpoint_every": choice.checkpointing.every,
            "predicted_bytes": predicted.total,
            "gpu_bytes": memory,
            "gpus": gpus,
        }
    for key in ("activation_checkpointing", "checkpoint_every"):
        OmegaConf.update(config, f"model.{key}", found[key])
    return found
