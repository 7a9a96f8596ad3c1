"""A run's configuration as planning reads it: the model on the meta device, what is trained, the shape of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
from ovi_lab.optim import parameter_groups
from ovi_lab.optim.freezing import FreezeRule
from ovi_lab.planning.activations import META
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.strategy import PERSISTENT
from ovi_lab.planning.text import TextEncoder, text_encoder

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

    clip: ClipShape
    micro: int
    """Micro-batch: clips of a process and pass."""
    accumulate: int
    places: int
    """Number of groups of processes that see different clips."""

    @property
    def clips(self) -> int:
        """Clips of a step."""
        return self.micro * self.accumulate * self.places


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
        self.modalities: Sequence[Modality] = getattr(get_class(task["_target_"]), "modalities", ())
        if not self.modalities:
            raise UserError(f"task {task['_target_']} trains no towers; plan is for those that do")
        self.first_frame_clean = float(task.get("first_frame_clean") or 0) > 0 and "video" in self.modalities
        self.precision = str(config.trainer.precision)
        self.steps = int(config.trainer.max_steps)
        self.averaged = bool(config.ema.decay)
        model_settings = self._plain("model")
        self.checkpointing = Checkpointing(
            str(model_settings.get("activation_checkpointing", "none")),
            int(model_settings.get("checkpoint_every", 1)),
        )
        self.text: TextEncoder | None = text_encoder(config) if task.get("text_encoder") is not None else None
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
        settings: dict[str, Any] = {
            "activation_checkpointing": checkpointing.choice,
            "checkpoint_every": checkpointing.every,
        }
        absent = {"video", "audio"} - set(self.modalities)
        if absent:
            settings |= {**dict.fromkeys(absent), "fusion": {"direction": "none"}}
        try:
            make = build(self.config.model, "model")
            with META:
                model = make(**settings)
        except InstantiationException as error:
            raise UserError(f"model: {str(error.__cause__ or error).splitlines()[0]}") from error
        FreezeRule(**(OmegaConf.to_container(self.config.freeze, resolve=True) or {})).apply(model)  # type: ignore[arg-type]
        if self.config.get("adapter"):
            add_lora(model, OmegaConf.to_container(self.config.adapter, resolve=True))  # type: ignore[arg-type]
        return model

    @property
    def frozen_size(self) -> int:
        """Bytes of a frozen value in a model that trains in float32."""
        frozen = (p for p in self.model(self.checkpointing).parameters() if not p.requires_grad)
        return max((p.element_size() for p in frozen), default=4)

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that get gradients, the text encoder's with them."""
        named = {f"model.{n}": p for n, p in self.model(self.checkpointing).named_parameters()}
        if self.text is not None:
            named |= {f"text_encoder.{n}": p for n, p in self.text.trained.items()}
        return {n: p for n, p in named.items() if p.requires_grad}

    @property
    def total(self) -> int:
        """Parameters of the towers and of a trained text encoder."""
        own = sum(p.numel() for p in self.model(self.checkpointing).parameters())
        return own + (0 if self.text is None else sum(p.numel() for p in self.text.trained.values()))

    @property
    def small(self) -> int:
        """Values in parameters that ZeRO 3 leaves gathered."""
        sizes = (p.numel() for p in self.model(self.checkpointing).parameters())
        return sum(size for size in sizes if size <= PERSISTENT)

    @property
    def units(self) -> list[int]:
        """Parameters of each block, or pair of blocks, that is gathered at a time."""
        model = self.model(self.checkpointing)
        towers = [
            [sum(p.numel() for p in b.parameters()) for b in model.tower(m).each_block()]
            for m in self.modalities
        ]
        return [sum(sizes) for sizes in zip(*towers, strict=True)]

    def optimiser(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """The configured one over these parameters."""
        settings: Any = self.config.optim
        groups = parameter_groups(parameters.items(), settings.weight_decay, settings.muon)
        return cast("torch.optim.Optimizer", build(settings.factory, "optim.factory")(groups))

    # ---- the batch

    def _clip(self, given: ClipShape | None) -> ClipShape:
        data, towers = self._plain("data"), self.model(self.checkpointing).tower_configs
        found = given or _stored_shapes(data.get("latent_shapes"))
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
        if wanted is None:
            return GlobalBatch(
                self.clip, micro, int(self.config.trainer.get("accumulate_grad_batches") or 1), places
            )
        if int(wanted) % (places * micro):
            fitting = [n for n in range(1, int(wanted) + 1) if wanted % (n * places) == 0]
            hint = (
                f"choose data.batch_size from {', '.join(map(str, fitting[:12]))}"
                if fitting
                else "choose another number of GPUs"
            )
            raise UserError(
                f"global_batch_size is {wanted}, which {places} processes with data.batch_size={micro} do not "
                f"divide: {hint}"
            )
        return GlobalBatch(self.clip, micro, int(wanted) // (places * micro), places)


def _stored_shapes(shapes: Any) -> ClipShape | None:
    """The clip of `data.latent_shapes`: {video: [C, F, H, W], audio: [L, C]}."""
    if not shapes:
        return None
    video, audio = shapes.get("video"), shapes.get("audio")
    planes = None if video is None else (int(video[1]), int(video[2]), int(video[3]))
    return ClipShape(planes, None if audio is None else int(audio[0]))
