"""Goldens of published codecs and text encoders, as tests take them apart; a tokenizer of a few words."""

import ast
import gzip
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def golden(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by their published names, and everything else; all but integers in float32."""
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    weights = {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
    return weights, {k: v for k, v in tensors.items() if not k.startswith("weights/")}


def listed(path: Path) -> list[list[str]]:
    """Rows of a list of names: published name, shape, and where listed the library's name."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def on_meta(rows: list[list[str]]) -> dict[str, Tensor]:
    """The published state dict without its memory."""
    return {row[0]: torch.empty(ast.literal_eval(row[1]), device="meta") for row in rows}


def word_tokenizer(folder: Path) -> Path:
    """Write a tokenizer such as T5's into `folder`: eleven words by number, an end mark after each caption."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "a", "red", "ball", "bounces", "rain", "&", "twice", "."]
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder
