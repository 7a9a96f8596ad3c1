"""Preemption: on SIGTERM, or SLURM's signal before it takes the nodes away, a run saves a checkpoint and exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from ovi_lab.callbacks.checkpoint import RunCheckpoint
from ovi_lab.errors import UserError
from ovi_lab.strategies.joint_action import JointAction
from ovi_lab.strategies.process_groups import everyone

_KILLED_BY_SIGTERM = 128 + signal.SIGTERM


class Preempted(SystemExit):
    """Exit of a run that was preempted and has saved. Not an error: nothing may catch it as one."""


class Preemption(Callback):
    """On a signal: drop the step under way, save the last whole one, have SLURM queue the job again, and leave.

    All ranks leave after the same micro-batch, also where one alone got the signal: after each they look whether any
    has got it, and agree on the next micro-batch or the one after (see `JointAction`). No rank waits for it, and no GPU
    is touched. Before something long, a validation, they do wait for each other. The gradients of the step under way
    are lost; a resumed run takes that step anew, with the same clips and draws. Checkpoints by the clock
    (`checkpoint.every_minutes`) fall on micro-batches that are agreed on in the same way, by the first rank's clock.

    Under SLURM (SLURM_JOB_ID is set) the first rank calls `scontrol requeue`, and the job ends with exit code 0; it
    is resumed with `resume=auto`. A job that was cancelled cannot be requeued, which SLURM says itself. Under submitit,
    which requeues by itself, its own handler is called once all is saved. Elsewhere the first rank ends with exit
    code 143, as a process does that SIGTERM ends, and the others with 0: a launcher that sees one of its processes
    fail would kill the rest. Outside training, `at_once` does the same without saving.

    It must stand behind the run's checkpoints, averages and other callbacks that change state in a step.

    Args:
        checkpoint: the callback that saves.
        signals: names of signals, as in `SIGUSR1`.
    """

    def __init__(self, checkpoint: RunCheckpoint, signals: Sequence[str] = ("SIGTERM", "SIGUSR1")) -> None:
        known = {s.name for s in signal.Signals} - {"SIGKILL", "SIGSTOP"}
        unknown = [name for name in signals if name not in known]
        if unknown:
            raise UserError(
                f"preemption.signals names {', '.join(map(str, unknown))}: expected signals such as SIGTERM, SIGUSR1"
            )
        self.checkpoint = checkpoint
        self.signals = [signal.Signals[name] for name in signals]
        self._signal = 0
        self._leaving: int | None = None
        self._heard: Callable[[int], None] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._owner = 0
        self._heard_at = 0.0
        self._batches = 0
        self._joint = JointAction(None)

    # ---- signals

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen from now on: data workers that are started hereafter must not be ended by a notice to save."""
        self._signal, self._batches, self._leaving = 0, 0, None
        self._listen(self._note)
        self._joint = JointAction.of_all("preemption")
        # Lightning's own exchange: a broadcast before every micro-batch, for which it lets the GPU run dry
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen in place of Lightning, which has begun to since, and would leave without saving."""
        self._listen(self._note)

    def _note(self, number: int) -> None:
        self._signal, self._heard_at = number, time.monotonic()

    def _listen(self, heard: Callable[[int], None]) -> None:
        self._heard = heard
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        self._owner = os.getpid()
        for number in _submitit_signals() or self.signals:
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._owner and number != signal.SIGTERM:
            return  # a data worker: SLURM signals every process of a step, and only the first of them has to save
        if os.getpid() == self._owner and self._heard is not None:
            self._heard(number)
            return
        # this callback no longer listens, though Lightning may have put this handler back: the earlier one applies
        signal.signal(number, self._before.get(signal.Signals(number)) or signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _stop_listening(self) -> None:
        self._heard = None
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop_listening()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_listening()

    # ---- exit

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """After a micro-batch: save where all ranks have agreed to."""
        self._batches += 1
        due = int(self.checkpoint.is_due(trainer))
        number, save = self._joint.at(self._batches, self._signal, due)
        if not number and self.checkpoint.validation_follows(trainer):
            number = max(everyone(self._signal))
        if number:
            self._save(trainer, number)
        elif save:
            self.checkpoint.save_soon(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Leave now that the loggers have the last step too, which they get after its end."""
        self._leave(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave rather than begin something long."""
        self._leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step is saved by now; what comes after training is for another time."""
        if self._leaving is None and (number := max(everyone(self._signal))):
            self._save(trainer, number)
        self._leave(trainer)

    def _save(self, trainer: Trainer, number: int) -> None:
        self.checkpoint.save_now(trainer)
        trainer.strategy.barrier()
        self._leaving = number

    def _leave(self, trainer: Trainer) -> None:
        if self._leaving is not None:
            since = f" {time.monotonic() - self._heard_at:.1f} s after the signal" if self._signal else ""
            step, saved, again = trainer.global_step, "no step was taken", "resume=auto begins anew"
            if step:
                saved, again = f"step {step} is saved{since}", "resume=last resumes there"
            self._end(self._leaving, saved, again, first=trainer.is_global_zero)

    def _end(self, number: int, saved: str, again: str, first: bool) -> None:
        before = self._before.get(signal.Signals(number))
        self._stop_listening()
        submitit_requeues = number in _submitit_signals() and callable(before)
        if submitit_requeues:
            before(number, None)  # type: ignore[misc]
        if submitit_requeues or not first:
            raise Preempted(0)
        name, job = signal.Signals(number).name, slurm_job()
        trouble = _requeue(job) if job else None
        if job and trouble is None:
            resuming, code = f"job {job} is queued again, resume=auto resumes the run", 0
        else:
            resuming = f"{again}{f' ({trouble})' if trouble else ''}"
            code = _KILLED_BY_SIGTERM
        print(f"{name}: {saved}; {resuming}", file=sys.stderr, flush=True)
        raise Preempted(code)

    @contextmanager
    def at_once(self, first: bool) -> Iterator[None]:
        """Within the block, after training, a signal ends the run where it stands: the weights are saved.

        Args:
            first: whether this is the first rank.
        """
        saved, again = "training is done and saved", "resume=last resumes there"
        self._listen(lambda number: self._end(number, saved, again, first))
        try:
            yield
        finally:
            self._stop_listening()


def slurm_job() -> str | None:
    """The SLURM job of this process, one of an array by its own number; None where there is none."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def was_requeued() -> bool:
    """Whether SLURM has started this job before, so that it is to be resumed."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def cluster_environment() -> SLURMEnvironment | None:
    """For the Trainer's plugins under srun: Lightning must not save and requeue as `Preemption` does."""
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return None
    return SLURMEnvironment(auto_requeue=False)


def _submitit_signals() -> list[signal.Signals]:
    """What submitit's own handler waits for in a SLURM job of its; nothing outside one."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return []
    return [signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2').removeprefix('SIG')}"]]


def _requeue(job: str) -> str | None:
    """Queue the job again; what went wrong, or None."""
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"scontrol requeue {job} failed: {error}"
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        return f"scontrol requeue {job} failed: {said or f'exit code {done.returncode}'}"
    return None
