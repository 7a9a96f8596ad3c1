"""Whisper (Radford et al. 2023), speech recognition, from a folder in transformers' layout.

Greedy decoding without timestamps and without falling back to higher temperatures; the language is the one that a
multilingual model detects. Sound longer than the model's window (30 s) is cut into windows that are transcribed one
by one, so that a word on a cut may be lost. Nothing is fetched and no code of the folder is run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovi_eval.backbones.hub_folder import model_from, quiet, reading
from ovi_eval.common.files import file_sha256
from ovi_eval.common.needs import PublishedFolder
from ovi_eval.errors import UserError

SAMPLE_RATE = 16000
WEIGHTS = "model.safetensors"
WHAT = "a Whisper model"
CHOICE = "OVI_EVAL_WHISPER"
"""The environment variable that names the folder, below that of OVI_EVAL_WEIGHTS."""


def published_folder() -> PublishedFolder:
    """The folder that is looked for: whisper-base, or the one that OVI_EVAL_WHISPER names."""
    name = os.environ.get(CHOICE) or "whisper-base"
    return PublishedFolder(
        what="Whisper's speech recognition",
        name=name,
        source=f"https://huggingface.co/openai/{name}",
        files=(
            "config.json",
            "generation_config.json",
            WEIGHTS,
            "preprocessor_config.json",
            "tokenizer.json",
        ),
    )


class Whisper:
    """`sha256` is that of the weights, `window` the samples that are heard at once."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Raises UserError where the folder holds no whole Whisper model."""
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

        self.device = device
        self.sha256 = file_sha256(folder / WEIGHTS)
        self.network: Any = model_from(
            WhisperForConditionalGeneration, folder, WHAT, use_safetensors=True
        ).to(device)
        with reading(folder, WHAT):
            self.tokenizer: Any = WhisperTokenizer.from_pretrained(folder, local_files_only=True)
            self.hearing: Any = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        if self.hearing.sampling_rate != SAMPLE_RATE:
            raise UserError(
                f"{folder}: takes sound at {self.hearing.sampling_rate} Hz, Whisper at {SAMPLE_RATE}; fetch it again"
            )
        self.window = int(self.hearing.n_samples)

    def prepare(self, wave_S: np.ndarray) -> list[Tensor]:
        """Log-mel pictures [1, B, M], one for each window of a 16 kHz wave [S] in [-1, 1]."""
        pieces = [wave_S[start : start + self.window] for start in range(0, len(wave_S), self.window)]
        return [
            self.hearing(
                piece.astype(np.float32), sampling_rate=SAMPLE_RATE, return_tensors="pt"
            ).input_features
            for piece in pieces
        ]

    def write_down(self, pictures: list[Tensor]) -> str:
        """The transcript: the windows' texts joined by spaces."""
        options: dict[str, Any] = {"num_beams": 1, "do_sample": False}
        if getattr(self.network.generation_config, "is_multilingual", False):
            options["task"] = "transcribe"
        texts = []
        with quiet():
            for picture in pictures:
                tokens = self.network.generate(picture.to(self.device), **options)
                texts += self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return " ".join(text.strip() for text in texts).strip()

    @property
    def languages(self) -> dict[str, int]:
        """The tokens of the languages that the model tells apart, by code, such as "en".

        Raises UserError for a model of one language.
        """
        known: dict[str, int] = getattr(self.network.generation_config, "lang_to_id", None) or {}
        if not known:
            raise UserError(
                "the Whisper model knows one language and cannot tell which is spoken; take a multilingual one"
            )
        return {token.strip("<|>"): number for token, number in known.items()}

    @torch.no_grad()
    def language(self, pictures: list[Tensor]) -> tuple[str, float]:
        """The language that is spoken in the first window, and its probability among `languages`."""
        known = self.languages
        start = self.network.generation_config.decoder_start_token_id
        found = self.network(
            input_features=pictures[0].to(self.device),
            decoder_input_ids=torch.tensor([[start]], device=self.device),
        )
        shares = found.logits[0, 0, list(known.values())].float().softmax(dim=-1)
        best = int(shares.argmax())
        return list(known)[best], float(shares[best])
