"""A run's configuration as planning reads it: the model on the meta device, what is trained, the shape of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ovi_lab.adapters import add_lora
from ovi_lab.common.building import build
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.models.recomputation import AUTO
from ovi_lab.models.tower import Tower
from ovi_lab.optim import parameter_groups
from ovi_lab.optim.freezing import FreezeRule
from ovi_lab.planning.activations import META
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.live_memory import TrainingMemory, as_trained
from ovi_lab.planning.memory import Counts
from ovi_lab.planning.strategy import PERSISTENT

RELEASED_CLIP = ClipShape(video=(31, 44, 46), audio=157)
"""121 frames at 24 fps of 704x736 pixels: 720x720's area in multiples of 32, which whole patches need."""


@dataclass(frozen=True)
class Checkpointing:
    """Activation checkpointing (see `Recomputation`)."""

    choice: str = "none"
    every: int = 1


@dataclass(frozen=True)
class GlobalBatch:
    """The clips of one optimiser step over all processes."""

    micro: int
    """Micro-batch: clips of a process and pass."""
    accumulate: int
    places: int
    """Number of groups of processes that see different clips."""

    @property
    def clips(self) -> int:
        return self.micro * self.accumulate * self.places


@dataclass(frozen=True)
class TextEncoder:
    """Built on the meta device; by default one that counts as nothing."""

    trained: dict[str, nn.Parameter] = field(default_factory=dict)
    weights: int = 0
    """Bytes, of a frozen one."""
    work: Callable[[int], int] = lambda clips: 0
    """Bytes alive while it reads so many captions."""
    flops: Callable[[int], int] = lambda clips: 0
    """Operations over so many captions."""


