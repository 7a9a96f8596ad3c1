"""The released models' text encoder: umT5 of transformers, with the weights that Wan published.

Shape suffixes: B captions, N tokens (padding included), D channels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ovi_lab.common.fields import CLOSED, Layers, PlainSettings, Width
from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError
from ovi_lab.text.lengths import CutTexts
from ovi_lab.text.parts import TextParts
from ovi_lab.text.prompts import clean_characters
from ovi_lab.weights.torch_files import load_named, read_tensors

_OUTSIDE = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}
_IN_BLOCK = {
    "norm1": "0.layer_norm",
    "attn.q": "0.SelfAttention.q",
    "attn.k": "0.SelfAttention.k",
    "attn.v": "0.SelfAttention.v",
    "attn.o": "0.SelfAttention.o",
    "pos_embedding.embedding": "0.SelfAttention.relative_attention_bias",
    "norm2": "1.layer_norm",
    "ffn.gate.0": "1.DenseReluDense.wi_0",
    "ffn.fc1": "1.DenseReluDense.wi_1",
    "ffn.fc2": "1.DenseReluDense.wo",
}
_TIED = "encoder.embed_tokens.weight"
MAX_TOKENS = 512
"""Tokens of a text that the released models read, the end mark included."""


@dataclass(frozen=True, config=CLOSED)
class UMT5Config(PlainSettings):
    """Sizes of the encoder; the defaults are those of umT5-XXL (5,680,910,336 parameters)."""

    title = "umT5's configuration"

    vocabulary: Width = 256384
    dim: Width = 4096
    ffn_dim: Width = 10240
    num_heads: Width = 64
    head_dim: Width = 64
    num_layers: Layers = 24
    buckets: Width = 32
    """Number of buckets of relative positions."""


def transformers_name(name: str) -> str:
    """transformers' name for a tensor of the published file; names that follow none of its rules stay."""
    stem, _, leaf = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{leaf}"
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem)
    if block and block[2] in _IN_BLOCK:
        return f"encoder.block.{block[1]}.layer.{_IN_BLOCK[block[2]]}.{leaf}"
    return name


def build(config: UMT5Config) -> Any:
    """The encoder on the meta device: names and shapes, no memory."""
    from transformers import UMT5Config as Settings
    from transformers import UMT5EncoderModel

    settings = Settings(
        vocab_size=config.vocabulary,
        d_model=config.dim,
        d_kv=config.head_dim,
        d_ff=config.ffn_dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.buckets,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
    )
    with torch.device("meta"):
        return UMT5EncoderModel(settings)


