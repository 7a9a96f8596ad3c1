"""Identity of a run: its configuration, without what does not change its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ovi_eval.common.shown import shown
from ovi_eval.results.settings import WITHOUT_EFFECT, flat
from ovi_lab.errors import UserError

LENGTHENED = "lengthened"
"""Key of a stored configuration: each change of a run's length whose learning rates up to there were not those of a run
of the new length, as {"at": step, "from": max_steps before, "to": max_steps after}."""

# What a resumed run may change, beside what is without effect. It is in the hash: the length of a run, and the rest as
# hashes of finished runs have it.
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
    settings = flat(config, {*WITHOUT_EFFECT, *distribution})
    return {
        k: v for k, v in settings.items() if not any(k.endswith(key) and v == plain for key, plain in _BEFORE)
    }


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


def trained_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that decide what a run's training gives, each under its full name: all but its names and what is done
    with the model afterwards.
    """
    after = ("name", "arm_name", "evaluation", "sampler")
    return {k: v for k, v in _compared(config).items() if k.partition(".")[0] not in after}


def check_same_training(now: Mapping[str, Any], before: Mapping[str, Any], where: str, remedy: str) -> None:
    """Refuse to evaluate a run of another training; arguments and errors as `check_same_run`'s."""
    _refuse_others(trained_by(now), trained_by(before), where, remedy, ("trainer.log_every_n_steps",))


def check_same_run(now: Mapping[str, Any], before: Mapping[str, Any], where: str, remedy: str) -> None:
    """Refuse to resume, or write over, a run of another configuration; `trainer.max_steps` has checks of its own.

    Args:
        now, before: configurations as plain values.
        where: names the run of `before`.
        remedy: what to do instead, the end of the message.

    Raises:
        UserError: names the first fields that differ.
    """
    _refuse_others(_compared(now), _compared(before), where, remedy, _HARMLESS)


def _refuse_others(
    new: Mapping[str, Any], old: Mapping[str, Any], where: str, remedy: str, harmless: Sequence[str]
) -> None:
    # task, model and the rest repeat what other keys say; the shortest names say it best
    different = sorted(
        (k for k in new.keys() | old.keys() if k not in harmless and new.get(k) != old.get(k)),
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
