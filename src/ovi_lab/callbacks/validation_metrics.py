"""Metrics of `ovi_eval` during training, on a few clips: they show a run's progress, and are not to be compared."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.common.plain_data import read_json
from ovi_lab.callbacks.joint_sampling import SamplesInTraining, sample_together
from ovi_lab.common.fields import AtLeastOne, checked
from ovi_lab.common.progress import Reporter
from ovi_lab.common.seeding import seed_for
from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.strategies.ema import EMA
from ovi_lab.strategies.process_groups import everyone
from ovi_lab.tasks.task import log_directly

log = logging.getLogger("ovi_lab.val_metrics")

PUBLISHED = ("fad_vggish", "fvd_stylegan_v", "sync")
# the world's metrics take a clip without sound for a failed one
_OF_ONE = {"audio": ("fad_vggish", "ball/frechet_audio"), "video": ("fvd_stylegan_v",)}


class MetricsInLoop(SamplesInTraining):
    """Samples evaluation captions with the averaged weights and logs `val_metrics/<metric>_n<clips>`.

    The number of clips is part of the name, as small sets bias Fréchet distances upwards: such a number is shown beside
    those of the same run only. On the ball world the metrics are the world's, scored within this process. On real clips
    they are published ones, scored by `ovi-eval` in a process of its own on the first rank, where the features of the
    reference are cached from the first time on; those whose weights are not there are named once and left out, and a
    scoring that fails is reported and does not end the run.

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

    def _find(self, names: Sequence[str] | None) -> list[str]:
        from ovi_eval.registry import ALIASES, find

        try:
            if self.of_a_world:
                found = [metric.name for metric in find(names or ["ball"])]
                if published := [name for name in found if name not in ALIASES["ball"]]:
                    raise UserError(
                        f"{published[0]} looks at clips as they are, here only the ball world's are taken"
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
        captions: list[str] = []
        if trainer.is_global_zero and self.metrics:
            real = self.data.eval_clips(2 * self.num_clips)
            if len(real) < self.num_clips + 2:
                raise UserError(
                    f"val_metrics.num_clips is {self.num_clips} and {len(real)} clips are there to evaluate on: with "
                    "at least two more real ones to compare with it can be no more than "
                    f"{max(0, len(real) - 2)}"
                )
            captions = list(real.captions[: self.num_clips])
            # none lends its caption to a sample, so that no clip is measured against itself
            self._real = real[self.num_clips :]
            if not self.of_a_world:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._real.save(self.folder / "reference.safetensors")
                self._real = None
        self._captions = everyone(captions)[0]

    def sample(self, trainer: Trainer, task: Any, step: int) -> None:
        """One clip of each caption; the first rank scores them."""
        if not self._captions:
            return

        def report(done: int) -> None:
            if self.reporter is not None:
                note = f"sampling for metrics: {done} clips"
                self.reporter.at("training", trainer.global_step, trainer.max_steps, note)

        seeds = [seed_for(self.seed, "evaluation clip", i) for i in range(len(self._captions))]
        made = sample_together(
            trainer, task, self.data, self._captions, seeds, self.settings, self.batch_size, report
        )
        if made is None:
            return
        (frames, waves), codec = made, self.data.codec
        ids = [f"{i:04d}" for i in range(len(self._captions))]
        clips = ClipSet(ids, self._captions, frames, codec.fps, waves, codec.sample_rate, [{} for _ in ids])
        values = self._score_world(clips) if self.of_a_world else self._score_published(clips, step)
        names = {f"val_metrics/{key.replace('/', '_')}_n{self.num_clips}": v for key, v in values.items()}
        if names:
            log_directly(trainer, names)

    def _score_world(self, clips: ClipSet) -> dict[str, float]:
        from ovi_eval.clips.items import memory_items
        from ovi_eval.registry import find
        from ovi_eval.scoring.runner import ScoringOptions, score_items

        assert self._real is not None
        options = ScoringOptions(resamples=False, alone=True)
        scored = score_items(memory_items(clips), memory_items(self._real), find(self.metrics), options)
        return {key: score.value for key, score in scored.values.items() if score.value is not None}

    def _score_published(self, clips: ClipSet, step: int) -> dict[str, float]:
        """The values of `ovi-eval score`, in a process of its own: here it would divide the clips over our ranks."""
        samples = self.folder / "samples.safetensors"
        results = self.folder / f"step_{step:06d}.json"
        clips.save(samples)
        command = [
            sys.executable, "-m", "ovi_eval.cli", "score", str(samples),
            "--reference", str(self.folder / "reference.safetensors"), "--metrics", ",".join(self.metrics),
            "--out", str(results), "--device", self.device, "--no-intervals", "--name", "val_metrics",
            "--benchmark", f"in training, {self.num_clips} clips",
        ]  # fmt: skip
        # one process, whatever launched this one
        launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        environment = {name: value for name, value in os.environ.items() if name not in launched}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        samples.unlink(missing_ok=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            log.warning("val_metrics at step %d failed: %s", step, said[-1] if said else done.returncode)
            return {}
        metrics = read_json(results)["metrics"]
        return {key: m["value"] for key, m in metrics.items() if m["value"] is not None}
