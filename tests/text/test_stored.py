"""Stored text embeddings: what their encoder gives, for the texts that are stored and no others."""

import json

import pytest
import torch
from safetensors.torch import save_file

from helpers.latent_shards import write_shard
from ovi_lab.checkpoints import weights_layout
from ovi_lab.data.cli import main
from ovi_lab.data.decode import array_members
from ovi_lab.errors import UserError
from ovi_lab.sampling.small_weights import TEXT, write_small
from ovi_lab.text import StoredText, UMT5Text
from ovi_lab.text.stored import write_embeddings


def clip(caption):
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    return array_members(caption, {}, frames, 24.0, torch.zeros(100), 16000)


@pytest.mark.slow
def test_texts_of_tables_shards_and_the_command_line_are_what_the_encoder_gives(tmp_path, capsys):
    weights = write_small(tmp_path / "ovi")
    (tmp_path / "p.csv").write_text('caption,id\n"rain, then thunder",1\na dog,2\n')
    write_shard(tmp_path / "s.tar", {f"k{n}": clip(f"clip {n}") for n in range(3)})
    out = tmp_path / "new" / "texts.safetensors"
    sources = [str(tmp_path / "p.csv"), str(tmp_path / "s.tar"), "--clips", "2", "--text", "more"]
    assert not main(["embed", *sources, "--weights", str(weights), "--out", str(out)])
    assert "text=stored text.embeddings=" in capsys.readouterr().out
    stored = StoredText(out, dim=TEXT["dim"])
    texts = [
        "rain, then thunder", "a dog", "clip 0", "clip 1", "more", "",
        "jitter, bad hands, blur, distortion", "robotic, muffled, echo, distorted",
    ]  # fmt: skip
    encoder = UMT5Text(
        weights / weights_layout.TEXT_ENCODER, weights / weights_layout.TOKENIZER, configuration=TEXT
    )
    for found, expected in zip(stored(texts), (encoder([text])[0] for text in texts), strict=True):
        assert torch.equal(found, expected)
    assert stored.encoder.startswith("umt5 sha256:")
    assert not stored.state_dict()
    with pytest.raises(UserError, match=r"no embedding of 'clip 2' and of 1 more: .*--text"):
        stored(["clip 2", "a dog", "else"])


def test_a_file_that_is_something_else_is_named(tmp_path):
    good = tmp_path / "good.safetensors"
    write_embeddings(good, {"a": torch.ones(2, 4)}, "umt5 sha256:0")
    with pytest.raises(UserError, match=r"vectors of \[4\] channels and the towers expect text_dim=8"):
        StoredText(good, dim=8)
    for name, tensors, about, words in (
        ("flat", {"0": torch.ones(4)}, {"format": "ovi_lab.text_embeddings/1", "texts": ["a"]}, "not a whole file"),
        ("nan", {"0": torch.ones(1, 4) / 0}, {"format": "ovi_lab.text_embeddings/1", "texts": ["a"]}, "not a whole"),
        ("less", {}, {"format": "ovi_lab.text_embeddings/1", "texts": ["a"]}, "not a whole file of text embeddings"),
        ("other", {"0": torch.ones(1, 4)}, {}, "has the format None, expected"),
    ):  # fmt: skip
        file = tmp_path / f"{name}.safetensors"
        save_file(tensors, file, {"embeddings": json.dumps(about)})
        with pytest.raises(UserError, match=words):
            StoredText(file)
    with pytest.raises(UserError, match="make them with `ovi-data embed`"):
        StoredText(tmp_path / "none.safetensors")


def test_sources_without_texts_are_refused(tmp_path, capsys):
    (tmp_path / "p.csv").write_text('caption\n"a dog"\n" "\n""\n')
    for words, said in (
        ([], "nothing to embed"),
        ([str(tmp_path / "p.csv"), "--clips", "0"], "--clips is 0"),
        ([str(tmp_path / "none.tar")], "does not exist"),
    ):
        assert main(["embed", *words, "--weights", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()
