"""One run: data, training, validation, samples, scores, all in one folder."""

from __future__ import annotations

import errno
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from ovi_eval.common.files import write_whole
from ovi_eval.common.shown import shown
from ovi_eval.results.settings import TFLOPS
from ovi_lab.callbacks.preemption import was_requeued
from ovi_lab.checkpoints.configuration import Configuration
from ovi_lab.checkpoints.folder import Checkpoint, checkpoints_of, latest_checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.lightning_io import recover
from ovi_lab.common.building import build
from ovi_lab.common.progress import Reporter, told
from ovi_lab.errors import UserError
from ovi_lab.runs.checkpointing import choose_checkpointing
from ovi_lab.runs.identity import LENGTHENED, check_same_run, config_hash, length, run_config
from ovi_lab.runs.processes import LostProcessError, died, is_first_process
from ovi_lab.runs.refusals import refuse_clips_without_use, refuse_what_cannot_run
from ovi_lab.runs.restarts import counted
from ovi_lab.runs.trainer import make_trainer
from ovi_lab.runs.written import remove_run
from ovi_lab.strategies.process_groups import started
from ovi_lab.tasks.task import Task

log = logging.getLogger("ovi_lab.runs")


_ANEW = "name=… starts another run beside it, overwrite=true deletes it and starts anew"


def _word(config: DictConfig) -> str | None:
    """What `resume` says; a job that SLURM requeued is resumed, whatever its command says."""
    return config.resume or ("auto" if was_requeued() else None)


def _checkpoint_to_resume(config: DictConfig, run_dir: Path, plain: dict[str, Any]) -> Path | None:
    """The checkpoint to resume from, None for none; `plain` gets its record of changed lengths."""
    word = _word(config)
    if word is None:
        return None
    if word in ("last", "auto"):
        path = _newest_intact(run_dir)
        if path is None and word == "last":
            raise UserError(
                f"resume=last, but {run_dir} has no checkpoint: leave resume out to start a new run"
            )
    else:
        path = resolve_checkpoint(str(word))
        _verified(path)
    if path is not None:
        opened = Checkpoint.open(path)
        before = opened.configuration().plain
        remedy = "Resume with the values that it had; name=… without resume starts another run"
        check_same_run(plain, before, f"checkpoint {path}", remedy)
        steps = length(plain)
        if steps < opened.step:
            raise UserError(
                f"trainer.max_steps is {steps}, and checkpoint {path} has taken {opened.step} steps already: "
                f"give trainer.max_steps={opened.step} or more, or resume an earlier checkpoint by its path"
            )
        lengths = _lengths_before(before, path)
        if length(before) != steps and _other_rates(config, opened.step, length(before), steps):
            lengths.append({"at": opened.step, "from": length(before), "to": steps})
        if lengths:
            plain[LENGTHENED] = lengths
    return path


def _lengths_before(config: Mapping[str, Any], path: Path) -> list[dict[str, int]]:
    """The changes of length that a checkpoint records. Raises UserError for what is no record of one."""
    found = config.get(LENGTHENED) or []
    for change in found if isinstance(found, list) else [found]:
        whole = isinstance(change, dict) and all(type(change.get(k)) is int for k in ("at", "from", "to"))
        if not whole or len(change) > 3:
            raise UserError(
                f"checkpoint {path}: {LENGTHENED} is {shown(repr(found), 60)}; expected steps at, from and to"
            )
    return list(found)


def _other_rates(config: DictConfig, step: int, before: int, now: int) -> bool:
    """Whether a run of the new length from the start would have had other rates up to this step; it is warned of.

    Raises:
        UserError: the task's own schedule cannot be made longer.
    """
    from ovi_lab.optim import warmup_flat_decay

    if "schedule" not in config.task:
        raise UserError(
            f"trainer.max_steps was {before}, is {now}: this task's schedule has the length that it began with. "
            f"{_ANEW}"
        )
    settings: Any = OmegaConf.to_container(config.task.schedule, resolve=True)
    old, new = (warmup_flat_decay(steps, **settings) for steps in (before, now))
    differ = any(old(s) != new(s) for s in range(step))
    if differ and is_first_process():
        log.warning(
            "trainer.max_steps was %d, is %d: the learning rate goes from %.3g to %.3g of its peak at step %d and "
            "follows the schedule of %d steps from there; a run of %d steps from the start gives other numbers",
            before, now, old(step), new(step), step, now, now,
        )  # fmt: skip
    return differ


def _verified(path: Path) -> None:
    """Raises UserError unless the checkpoint's files are as they were written."""
    opened = Checkpoint.open(path)
    if is_first_process():
        # reading all of a large checkpoint is one process's work, not everyone's
        opened.verify()


