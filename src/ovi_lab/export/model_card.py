"""The model card of exported weights: origin, training data, scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ovi_eval.common.plain_data import read_json
from ovi_eval.common.shown import shown
from ovi_eval.results.files import MetricValue, RunResults
from ovi_eval.results.reading import read

_LEFT_OUT = ("root", "num_workers", "quiet")
"""Settings of the data that do not describe the model: where it lies, and how fast it is read."""
_PLACE = re.compile(
    r"(?:(?<=[\s,;:='\"(\[{<])|^)"  # where a word begins:
    r"(?:[A-Za-z][A-Za-z0-9+.-]*://|\\\\|~[^\s/]*/|[A-Za-z]:[\\/]|[\w.@-]+@?[\w.-]+:/|/|\.\.?/)"  # a place begins,
    r"(?:[^\s,;'\"<>|]*[/\\])?"  # and its folders
)
"""The folders, drive or host before a file's name."""
_HARMLESS = re.compile(r"(?<!\\)(?:\\\\)*\\([(){}+#]|(?<=\w\\)_(?=\w))")
"""Characters without a meaning within a line of Markdown: brackets of links and pictures stay escaped."""
_LAYOUTS = {"ovi": "the released Ovi layout", "comfyui": "the layout of ComfyUI's Ovi loader"}
_BETTER = {"higher": "higher", "lower": "lower", "closer_to_reference": "closer to the reference row"}


def results_of(checkpoint: Path, step: int | None) -> tuple[RunResults | None, str | None]:
    """The scores of a checkpoint's run, or why there are none.

    Args:
        checkpoint: its folder or file, as in `<run>/checkpoints/<checkpoint>`.
        step: the step of its weights; None where it is not stored.

    Raises:
        UserError: results.json is there and cannot be read.
    """
    if checkpoint.parent.name != "checkpoints":
        return None, "The checkpoint was not exported from its run's folder, so no scores are known."
    run = checkpoint.parent.parent
    if not (run / "results.json").is_file():
        return None, "The run was not evaluated."
    done = run / "done.json"
    content = read_json(done) if done.is_file() else None
    steps = content.get("steps") if isinstance(content, dict) else None
    if type(steps) is not int or steps != step:
        at = f"step {steps}" if type(steps) is int else "another step"
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
        facts: the content of config.json.
        config: the run's whole configuration.
        results: scores of these weights, where there are some.
        notes: what a reader must know besides.
        files: the exported files' names.
    """
    task, data = _mapping(config.get("task")), _mapping(config.get("data"))
    no_data = "The run had no data of its own." if "data" in config else "The configuration names no data."
    training = {
        "weights taken from": facts["source"],
        "task": str(task.get("_target_", "")).rpartition(".")[2],
        "steps": facts["step"],
        "seed": config.get("seed"),
        "weights": "averaged over training (EMA)" if facts["weights"] == "ema" else "raw, not averaged",
        "started from": _started_from(_mapping(config["init_from"])) if "init_from" in config else None,
        "text encoder": _named(_mapping(config.get("text"))),
        "optimiser": _named(_mapping(config.get("optim"))),
        "schedule": config.get("schedule"),
        "loss weights": config.get("loss"),
        "timesteps": _named(_mapping(config.get("timesteps"))),
        "frozen": config.get("freeze"),
        "latent shapes": facts["latent_shapes"],
        "configuration hash": facts["config_hash"],
    }
    parts = [
        "---\nlibrary_name: ovi-lab\ntags:\n- video-generation\n- audio-generation\n---",
        f"# {_shown(title)}",
        f"A twin diffusion transformer in {_LAYOUTS[facts['layout']]}: {facts['parameters']:,} parameters, "
        f"{facts['dtype']}. Written by ovi-export of ovi-lab {facts['ovi_lab']}.",
        *(["## Notes", "\n".join(f"- {_shown(note)}" for note in notes)] if notes else []),
        "## Data",
        _listed({k: v for k, v in data.items() if not k.startswith("_") and k not in _LEFT_OUT}) or no_data,
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


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _shown(value: Any) -> str:
    """An untrusted value in Markdown, without the folders of the machine that trained, which are private."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_shown(k)} {_shown(v)}" for k, v in value.items() if v not in (None, []))
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    escaped = shown(_PLACE.sub("", value) if isinstance(value, str) else value, 500, to="markdown")
    return _HARMLESS.sub(r"\1", escaped)


def _listed(values: Mapping[str, Any]) -> str:
    shown_values = {key: _shown(value) for key, value in values.items() if value not in (None, "", {}, [])}
    return "\n".join(f"- {_shown(key)}: {text}" for key, text in shown_values.items() if text)


def _named(node: Mapping[str, Any]) -> str:
    """A configured object by its class and its settings, on one line."""
    facts: list[str] = []
    for key, value in node.items():
        if isinstance(value, Mapping):
            facts.append(f"{key}: {_named(value)}")
        elif not key.startswith("_") and value is not None:
            facts.append(f"{key} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    name = str(node.get("_target_", "")).rpartition(".")[2]
    return f"{name} ({', '.join(facts)})" if name and facts else name or ", ".join(facts)


def _started_from(init_from: Mapping[str, Any]) -> str:
    named = [f"{k} {v}" for k, v in init_from.items() if v is not None]
    return ", ".join(named) or "random weights"


def _metrics(results: RunResults) -> str:
    rows = ["| metric | value | better | clips | variant |", "|---|---|---|---|---|"]
    for key, metric in results.metrics.items():
        variant = f"version {_shown(metric.version)}" + (
            f", {_shown(metric.variant)}" if metric.variant else ""
        )
        better = _BETTER[metric.direction]
        rows.append(f"| {_shown(key)} | {_value(metric)} | {better} | {metric.n} | {variant} |")
    rows += [f"| {_shown(key)} | {value:.5g} | lower | | |" for key, value in results.losses.items()]
    return "\n".join(rows) + f"\n\n{results.n_clips} clips, scored {_shown(results.created)}."


def _value(metric: MetricValue) -> str:
    if metric.value is None:
        return "none"
    interval = "" if metric.ci95 is None else f" [{metric.ci95[0]:.5g}, {metric.ci95[1]:.5g}]"
    return f"{metric.value:.5g}{interval} {_shown(metric.unit)}".strip()


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
        "from ovi_lab.checkpoints.presets import load_released\n\n"
        f'config = json.loads(Path("config.json").read_text())["model"]\n'
        f'model = load_released("{name}", config)\n```'
    )
