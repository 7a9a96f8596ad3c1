"""Metrics and samples during training: real numbers, marked as of few clips, and no trace in the training."""

import json
import logging
import random

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer

from helpers.run_folders import logged as all_cells
from ovi_lab.callbacks import EMA, ResumableCSVLogger, SampleLogger
from ovi_lab.callbacks.validation_metrics import MetricsInLoop
from ovi_lab.data.module import OviDataModule
from ovi_lab.data.prepare import WorldSettings, prepare_world, shards_of
from ovi_lab.errors import UserError
from ovi_lab.text import StoredText
from ovi_lab.text.stored import write_embeddings

STEPS = 4


class Draws(Callback):
    """What training would draw next from the global generators, after each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, *args):
        self.seen.append(
            (torch.get_rng_state().sum().item(), random.getstate()[1][:3], np.random.get_state()[1][0])
        )


@pytest.fixture
def fitted(composed, tmp_path):
    """Train the ball world for a few steps with further callbacks, made from the data and the average."""

    def make(name, *more, data=None, overrides=()):
        config = composed(["optim=adamw", *overrides])
        torch.manual_seed(0)
        random.seed(0)
        data = data or instantiate(config.data)
        data.prepare_data()
        data.setup("fit")
        ema, draws = EMA(0.9), Draws()
        task = instantiate(config.task)
        run = tmp_path / name
        run.mkdir()
        trainer = Trainer(
            accelerator="cpu", max_steps=STEPS, max_epochs=-1, logger=[ResumableCSVLogger(str(run))],
            callbacks=[ema, *(one(run, data, ema) for one in more), draws], log_every_n_steps=1,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            limit_val_batches=0, default_root_dir=run,
        )  # fmt: skip
        trainer.fit(task, datamodule=data)
        modes = [m.training for m in task.modules()]
        return run, {n: p.detach().clone() for n, p in task.named_parameters()}, draws.seen, modes

    return make


def metrics_of(**settings):
    settings = {"every_n_steps": 2, "num_clips": 6, "batch_size": 4, "sampler": {"steps": 2}, **settings}
    return lambda run, data, ema: MetricsInLoop(run, data, ema, **settings)


def logged(run):
    """The rows of the log that hold metrics, without its other cells."""
    rows = [
        {k: v for k, v in row.items() if k.startswith(("val_metrics/", "step"))} for row in all_cells(run)
    ]
    return [row for row in rows if len(row) > 1]


@pytest.mark.slow
def test_metrics_and_samples_are_logged_and_training_is_what_it_was(fitted):
    def samples(run, data, ema):
        return SampleLogger(
            run, data, ema, every_n_steps=2, prompts=["a red ball", "a ball"], seed=1, steps=2
        )

    run, weights, draws, modes = fitted("with", metrics_of(), samples)
    _, plain, undisturbed, plain_modes = fitted("without")
    assert all(torch.equal(weights[name], plain[name]) for name in plain)
    assert draws == undisturbed
    assert modes == plain_modes
    rows = logged(run)
    assert [row["step"] for row in rows] == ["1", "3"]
    for row in rows:
        assert {"val_metrics/ball_frechet_video_n6", "val_metrics/ball_frechet_audio_n6"} <= row.keys()
        assert all(
            name.endswith("_n6") and np.isfinite(float(v)) for name, v in row.items() if name != "step"
        )
    assert rows[0]["val_metrics/ball_frechet_video_n6"] != rows[1]["val_metrics/ball_frechet_video_n6"]
    assert len(list((run / "samples").rglob("*.mp4"))) == 4


@pytest.mark.slow
def test_only_what_is_requested_is_measured(fitted):
    for name, metric, overrides in (
        ("chosen", metrics_of(metrics=["ball/frechet_audio"]), ()),
        ("of one tower", metrics_of(), ["task=audio_pretraining"]),
    ):
        run, *_ = fitted(name, metric, overrides=overrides)
        assert [row.keys() for row in logged(run)] == 2 * [{"step", "val_metrics/ball_frechet_audio_n6"}]


@pytest.fixture
def shards(data_root, composed):
    """The ball world's clips as those of a user: shards of media, and a codec."""
    settings = composed([]).data
    world = WorldSettings(
        settings.world, settings.num_train, settings.num_eval, settings.train_seed, settings.eval_seed
    )
    folder = prepare_world(world, data_root, True)
    return OviDataModule(
        world=None, root=data_root, train=[str(s) for s in shards_of(folder, "train", "latents")],
        val=[str(s) for s in shards_of(folder, "eval", "media")], codec=folder / "codec.safetensors", batch_size=4,
    )  # fmt: skip


@pytest.mark.slow
def test_real_clips_are_scored_by_published_metrics(fitted, shards):
    run, *_ = fitted("real", metrics_of(metrics=["temporal_flickering"], every_n_steps=STEPS), data=shards)
    (row,) = logged(run)
    assert row["step"] == str(STEPS - 1)
    assert float(row["val_metrics/temporal_flickering_n6"]) > 0
    results = json.loads((run / "val_metrics" / f"step_{STEPS:06d}.json").read_text())
    assert results["n_clips"] == 6
    assert not (run / "val_metrics" / "samples.safetensors").exists()


@pytest.mark.slow
def test_missing_weights_are_named_once_and_the_run_continues(fitted, shards, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("OVI_EVAL_WEIGHTS", str(tmp_path))
    with caplog.at_level(logging.WARNING, "ovi_lab.val_metrics"):
        run, *_ = fitted("none", metrics_of(), data=shards)
    lines = [r.getMessage() for r in caplog.records if r.name == "ovi_lab.val_metrics"]
    assert [line.split()[1] for line in lines] == ["fad_vggish", "fvd_stylegan_v", "sync"]
    assert all("\n" not in line for line in lines)
    assert logged(run) == []


def test_bad_settings_are_named(shards, tmp_path, composed):
    data = instantiate(composed([]).data)
    for settings, words in (
        ({"num_clips": 1}, "val_metrics.num_clips is 1"),
        ({"metrics": ["ball/onset"]}, "val_metrics.metrics: no metric is called 'ball/onset'"),
    ):
        with pytest.raises(UserError, match=words):
            metrics_of(**settings)(tmp_path, data, None)
    shards._shards.pop("eval")
    with pytest.raises(UserError, match=r"set data\.val"):
        metrics_of()(tmp_path, shards, None)


def test_more_clips_than_there_are_is_refused(fitted):
    with pytest.raises(UserError, match=r"num_clips is 23 and 24 clips are there .* no more than 22"):
        fitted("many", metrics_of(num_clips=23))


def test_texts_that_cannot_be_embedded_are_refused_before_any_step(tmp_path):
    stored = tmp_path / "texts.safetensors"
    write_embeddings(stored, {"": torch.ones(1, 4), "a ball": torch.ones(1, 4)}, "umt5 sha256:0")

    class Task:
        text_encoder = None

    logger = SampleLogger(tmp_path, None, None, 1, ["a ball", "a dog"], seed=1, steps=2)
    with pytest.raises(UserError, match=r"ovi-data embed.* text=stored text\.embeddings=FILE"):
        logger.on_fit_start(None, Task())
    Task.text_encoder = StoredText(stored)
    with pytest.raises(UserError, match="no embedding of 'a dog': store it too"):
        logger.on_fit_start(None, Task())
    SampleLogger(tmp_path, None, None, 1, ["a ball"], seed=1, steps=2).on_fit_start(None, Task())
