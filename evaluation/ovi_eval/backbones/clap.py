"""CLAP: 512 features each of a sound and of a caption, whose cosine is the CLAP score.

Wu et al. 2023, "Large-scale contrastive language-audio pretraining with feature fusion and keyword-to-caption
augmentation". The checkpoints of laion_clap without feature fusion are read. Two implementations give the same values:
transformers' ClapModel, which is everywhere, and as its reference laion_clap itself, which imports on few machines: it
needs torchvision and, while it is imported, tokenizers from Hugging Face's hub.

transformers' defaults are not laion_clap's: RoBERTa's eps is 1e-5 there and 1e-12 here by default, which
alone moves text features by 3e-4.

Shapes: N sounds or captions, P = 480000 samples of a sound, L = 77 tokens, E = 512 features.
"""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovi_eval.backbones.clap_keys import (
    BASE,
    Size,
    checkpoint_faults,
    masks_and_indices,
    plain_names,
    to_transformers,
)
from ovi_eval.backbones.clap_sound import log_mel, transform_tables
from ovi_eval.common.files import file_sha256
from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import Package, PublishedFolder
from ovi_eval.common.torch_files import read_weights
from ovi_eval.common.weights import LoadedNetwork, PublishedFile, checked_digest, refuse
from ovi_eval.errors import UserError

SOURCE = "https://huggingface.co/lukewys/laion_clap"
MUSIC_SPEECH = PublishedFile(
    what="CLAP HTSAT-base music_speech_audioset",
    name="music_speech_audioset_epoch_15_esc_89.98.pt",
    source=SOURCE,
    inside="state_dict",
)
AUDIO_630K = PublishedFile(
    what="CLAP HTSAT-tiny 630k-audioset", name="630k-audioset-best.pt", source=SOURCE, inside="state_dict"
)
TOKENIZER = PublishedFolder(
    what="RoBERTa's tokenizer",
    name="roberta-base",
    source="https://huggingface.co/FacebookAI/roberta-base",
    files=("vocab.json", "merges.txt"),
)
LAION_CLAP = Package("laion_clap", install_hint("clap", "torchvision"))
TOKENS = 77
"""Tokens that a caption is cut or padded to, the first and last included."""


