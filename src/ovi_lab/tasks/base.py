"""Flow-matching training of a TwinDiT: noise, text, losses by modality and timestep, optimiser, schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn

from ovi_lab.checkpoints.init_from import find_beginning, load_text_encoder
from ovi_lab.common.fields import checked, field_type
from ovi_lab.common.seeding import generator_for
from ovi_lab.common.settings import TRAIN
from ovi_lab.common.values import check_settings
from ovi_lab.data.loading import ABSENT, KIND, REPEATED
from ovi_lab.errors import UserError
from ovi_lab.flow import FlowLoss, Roles, TimestepSampler, flow_matching_loss, interpolate
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.models.given import Mask, frames_of
from ovi_lab.models.rope import from_host
from ovi_lab.optim import parameter_groups, warmup_flat_decay
from ovi_lab.optim.freezing import FreezeRule
from ovi_lab.strategies.base import strategy_of
from ovi_lab.strategies.initial_values import ParameterValues, Values
from ovi_lab.strategies.process_groups import started
from ovi_lab.tasks.absent import absence, nothing_of
from ovi_lab.tasks.clip_shares import ClipShares
from ovi_lab.tasks.learned_weights import LearnedWeights
from ovi_lab.tasks.losses_by_timestep import LossByTimestep, add_by_role, names_by_role
from ovi_lab.tasks.step_log import log_directly, log_with_step
from ovi_lab.tasks.step_losses import StepLosses
from ovi_lab.tasks.task import Task, log_interval, steps_now
from ovi_lab.text.parts import parts_of, vectors_by_tower

log = logging.getLogger("ovi_lab.tasks")

Latents = Tensor | list[Tensor]


def noise_like(latents: Latents, generator: torch.Generator) -> Latents:
    """Standard normal noise in the shape of a batch, or of each clip of it."""
    if isinstance(latents, Tensor):
        return torch.randn(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
    return [torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype) for x in latents]


class FlowMatchingTask(Task):
    """Trains the velocity of a rectified flow for one or both modalities.

    Every random draw has its own generator, made from the seed, its purpose, the rank and the number of the batch: runs
    that differ in the model alone see the same noise, and a resumed run sees the noise it would have seen.

    Args:
        model: makes the TwinDiT (called where Lightning wants the model to be built).
        text_encoder: makes the text encoder; None where the batches bring text embeddings.
        timesteps: draws sigma.
        loss_weights: by modality; none, or None, is 0. With `learned` they are where `LearnedWeights` begin.
        optimizer: `factory` (takes parameter groups), `muon` and `weight_decay`.
        schedule: arguments of `warmup_flat_decay`.
        freeze: arguments of `FreezeRule`.
        init_from: `all`, or `video` and `audio`, or `audio_from_video`: checkpoints to begin from.
        adapter: settings of low-rank adapters, which alone are trained then (see `adapters`).
        text_dropout: share of clips whose caption is left out.
        roles: what of each clip is given or left out in training; None: nothing.
        timestep_bins: losses are logged in so many bins of sigma.
        seed: of every draw.
    """

    modalities: ClassVar[Sequence[str]] = ("video", "audio")

    def __init__(
        self,
        model: Callable[..., TwinDiT],
        text_encoder: Callable[[], nn.Module] | None,
        timesteps: TimestepSampler,
        loss_weights: Mapping[str, float | None],
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        freeze: Mapping[str, Any] | None = None,
        init_from: Mapping[str, Any] | None = None,
        adapter: Mapping[str, Any] | None = None,
        text_dropout: float = 0.0,
        roles: Roles | None = None,
        timestep_bins: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_settings("task", {"text_dropout": text_dropout})
        checked(field_type(TRAIN, "loss"), loss_weights, "loss")
        weights: dict[str, float] = {m: w for m in MODALITIES if (w := loss_weights.get(m)) is not None}
        self._make_model, self._make_text = model, text_encoder
        self.timesteps = timesteps
        self.loss_weights = weights
        self.learned_weights: LearnedWeights | None = None
        if loss_weights.get("learned"):
            self.learned_weights = LearnedWeights({m: weights.get(m, 0.0) for m in self.modalities})
        self.optimizer_settings, self.schedule = dict(optimizer), dict(schedule)
        self.freeze_rule = FreezeRule(**(freeze or {}))
        self.adapter = adapter or None
        self.init_from = {k: v for k, v in (init_from or {}).items() if v is not None}
        self.text_dropout, self.roles = text_dropout, roles or Roles()
        self.seed = seed
        self.train_bins, self.val_bins = LossByTimestep(timestep_bins), LossByTimestep(timestep_bins)
        self.model: TwinDiT | None = None
        self.text_encoder: nn.Module | None = None
        self._within_step = (-1, 0)
        self._step_losses = StepLosses()
        self.shares = ClipShares()
        self._val_sums = torch.empty(0)
        """Of losses times clips: of the whole loss, then of each modality's."""
        self._val_clips: list[int] = []
        """The clips that each of these is of."""

    # ---- building

    @classmethod
    def model_settings(cls) -> dict[str, Any]:
        """Arguments of the model that leave out the tower that is not trained."""
        absent = {"video", "audio"} - set(cls.modalities)
        return {**dict.fromkeys(absent), "fusion": {"direction": "none"}} if absent else {}

    def configure_model(self) -> None:
        """Build the towers, say what is trained, and have the strategy place every parameter with its value.

        Only shapes exist until then, so no process ever holds more of a large model than its share.
        """
        if self.model is not None:
            return
        with torch.device("meta"):
            model = self._make_model(**self.model_settings())
        sources = self.init_from.get("all") or self.init_from
        beginning = find_beginning(model, sources) if sources else None
        self.trained_parameters, self.total_parameters = self.freeze_rule.apply(model)
        values: Values = ParameterValues(model, beginning)
        if self.adapter is not None:
            from ovi_lab.adapters import LoraValues, add_lora

            if self.freeze_rule.frozen or self.freeze_rule.trained:
                raise UserError("an adapter freezes all the model's own weights: use freeze=nothing with it")
            self.trained_parameters, self.total_parameters = add_lora(model, self.adapter, self.seed)
            values = LoraValues(values, self.seed)
        strategy = strategy_of(self._trainer)
        if beginning is not None and beginning.note and strategy.is_global_zero:
            log.warning("%s", beginning.note)
        strategy.place(model, values)
        strategy.share_sequences(model)
        self.model = model
        self.text_encoder = self._make_text() if self._make_text is not None else None
        if self.text_encoder is not None:
            if beginning is not None:
                load_text_encoder(self.text_encoder, beginning)
            if len(self.modalities) < 2 and parts_of(self.text_encoder) is not None:
                raise UserError(
                    "text.reads is what each of two towers reads of a caption, and this task trains one: leave it "
                    "out, or choose text=learned"
                )
            own = list(self.text_encoder.parameters())
            self.trained_parameters += sum(p.numel() for p in own if p.requires_grad)
            self.total_parameters += sum(p.numel() for p in own)
            strategy.place_other(self.text_encoder)
        if self.learned_weights is not None:
            count = self.learned_weights.log_variances.numel()
            self.trained_parameters, self.total_parameters = (
                self.trained_parameters + count,
                self.total_parameters + count,
            )
            strategy.place_other(self.learned_weights)

    def configure_optimizers(self) -> Any:
        """The configured optimiser over what is trained, with its schedule per step."""
        groups = parameter_groups(
            self.named_parameters(), self.optimizer_settings["weight_decay"], self.optimizer_settings["muon"]
        )
        factory = strategy_of(self.trainer).optimizer_factory(self.optimizer_settings["factory"])
        optimizer = factory(groups)
        factor = warmup_flat_decay(int(self.trainer.max_steps), **self.schedule)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """The rates of this run's schedule, as a checkpoint brings those of the length that it was trained for; and the
        losses that are reported, of which every process must have the same."""
        self.train_bins.expect(names_by_role(self.roles.names, self.modalities), self.device)
        for schedule in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
                for group, rate, factor in zip(
                    schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
                ):
                    group["lr"] = rate * factor(schedule.last_epoch)

    # ---- one batch

    def encode_text(
        self, batch: Mapping[str, Any], dropped: Tensor | None = None
    ) -> dict[Modality, list[Tensor]]:
        """Text vectors [n_i, text_dim] of the batch for each tower; empty for clips that are `dropped` [B]."""
        if "text" in batch:
            if parts_of(self.text_encoder) is not None:
                raise UserError(
                    "the data bring embeddings of whole captions, and text.reads gives each tower a part of them: set "
                    "data.stored_text=false, or leave text.reads out"
                )
            stored = [t.to(self.device) for t in batch["text"]]
            vectors = {m: stored for m in MODALITIES}
        elif self.text_encoder is not None:
            vectors = vectors_by_tower(self.text_encoder, batch["caption"])
        else:
            raise UserError(
                "this run has no text encoder and its data no text embeddings: choose text=learned, or shards "
                "that have them (ovi-data latents --text)"
            )
        if dropped is None:
            return vectors
        drops = dropped.tolist()
        return {
            m: [v[:0] if drop else v for v, drop in zip(own, drops, strict=True)]
            for m, own in vectors.items()
        }

    def losses(
        self,
        batch: Mapping[str, Any],
        sigmas: Mapping[str, Tensor],
        purpose: Sequence[int | str],
        train: bool,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, FlowLoss]]:
        """The weighted loss of a batch, each modality's mean, and that by clip; binned by timestep on the way.

        Args:
            batch: latents `video` [B,C,F,H,W] and `audio` [B,L,C] (or lists), captions.
            sigmas: [B] for each modality.
            purpose: coordinates of the draws made here.
            train: drop text and give parts of clips by their shares.
        """
        assert self.model is not None
        device = self.device
        dropped = None
        if train and self.text_dropout:
            draws = torch.rand(len(batch["id"]), generator=generator_for(*purpose, "text dropout"))
            dropped = draws < self.text_dropout
        modalities = [m for m in MODALITIES if m in self.modalities and m in batch]
        lengths = {m: frames_of(batch[m], m) for m in modalities}
        roles = self.roles if train else Roles()
        drawn = roles.draw(lengths, lambda: generator_for(*purpose, "roles"))
        if (own := drawn.clips("independent")) is not None:
            sigmas = self._independent(sigmas, own, purpose)
        text = self.encode_text(batch, dropped)
        noisy: dict[str, Latents] = {}
        targets: dict[str, Latents] = {}
        arguments: dict[str, Any] = {}
        for modality in modalities:
            latents = batch[modality]
            noise = noise_like(latents, generator_for(*purpose, "noise", modality, device=device))
            held = drawn.given.mask(modality)
            noisy[modality], targets[modality] = interpolate(latents, noise, sigmas[modality], held)
            arguments[f"t_{modality}"] = 1000.0 * sigmas[modality]
            arguments[f"text_{modality}"] = text[modality]
        absent = [m for m in batch.get(ABSENT, ()) if m in self.modalities]
        more, given = absence(self.model, absent, drawn.given, len(batch["id"]), device)
        if parts_of(self.text_encoder) is not None:
            # an encoder of an absent tower has a gradient of 0, as the tower has
            more |= {f"text_{m}": [v[:0] for v in text[m]] for m in absent}
        scored = {m: drawn.given.scored(m, lengths[m]) for m in modalities}
        wanted = {m: None if own is None else own.any(axis=1) for m, own in scored.items()}
        output = self.model(**noisy, **arguments, **more, given=given, wanted=wanted)
        total: Tensor = torch.zeros((), device=device)
        for modality in absent:
            total = total + nothing_of(getattr(output, modality))
        by_modality: dict[str, Tensor] = {}
        by_clip: dict[str, FlowLoss] = {}
        for modality in modalities:
            predicted = getattr(output, modality)
            result = flow_matching_loss(predicted, targets[modality], scored=scored[modality])
            by_modality[modality], by_clip[modality] = result.mean, result
            if self.learned_weights is None:
                total = total + self.loss_weights.get(modality, 0.0) * by_modality[modality]
            if not batch.get(REPEATED):
                bins = self.train_bins if train else self.val_bins
                add_by_role(bins, modality, result, sigmas[modality], drawn, roles.names)
        if self.learned_weights is not None:
            weighted, weights = self.learned_weights(by_modality)
            total = total + weighted
            if train:
                for modality, weight in weights.items():
                    self._step_losses.add(f"train/weight_{modality}", weight)
        return total, by_modality, by_clip

    def _independent(
        self, sigmas: Mapping[str, Tensor], clips: Mask, purpose: Sequence[int | str]
    ) -> dict[str, Tensor]:
        """The sigmas with a draw of its own for the sound of these clips."""
        generator = generator_for(*purpose, "independent timesteps", device=self.device)
        own, _ = self.timesteps.sample(len(clips), generator)
        return {**sigmas, "audio": torch.where(from_host(clips, self.device), own, sigmas["audio"])}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch; its draws depend on the number of the batch in the run."""
        purpose = (self.seed, "training", 0, self._batch_number())
        sigma_video, sigma_audio = self.timesteps.sample(
            len(batch["id"]), generator_for(*purpose, "timesteps", device=self.device)
        )
        sigmas = {"video": sigma_video, "audio": sigma_audio}
        if self._within_step[1] == 0:
            self._step_losses.begin()
        loss, by_modality, by_clip = self.losses(batch, sigmas, purpose, train=True)
        for observe in self.observers:
            observe(batch, sigmas, by_modality)
        if KIND in batch:
            self.shares.add(batch[KIND], len(batch["id"]))
        self._step_losses.add("train/loss", loss)
        for modality, mean in by_modality.items():
            if self.roles.gives:
                self._step_losses.add_clips(f"train/loss_{modality}", by_clip[modality])
            else:
                self._step_losses.add(f"train/loss_{modality}", mean)
        self._log_losses()
        return loss

    def _log_losses(self) -> None:
        """Log the step's losses over its micro-batches and over all processes."""
        if not steps_now(self.trainer):
            return
        self.train_bins.end_step()
        self.shares.end_step()
        if self.trainer._logger_connector.should_update_logs:
            # no other step is logged
            log_with_step(self.trainer, self._step_losses.reduced())
        if (self.trainer.global_step + 1) % (5 * log_interval(self.trainer)) == 0:
            report = {**self.train_bins.collect(), **self.shares.collect()}
            log_directly(self.trainer, {f"train/{name}": value for name, value in report.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store losses by timestep since their last report, so that a resumed run's report is complete."""
        checkpoint["loss_by_timestep"] = self.train_bins.state()
        checkpoint["clip_shares"] = self.shares.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.train_bins.restore(checkpoint.get("loss_by_timestep") or {}, self.device)
        self.shares.restore(checkpoint.get("clip_shares") or {})

    def _batch_number(self) -> int:
        """Number of this batch among those of all processes: a step's draws do not depend on how it is distributed."""
        step, accumulated = self.trainer.global_step, int(self.trainer.accumulate_grad_batches)
        at, number = self._within_step
        self._within_step = (step, number + 1 if at == step else 0)
        rank, places = strategy_of(self.trainer).data_place
        return int((step * accumulated + self._within_step[1]) * places + rank)

    def on_validation_epoch_start(self) -> None:
        self.val_bins.expect(self.modalities, self.device)
        count = 1 + len(self.modalities)
        self._val_sums = torch.zeros(count, dtype=torch.float64, device=self.device)
        self._val_clips = [0] * count

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Losses with fixed noise and evenly spaced timesteps, so that those of two models are comparable.

        A batch's draws depend on its number among those of all processes.
        """
        strategy = strategy_of(self.trainer)
        if batch.get(REPEATED) and not strategy.needs_all_ranks:
            return
        rank, places = strategy.data_place
        size = len(batch["id"])
        purpose = (self.seed, "validation", 0, batch_idx * places + rank)
        order = torch.randperm(size, generator=generator_for(*purpose, "timesteps"))
        sigma = ((order + 0.5) / size).to(self.device)
        loss, by_modality, _ = self.losses(batch, {"video": sigma, "audio": sigma}, purpose, train=False)
        if not batch.get(REPEATED):
            self.val_bins.end_step()
            nothing = torch.zeros_like(loss)
            losses = torch.stack([loss, *(by_modality.get(m, nothing) for m in self.modalities)])
            self._val_sums += size * losses
            counted = [True, *(m in by_modality for m in self.modalities)]
            self._val_clips = [
                clips + size * own for clips, own in zip(self._val_clips, counted, strict=True)
            ]

    def on_validation_epoch_end(self) -> None:
        """Means over the clips of all processes."""
        clips = from_host(self._val_clips, self._val_sums.device, self._val_sums.dtype)
        both = torch.stack([self._val_sums, clips])
        if started():
            distributed.all_reduce(both)
        names = ("val/loss", *(f"val/loss_{m}" for m in self.modalities))
        sums = zip(names, *both.cpu(), strict=True)  # one copy, from which Lightning logs
        self.log_dict({name: (loss / count).float() for name, loss, count in sums if count})
        self.log_dict({f"val/{name}": torch.tensor(x) for name, x in self.val_bins.collect().items()})


class FusionTraining(FlowMatchingTask):
    """Both towers on paired video and audio: the paper's stage 3, and the ablations of it."""


class AudioPretraining(FlowMatchingTask):
    """The audio tower with its text cross-attention (the paper's stages 1 and 2). No video tower is built."""

    modalities = ("audio",)


class VideoPretraining(FlowMatchingTask):
    """The video tower with its text cross-attention. No audio tower is built."""

    modalities = ("video",)