def _newest_intact(run_dir: Path) -> Path | None:
    """The newest checkpoint that is as it was written; each that is not is named.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    problem: UserError | None = None
    for path in checkpoints_of(run_dir):
        try:
            _verified(path)
            return path
        except UserError as error:
            problem = error
            log.warning("%s; trying the one before", error)
    if problem is not None:
        raise problem
    return None


def _claim_folder(config: DictConfig, run_dir: Path, plain: Mapping[str, Any], text: str) -> bool:
    """Take over the run's folder; True where the run is finished already."""
    stored, done = run_dir / "config.yaml", run_dir / "done.json"
    resumes = _word(config) is not None
    if config.overwrite and is_first_process():
        remove_run(run_dir)
    reads = is_first_process() or (
        resumes and not config.overwrite
    )  # what is overwritten may vanish meanwhile
    before = Configuration.read(stored).plain if reads and stored.is_file() else None
    grown = resumes and before is not None and length(plain) > length(before)
    if not is_first_process():
        # only the first process writes to the folder; it takes done.json away before it writes the new length
        return done.is_file() and not config.overwrite and not grown
    if before is not None:
        finished, started = done.is_file(), latest_checkpoint(run_dir) is not None
        now, then = length(plain), length(before)
        if finished or started:
            remedy = _ANEW if resumes else f"resume=last resumes it with the values that it had, {_ANEW}"
            check_same_run(plain, before, f"the run in {run_dir}", remedy)
        if finished and now > then and not resumes:
            raise UserError(
                f"the run in {run_dir} ended at step {then}: resume=last continues it to {now}, {_ANEW}"
            )
        if finished and now < then:
            raise UserError(
                f"trainer.max_steps is {now}, and the run in {run_dir} ended at step {then}: resume=PATH resumes an "
                f"earlier checkpoint under another name=…; {_ANEW}"
            )
        if finished and not grown:
            return True
        if not resumes and started:
            raise UserError(f"{run_dir} holds an unfinished run: resume=last resumes it, {_ANEW}")
    try:
        recover(run_dir / "checkpoints")
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(run_dir, error) from error
    return False


