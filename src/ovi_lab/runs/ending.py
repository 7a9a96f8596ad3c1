"""What ovi-train says at its end: the run's folder, its loss or score, and the command that samples it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ovi_eval.common.plain_data import read_json
from ovi_lab.common.following import sampling, typed

_SCORES = ("ball/onset_f1", "mouth/onset_f1")


def ending(config: DictConfig, skipped: bool = False) -> Sequence[str]:
    """Two lines for a run that has ended.

    Args:
        config: of the run.
        skipped: it had ended before.

    Raises:
        UserError: its folder's `done.json` or `results.json` cannot be read.
    """
    run_dir = Path(str(config.run_dir))
    done = read_json(run_dir / "done.json")
    losses: dict[str, float] = done.get("losses") or {}
    facts = [f"{done.get('steps')} steps"]
    facts += [f"validation loss {losses['loss']:.4g}"] if "loss" in losses else []
    if (run_dir / "results.json").is_file():
        metrics: Any = read_json(run_dir / "results.json").get("metrics") or {}
        values = {name: (metrics.get(name) or {}).get("value") for name in _SCORES}
        facts += [f"{name} {value:.3g}" for name, value in values.items() if value is not None]
    said = f"{typed(run_dir)}: {'finished before, ' * skipped}{', '.join(facts)}"
    if "_target_" not in (config.get("model") or {}) or not (run_dir / "last").exists():
        return [said]
    if skipped:
        longer = 2 * int(config.trainer.max_steps)
        return [said, f"next: the same command with resume=last trainer.max_steps={longer} continues it"]
    prompt = next((p for p in config.samples.prompts if str(p).strip()), "…")
    latents = not (run_dir / "last" / "codec.safetensors").is_file()
    return [said, f"next: {sampling(typed(run_dir / 'last'), str(prompt), latents)}"]