class Towers(nn.Module):
    """Both towers of CLAP; their features have length 1."""

    def sounds(self, waves_NP: Tensor) -> Tensor:
        """Features [N, 512] of 10 s of sound at 48 kHz each, in [-1, 1]."""
        raise TypeError(f"{type(self).__name__} has no sounds()")

    def texts(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        """Features [N, 512] of RoBERTa's tokens, of which the mask names those that count."""
        raise TypeError(f"{type(self).__name__} has no texts()")


class TransformersTowers(Towers):
    """The towers of transformers' ClapModel."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        from transformers import ClapConfig, ClapModel

        text = {
            "layer_norm_eps": 1e-5,
            "num_hidden_layers": size.text_layers,
            "hidden_size": size.text_width,
            "intermediate_size": 4 * size.text_width,
            "vocab_size": size.vocabulary,
        }
        sound = {
            "depths": list(size.depths),
            "patch_embeds_hidden_size": size.width,
            "hidden_size": size.last_width,
            "num_attention_heads": list(size.heads),
        }
        self.model = ClapModel(ClapConfig(text_config=text, audio_config=sound, projection_dim=size.shared))
        self.places = self.model.text_model.embeddings.position_embeddings.num_embeddings

    def sounds(self, waves_NP: Tensor) -> Tensor:
        return self.model.get_audio_features(log_mel(waves_NP)).pooler_output

    def texts(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        return self.model.get_text_features(ids_NL, attention_mask=mask_NL).pooler_output


def import_laion() -> ModuleType:
    """The package laion_clap. Raises UserError that says why it cannot be imported."""
    try:
        import laion_clap
    except Exception as error:  # it reaches for other packages and for the hub, and fails in many ways
        first = (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
        raise UserError(
            f"clap_laion needs laion_clap, which cannot be imported here ({first}); {LAION_CLAP.install} "
            "where Hugging Face's hub can be reached, or take the metric clap, which gives the same values"
        ) from error
    return laion_clap


class LaionTowers(Towers):
    """The towers of laion_clap, with the checkpoint's tensors; its own loader would run what is in the file.

    Raises UserError where laion_clap does not import or cannot be built.
    """

    def __init__(self, tensors: Mapping[str, Tensor], size: Size) -> None:
        super().__init__()
        package = import_laion()
        try:
            self.module = package.CLAP_Module(enable_fusion=False, device="cpu", amodel=size.name)
        except Exception as error:  # it fetches RoBERTa's configuration and tokenizer from the hub
            raise UserError(
                f"laion_clap cannot build {size.name} here ({' '.join(str(error).split())})"
            ) from error
        self.module.model.load_state_dict(dict(tensors))

    def sounds(self, waves_NP: Tensor) -> Tensor:
        return self.module.get_audio_embedding_from_data(waves_NP, use_tensor=True)

    def texts(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        tokens = {"input_ids": ids_NL, "attention_mask": mask_NL}
        # It takes strings and a tokenizer; ours has done its work already.
        return self.module.get_text_embedding([], tokenizer=lambda _: tokens, use_tensor=True)


def load_clap(
    path: str | Path, file: PublishedFile, size: Size, *, laion: bool = False
) -> LoadedNetwork[Towers]:
    """CLAP with the weights of a laion_clap checkpoint, or of its state dict as safetensors.

    `laion`: run laion_clap's code, not transformers'. Raises UserError in one line where the file is missing, damaged,
    holds objects besides tensors and numbers, or other tensors than a checkpoint of that size without fusion.
    """
    path = Path(path)
    digest = checked_digest(path, file, None)
    tensors = read_checkpoint(path, file)
    with torch.device("meta"):  # nothing is drawn or held twice for weights that are replaced at once
        towers = TransformersTowers(size)
    if any(".fusion_model." in name or ".mel_conv2d." in name for name in tensors):
        raise UserError(
            f"{path}: is a checkpoint with feature fusion, which is not supported; fetch {file.needs()}, without fusion"
        )
    faults = checkpoint_faults(tensors, size, towers.model.state_dict(), as_built(size))
    refuse(faults, f"{path}: holds other weights than those of CLAP {size.name}", f"fetch {file.needs()}")
    if not laion:
        fill(towers, tensors)
    network = LaionTowers(tensors, size) if laion else towers
    network.eval().requires_grad_(False)
    return LoadedNetwork(network, path, digest, None)


def as_built(size: Size) -> dict[str, Tensor]:
    """A checkpoint's constant tensors by laion_clap's names, computed from their definition."""
    return transform_tables() | masks_and_indices(size)


def fill(towers: TransformersTowers, tensors: Mapping[str, Tensor]) -> None:
    """Gives the towers a checkpoint's tensors (by laion_clap's names) in place of their own, without a copy."""
    mapped = to_transformers(tensors, towers.model.state_dict())
    mapped["text_model.embeddings.position_ids"] = torch.arange(towers.places)[None]
    mapped["text_model.embeddings.token_type_ids"] = torch.zeros(1, towers.places, dtype=torch.long)
    towers.model.load_state_dict(mapped, assign=True)


def read_checkpoint(path: Path, file: PublishedFile) -> dict[str, Tensor]:
    """A checkpoint's tensors by laion_clap's names, without the prefix of its training.

    Files written in training hold numpy's numbers (best scores) beside the tensors; those are plain numbers and
    let through, nothing else is. Raises UserError as `load_clap`.
    """
    scalar = np.float64(0).__reduce__()[0]  # numpy's maker of numbers, whose module has had two names
    kinds = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]
    plain: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals([*plain, np.dtype, *kinds]):
            content = read_weights(path)
    except UserError as error:
        if isinstance(error.__cause__, pickle.UnpicklingError) and "operand" in str(error.__cause__):
            raise UserError(
                f"{path}: is pickled in a way that is not read without running code; open it once where you "
                f"trust it and save its {file.inside} as {path.with_suffix('.safetensors').name}"
            ) from error
        raise
    if isinstance(content, Mapping) and isinstance(content.get(file.inside), Mapping):
        content = content[file.inside]
    if not isinstance(content, Mapping) or not all(isinstance(x, Tensor) for x in content.values()):
        raise UserError(f"{path}: holds no tensors by name under {file.inside}; fetch {file.needs()}")
    return plain_names({str(name): tensor for name, tensor in content.items()})


class Tokenizer:
    """RoBERTa's tokenizer from a local folder; `digest` is that of its two files.

    Raises UserError where its files are damaged, or are another model's.
    """

    def __init__(self, folder: Path, size: Size = BASE) -> None:
        from transformers import RobertaTokenizer

        sums = "".join(file_sha256(folder / name) for name in TOKENIZER.files)
        self.digest = hashlib.sha256(sums.encode()).hexdigest()
        try:
            self._encode: Any = RobertaTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # the tokenizers package raises plain Exceptions
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder}: is no tokenizer ({first}); fetch {TOKENIZER.needs()}") from error
        marks = (self._encode.bos_token_id, self._encode.pad_token_id, self._encode.eos_token_id)
        if len(self._encode) != size.vocabulary or marks != (0, 1, 2):
            raise UserError(
                f"{folder}: is the tokenizer of another model ({len(self._encode)} tokens with the marks {marks}, "
                f"expected {size.vocabulary} with (0, 1, 2)); fetch {TOKENIZER.needs()}"
            )

    def is_cut(self, caption: str) -> bool:
        """Whether the caption has more tokens than are read."""
        # a token is a byte at least, and two are marks
        return (
            len(caption.encode()) > TOKENS - 2
            and len(self._encode(caption, verbose=False)["input_ids"]) > TOKENS
        )

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Tokens [N, 77] int64 and which of them count [N, 77] (1 or 0); what lies beyond is not read."""
        found = self._encode(
            captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        return found["input_ids"], found["attention_mask"]