def _unwritable(run_dir: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to run_dir {run_dir} ({error}): free space, or choose another place")


def _begin(run_dir: Path, text: str) -> None:
    """Write the configuration, once it is known that the run can begin; the end of a shorter run is no end now."""
    if not is_first_process():
        return
    try:
        (run_dir / "done.json").unlink(missing_ok=True)
        write_whole(run_dir / "config.yaml", text)
    except OSError as error:
        raise _unwritable(run_dir, error) from error


def _quiet() -> None:
    """Silence Lightning's banners and advice; errors still show."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*`isinstance\\(treespec.*",
        ".*LeafSpec.*",
        ".*Checkpoint directory.*",
        ".*is smaller than the logging interval.*",
        ".*recommended to use `self.log.*sync_dist=True.*",  # ours are means over the processes already
        ".*all_gather_into_tensor. is deprecated.*",  # in DeepSpeed
        ".*DeepSpeed handles gradient clipping internally.*",  # as trainer.gradient_clip_val sets it to
    ):
        warnings.filterwarnings("ignore", message=message)


def execute(config: DictConfig, reporter: Reporter) -> str:
    """Do what is left of the run that `config` describes: train and evaluate it, or evaluate the run `config.trained`.

    Returns:
        "done", or "skipped" where its folder shows that nothing is left.

    Raises:
        UserError: bad configuration, data or weights; the folder keeps what was good.
    """
    try:
        if config.get("trained") is None:
            return _execute(config, reporter)
        from ovi_lab.runs.evaluate_trained import evaluate_trained

        return evaluate_trained(config, reporter)
    except RuntimeError as error:
        lost = died(error)
        if lost is None:
            raise
        raise LostProcessError(
            f"{lost}; resume=last resumes from the last checkpoint of {config.run_dir}"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk is full ({error.filename or config.run_dir}): free space; "
            "resume=last, or the same sweep again, resumes from the last checkpoint"
        ) from error


def _execute(config: DictConfig, reporter: Reporter) -> str:
    _quiet()
    plain = run_config(config)
    text = OmegaConf.to_yaml(OmegaConf.create(plain))
    run_dir = Path(plain["run_dir"])
    finished = (run_dir / "done.json").is_file()
    data = None if finished else refuse_what_cannot_run(config)
    if _claim_folder(config, run_dir, plain, text):
        reporter.at("scoring", 1, 1, "already done")
        return "skipped"
    if finished:
        data = refuse_what_cannot_run(config)
    resumed = _checkpoint_to_resume(config, run_dir, plain)
    text = OmegaConf.to_yaml(OmegaConf.create(plain))
    _begin(run_dir, text)
    step = 0 if resumed is None else Checkpoint.open(resumed).step
    with counted(run_dir, step, config.restarts.without_progress):
        _train(config, plain, run_dir, text, data, resumed, reporter)
    return "done"


def _train(
    config: DictConfig,
    plain: Mapping[str, Any],
    run_dir: Path,
    text: str,
    data: Any,
    resumed: Path | None,
    reporter: Reporter,
) -> None:
    """Train, validate and score; `data` as `refuse_what_cannot_run` gives it."""
    import lightning.pytorch as pl
    from torch import distributed

    reporter.at("data", 0, 1)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    if data is not None:
        with told(reporter, "data"):
            data.prepare_data()
            data.setup("fit")
        # a checkpoint must bring the size of a clip
        shapes = {modality: list(shape) for modality, shape in data.latent_shapes.items()}
        chosen = choose_checkpointing(config, data.latent_shapes)
        extra = {"latent_shapes": shapes, **({"chosen": chosen} if chosen else {})}
        text = OmegaConf.to_yaml(OmegaConf.create({**plain, **extra}))
    reporter.at("data", 1, 1)
    task = build(config.task, "task")
    refuse_clips_without_use(task, data)
    if config.evaluation.enabled and tuple(task.modalities) != ("video", "audio"):
        raise UserError(
            "evaluation scores video with its sound, and this task trains less: use evaluation=none"
        )
    if config.evaluation.enabled:
        from ovi_lab.runs.evaluation_tasks import check_tasks

        check_tasks(config.evaluation, data.latent_shapes["video"][1])
    trainer, ema, preemption = make_trainer(config, plain, run_dir, text, data, task, resumed, reporter)
    _fit(trainer, task, data, resumed)
    with preemption.at_once(trainer.is_global_zero):
        losses = _validate(trainer, task, data) if data is None or data.has_eval else {}
    outcome: dict[str, Any] = {
        "steps": trainer.global_step,
        "losses": losses,
        "config_hash": config_hash(plain),
        "trained_parameters": task.trained_parameters,
        "parameters": task.total_parameters,
        **_compute(config, trainer, task, data),
    }
    first = trainer.is_global_zero
    if started():
        # the first rank samples and scores alone, and its metrics must not wait for the others
        distributed.barrier()
        distributed.destroy_process_group()
    if config.evaluation.enabled and first:
        from ovi_lab.runs.evaluate import evaluate_run
        from ovi_lab.runs.evaluate_trained import averaged_model

        if trainer.strategy.partitioned:
            task, ema = averaged_model(run_dir / "last", config), None

        with preemption.at_once(first):
            origin = {key: outcome[key] for key in (TFLOPS,) if key in outcome}
            evaluate_run(config, plain, task, ema, data, run_dir, losses, reporter, origin)
    if first:
        write_whole(run_dir / "done.json", json.dumps(outcome, indent=1))


def _compute(config: DictConfig, trainer: Trainer, task: Task, data: Any) -> dict[str, float]:
    """TFLOPs of all steps, counted as throughput counts them, for clips of the size that the data have; empty where no
    step has a known number of clips of that size.
    """
    from ovi_lab.planning.clip_shape import ClipShape
    from ovi_lab.planning.flops import count_flops
    from ovi_lab.strategies.base import strategy_of
    from ovi_lab.tasks import FlowMatchingTask

    if not isinstance(task, FlowMatchingTask) or config.data.get("world") is None:
        return {}
    assert task.model is not None
    clips = config.data.batch_size * trainer.accumulate_grad_batches * strategy_of(trainer).data_place[1]
    text = task.text_encoder
    trained = text is not None and any(p.requires_grad for p in text.parameters())
    shapes = {m: s for m, s in data.latent_shapes.items() if m in task.modalities}
    work = count_flops(task.model, ClipShape.of_latents(shapes), text_is_trained=trained)
    return {TFLOPS: trainer.global_step * clips * work.model / 1e12}


def _fit(trainer: Trainer, task: Task, data: Any, resumed: Path | None) -> None:
    """Trainer.fit; Ctrl-C stays a KeyboardInterrupt, of which Lightning makes an exit without a word."""
    try:
        trainer.fit(
            task, datamodule=data, ckpt_path=None if resumed is None else str(resumed), weights_only=True
        )
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # preemption ends runs by codes of its own
            raise KeyboardInterrupt from error
        raise


def _validate(trainer: Any, task: Any, data: Any) -> dict[str, float]:
    """Losses of the averaged weights over the whole validation set."""
    trainer.validate(task, datamodule=data, verbose=False)
    metrics = trainer.callback_metrics.items()
    return {name.removeprefix("val/"): float(value) for name, value in metrics if name.startswith("val/")}
