"""Guard against steps whose loss or gradient is not finite or too large: skips them, or stops and saves the batch."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor, distributed

from ovi_eval.common.files import write_whole, written_whole
from ovi_lab.callbacks.gradients import gradient_norms, total_norm, whole_norm
from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError
from ovi_lab.strategies.base import Strategy, strategy_of
from ovi_lab.strategies.process_groups import everyone, started
from ovi_lab.tasks.step_log import log_with_step
from ovi_lab.tasks.task import Task, steps_now

log = logging.getLogger("ovi_lab.guard")

OnBadStep = Literal["stop", "skip"]


@dataclass(frozen=True)
class Seen:
    """One batch of a step: what went in, the sigmas [B] by modality, and the loss of each."""

    batch: Mapping[str, Any]
    sigmas: Mapping[str, Tensor]
    losses: Mapping[str, Tensor]


@dataclass(frozen=True)
class _StepCheck:
    """Result of checking a step: `reason` is empty where it is good; `bad_losses` are this rank's."""

    reason: str
    bad_losses: tuple[str, ...] = ()


class Guard(Callback):
    """Looks at every step's losses and gradient norm before the optimiser does, and keeps a bad one from the weights.

    A step is bad where a loss of any rank or the norm of the gradients over all ranks is not finite, or where the norm
    lies above `spike_factor` times the median of the last `window` good ones. All ranks decide alike, from values
    reduced over them. A step that is left out changes no weight and no state of the optimiser (see the strategy's
    `discard_step`); step counter and schedule advance all the same.

    What it costs: one norm over the gradients, a sum of a few numbers over the ranks, and one read of the device per
    optimiser step, at the end of the backward pass. Later would be too late to leave a step out, and a poisoned
    checkpoint could be written in between; `torch.amp.GradScaler` and Megatron-LM wait at the same place.

    Where every process has all gradients whole, the task clips by the same norm, which is then computed once.

    Losses reach it through `observe`, which it adds to a task's `observers`; of another LightningModule the norm alone
    is looked at. With fp16 the loss scaler leaves steps out by itself, so norms that are not finite pass here.

    Args:
        run_dir: the run's folder; what stops a run is saved under `inspect/`.
        on_bad_step: "stop" with an error, or "skip".
        spike_factor: how many times the median a norm may be; None lets spikes pass.
        window: so many norms make the median; nothing is a spike before there are as many.
        max_skips_in_a_row, max_skips: with "skip", more than so many, in a row or in the whole run, stop it.
    """

    def __init__(
        self,
        run_dir: str | Path,
        on_bad_step: OnBadStep = "stop",
        spike_factor: float | None = None,
        window: int = 100,
        max_skips_in_a_row: int = 5,
        max_skips: int = 100,
    ) -> None:
        check_settings("guard", locals())
        self.run_dir = Path(run_dir)
        self.on_bad_step, self.spike_factor = on_bad_step, spike_factor
        self.max_skips_in_a_row, self.max_skips = max_skips_in_a_row, max_skips
        self.skipped = self.in_a_row = 0
        self.skipped_at = -1
        self._norms: deque[float] = deque(maxlen=window)
        self._seen: list[Seen] = []

    # ---- detection

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(pl_module, Task) and self.observe not in pl_module.observers:
            pl_module.observers.append(self.observe)

    def observe(
        self, batch: Mapping[str, Any], sigmas: Mapping[str, Tensor], losses: Mapping[str, Tensor]
    ) -> None:
        """One batch of the step under way, and its loss by modality; called by the task."""
        self._seen.append(Seen(batch, dict(sigmas), {name: value.detach() for name, value in losses.items()}))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the strategy for steps to be discarded."""
        strategy_of(trainer).allow_discarding()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge the step. Raises UserError where it stops the run."""
        if not steps_now(trainer):
            return
        seen, self._seen = self._seen, []
        strategy = strategy_of(trainer)
        known_norm = whole_norm(strategy, optimizer, pl_module.device)
        if isinstance(pl_module, Task):
            pl_module.gradient_norm = known_norm
        verdict = self._judge(strategy, pl_module.device, seen, known_norm)
        if not verdict.reason:
            self.in_a_row = 0
            return
        self._report(trainer, verdict, seen)
        self.skipped_at = trainer.global_step + 1
        strategy.discard_step(self.skipped_at)

    @torch.no_grad()
    def _judge(
        self, strategy: Strategy, device: torch.device, seen: Sequence[Seen], known_norm: Tensor | None
    ) -> _StepCheck:
        norm = total_norm(gradient_norms(strategy, device)) if known_norm is None else known_norm
        # micro-batches need not hold the same modalities
        losses = [loss.to(device) for one in seen for loss in one.losses.values()]
        unsound = (~torch.stack(losses).isfinite()).any() if losses else torch.zeros((), device=device)
        # a maximum over ranks may lose a NaN: whether there is one is reduced separately
        looked = torch.stack([norm.nan_to_num(0.0, 0.0), (~norm.isfinite()).float(), unsound.float()])
        if started():
            distributed.all_reduce(looked, op=distributed.ReduceOp.MAX)
        value, norm_is_bad, losses_are_bad = looked.tolist()
        if losses_are_bad:
            bad = {n for one in seen for n, loss in one.losses.items() if not math.isfinite(float(loss))}
            of_all_ranks = sorted({name for names in everyone(sorted(bad)) for name in names})
            return _StepCheck(f"{' and '.join(of_all_ranks)} loss is not finite", tuple(sorted(bad)))
        if norm_is_bad:
            return _StepCheck("" if strategy.scales_losses else "gradient norm is not finite")
        return _StepCheck(self._spike(value))

    def _spike(self, norm: float) -> str:
        """Why a norm is too large, else nothing; the norm then enters the median."""
        if self.spike_factor is None:
            return ""
        if len(self._norms) == self._norms.maxlen:
            median = statistics.median(self._norms)
            if norm > self.spike_factor * median:
                return (
                    f"gradient norm {norm:.4g} is {norm / median if median else math.inf:.3g} times the median "
                    f"{median:.4g} of the last {len(self._norms)} (guard.spike_factor={self.spike_factor:g})"
                )
        # A spike does not enter: a row of them would become the measure of itself.
        self._norms.append(norm)
        return ""

    # ---- skipping and stopping

    def _report(self, trainer: Trainer, verdict: _StepCheck, seen: Sequence[Seen]) -> None:
        """One line of what was bad and where. Raises UserError where the run is to stop."""
        rank = trainer.global_rank
        own = [str(id) for one in seen for id in one.batch.get("id", ())]
        reports = everyone({"rank": rank, "ids": own, "bad": list(verdict.bad_losses)})
        step = trainer.global_step
        # where no loss names the rank, it may have been any
        guilty = [one for one in reports if one["bad"]] or reports
        ids = [id for one in guilty for id in one["ids"]]
        self.skipped += 1
        self.in_a_row += 1
        limit = self._limit_passed()
        if self.on_bad_step == "skip" and not limit:
            if rank == 0:
                log.warning(
                    "step %d was left out (%d so far): the %s; clips %s",
                    step, self.skipped, verdict.reason, ", ".join(ids) or "not known",
                )  # fmt: skip
            return
        place = ""
        if any(one["ids"] for one in guilty):
            ranks = [one["rank"] for one in guilty]
            folder = self.run_dir / "inspect"
            place = (
                f", saved as {folder}/step_{step:06d}_rank_{ranks[0] if len(ranks) == 1 else '*'}.safetensors"
            )
            if rank in ranks:
                try:
                    _save_for_inspection(folder / f"step_{step:06d}_rank_{rank}", seen, verdict.reason)
                except UserError as error:
                    place = f" (it could not be saved under {folder}: {error})"
        first = f" (first clip {ids[0]})" if ids else ""
        raise UserError(
            f"the {verdict.reason} at step {step}{first}{limit}: lower the learning rate or look at that batch{place}; "
            + self._last_good()
        )

    def _limit_passed(self) -> str:
        if self.on_bad_step != "skip":
            return ""
        if self.in_a_row > self.max_skips_in_a_row:
            return f", after {self.in_a_row - 1} steps left out in a row (guard.max_skips_in_a_row)"
        if self.skipped > self.max_skips:
            return f", after {self.skipped - 1} steps left out in all (guard.max_skips)"
        return ""

    def _last_good(self) -> str:
        last = self.run_dir / "last"
        return f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Count what was left out, in the log; make sure that it was."""
        if self.skipped_at == trainer.global_step and not strategy_of(trainer).has_discarded:
            raise UserError(
                f"this version of DeepSpeed took step {self.skipped_at - 1}, which was to be left out: use "
                f"guard.on_bad_step=stop, or deepspeed>=0.19; {self._last_good()}"
            )
        if self.on_bad_step == "skip" and steps_now(trainer) and trainer._logger_connector.should_update_logs:
            log_with_step(trainer, {"guard/skipped": float(self.skipped)})

    # ---- exact resume

    def state_dict(self) -> dict[str, Any]:
        """Skips so far and the norms that the median is taken of."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "norms": list(self._norms)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = int(state_dict["skipped"]), int(state_dict["in_a_row"])
        self._norms.clear()
        self._norms.extend(float(norm) for norm in state_dict["norms"])


