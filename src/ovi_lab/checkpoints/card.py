"""The model card of exported weights: what they are, what they were trained on, what they scored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from ovi_eval.results import MetricValue, RunResults, read

# Where a run was made and how fast it read says nothing of its model.
_NOT_TOLD = ("root", "num_workers", "quiet")
_LAYOUTS = {"ovi": "the released Ovi layout", "comfyui": "the layout of ComfyUI's Ovi loader"}
_BETTER = {"higher": "higher", "lower": "lower", "closer_to_reference": "closer to the reference row"}


def results_of(checkpoint: Path, step: int | None) -> tuple[RunResults | None, str | None]:
    """The scores of a checkpoint's run, or why there are none to tell.

    Args:
        checkpoint: its folder or file, as in `<run>/checkpoints/<checkpoint>`.
        step: of its weights; None where it does not say.

    Raises:
        EvalError: results.json is there and cannot be read.
    """
    if checkpoint.parent.name != "checkpoints":
        return None, "The checkpoint was not exported from its run's folder, so no scores are known."
    run = checkpoint.parent.parent
    if not (run / "results.json").is_file():
        return None, "The run was not evaluated."
    done = run / "done.json"
    steps = json.loads(done.read_text()).get("steps") if done.is_file() else None
    if steps is None or steps != step:
        at = "another step" if steps is None else f"step {steps}"
        return None, f"The run was evaluated at {at}; these weights are of step {step}."
    return read(run), None


def model_card(
    title: str,
    facts: Mapping[str, Any],
    config: Mapping[str, Any],
    results: RunResults | None,
    notes: Sequence[str],
    files: Sequence[str],
) -> str:
    """The card as Markdown with the front matter that model hubs read.

    Args:
        title: name of the model.
        facts: what config.json holds.
        config: the run's whole configuration.
        results: scores of these weights, where there are some.
        notes: what a reader must know besides.
        files: the exported files' names.
    """
    task = config.get("task") or {}
    training = {
        "weights taken from": facts["source"],
        "task": str(task.get("_target_", "")).rpartition(".")[2],
        "steps": facts["step"],
        "seed": config.get("seed"),
        "weights": "averaged over training (EMA)" if facts["weights"] == "ema" else "raw, not averaged",
        "started from": _started_from(config["init_from"] or {}) if "init_from" in config else None,
        "text encoder": _named(config.get("text") or {}),
        "optimiser": _named(config.get("optim") or {}),
        "schedule": config.get("schedule"),
        "loss weights": config.get("loss"),
        "timesteps": _named(config.get("timesteps") or {}),
        "frozen": config.get("freeze"),
        "latent shapes": facts["latent_shapes"],
        "configuration hash": facts["config_hash"],
    }
    parts = [
        "---\nlibrary_name: ovi-lab\ntags:\n- video-generation\n- audio-generation\n---",
        f"# {title}",
        f"A twin diffusion transformer in {_LAYOUTS[facts['layout']]}: {facts['parameters']:,} parameters, "
        f"{facts['dtype']}. Written by ovi-export of ovi-lab {facts['ovi_lab']}.",
        *(["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []),
        "## Data",
        _listed(_plain_data(config.get("data") or {})) or _no_data(config),
        "## Training",
        _listed(training),
        "## Configuration",
        f"```yaml\n{yaml.safe_dump(facts['model'], sort_keys=False).strip()}\n```",
        "## Metrics",
        _metrics(results) if results is not None else "None; see the notes.",
        "## Use",
        _usage(next(name for name in files if name.endswith((".safetensors", ".json"))), facts["layout"]),
        "## Files",
        "\n".join(f"- {name}" for name in files) + "\n\n`sha256sum -c SHA256SUMS` checks them.",
    ]
    return "\n\n".join(parts) + "\n"


def _listed(values: Mapping[str, Any]) -> str:
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {_without_folder(v)}" for k, v in value.items() if v not in (None, []))
        if value not in (None, ""):
            lines.append(f"- {key}: {value}")
    return "\n".join(lines)


def _named(node: Mapping[str, Any]) -> str:
    """A configured object by its class and its settings, on one line."""
    shown: list[str] = []
    for key, value in node.items():
        if isinstance(value, Mapping):
            shown.append(f"{key}: {_named(value)}")
        elif not key.startswith("_") and value is not None:
            shown.append(f"{key} {_without_folder(value)}")
    name = str(node.get("_target_", "")).rpartition(".")[2]
    return f"{name} ({', '.join(shown)})" if name and shown else name or ", ".join(shown)


def _without_folder(value: Any) -> Any:
    """Folders of the machine that trained are nobody else's business; the file's name is."""
    if isinstance(value, list | tuple):
        return ", ".join(str(_without_folder(v)) for v in value)
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def _plain_data(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: _without_folder(v)
        for k, v in data.items()
        if not k.startswith("_") and k not in _NOT_TOLD and v is not None
    }


def _started_from(init_from: Mapping[str, Any]) -> str:
    named = [f"{k} {_without_folder(v)}" for k, v in init_from.items() if v is not None]
    return ", ".join(named) or "random weights"


def _metrics(results: RunResults) -> str:
    rows = ["| metric | value | better | clips | variant |", "|---|---|---|---|---|"]
    for key, metric in results.metrics.items():
        rows.append(
            f"| {key} | {_value(metric)} | {_BETTER[metric.direction]} | {metric.n} | {_variant(metric)} |"
        )
    rows += [f"| {key} | {value:.5g} | lower | | |" for key, value in results.losses.items()]
    return "\n".join(rows) + f"\n\n{results.n_clips} clips, scored {results.created}."


def _value(metric: MetricValue) -> str:
    if metric.value is None:
        return "none"
    interval = "" if metric.ci95 is None else f" [{metric.ci95[0]:.5g}, {metric.ci95[1]:.5g}]"
    return f"{metric.value:.5g}{interval} {metric.unit}".strip()


def _variant(metric: MetricValue) -> str:
    return f"version {metric.version}" + (f", {metric.variant}" if metric.variant else "")


def _no_data(config: Mapping[str, Any]) -> str:
    return "The run had no data of its own." if "data" in config else "The configuration names no data."


def _usage(weights: str, layout: str) -> str:
    name = Path(weights).name
    if layout == "comfyui":
        return (
            f"Put {name} into ComfyUI/models/diffusion_models and choose it in the node WanVideo Model Loader "
            "of ComfyUI-WanVideoWrapper. It is not in the released layout, which ovi-sample and the reference "
            "code read: `ovi-export --to ovi` writes that."
        )
    return (
        "```python\nimport json\nfrom pathlib import Path\n"
        "from ovi_lab.checkpoints.released import load_released\n\n"
        f'config = json.loads(Path("config.json").read_text())["model"]\n'
        f'model = load_released("{name}", config)\n```'
    )
