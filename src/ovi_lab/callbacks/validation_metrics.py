"""Metrics of `ovi_eval` during training, on a few clips: they show a run's progress, and are not to be compared."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ovi_eval.clips.clipset import ClipSet
from ovi_lab.callbacks.background_scores import BackgroundScores
from ovi_lab.callbacks.joint_sampling import SamplesInTraining, decoded, sample_together
from ovi_lab.common.fields import AtLeastOne, checked
from ovi_lab.common.progress import Reporter
from ovi_lab.common.seeding import seed_for
from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.strategies.ema import EMA
from ovi_lab.strategies.process_groups import alone_on_first, everyone, from_first
from ovi_lab.tasks.step_log import log_directly, logged_step

log = logging.getLogger("ovi_lab.val_metrics")

PUBLISHED = ("fad_vggish", "fvd_stylegan_v", "sync")
# the world's metrics take a clip without sound for a failed one
_OF_ONE = {"audio": ("fad_vggish", "ball/frechet_audio"), "video": ("fvd_stylegan_v",)}


class MetricsInLoop(SamplesInTraining):
    """Samples evaluation captions with the averaged weights and logs `val_metrics/<metric>_n<clips>`.

    The number of clips is part of the name, as small sets bias Fréchet distances upwards: such a number is shown beside
    those of the same run only. On the ball world the metrics are the world's, scored within this process. On real clips
    they are published ones, scored by `ovi-eval` in a process of its own beside the first rank, where the features of
    the reference are cached from the first time on; the values are logged when they come, under the step that they
    belong to. Metrics whose weights are not there are named once and left out, and a scoring that fails is reported
    and does not end the run.

    All ranks sample; the random states of training are untouched, so that a run is the same with it as without.

    Args:
        run_dir: the run's folder; published scores are kept under `val_metrics/`.
        data: the data module.
        ema: where the averaged weights are; None samples the raw ones.
        every_n_steps, num_clips, batch_size: how often, how many clips, and how many a rank samples at once. The same
            captions and noise each time; as many real clips again are the reference.
        metrics: names as `ovi-eval metrics` lists them; None: the world's, or FAD, FVD and sync on real clips, of which
            a task of one modality takes the Fréchet distance of that.
        device: of the published metrics' networks; `auto` shares the first rank's GPU with the training.
        seed: of the noise.
        sampler: arguments of `SamplerSettings`.
        reporter: gets the progress of sampling.
    """

    def __init__(
        self,
        run_dir: str | Path,
        data: Any,
        ema: EMA | None,
        every_n_steps: int,
        num_clips: int = 24,
        batch_size: int = 8,
        metrics: Sequence[str] | None = None,
        device: str = "cpu",
        seed: int = 0,
        sampler: Mapping[str, Any] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        checked(AtLeastOne, every_n_steps, "val_metrics.every_n_steps")
        check_settings("val_metrics", {"num_clips": num_clips, "batch_size": batch_size, "seed": seed})
        if not data.has_eval:
            raise UserError(
                "val_metrics needs real clips to compare with: set data.val, or val_metrics.every_n_steps=0"
            )
        super().__init__(data, ema, every_n_steps)
        self.folder = Path(run_dir) / "val_metrics"
        self.num_clips, self.batch_size, self.device, self.seed = num_clips, batch_size, device, seed
        self.settings = SamplerSettings(**(sampler or {}))
        self.reporter = reporter
        self.of_a_world = getattr(data, "world", None) is not None
        self.metrics, self._chosen = self._find(metrics), metrics is not None
        self._captions: list[str] = []
        self._real: ClipSet | None = None
        self._scores: BackgroundScores | None = None

    def _find(self, names: Sequence[str] | None) -> list[str]:
        from ovi_eval.registry import ALIASES, find, metrics_of_world

        try:
            if self.of_a_world:
                own = metrics_of_world(getattr(self.data.world, "name", None))
                found = [metric.name for metric in find(names or [own])]
                if others := [name for name in found if name not in ALIASES[own]]:
                    raise UserError(
                        f"{others[0]} is none of the {own} world's metrics, which alone are taken here"
                    )
                return found
            found = []
            for name in names or PUBLISHED:
                try:
                    find([name])
                    found.append(name)
                except UserError as error:
                    if names is not None:
                        raise
                    log.warning("val_metrics: %s is left out: %s", name, error)
            return found
        except UserError as error:
            raise UserError(f"val_metrics.metrics: {error}") from error

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Real clips on the first rank, captions on all."""
        modalities = tuple(getattr(pl_module, "modalities", ("video", "audio")))
        if len(modalities) == 1 and not self._chosen:
            self.metrics = [name for name in self.metrics if name in _OF_ONE[modalities[0]]]
            if not self.metrics and trainer.is_global_zero:
                log.warning(
                    "val_metrics: no metric that is there scores %s alone; none is logged", modalities[0]
                )
        captions = alone_on_first(self._prepare_reference) if self.metrics else None
        self._captions = everyone(captions or [])[0]
        if self._captions:
            self.check_texts(pl_module, self._captions, self.settings)

    def _prepare_reference(self) -> list[str]:
        """Real clips to compare with; the captions of others, to be sampled."""
        real = self.data.eval_clips(2 * self.num_clips)
        if len(real) < self.num_clips + 2:
            raise UserError(
                f"val_metrics.num_clips is {self.num_clips} and {len(real)} clips are there to evaluate on: with at "
                f"least two more real ones to compare with it can be no more than {max(0, len(real) - 2)}"
            )
        # none lends its caption to a sample, so that no clip is measured against itself
        reference = real[self.num_clips :]
        if self.of_a_world:
            self._real = reference
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            reference.save(self.folder / "reference.safetensors")
            benchmark = f"in training, {self.num_clips} clips"
            self._scores = BackgroundScores(self.folder, self.metrics, self.device, benchmark)
        return list(real.captions[: self.num_clips])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score what an interrupted run had sampled and not scored."""
        if self._scores is not None:
            self._scores.resume(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._scores is not None:
            self._log(trainer, self._scores.collect())
        super().on_train_batch_end(trainer, pl_module, *args)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for what is being scored."""
        alone_on_first(lambda: self._finish(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._scores is not None:
            self._scores.stop()

    def sample(self, trainer: Trainer, task: Any, step: int) -> Callable[[], None] | None:
        """One clip of each caption; the first rank decodes and scores them, or has them scored."""
        if not self._captions:
            return None
        behind = from_first(
            str(self._scores.under_way if self._scores is not None and self._scores.busy else "")
        )
        if behind:
            if trainer.is_global_zero:
                log.warning(
                    "val_metrics at step %d are left out: the clips of step %s are still being scored "
                    "(raise val_metrics.every_n_steps)", step, behind,
                )  # fmt: skip
            return None

        def report(done: int) -> None:
            self._report(trainer, f"sampling for metrics: {done} clips")

        seeds = [seed_for(self.seed, "evaluation clip", i) for i in range(len(self._captions))]
        latents = sample_together(
            trainer, task, self.data, self._captions, seeds, self.settings, self.batch_size, report
        )
        return lambda: self._score(trainer, latents, step)

    def _score(self, trainer: Trainer, latents: Sequence[tuple[Tensor | None, ...]], step: int) -> None:
        codec = self.data.codec
        frames, waves = decoded(latents, codec)
        ids = [f"{i:04d}" for i in range(len(self._captions))]
        clips = ClipSet(ids, self._captions, frames, codec.fps, waves, codec.sample_rate, [{} for _ in ids])
        if self._scores is not None:
            self._scores.add(step, logged_step(trainer), clips)
        else:
            self._log(trainer, [(logged_step(trainer), self._score_world(clips))])

    def _finish(self, trainer: Trainer) -> None:
        if self._scores is not None and self._scores.under_way is not None:
            self._report(trainer, f"scoring the clips of step {self._scores.under_way}")
            self._log(trainer, self._scores.wait())

    def _log(self, trainer: Trainer, found: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in found:
            names = {f"val_metrics/{key.replace('/', '_')}_n{self.num_clips}": v for key, v in values.items()}
            if names:
                log_directly(trainer, names, step)

    def _report(self, trainer: Trainer, note: str) -> None:
        if self.reporter is not None:
            self.reporter.at("training", trainer.global_step, trainer.max_steps, note)

    def _score_world(self, clips: ClipSet) -> dict[str, float]:
        from ovi_eval.clips.items import memory_items
        from ovi_eval.registry import find
        from ovi_eval.scoring.runner import ScoringOptions, score_items

        assert self._real is not None
        options = ScoringOptions(resamples=False, alone=True)
        scored = score_items(memory_items(clips), memory_items(self._real), find(self.metrics), options)
        return {key: score.value for key, score in scored.values.items() if score.value is not None}
