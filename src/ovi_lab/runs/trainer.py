"""A run's Trainer: strategy, callbacks in their order, loggers, and the checks that need to know the processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ovi_eval.common.installation import install_hint
from ovi_lab.checkpoints.folder import Checkpoint
from ovi_lab.common.progress import Reporter
from ovi_lab.errors import UserError
from ovi_lab.runs.identity import config_hash
from ovi_lab.runs.processes import RankAgreement, is_first_process


def make_trainer(
    config: DictConfig,
    plain: Mapping[str, Any],
    run_dir: Path,
    text: str,
    data: Any,
    task: Any,
    resumed: Path | None,
    reporter: Reporter,
) -> tuple[Any, Any, Any]:
    """Lightning's Trainer of a run, its average of weights (None: there is none) and its `Preemption`.

    Args:
        config, plain: the run's configuration, composed and as plain values.
        run_dir: its folder.
        text: the configuration that goes into every checkpoint.
        data, task: what is trained on what; data is None where the task brings its own.
        resumed: the checkpoint to resume from.
        reporter: gets the progress of training.

    Raises:
        UserError: settings that do not fit each other, the number of processes or the GPUs' memory.
    """
    import lightning.pytorch as pl
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from ovi_lab.callbacks import (
        EMA,
        GradientNorms,
        Guard,
        LearningRate,
        MetricsInLoop,
        Preemption,
        RescaledResume,
        RunCheckpoint,
        SampleLogger,
        Throughput,
        TorchProfile,
        TrainingProgress,
    )
    from ovi_lab.callbacks.preemption import cluster_environment
    from ovi_lab.checkpoints import FolderCheckpointIO
    from ovi_lab.strategies import build_strategy
    from ovi_lab.tasks.base import FlowMatchingTask

    ema = EMA(**config.ema) if config.ema.decay else None
    callbacks: list[Any] = [] if ema is None else [ema]
    # norms before the guard, which may clear the gradients
    callbacks += [GradientNorms(), LearningRate(), Guard(run_dir, **config.guard), TrainingProgress(reporter)]
    if config.samples.every_n_steps and data is not None:
        callbacks.append(SampleLogger(run_dir, data, ema, **config.samples))
    metrics: Any = OmegaConf.to_container(config.val_metrics, resolve=True)
    if metrics["every_n_steps"] and data is not None:
        callbacks.append(MetricsInLoop(run_dir, data, ema, **metrics, reporter=reporter))
    if isinstance(task, FlowMatchingTask):
        callbacks.append(Throughput(**config.throughput))
    if config.get("profiler"):
        callbacks.append(TorchProfile(run_dir, **config.profiler))
    callbacks.append(RankAgreement(config_hash(plain), data))
    by_tokens = bool(config.data.get("tokens_per_batch"))
    callbacks.append(RescaledResume(data, int(config.data.get("batch_size") or 1), by_tokens))
    checkpoint = RunCheckpoint(run_dir, **config.checkpoint)
    # last: they save what all others have done in a step
    preemption = Preemption(checkpoint, **config.preemption)
    callbacks += [checkpoint, preemption]
    codec = None if data is None else data.codec_file()
    io = FolderCheckpointIO(text, {"codec.safetensors": Path(codec)} if codec else {})
    settings: Any = OmegaConf.to_container(config.trainer, resolve=True)
    strategy: Any = OmegaConf.to_container(config.strategy, resolve=True)
    if data is not None and not data.has_eval:
        settings["limit_val_batches"] = 0
    resumed_at = 0 if resumed is None else Checkpoint.open(resumed).step
    settings["max_steps"] = max(settings["max_steps"], resumed_at)
    try:
        trainer = pl.Trainer(
            **settings,
            max_epochs=-1,
            strategy=build_strategy(strategy, settings),
            logger=_loggers(config, run_dir, resumed_at),
            callbacks=callbacks,
            plugins=[io, *filter(None, [cluster_environment()])],
            default_root_dir=str(run_dir),
            use_distributed_sampler=False,  # our sampler knows the ranks; Lightning would shuffle on top
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=True,
            num_sanity_val_steps=0,
        )
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        raise UserError(f"trainer settings do not fit: {str(error).splitlines()[0]}") from error
    if data is not None and trainer.limit_train_batches:
        # Lightning would end its epochs there, within a group of accumulated batches
        data.limit_batches, trainer.limit_train_batches = trainer.limit_train_batches, 1.0
    if data is not None and trainer.limit_val_batches:
        # Lightning would take so many on each process
        data.limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 1.0
    _accumulate(config, trainer, data)
    _check_optimizer(config, trainer)
    if isinstance(task, FlowMatchingTask):
        _check_memory(config, trainer, data)
    return trainer, ema, preemption


def _loggers(config: DictConfig, run_dir: Path, resumed_at: int) -> list[Any]:
    from lightning.pytorch.loggers import TensorBoardLogger

    from ovi_lab.callbacks import ResumableCSVLogger

    found: list[Any] = []
    if config.logger.csv:
        found.append(ResumableCSVLogger(str(run_dir), resumed_at))
    if config.logger.tensorboard:
        found.append(TensorBoardLogger(str(run_dir), name="", version="tensorboard", default_hp_metric=False))
    if config.logger.wandb:
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise UserError(f"logger.wandb=true needs wandb: {install_hint('wandb')}") from error
        from lightning.pytorch.loggers import WandbLogger

        project = config.logger.wandb_project
        found.append(WandbLogger(project=project, name=config.name, save_dir=str(run_dir)))
    return found


def _accumulate(config: DictConfig, trainer: Any, data: Any) -> None:
    """Batches accumulated so that an optimiser step sees `global_batch_size` clips, on however many processes."""
    from ovi_lab.planning.job import accumulated_batches

    wanted = config.global_batch_size
    if wanted is None:
        return
    places = trainer.strategy.data_place[1]
    if config.data.get("tokens_per_batch"):
        # batches of equal tokens hold more or fewer clips: the number is met in the mean
        trainer.accumulate_grad_batches = max(1, round(wanted / (places * data.clips_per_batch(places))))
        return
    trainer.accumulate_grad_batches = accumulated_batches(wanted, places, int(config.data.batch_size))


def _check_memory(config: DictConfig, trainer: Any, data: Any) -> None:
    """Refuse what the GPUs have no memory for, before anything is built. UserError says what would fit."""
    import torch

    device = trainer.strategy.root_device
    if device.type != "cuda" or data is None or not is_first_process():
        return
    from ovi_lab.planning.clip_shape import ClipShape
    from ovi_lab.planning.training_report import check_fits

    clip = ClipShape.of_latents(data.latent_shapes)
    check_fits(config, trainer.world_size, torch.cuda.mem_get_info(device)[1], clip)


def _check_optimizer(config: DictConfig, trainer: Any) -> None:
    if "optim" in config and config.optim.get("muon") and trainer.strategy.partitioned:
        raise UserError(
            f"strategy={config.strategy.name} shards the matrices that optim=muon needs whole: use optim=adamw"
        )
