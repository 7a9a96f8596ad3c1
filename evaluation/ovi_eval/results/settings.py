"""The configuration of a run that was trained here, as its config.yaml holds it: by full name, as plain values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ovi_eval.common.places import inside
from ovi_eval.common.plain_data import read_yaml
from ovi_eval.errors import UserError
from ovi_eval.results.files import RunResults
from ovi_eval.results.find_runs import TASKS

TFLOPS = "training_tflops"
"""In a run's results: 10^12 floating point operations of its training, which curves may go over as over a setting."""

WITHOUT_EFFECT = (
    "run_dir",
    "resume",
    "overwrite",
    "trained",
    "data.num_workers",
    "data.root",
    "checkpoint",
    "logger",
    "samples",
    "guard",
    "throughput",
    "val_metrics",
    "preemption",
    "restarts",
    "latent_shapes",
    "chosen",
    "lengthened",
    "strategy",
    "trainer.accelerator",
    "profiler",
    *(
        f"{part}.{key}"
        for part in ("model", "task.model")
        for key in ("compile", "compile_backend", "attention_backend")
    ),
)
"""Settings, and groups of them, that do not change a run's numbers, or say of themselves what they changed."""


def settings_of(run: RunResults) -> dict[str, Any]:
    """Every setting of a run by its full name, as `rope.factor`, and its `training_tflops` where they are known; empty
    where no config.yaml lies with its results.

    Raises UserError for a config.yaml that cannot be read.
    """
    if run.folder is None:
        return {}
    folder = run.folder.parent.parent if run.folder.parent.name == TASKS else run.folder
    file = folder / "config.yaml"
    if not file.is_file() or inside(folder, file) is None:
        return {}
    data = read_yaml(file)
    if not isinstance(data, dict):
        raise UserError(f"{file}: expected the settings of a run")
    known = {TFLOPS: work} if isinstance(work := run.provenance.get(TFLOPS), int | float) else {}
    return {**flat(data), **known}


def flat(config: Mapping[str, Any], left_out: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names, without those whose names, or a group's of theirs, are `left_out`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in left_out:
            continue
        if isinstance(value, Mapping) and value:
            found.update(flat(value, left_out, f"{name}."))
        else:
            found[name] = value
    return found
