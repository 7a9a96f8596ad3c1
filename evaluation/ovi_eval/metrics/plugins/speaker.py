"""Speaker similarity: the cosine of a network's features of the voice in a clip and in the reference clip.

The network is WavLM for speaker verification (Chen et al. 2022), microsoft/wavlm-base-plus-sv, run by transformers;
its weights could not be had where this was written, so it has run here with random ones only. Other papers take
WavLM-large of UniSpeech, whose numbers are another scale. The whole sound counts, also where nobody speaks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_eval.backbones.hub_folder import model_from, reading
from ovi_eval.clips.items import Item
from ovi_eval.common.files import file_sha256
from ovi_eval.common.needs import PublishedFolder, find_folder
from ovi_eval.common.processes import CPU
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ValueSpec
from ovi_eval.metrics.plugins.loading import CosineOfPairs
from ovi_eval.metrics.sound_features import audible

SAMPLE_RATE = 16000
SHORTEST = SAMPLE_RATE // 2
FOLDER = PublishedFolder(
    what="WavLM for speaker verification",
    name="wavlm-base-plus-sv",
    source="https://huggingface.co/microsoft/wavlm-base-plus-sv",
    files=("config.json", "preprocessor_config.json"),
)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class VoiceFeatures(Extractor):
    """Feature: `voice` [D], of length 1."""

    name = "wavlm_sv"
    needs = (FOLDER,)
    preprocessing = "mono 16 kHz by FFmpeg, the whole sound"

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        from transformers import Wav2Vec2FeatureExtractor, WavLMForXVector

        folder = find_folder(FOLDER, self.name)
        weights = _weights(folder)
        safe = weights.suffix == ".safetensors"
        self.network = model_from(WavLMForXVector, folder, FOLDER.what, use_safetensors=safe).to(device)
        with reading(folder, FOLDER.what):
            self.hearing: Any = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
        digest = file_sha256(weights)
        self.variant = f"{folder.name}, weights {digest[:12]}"
        self.weights = {f"{folder.name}/{weights.name}": digest}

    def load(self, item: Item) -> Tensor:
        wave_S = audible(item, SAMPLE_RATE, SHORTEST)
        heard = self.hearing(wave_S.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return torch.as_tensor(heard.input_values)

    def run(self, loaded: Any) -> Features:
        voice_D = self.network(loaded.to(self.device)).embeddings[0]
        return {"voice": torch.nn.functional.normalize(voice_D, dim=-1)}


class SpeakerSimilarity(CosineOfPairs):
    """Cosine of the voices in a clip and in the reference clip of the same id."""

    name = "speaker_similarity"
    values = (ValueSpec("speaker_similarity", "higher"),)
    extractor, feature = VoiceFeatures, "voice"


def _weights(folder: Path) -> Path:
    for path in (folder / name for name in WEIGHTS):
        if path.is_file():
            return path
    raise UserError(f"{folder}: holds neither {' nor '.join(WEIGHTS)}; fetch {FOLDER.needs()}")
