"""A run with the frozen text encoder: its checkpoint samples again, and holds none of the encoder's weights."""

import pytest
import torch

from helpers.published_goldens import golden, word_tokenizer
from helpers.run_parts import load_run
from ovi_lab.checkpoints import Checkpoint
from ovi_lab.errors import UserError


@pytest.fixture
def settings(goldens, tmp_path) -> list[str]:
    weights, _ = golden(goldens / "umt5_tiny.safetensors")
    torch.save({name: weight.bfloat16() for name, weight in weights.items()}, tmp_path / "umt5.pth")
    sizes = "{vocabulary:100,dim:32,ffn_dim:64,num_heads:4,head_dim:8,num_layers:2}"
    return [
        "text=umt5",
        f"text.weights={tmp_path}/umt5.pth",
        f"text.tokenizer={word_tokenizer(tmp_path / 'tokenizer')}",
        f"text.configuration={sizes}",
        "model.video.text_dim=32",
        "model.audio.text_dim=32",
    ]


@pytest.mark.slow
def test_a_run_trains_and_its_checkpoint_samples(settings, trained, tmp_path) -> None:
    run = trained(settings, tmp_path / "run")
    assert list(Checkpoint.open(run / "last").weights("text_encoder")) == ["fingerprint"]
    with pytest.raises(UserError, match=r"name them, text.weights=FILE text.tokenizer=FOLDER"):
        load_run(run)  # a path that a checkpoint names is not followed
    files = {"weights": tmp_path / "umt5.pth", "tokenizer": tmp_path / "tokenizer"}
    text = load_run(run, files).text
    assert [v.shape for v in text(["a red ball bounces"])] == [(5, 32)]
    weights = torch.load(tmp_path / "umt5.pth", weights_only=True)
    weights["norm.weight"] *= 2
    torch.save(weights, tmp_path / "umt5.pth")
    with pytest.raises(UserError, match="made with another umT5"):
        load_run(run, files)
