"""The umT5 text encoder against the reference's numbers, and in the place of the learned one."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from helpers.published_goldens import golden, listed, on_meta, word_tokenizer
from ovi_lab.errors import UserError
from ovi_lab.text import UMT5Text
from ovi_lab.text.parts import vectors_by_tower
from ovi_lab.text.umt5 import UMT5Config, build, encode, load_encoder, transformers_name
from ovi_lab.weights.torch_files import load_named

TINY = {"vocabulary": 100, "dim": 32, "ffn_dim": 64, "num_heads": 4, "head_dim": 8, "num_layers": 2}
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def numbers(goldens):
    weights, facts = golden(goldens / "umt5_tiny.safetensors")
    return {name: weight.bfloat16() for name, weight in weights.items()}, facts


@pytest.fixture(scope="module")
def file(numbers, tmp_path_factory):
    path = tmp_path_factory.mktemp("umt5") / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save(numbers[0], path)
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def text(file, tokenizer) -> UMT5Text:
    return UMT5Text(file, tokenizer, dim=32, configuration=TINY, dtype="float32")


def test_vectors_are_the_references(file, numbers) -> None:
    encoder = load_encoder(file, TINY, torch.float32)
    facts = numbers[1]
    vectors = encode(encoder, facts["inputs/ids"], facts["inputs/mask"])
    assert [len(v) for v in vectors] == [24, 13, 5]
    for i, found in enumerate(vectors):
        torch.testing.assert_close(found, facts[f"out/context{i}"], atol=2e-5, rtol=0)


def test_full_size_names_and_shapes_are_the_published(goldens) -> None:
    rows = listed(goldens / "umt5_xxl_keys.txt.gz")
    assert len(rows) == 242
    assert {row[0]: transformers_name(row[0]) for row in rows} == {row[0]: row[2] for row in rows}
    encoder = build(UMT5Config())
    tensors = on_meta(rows)
    tensors["encoder.embed_tokens.weight"] = tensors["token_embedding.weight"]
    load_named(encoder, tensors, "the list", transformers_name, device="meta")
    assert sum(p.numel() for p in encoder.parameters()) - tensors["token_embedding.weight"].numel() == (
        5_680_910_336
    )


def test_captions_become_vectors_of_their_own_length(text) -> None:
    vectors = text(["a red ball", "rain &amp;  rain", ""])
    assert [tuple(v.shape) for v in vectors] == [(4, 32), (4, 32), (1, 32)]
    encoder, _ = text._parts
    alone = encode(encoder, torch.tensor([[3, 4, 5, 1]]), torch.ones(1, 4, dtype=torch.long))[0]
    torch.testing.assert_close(vectors[0], alone, atol=1e-5, rtol=0)
    entity = encode(encoder, torch.tensor([[7, 8, 7, 1]]), torch.ones(1, 4, dtype=torch.long))[0]
    torch.testing.assert_close(vectors[1], entity, atol=1e-5, rtol=0)
    assert text([]) == []


def test_long_captions_are_cut_with_their_end_mark(file, tokenizer) -> None:
    short = UMT5Text(file, tokenizer, max_tokens=3, configuration=TINY, dtype="float32")
    vectors = short(["a red ball bounces twice"])[0]
    encoder, _ = short._parts
    expected = encode(encoder, torch.tensor([[3, 4, 1]]), torch.ones(1, 3, dtype=torch.long))[0]
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


def test_endings_of_long_captions_are_told_or_kept(file, tokenizer, caplog) -> None:
    captions = ["rain " * 700 + ending for ending in ("a red ball", "a ball bounces twice")]

    def made(choice: str) -> UMT5Text:
        return UMT5Text(file, tokenizer, configuration=TINY, dtype="float32", too_long=choice)

    with caplog.at_level("WARNING"):
        ends = made("cut_end")(captions)
    assert [len(vectors) for vectors in ends] == [512, 512]
    assert torch.equal(*ends)
    assert [record.getMessage().rpartition("read: ")[2] for record in caplog.records] == [
        "192 are lost from its end, where speech and sound stand (text.too_long=cut_end)",
        "193 are lost from its end, where speech and sound stand (text.too_long=cut_end)",
    ]
    middles = made("cut_middle")(captions)
    assert [len(vectors) for vectors in middles] == [512, 512]
    assert not torch.equal(*middles)
    whole = made("cut_middle")(["rain " * 508 + "a red ball"])[0]
    torch.testing.assert_close(middles[0], whole, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"has 704 tokens and 512 are read.*text\.too_long=cut_middle"):
        made("refuse")(captions)


def test_each_tower_reads_its_part_by_the_one_encoder(file, tokenizer, text) -> None:
    reads = {"video": "picture", "audio": "sound"}
    parts = UMT5Text(file, tokenizer, configuration=TINY, dtype="float32", reads=reads)
    found = vectors_by_tower(parts, ["a red ball bounces Audio: rain"])
    for tower, part in (("video", "a red ball bounces"), ("audio", "Audio: rain")):
        torch.testing.assert_close(found[tower], text([part]))
    both = vectors_by_tower(text, ["rain"])
    assert both["video"] is both["audio"]


def test_a_batch_changes_no_caption(text) -> None:
    both = text(["rain", "a red ball bounces twice ."])
    for caption, vectors in zip(["rain", "a red ball bounces twice ."], both, strict=True):
        torch.testing.assert_close(text([caption])[0], vectors, atol=1e-5, rtol=0)


def test_nothing_of_it_is_trained_or_saved(text, file, tokenizer, numbers, tmp_path) -> None:
    task = nn.ModuleDict({"text_encoder": text})
    assert list(task.parameters()) == []
    assert list(task.state_dict()) == ["text_encoder.fingerprint"]
    same = UMT5Text(file, tokenizer, configuration=TINY)
    same.load_state_dict(text.state_dict())
    changed = {k: v.clone() for k, v in numbers[0].items()}
    changed["norm.weight"][0] += 1
    torch.save(changed, tmp_path / "other.pth")
    other = UMT5Text(tmp_path / "other.pth", tokenizer, configuration=TINY)
    with pytest.raises(UserError, match="made with another umT5"):
        other.load_state_dict(text.state_dict())


def test_it_moves_and_converts_with_its_owner(file, tokenizer) -> None:
    text = UMT5Text(file, tokenizer, configuration=TINY)
    assert text._parts[0].dtype == torch.bfloat16
    nn.ModuleDict({"text_encoder": text}).to(torch.float32)
    encoder = text._parts[0]
    assert encoder.dtype == torch.float32
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight


def test_the_configuration_makes_it(file, tokenizer) -> None:
    config = OmegaConf.create(
        {
            "model": {"video": {"text_dim": 32, "text_len": 4}},
            "text": OmegaConf.load(ROOT / "conf" / "text" / "umt5.yaml"),
        }
    )
    config.text.weights, config.text.tokenizer = str(file), str(tokenizer)
    config.text.configuration = TINY
    made = instantiate(config.text)()
    assert made.max_tokens == 4
    assert [len(v) for v in made(["a red ball bounces twice"])] == [4]


def test_what_does_not_fit_is_refused(file, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="text_dim=64"):
        UMT5Text(file, tokenizer, dim=64, configuration=TINY)
    with pytest.raises(UserError, match="no tokenizer folder"):
        UMT5Text(file, tmp_path / "none", configuration=TINY)
    with pytest.raises(UserError, match="no whole tokenizer"):
        UMT5Text(file, tmp_path, configuration=TINY)
    with pytest.raises(UserError, match="max_tokens is 0"):
        UMT5Text(file, tokenizer, max_tokens=0, configuration=TINY)
    with pytest.raises(UserError, match="expected float32"):
        UMT5Text(file, tokenizer, configuration=TINY, dtype="int8")
    with pytest.raises(UserError, match="does not fit this model"):
        UMT5Text(file, tokenizer)
    with pytest.raises(UserError, match="do not belong together"):
        UMT5Text(file, tokenizer, configuration={**TINY, "vocabulary": 5})
