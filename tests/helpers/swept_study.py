"""Run folders of a made-up sweep: results with the configuration of each run beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from helpers.eval_study import run
from ovi_eval.results.files import MetricValue

FACTORS = (0.05, 0.1, 0.2, 0.4, 0.8)


def write_point(
    root: Path, name: str, seed: int, value: float, settings: Mapping[str, Any], **fields: Any
) -> Path:
    """A run of one metric without values per clip."""
    folder = root / name / f"seed_{seed}"
    folder.mkdir(parents=True)
    nested: dict[str, Any] = {"seed": seed, "arm_name": name, "data": {"num_train": 32, "seed": seed}}
    for key, setting in settings.items():
        *groups, last = key.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = setting
    (folder / "config.yaml").write_text(yaml.safe_dump(nested))
    metrics = {"m/score": MetricValue(value, 40, "higher")}
    run(name, seed, **{"clips": (), "losses": {}, "metrics": metrics, **fields}).write(folder)
    return folder


def write_curve(
    root: Path, factors: Sequence[float] = FACTORS, seeds: Sequence[int] = (0, 1, 2), direction: str = "both"
) -> Path:
    """A sweep over rope.factor, highest at 0.2; each seed has an offset of its own."""
    for factor in factors:
        for seed in seeds:
            noise = np.random.default_rng([seed, round(1000 * factor)]).normal(0, 0.004)
            value = 0.9 - 0.1 * abs(np.log2(factor / 0.2)) + 0.01 * seed + noise
            settings = {
                "rope.factor": factor,
                "model.rope.factor": factor,
                "fusion.direction": direction,
                "fusion.blocks": "all",
            }
            write_point(root, f"{direction},rope.factor={factor:g}", seed, float(value), settings)
    return root