def _save_for_inspection(place: Path, batches: Sequence[Seen], reason: str) -> None:
    """Write `<place>.safetensors` with all tensors of the batches and `<place>.json` with the rest, each atomically.

    Tensors are called `<micro-batch>.<name>`, with the clip's number behind where a batch is a list of clips.
    """
    tensors: dict[str, Tensor] = {}
    facts: list[dict[str, Any]] = []
    for number, seen in enumerate(batches):
        for name, value in (*seen.batch.items(), *((f"sigma_{m}", s) for m, s in seen.sigmas.items())):
            tensors.update((f"{number}.{key}", tensor) for key, tensor in _tensors(name, value))
        facts.append(
            {
                "id": list(seen.batch.get("id", ())),
                "caption": list(seen.batch.get("caption", ())),
                # JSON has no NaN
                "loss": {name: str(float(value)) for name, value in seen.losses.items()},
            }
        )
    with written_whole(place.with_name(f"{place.name}.safetensors")) as temporary:
        save_file(tensors, temporary)
    write_whole(
        place.with_name(f"{place.name}.json"), json.dumps({"reason": reason, "batches": facts}, indent=1)
    )


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        # a copy: safetensors refuses tensors that share memory
        yield name, value.detach().to("cpu", copy=True).contiguous()
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _tensors(f"{name}.{number}", one)
