"""A callback that records which parameters are whole between the passes of a sharded run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor

from ovi_lab.tasks.task import steps_now


class Gathering(Callback):
    """Writes `<run>/gathered.json`: the share of the matrices of each tower's blocks that are whole on this process.

    `within` a step after its first micro-batch, and `after` it; and whether a `second` copy is kept (hpZ).
    """

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        when = "after" if steps_now(trainer) else "within"
        every = [(n, p) for n, p in pl_module.named_parameters() if ".blocks." in n]
        named = [(n, p) for n, p in every if len(getattr(p, "ds_shape", p.shape)) == 2]
        for tower in ("video", "audio"):
            held = [_whole(p) for n, p in named if f"{tower}_model." in n]
            self.seen[f"{when}_{tower}"] = sum(held) / max(1, len(held))
        self.seen["second"] = any(getattr(p, "ds_secondary_tensor", None) is not None for _, p in named)
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "gathered.json").write_text(json.dumps(self.seen))


def _whole(parameter: Any) -> bool:
    if hasattr(parameter, "ds_numel"):
        return bool(parameter.data.numel() == parameter.ds_numel)
    return not isinstance(parameter, DTensor)
