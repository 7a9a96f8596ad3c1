"""Plain Lightning checkpoints, state dicts and released files as sources of an export."""

import os

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from helpers.exports import exported
from helpers.run_folders import same
from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO, tiny_batch
from ovi_lab.checkpoints import FolderCheckpointIO
from ovi_lab.models import TwinDiT
from ovi_lab.strategies.ema import EMA

AUDIO = {k: v for k, v in TINY_AUDIO.items() if not k.startswith("patch")}
MODEL = {"video": TINY_VIDEO, "audio": AUDIO}


class Task(LightningModule):
    """Somebody's training of the model, in their own words."""

    def __init__(self):
        super().__init__()
        self.model = TwinDiT(**MODEL)
        self.text_encoder = torch.nn.Embedding(2, 10)

    def training_step(self, batch, _):
        made = self.model(**tiny_batch())
        return (made.video - 1).square().mean() + (made.audio - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Save(Callback):
    """Saves within the second step, before the end of training makes anything of it, and keeps the raw weights."""

    def __init__(self, file):
        self.file = file
        self.raw = {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.file)
            self.raw = {n: t.clone() for n, t in pl_module.model.state_dict().items()}


def trained(file, *callbacks):
    """Train two steps, which leaves a checkpoint and a configuration beside it; returns the raw weights."""
    save = Save(file)
    trainer = Trainer(
        max_steps=2,
        accelerator="cpu",
        devices=1,
        callbacks=[*callbacks, save],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=file.parent,
    )
    trainer.fit(Task(), DataLoader([0, 1, 2]))
    (file.parent / "config.yaml").write_text(yaml.safe_dump({"name": "theirs", "model": MODEL}))
    return save.raw


def test_a_lightning_checkpoint_comes_back_to_the_bit(tmp_path, refused):
    raw = trained(tmp_path / "epoch0.ckpt")
    state, config, done = exported(tmp_path / "epoch0.ckpt", tmp_path / "out")
    assert same(state, raw)
    assert config["source"] == "a Lightning checkpoint, step 2, raw weights"
    assert any("text encoder stays" in note for note in done.notes)
    assert "# theirs\n" in (tmp_path / "out" / "README.md").read_text()
    source = tmp_path / "epoch0.ckpt"
    half, *_ = exported(source, tmp_path / "half", dtype=torch.bfloat16, max_shard_size=100_000)
    assert same(half, {n: t.bfloat16() for n, t in raw.items()})
    refused(source, "no averaged weights: use --raw", options=["--ema"])


@pytest.mark.parametrize(
    "averaging", [lambda: EMA(0.5), lambda: EMAWeightAveraging(decay=0.5)], ids=["ours", "lightnings"]
)
@pytest.mark.slow
def test_either_weights_of_either_average(tmp_path, averaging):
    callback = averaging()
    live = trained(tmp_path / "last.ckpt", callback)
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    swapped = "current_model_state" in held
    assert swapped == isinstance(callback, EMAWeightAveraging)
    average = held["state_dict"] if swapped else held["ema_state_dict"]
    raw = held["current_model_state"] if swapped else held["state_dict"]
    for ema, expected, word in (
        (None, average, "averaged"),
        (True, average, "averaged"),
        (False, raw, "raw"),
    ):
        state, config, _ = exported(tmp_path / "last.ckpt", tmp_path / f"out_{ema}", ema=ema)
        assert same(state, {n[6:]: t for n, t in expected.items() if n.startswith("model.")})
        assert same(state, live) == (word == "raw")
        assert config["source"] == f"a Lightning checkpoint, step 2, {word} weights"


def test_a_compiled_model_and_a_bare_state_dict(tmp_path):
    model = TwinDiT(**MODEL)
    weights = {n.replace("blocks.0.", "blocks.0._orig_mod."): t for n, t in model.state_dict().items()}
    torch.save({f"_orig_mod.{n}": t for n, t in weights.items()}, tmp_path / "weights.pt")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    state, config, _ = exported(tmp_path / "weights.pt", tmp_path / "out", config=tmp_path / "run.yaml")
    assert same(state, model.state_dict())
    assert config["step"] is None


def test_a_released_file_is_a_source_too(tmp_path, refused):
    model = TwinDiT(**MODEL)
    save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    state, *_ = exported(tmp_path / "theirs.safetensors", tmp_path / "out", max_shard_size=100_000)
    assert same(state, model.state_dict())
    refused(tmp_path / "theirs.safetensors", "leave out --ema", options=["--ema"])


class Settings:
    """Plain to its author; an object of unknown code to everybody else."""


class Payload:
    def __reduce__(self):
        return (os.system, ("touch owned",))


@pytest.mark.parametrize("thing", [Settings, Payload])
def test_code_is_refused_and_not_run(tmp_path, refused, monkeypatch, thing):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": TwinDiT(**MODEL).state_dict(), "hyper_parameters": thing()}, file)
    refused(file, f"{file} holds ", "is code and no tensor or plain value: refused")
    assert not (tmp_path / "owned").exists()


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, refused):
    weights = trained(tmp_path / "whole.ckpt")
    file = tmp_path / "last.ckpt"
    content = (tmp_path / "whole.ckpt").read_bytes()
    for cut in (0, 100, len(content) // 2, len(content) - 10):
        file.write_bytes(content[:cut])
        refused(file, "is not a whole file of torch.save", f"{cut} bytes")
    lacking = {n: t for n, t in weights.items() if ".ffn." not in n}
    for held, word in (
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "holds no state_dict"),
        ({"state_dict": {"a": 1}}, "no dictionary of tensors"),
        ({"state_dict": {"a.weight": torch.ones(1)}}, "it is a checkpoint of another model"),
        ({"state_dict": lacking}, "does not fit this model: it lacks"),
        ({"state_dict": {f"{p}.{n}": t for n, t in weights.items() for p in "ab"}}, "several models"),
    ):
        torch.save(held, file)
        refused(file, word)
    (tmp_path / "config.yaml").unlink()
    refused(tmp_path / "whole.ckpt", "no config.yaml beside", "--config")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", "is no checkpoint")
    refused(tmp_path / "gone.ckpt", "no checkpoint at")


def test_the_teacher_beside_the_model_is_left_out(tmp_path):
    model, teacher = TwinDiT(**MODEL), TwinDiT(**MODEL, init_seed=5)
    state = {f"model.{n}": t for n, t in model.state_dict().items()}
    state |= {f"teacher.{n}": t for n, t in teacher.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    state, _, done = exported(tmp_path / "last.ckpt", tmp_path / "out")
    assert same(state, model.state_dict())
    assert any("are not the model's, as teacher." in note for note in done.notes)


def test_our_own_checkpoint_brings_its_configuration(tmp_path, refused):
    model = TwinDiT(**MODEL)
    run = tmp_path / "run" / "checkpoints" / "step_000004"
    state = {f"model.{n}": t for n, t in model.state_dict().items()}
    text = yaml.safe_dump({"model": MODEL})
    FolderCheckpointIO(text).save_checkpoint({"global_step": 4, "state_dict": state}, run)
    (tmp_path / "config.yaml").write_text(text)
    options = ["--config", str(tmp_path / "config.yaml")]
    refused(tmp_path / "run" / "last", "brings its own configuration", options=options)
    _, config, _ = exported(tmp_path / "run" / "last", tmp_path / "out")
    told = "a checkpoint of ovi-lab, step 4, raw weights"
    assert config["source"] == told
    assert f"weights taken from: {told}\n" in (tmp_path / "out" / "README.md").read_text()
