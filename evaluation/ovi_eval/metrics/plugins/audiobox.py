"""AudioBox aesthetics: how people would rate a sound's enjoyment, usefulness, complexity and production, 1 to 10.

Tjandra et al. 2025 ("Meta Audiobox Aesthetics: Unified automatic quality assessment for speech, music, and sound").
The network is that of the package audiobox_aesthetics; its weights could not be had where this was written, so it has
run here with random ones only. Sound at 16 kHz mono in pieces of 10 s, the last filled up with zeros that a mask
hides; a clip's rating is the pieces' mean by their length. The package resamples by torchaudio, this by FFmpeg.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovi_eval.backbones.hub_folder import reading
from ovi_eval.clips.items import Item
from ovi_eval.common.files import file_sha256
from ovi_eval.common.needs import Package, PublishedFolder, find_folder, imported
from ovi_eval.common.processes import CPU
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec
from ovi_eval.metrics.sound_features import audible

AXES = ("CE", "CU", "PC", "PQ")
SAMPLE_RATE, PIECE = 16000, 160000
PACKAGE = Package("audiobox_aesthetics", "pip install audiobox_aesthetics")
FOLDER = PublishedFolder(
    what="AudioBox aesthetics",
    name="audiobox-aesthetics",
    source="https://huggingface.co/facebook/audiobox-aesthetics",
    files=("config.json", "model.safetensors"),
)


class AudioBoxRatings(Extractor):
    """Feature: `ratings` [4], CE, CU, PC and PQ."""

    name = "audiobox_aesthetics"
    needs = (PACKAGE, FOLDER)
    preprocessing = "mono 16 kHz by FFmpeg, pieces of 10 s"

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        folder = find_folder(FOLDER, self.name)
        package = imported(PACKAGE, self.name, "audiobox_aesthetics.model.aes")
        with reading(folder, "AudioBox aesthetics"):
            network: Any = package.AesMultiOutput.from_pretrained(
                str(folder), local_files_only=True, strict=True
            )
            scales = network.target_transform
            self.scale = torch.tensor(
                [[float(scales[axis][key]) for axis in AXES] for key in ("mean", "std")]
            )
        self.network = network.eval().requires_grad_(False).to(device)
        digest = file_sha256(folder / "model.safetensors")
        self.variant = f"weights {digest[:12]}, 16 kHz by FFmpeg"
        self.weights = {f"{folder.name}/model.safetensors": digest}

    def load(self, item: Item) -> Tensor:
        return audible(item, SAMPLE_RATE)

    def run(self, loaded: Any) -> Features:
        weighted = torch.zeros(len(AXES))
        for start in range(0, len(loaded), PIECE):
            piece_S = loaded[start : start + PIECE]
            wave = F.pad(piece_S, (0, PIECE - len(piece_S)))[None, None].to(self.device)
            mask = torch.arange(PIECE, device=self.device)[None, None] < len(piece_S)
            found = self.network({"wav": wave, "mask": mask})
            rating = torch.stack([found[axis].reshape(()) for axis in AXES]).float().cpu()
            weighted += (rating * self.scale[1] + self.scale[0]) * len(piece_S)
        return {"ratings": weighted / len(loaded)}


class AudioBoxAesthetics(ItemMean):
    """Content enjoyment, content usefulness, production complexity and production quality."""

    name = "audiobox_aesthetics"
    values = tuple(ValueSpec(f"audiobox_{axis.lower()}", "higher") for axis in AXES)
    extractor = AudioBoxRatings

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        return [float(rating) for rating in features["ratings"]]
