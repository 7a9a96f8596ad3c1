"""Configurations of small runs, and what a run's folder holds, to compare one run with another."""

from __future__ import annotations

import copy
import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.common.paths import config_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig

_SMALL = ("debug=fast", "logger.tensorboard=false", "sampler.steps=2")
_SMALL_EVALUATION = ("evaluation.num_clips=6", "evaluation.num_mp4=1")


def small_config(overrides: Sequence[str], run_dir: Path, data_root: Path) -> DictConfig:
    """The configuration of a small run, composed as the command line does: once for each choice of groups, in which
    values are then set by Hydra's own function."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    small = [
        *_SMALL,
        *(_SMALL_EVALUATION if {"evaluation=ball", "evaluation=mouth"} & set(overrides) else ()),
    ]
    texts = [*overrides, *small, f"run_dir={run_dir}", f"data.root={data_root}"]
    choices = [text for text in texts if (config_dir() / text.partition("=")[0]).is_dir()]
    config = copy.deepcopy(_composed(tuple(choices)))
    values = OverridesParser.create().parse_overrides([text for text in texts if text not in choices])
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


@cache
def _composed(choices: tuple[str, ...]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=[*choices])


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's last checkpoint, by file and name: weights, averages and the optimiser's state."""
    folder = resolve_checkpoint(run)
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.relative_to(folder)}:{k}": v for f in files for k, v in load_file(f).items()}


def weights(run: Path, ema: bool) -> dict[str, torch.Tensor]:
    """All weights of a run's last checkpoint, sharded or not, or their averages."""
    checkpoint = Checkpoint.open(resolve_checkpoint(run))
    parts = ("model", "text_encoder")
    return {f"{part}.{n}": t for part in parts for n, t in checkpoint.weights(part, ema=ema).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are the same to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def logged(run: Path) -> list[dict[str, str]]:
    """The filled cells of a run's log, row by row, less what two runs never share: speed and memory."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in r.items() if v and not k.startswith(("speed/", "memory/"))} for r in rows]


def column(run: Path, name: str) -> dict[int, float]:
    """A column of a run's log, by step."""
    return {int(row["step"]): float(row[name]) for row in logged(run) if name in row}