class TrainingJob:
    """A configuration of `ovi_lab.train`, before anything is built.

    Args:
        config: as composed.
        clip: the shape of each clip; None: from the configuration.

    Raises:
        UserError: the configuration does not say what planning needs, or names no model or task.
    """

    def __init__(self, config: DictConfig, clip: ClipShape | None = None) -> None:
        self.config = config
        task = self._plain("task")
        if "_target_" not in task:
            raise UserError("the configuration has no task to plan")
        self._task: Any = get_class(task["_target_"])
        self.modalities: Sequence[Modality] = getattr(self._task, "modalities", ())
        if not self.modalities:
            raise UserError(f"task {task['_target_']} trains no towers; plan is for those that do")
        roles = self._plain("roles")
        partly = any(float(roles.get(role) or 0) > 0 for role in ("first_frame", "beginning", "span"))
        self.first_frame_clean = partly and "video" in self.modalities
        self.precision = str(config.trainer.precision)
        self.steps = int(config.trainer.max_steps)
        self.averaged = bool(config.ema.decay)
        model_settings = self._plain("model")
        choice = str(model_settings.get("activation_checkpointing", "none"))
        self.chooses = choice == AUTO
        """Whether activation checkpointing is left to the memory that there is."""
        every = 1 if self.chooses else int(model_settings.get("checkpoint_every", 1))
        self.checkpointing = Checkpointing("full" if self.chooses else choice, every)
        self.text = TextEncoder() if task.get("text_encoder") is None else _text_encoder(config)
        self._models: dict[tuple[Checkpointing, torch.dtype], TwinDiT] = {}
        towers = self.model(self.checkpointing).tower_configs
        self.clip = self._clip(clip)
        self.tokens = self.clip.tokens(towers)
        """Tokens of a clip, by tower."""

    def _plain(self, key: str) -> dict[str, Any]:
        plain: Any = OmegaConf.to_container(self.config[key], resolve=False) if key in self.config else {}
        return plain if isinstance(plain, dict) else {}

    # ---- the model

    def model(self, checkpointing: Checkpointing, dtype: torch.dtype = torch.float32) -> TwinDiT:
        """The model on the meta device, frozen as configured; each is built once."""
        key = (checkpointing, dtype)
        if key not in self._models:
            made = self._made(checkpointing)
            # an adapter's base has a type of its own, which training in float32 leaves
            self._models[key] = made if dtype == torch.float32 else made.to(dtype)
        return self._models[key]

    def _made(self, checkpointing: Checkpointing) -> TwinDiT:
        recomputed = {
            "activation_checkpointing": checkpointing.choice,
            "checkpoint_every": checkpointing.every,
            "compile": "none",
            "linear": "plain",
            "attention_backend": "auto",
        }
        try:
            make = build(self.config.model, "model")
            with META:
                model = make(**recomputed, **self._task.model_settings())
        except InstantiationException as error:
            raise UserError(f"model: {str(error.__cause__ or error).splitlines()[0]}") from error
        FreezeRule(**(OmegaConf.to_container(self.config.freeze, resolve=True) or {})).apply(model)  # type: ignore[arg-type]
        if self.config.get("adapter"):
            add_lora(model, OmegaConf.to_container(self.config.adapter, resolve=True))  # type: ignore[arg-type]
        return model

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that get gradients, the text encoder's with them."""
        named = {f"model.{n}": p for n, p in self.model(self.checkpointing).named_parameters()}
        named |= {f"text_encoder.{n}": p for n, p in self.text.trained.items()}
        return {n: p for n, p in named.items() if p.requires_grad}

    @cached_property
    def counts(self) -> Counts:
        """Parameters of the towers and the text encoder."""
        model = self.model(self.checkpointing)
        own = [p.numel() for p in model.parameters()]
        total = sum(own) + sum(p.numel() for p in self.text.trained.values())
        units = [list(unit.parameters()) for unit in model.sharding_units()]
        sizes = [sum(p.numel() for p in unit) for unit in units]
        return Counts(
            total=total,
            trained=sum(p.numel() for p in self.trained.values()),
            small=sum(size for size in own if size <= PERSISTENT),
            largest=max(p.numel() for unit in units for p in unit),
            largest_unit=max(sizes),
            outside=total - sum(sizes),
            unit_trained=max(sum(p.numel() for p in unit if p.requires_grad) for unit in units),
            frozen_size=max((p.element_size() for p in model.parameters() if not p.requires_grad), default=4),
            of_tower={
                m: sum(p.numel() for block in model.tower(m).each_block() for p in block.parameters())
                for m in model.tower_configs
            },
            block_of={m: _largest_block(model.tower(m)) for m in model.tower_configs},
            encoder_bytes=self.text.weights,
        )

    def optimiser(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """The configured one over these parameters."""
        settings: Any = self.config.optim
        groups = parameter_groups(parameters.items(), settings.weight_decay, settings.muon)
        return cast("torch.optim.Optimizer", build(settings.factory, "optim.factory")(groups))

    # ---- the batch

    def _clip(self, given: ClipShape | None) -> ClipShape:
        data, towers = self._plain("data"), self.model(self.checkpointing).tower_configs
        stored = data.get("latent_shapes")
        found = given or (ClipShape.of_latents(stored) if stored else None)
        if found is None:
            released = all(towers[m].in_dim == {"video": 48, "audio": 20}[m] for m in self.modalities)
            if not released:
                forms = {"video": "video=FxHxW", "audio": "audio=L"}
                raise UserError(
                    "the shape of a clip's latents is not known before the data is read: give "
                    + " and ".join(forms[m] for m in self.modalities)
                )
            longest = (data.get("audio_tokens") or {}).get("max")
            found = replace(RELEASED_CLIP, audio=int(longest)) if longest else RELEASED_CLIP
        shape = ClipShape(
            found.video if "video" in self.modalities else None,
            found.audio if "audio" in self.modalities else None,
        )
        missing = [m for m in self.modalities if getattr(shape, m) is None]
        if missing:
            raise UserError(f"the shape of a clip's {missing[0]} latents is not given: add {missing[0]}=…")
        return shape

    @property
    def micro(self) -> int:
        """Micro-batch: clips of a process and pass."""
        data = self._plain("data")
        if data.get("tokens_per_batch"):
            return max(1, int(data["tokens_per_batch"]) // sum(self.tokens.values()))
        return int(data.get("batch_size") or 1)

    def typed_micro(self, micro: int) -> list[str]:
        """The override for another number of clips a pass."""
        if self._plain("data").get("tokens_per_batch"):
            return [f"data.tokens_per_batch={micro * sum(self.tokens.values())}"]
        return [f"data.batch_size={micro}"]

    def batch(self, places: int, micro: int | None = None) -> GlobalBatch:
        """The batch of a step on `places` groups of processes; UserError where they cannot share the global batch."""
        micro = self.micro if micro is None else micro
        wanted = self.config.get("global_batch_size")
        accumulate = int(self.config.trainer.get("accumulate_grad_batches") or 1)
        if wanted is not None:
            accumulate = accumulated_batches(int(wanted), places, micro)
        return GlobalBatch(micro, accumulate, places)


def _largest_block(tower: Tower) -> tuple[int, int]:
    """Values of a tower's largest block, and of the one with most that are trained."""
    blocks = [list(block.parameters()) for block in tower.each_block()]
    return (
        max(sum(p.numel() for p in block) for block in blocks),
        max(sum(p.numel() for p in block if p.requires_grad) for block in blocks),
    )


def accumulated_batches(global_batch: int, places: int, batch_size: int) -> int:
    """Micro-batches that each process accumulates so that a step sees `global_batch` clips.

    Args:
        global_batch: clips of a step.
        places: groups of processes that see different clips.
        batch_size: clips of a process and pass.

    Raises:
        UserError: the clips do not divide so; it names batch sizes that fit.
    """
    if global_batch < 1 or global_batch % (places * batch_size):
        fitting = [str(n) for n in range(1, global_batch + 1) if global_batch % (n * places) == 0]
        raise UserError(
            f"global_batch_size is {global_batch}, which {places} processes with data.batch_size={batch_size} do not "
            f"divide: choose data.batch_size from {', '.join(fitting[:12]) or 'none that fits'}, or another number of "
            "GPUs"
        )
    return global_batch // (places * batch_size)


# ---- the text encoder, trained with the towers, or frozen and only run


def _text_encoder(config: DictConfig) -> TextEncoder:
    """The encoder of a run's `text` configuration; one that is not ours counts as nothing."""
    settings: Any = config.get("text")
    target = None if settings is None else settings.get("_target_")
    if target in ("ovi_lab.text.LearnedText", "ovi_lab.text.SeparateText"):
        from ovi_lab.text import LearnedText, SeparateText

        sizes = {key: settings[key] for key in ("dim", "rows", "max_words")}
        separate = target.endswith("SeparateText")
        made = SeparateText(**sizes, reads=settings.reads) if separate else LearnedText(**sizes)
        return TextEncoder(dict(made.to(META).named_parameters()))
    if target == "ovi_lab.text.UMT5Text":
        return _umt5(settings)
    return TextEncoder()


def _umt5(settings: DictConfig) -> TextEncoder:
    from ovi_lab.sampling.quantise import stored_bytes
    from ovi_lab.text import umt5

    sizes: Any = settings.get("configuration")
    sizes = OmegaConf.to_container(sizes) if sizes is not None else None
    encoder = umt5.build(umt5.UMT5Config.of(sizes))
    dtype = torch.float32 if settings.get("dtype") == "float32" else torch.bfloat16
    nn.Module.to(encoder, dtype=dtype)
    tokens = int(settings.max_tokens)
    inside = sum(p.numel() for p in encoder.parameters()) - encoder.shared.weight.numel()

    @cache
    def work(clips: int) -> int:
        ids_BN = torch.zeros(clips, tokens, dtype=torch.long, device=META)
        with torch.no_grad(), as_trained("cuda"), TrainingMemory(META, encoder) as live:
            encoder(input_ids=ids_BN)
        return live.peak

    return TextEncoder(
        weights=stored_bytes(encoder), work=work, flops=lambda clips: 2 * inside * tokens * clips
    )
