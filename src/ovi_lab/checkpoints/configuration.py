"""The configuration stored in a checkpoint or a run: plain settings, of classes of this package only.

A stored `_target_` is a name that is looked up here (a model, a text encoder); it never imports code. Nothing is
resolved, `${…}` stays text, and no path in it is followed. (The configuration that a user composes on
the command line is code, and is instantiated by Hydra.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovi_eval.common.plain_data import parse_yaml
from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import read_text
from ovi_lab.common.fields import checked, signature
from ovi_lab.common.foreign import reading
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES, FusionConfig, RopeConfig, TowerConfig
from ovi_lab.text import LearnedText, SeparateText, StoredText, UMT5Text
from ovi_lab.weights.fit import check_fit
from ovi_lab.weights.tensor_files import StoredTensor

MODELS: Mapping[str, type[TwinDiT]] = dict.fromkeys(
    ("ovi_lab.models.TwinDiT", "ovi_lab.models.twin.TwinDiT"), TwinDiT
)
"""Models that a stored configuration may name."""
TextClass = type[LearnedText] | type[SeparateText] | type[StoredText] | type[UMT5Text]
TEXT_ENCODERS: Mapping[str, TextClass] = {
    "ovi_lab.text.LearnedText": LearnedText,
    "ovi_lab.text.learned.LearnedText": LearnedText,
    "ovi_lab.text.SeparateText": SeparateText,
    "ovi_lab.text.StoredText": StoredText,
    "ovi_lab.text.UMT5Text": UMT5Text,
    "ovi_lab.text.umt5.UMT5Text": UMT5Text,
}
"""Text encoders that it may name."""
MAX_VALUES = 2**28
"""Largest number of values of a clip's latents (1 GiB in float32); the released models' largest clip has 1e7."""

_HYDRA = {"_target_": str, "_partial_": bool, "_convert_": str}


@dataclass(frozen=True)
class Configuration:
    """A run's configuration as plain values: None, bool, int, float, str, list and dict."""

    source: str
    """The name in errors."""
    plain: Mapping[str, Any]

    @property
    def _where(self) -> str:
        return shown(self.source, None)

    @classmethod
    def read(cls, path: str | Path) -> Configuration:
        """The configuration of a YAML file. Raises UserError where it is missing or no plain mapping."""
        with reading(path, "configuration"):
            text = read_text(path)
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Configuration:
        """The configuration of a YAML text. Raises UserError where it is no plain mapping."""
        with reading(source, "configuration"):
            plain = parse_yaml(text, source)
        if not isinstance(plain, dict):
            raise UserError(
                f"{shown(source, None)} is no mapping and configures no model: use another checkpoint, or the run's "
                "own config.yaml"
            )
        return cls(source, plain)

    def model(self) -> dict[str, Any]:
        """Checked arguments of TwinDiT. Raises UserError for another class, and for settings that it does not take."""
        if not isinstance(self.plain.get("model"), dict):
            raise UserError(
                f"{self._where} configures no model: use another checkpoint, or the run's own config.yaml"
            )
        return model_settings(self.plain["model"], f"{self._where}: model")

    def text_encoder(self) -> tuple[TextClass, dict[str, Any]]:
        """The text encoder's class and its checked arguments. Raises UserError as `model`."""
        what = f"{self._where}: text"
        cls, settings = _looked_up(self.plain.get("text"), TEXT_ENCODERS, what)
        checked(signature(cls), settings, what)
        return cls, settings

    def adapter(self) -> Mapping[str, Any] | None:
        """The settings of the run's adapter; None where it trained the model's own weights."""
        found = self.plain.get("adapter")
        if found is not None and not isinstance(found, dict):
            raise UserError(f"{self._where}: adapter is {shown(repr(found), 60)}, no mapping")
        return found or None

    def latent_shapes(self) -> dict[str, tuple[int, ...]] | None:
        """Shapes of the clips trained on: {"video": (C,F,h,w), "audio": (L,C)}; None where they are not stored.

        Raises UserError for what is no shape, or larger than any clip.
        """
        found = self.plain.get("latent_shapes")
        if found is None:
            return None
        dimensions = {"video": 4, "audio": 2}
        if not isinstance(found, dict) or not found.keys() <= dimensions.keys():
            raise UserError(f"{self._where}: latent_shapes is no mapping of video and audio")
        for modality, shape in found.items():
            is_shape = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
            if not is_shape or len(shape) != dimensions[modality]:
                raise UserError(
                    f"{self._where}: latent_shapes.{modality} is {shown(shape, 60)}; expected "
                    f"{dimensions[modality]} whole numbers above 0"
                )
            if math.prod(shape) > MAX_VALUES:
                raise UserError(f"{self._where}: latent_shapes.{modality} is {shape}, larger than any clip")
        return {modality: tuple(shape) for modality, shape in found.items()}


def model_settings(config: Mapping[str, Any], what: str = "model") -> dict[str, Any]:
    """Checked arguments of TwinDiT from plain settings, which may name their class as a stored configuration does.

    Raises:
        UserError: another class, an unknown or missing key, or a value of another type.
    """
    _, settings = _looked_up(config, MODELS, what, default="ovi_lab.models.TwinDiT")
    checked(signature(TwinDiT), settings, what)
    for modality in MODALITIES:
        if settings.get(modality) is not None:
            checked(TowerConfig, settings[modality], f"{what}.{modality}", modality=modality)
    for key, part in (("fusion", FusionConfig), ("rope", RopeConfig)):
        if settings.get(key) is not None:
            checked(part, settings[key], f"{what}.{key}")
    return settings


def _looked_up(
    node: Any, known: Mapping[str, Any], what: str, default: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """A known class and the settings next to its name; UserError for any other name."""
    if not isinstance(node, Mapping):
        raise UserError(f"{what} is {shown(repr(node), 60)}; expected a mapping of settings")
    target = node.get("_target_", default)
    if not isinstance(target, str) or target not in known:
        raise UserError(
            f"{what}._target_ is {shown(target, 80)}, refused: nothing that a checkpoint names is run, and ours are "
            f"{', '.join(known)}"
        )
    settings = {}
    for key, value in node.items():
        if not str(key).startswith("_"):
            settings[str(key)] = value
        elif not isinstance(value, _HYDRA.get(str(key), ())):
            raise UserError(
                f"{what} has {shown(key, 40)}={shown(value, 40)}, which a stored configuration has not"
            )
    return target and known[target], settings


def check_model(settings: Mapping[str, Any], held: Mapping[str, StoredTensor], source: str) -> None:
    """Compare a model's settings with its weights, before either takes memory.

    Raises:
        UserError: the settings contradict the weights' names or shapes.
    """
    for tower in MODALITIES:
        if settings.get(tower) is not None:
            # first, as a block's modules take memory even without their weights
            begin, layers = f"{tower}_model.blocks.", int(settings[tower]["num_layers"])
            blocks = {name[len(begin) :].partition(".")[0] for name in held if name.startswith(begin)}
            if blocks and len(blocks) != layers:
                raise UserError(
                    f"{source} does not fit this model: its {tower} tower has {len(blocks)} blocks, the configuration "
                    f"says {layers}; choose the configuration it was trained with"
                )
    with reading(source, "configuration of a model", "choose its own configuration"), torch.device("meta"):
        own = TwinDiT(**settings).state_dict()
    check_fit(held, own, source)
