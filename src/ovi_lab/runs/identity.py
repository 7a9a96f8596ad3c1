"""Identity of a run: its configuration, without what does not change its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError

LENGTHENED = "lengthened"
"""Key of a stored configuration: each change of a run's length whose learning rates up to there were not those of a run
of the new length, as {"at": step, "from": max_steps before, "to": max_steps after}."""

# What may differ between two starts of the same run.
_VOLATILE = (
    "run_dir",
    "resume",
    "overwrite",
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
    LENGTHENED,
    "strategy",
    "trainer.accelerator",
    "profiler",
    *(
        f"{p}.{key}"
        for p in ("model", "task.model")
        for key in ("compile", "compile_backend", "attention_backend")
    ),
)
# And what a resumed run may change. It is in the hash: the length of a run, and the rest as hashes of finished runs
# have it.
_HARMLESS = ("data.prefetch", "data.quiet", "trainer.log_every_n_steps", "trainer.max_steps")
# And how the clips of an optimiser step are distributed, where their number is given.
_DISTRIBUTION = ("trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches", "data.batch_size")
# Values of runs from before there were these keys: plain layers, one list of shards, clips as the world made them.
_BEFORE = (
    ("model.linear", "plain"),
    ("data.sources", None),
    ("data.require", None),
    ("data.displaced.share", 0),
    ("data.displaced.filter", None),
)


def run_config(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain values."""
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return plain


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that must be the same, each under its full name."""
    distribution = _DISTRIBUTION if config.get("global_batch_size") is not None else ()
    flat = _flat(config, {*_VOLATILE, *distribution})
    return {
        k: v for k, v in flat.items() if not any(k.endswith(key) and v == plain for key, plain in _BEFORE)
    }


def _flat(config: Mapping[str, Any], left_out: Collection[str], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in left_out:
            continue
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, left_out, f"{name}."))
        else:
            flat[name] = value
    return flat


def config_hash(config: Mapping[str, Any]) -> str:
    """12 hex digits of what determines a run's numbers, the rates of a length that it had before included."""
    facts = _compared(config)
    if config.get(LENGTHENED):
        facts[LENGTHENED] = config[LENGTHENED]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def lineage(config: Mapping[str, Any]) -> list[str]:
    """What a reader of a run's numbers must know of its history, a line each."""
    return [
        f"{'lengthened' if change['to'] > change['from'] else 'shortened'} at step {change['at']}: "
        f"{change['from']} → {change['to']} steps, learning rates of the first until then"
        for change in config.get(LENGTHENED, ())
    ]


def check_same_run(now: Mapping[str, Any], before: Mapping[str, Any], where: str, remedy: str) -> None:
    """Refuse to resume, or write over, a run of another configuration; `trainer.max_steps` has checks of its own.

    Args:
        now, before: configurations as plain values.
        where: names the run of `before`.
        remedy: what to do instead, the end of the message.

    Raises:
        UserError: names the first fields that differ.
    """
    new, old = _compared(now), _compared(before)
    # task, model and the rest repeat what other keys say; the shortest names say it best
    different = sorted(
        (k for k in new.keys() | old.keys() if k not in _HARMLESS and new.get(k) != old.get(k)),
        key=lambda k: (k.count("."), k),
    )
    different = [k for k in different if not any(k.endswith(f".{other}") for other in different)]
    if different:
        said = "; ".join(
            f"{shown(k)} was {shown(repr(old.get(k)))}, is {shown(repr(new.get(k)))}" for k in different[:3]
        )
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(f"{where} is of another configuration: {said}{more}. {remedy}")


def length(config: Mapping[str, Any]) -> int:
    """`trainer.max_steps` of a configuration, 0 where it has none."""
    trainer = config.get("trainer")
    steps = trainer.get("max_steps") if isinstance(trainer, Mapping) else None
    return steps if isinstance(steps, int) else 0