def load_encoder(
    path: str | Path,
    configuration: UMT5Config | Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Any:
    """The encoder of the published file `models_t5_umt5-xxl-enc-bf16.pth` (or the same names as safetensors).

    Raises:
        UserError: the file is missing, damaged, holds code, or another model or size.
    """
    encoder = build(UMT5Config.of(configuration))
    tensors = read_tensors(path, "umT5 encoder")
    if "token_embedding.weight" in tensors:
        # transformers lists the one embedding table under two names.
        tensors = {**tensors, _TIED: tensors["token_embedding.weight"]}
    load_named(encoder, tensors, f"{path}, read as the umT5 encoder,", transformers_name, dtype, device)
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    return encoder


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer whose files lie in `folder` (`google/umt5-xxl`); nothing is fetched and no code is run.

    Raises UserError where there is no such folder, or its files make no tokenizer.
    """
    from transformers import AutoTokenizer

    if not Path(folder).is_dir():
        raise UserError(f"no tokenizer folder at {folder}: fetch google/umt5-xxl's tokenizer files into it")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    # transformers passes on whatever its parsers meet.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{folder} holds no whole tokenizer ({reason}): fetch tokenizer.json and tokenizer_config.json again"
        ) from error


def token_count(tokenizer: Any, text: str) -> int:
    """Tokens of a text as umT5 takes it, with the end mark."""
    return len(tokenizer(clean_characters(text), verbose=False)["input_ids"])


def encode(encoder: Any, ids_BN: Tensor, mask_BN: Tensor) -> list[Tensor]:
    """Vectors [n_i, D] of token ids [B,N]; n_i is how many of row i the mask [B,N] keeps, from the left.

    Where the mask is on the CPU, as the tokenizer gives it, a GPU is not waited for.
    """
    ids, mask = (x.to(encoder.device) for x in (ids_BN, mask_BN))
    with torch.no_grad():
        states_BND = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    lengths = mask_BN.sum(1).tolist()
    return [states[:length] for states, length in zip(states_BND, lengths, strict=True)]


class UMT5Text(nn.Module):
    """Captions to vectors by a frozen umT5.

    Its weights come from their file every time. They are neither parameters nor in the state dict, so that no
    optimiser, average or checkpoint carries five billion frozen numbers; the state dict has a fingerprint
    instead, and a checkpoint made with other weights is refused.

    Args:
        weights: the published file, see `load_encoder`.
        tokenizer: folder of its tokenizer.
        dim: the towers' text_dim, which the encoder's width has to be; None takes any.
        max_tokens: longer captions are cut as `too_long` says, with a warning; the end mark counts.
        configuration: sizes; None means umT5-XXL.
        dtype: of the computation; None keeps the file's. A name, such as "bfloat16", will do.
        too_long: "cut_end" as the published code does, "cut_middle" keeps the end, "refuse" raises UserError.
        option: how the user chooses it, in messages.
        reads, sound_after: what each tower reads of a caption, see `TextParts`; None: both all of it, embedded once.
    """

    fingerprint: Tensor

    def __init__(
        self,
        weights: str | Path,
        tokenizer: str | Path,
        dim: int | None = None,
        max_tokens: int = MAX_TOKENS,
        configuration: UMT5Config | Mapping[str, Any] | None = None,
        dtype: torch.dtype | str | None = None,
        too_long: str = "cut_end",
        option: str = "text.too_long=",
        reads: Mapping[str, str] | None = None,
        sound_after: str | None = None,
    ) -> None:
        super().__init__()
        self.parts = None if reads is None else TextParts(reads, sound_after)
        checked = UMT5Config.of(configuration)
        if dim not in (None, checked.dim):
            raise UserError(
                f"umT5 gives vectors of {checked.dim} channels and the towers expect text_dim={dim}: "
                "choose a model or a text encoder that fits"
            )
        check_settings("text", {"max_tokens": max_tokens})
        self.dim, self.max_tokens = checked.dim, max_tokens
        tokens = load_tokenizer(tokenizer)
        if len(tokens) > checked.vocabulary:
            raise UserError(
                f"the tokenizer in {tokenizer} has {len(tokens)} tokens, the encoder {checked.vocabulary}: "
                "they do not belong together"
            )
        self.fit = CutTexts(max_tokens, partial(token_count, tokens), too_long, option)
        # Not registered with nn.Module: see above.
        self._parts = (load_encoder(weights, checked, _dtype(dtype)), tokens)
        self.register_buffer("fingerprint", _fingerprint(self._parts[0]))

    def forward(self, captions: Sequence[str], tower: str | None = None) -> list[Tensor]:
        """Vectors [n_i, dim] of each caption, n_i its tokens with the end mark; in float32, the same for any tower."""
        if not captions:
            return []
        encoder, tokenizer = self._parts
        tokens = tokenizer(
            [clean_characters(self.fit(caption)) for caption in captions],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=True,
            return_tensors="pt",
        )
        vectors = encode(encoder, tokens["input_ids"], tokens["attention_mask"])
        return [v.float() for v in vectors]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> UMT5Text:
        self._parts[0]._apply(fn)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        given = state_dict.get(f"{prefix}fingerprint")
        if given is not None and not torch.equal(given.cpu(), self.fingerprint.cpu()):
            raise UserError(
                "the checkpoint was made with another umT5 than text.weights names: give the file it was made with"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _dtype(value: torch.dtype | str | None) -> torch.dtype | None:
    if value is None or isinstance(value, torch.dtype):
        return value
    dtype = getattr(torch, value, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(f"text.dtype is {value!r}, expected float32, bfloat16 or float16")
    return dtype


def _fingerprint(encoder: nn.Module) -> Tensor:
    """SHA-256, as int64 [4], of every weight's name, shape and first 64 values.

    Values in bfloat16, in which the weights were published: a copy of them in float32 is the same encoder.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        values = tensor.flatten()[:64].to("cpu", torch.bfloat16)
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        digest.update(values.view(torch.int16).numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.int64).clone()
