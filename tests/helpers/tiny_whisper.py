"""A Whisper of a few thousand weights in transformers' layout, for tests: it is taught to write one sentence for a
low tone and another for a high one, and to write nothing down for hiss.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

RATE = 16000
LOW, HIGH = "it is raining", "we lost it, Jess!"
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>")


def tone(hz: float, seconds: float = 1.0) -> Tensor:
    """[S] at 16 kHz."""
    return 0.3 * torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * RATE)) / RATE)


def write_tokenizer(folder: Path) -> None:
    """Bytes as tokens, and Whisper's marks."""
    from tokenizers import pre_tokenizers
    from transformers import WhisperTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = WhisperTokenizer(
        vocab={token: place for place, token in enumerate([*letters, *SPECIAL])}, merges=[]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.save_pretrained(folder)


def write_tiny_whisper(folder: Path, steps: int = 80) -> Path:
    """Writes the folder, with a window of one second, and returns it."""
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    folder.mkdir(parents=True)
    write_tokenizer(folder)
    hearing = WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    hearing.save_pretrained(folder)
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    end, start, _, no_times = tokenizer.convert_tokens_to_ids(list(SPECIAL))
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=16,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=50,
        max_target_positions=40,
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        network = WhisperForConditionalGeneration(config)
        _teach(network, hearing, tokenizer, (start, end), steps)
    network.generation_config.update(
        decoder_start_token_id=start,
        forced_decoder_ids=None,
        no_timestamps_token_id=no_times,
        max_length=40,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    network.save_pretrained(folder)
    return folder


def _teach(network, hearing, tokenizer, marks: tuple[int, int], steps: int) -> None:  # type: ignore[no-untyped-def]
    start, end = marks
    sounds = [tone(300), tone(2500), 0.1 * torch.randn(RATE)]
    pictures = hearing(
        [sound.numpy() for sound in sounds], sampling_rate=RATE, return_tensors="pt"
    ).input_features
    rows = [[*tokenizer(text, add_special_tokens=False).input_ids, end] for text in (LOW, HIGH, "")]
    width = max(len(row) for row in rows)
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    heard = torch.tensor([[start] + [max(token, 0) for token in row[:-1]] for row in labels.tolist()])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        logits = network(input_features=pictures, decoder_input_ids=heard).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def rewrite(folder: Path, name: str, **changes: object) -> None:
    """Changes fields of one of the folder's JSON files."""
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
