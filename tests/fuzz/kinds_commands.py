"""Command lines of ovi-train, ovi-plan and ovi-sample: right words with wrong values, and words that are none."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .corpus import TINY, Corpus
from .kinds_models import command
from .outcomes import Case

_TRAIN = (
    "seed", "name", "arm_name", "resume", "init_from", "init_from.all", "init_from.video", "overwrite", "run_dir",
    "global_batch_size", "ema.decay", "ema", "checkpoint.every_n_steps", "checkpoint.keep_last", "checkpoint",
    "guard.on_bad_step", "guard.spike_factor", "guard.window", "guard.max_skips", "throughput.every_n_steps",
    "val_metrics.every_n_steps", "val_metrics.metrics", "preemption.signals", "samples.every_n_steps",
    "samples.prompts", "samples.steps", "trainer.max_steps", "trainer.devices", "trainer.precision",
    "trainer.accelerator", "trainer.accumulate_grad_batches", "trainer.gradient_clip_val",
    "trainer.log_every_n_steps", "trainer.val_check_interval", "trainer.limit_val_batches", "trainer.num_nodes",
    "trainer", "data.batch_size", "data.num_workers", "data.root", "data.modalities", "data.audio_tokens",
    "data.audio_tokens.min", "data.on_error", "data.patch_size", "data.prefetch", "data.tokens_per_batch",
    "data.train_seed", "data", "model.video.dim", "model.video.num_heads", "model.video.patch_size", "model.video",
    "model.audio.in_dim", "model.checkpoint_every", "model.activation_checkpointing", "model", "task",
    "task.text_dropout", "task.timestep_bins", "task._target_", "fusion", "fusion.direction", "fusion.blocks",
    "rope", "rope.factor", "rope.mode", "text", "text.rows", "timesteps", "timesteps.shift", "loss", "loss.video",
    "optim", "optim.factory.lr", "optim.factory.betas", "optim.factory._target_", "optim.weight_decay",
    "optim.muon", "schedule", "schedule.warmup_steps", "schedule.flat_until", "freeze", "freeze.frozen", "strategy",
    "strategy.name", "strategy.sequence_parallel", "logger.csv", "logger", "sampler", "sampler.steps", "evaluation",
    "evaluation.enabled", "adapter", "adapter.rank", "arm", "experiment", "debug", "hydra.run.dir",
    "hydra.sweep.dir", "hydra.job.chdir", "hydra/launcher", "hydra.launcher.workers", "hydra.mode",
    "hydra.job_logging", "hydra.output_subdir",
)  # fmt: skip
_SAMPLE = (
    "checkpoint", "prompt", "count", "seed", "out", "size", "device", "length", "rope_factor", "ema", "weights",
    "aspect", "image", "prompts", "variants", "overwrite", "dtype", "offload", "sampler", "sampler.solver",
    "sampler.steps", "sampler.shift", "sampler.video_guidance", "sampler.skip_layers", "sampler.negative_video",
    "sequence_parallel", "gpu",
)  # fmt: skip
_PLAN = ("gpus", "price", "efficiency", "video", "audio")
_VALUES = (
    "", "abc", "1.5", "-1", "0", "1", "2", "null", "true", "false", "1e30", "-1e30", "nan", "inf", "-inf",
    "99999999999999999999", "[]", "[1]", "[1,2]", "[1,2,3]", "[a,b]", "{}", "{a:1}", "{a:{b:1}}", "[[1]]", "''",
    '""', "'x", '"x', "[1", "{a", "a]", "}", "a,b", "1,2", "a,", ",", ",,a", "${name}", "${seed}", "${nope}",
    "${a.b.c}", "${", "${}", "${oc.env:NOPE_NOT_SET}", "${nope:1}", "${oc.decode:x}",
    "${now:%Y}", "${hydra:job.name}", "${..x}", "../../x", "/", "/etc", "/etc/passwd", "/dev/null", "/nope/none",
    ".", "..", "a/b", "a\\b", "~", "x y", "a=b", "a:b", "*", "?", "???", "@", "#", "%", "range(1,3)", "choice(a,b)",
    "glob(*)", "interval(0,1)", "sort(1,2)", "shuffle(1,2)", "int(x)", "float(1)", "str(1)", "extend_list(1)",
    "nope(1)", "a\x1b[31mb", "a\nb", "a\rb", "a\tb", "a\x00b", "\u202e", "é", "日本", "\u2028", "x" * 300, "y" * 5000,
    "[" * 200, "0x10", "1_000", "01", "1,000", "yes", "os.system", "nope.Nope", "ovi_lab.nope", "builtins.int",
    "64x80GB", "8xH100", "0xH100", "24GB", "31x44x46", "16:9", "96x96", "0x0", "last", "auto", "cpu", "cuda", "gpu",
    "mps", "bf16-mixed", "none", "tiny", "small", "unipc", "euler",
)  # fmt: skip
_WORDS = (
    "-m", "--multirun", "--run", "--cfg", "--cfg job", "--cfg all", "--cfg nope", "--resolve", "--package",
    "--package nope", "--config-name", "--config-name nope", "--config-name ../x", "--config-name sample",
    "--config-dir", "--config-dir /nope", "--config-dir .", "--config-dir /etc/passwd", "--config-path nope",
    "--config-path /nope", "--info nope", "--info config", "--experimental-rerun nope", "--shell-completion",
    "--help", "--hydra-help", "--version", "--nope", "-x", "-", "--", "=", "=1", "seed", "seed=", "seed=1 seed=2",
    "+", "+=1", "~", "~nope", "~seed", "~model", "~trainer.max_steps", "~model=small", "++", "++=1", "+seed=1",
    "++seed=x", "+nope=1", "++nope.x.y=1", "+trainer.nope=1", "+model.nope=1", "+data.nope=1", "+task.nope=1",
    "+experiment=fusion", "model=tiny model=small", "model@x=tiny", "model@x.y=tiny", "model=[tiny,small]",
    "model={a:1}", "model/video=tiny", "/model=tiny", "model=../model/tiny", "model=tiny.yaml", "model=",
    "arm=none,sideways", "arm=none,none -m", "seed=1,2 -m", "seed=,", "seed= -m",
    "experiment=fusion_ablation --cfg job", "name=${name}", "name=${arm_name} arm_name=${name}",
    "seed=${data.seed}", "run_dir=${run_dir}", "a.b=1", "seed.x=1", "seed[0]=1", "samples.prompts[0]=x",
    "samples.prompts.0=x", "data.modalities=[video,smell]", "data.modalities=video", "hydra=1", "hydra.nope=1",
    "hydra.run=1", "hydra.searchpath=[file:///nope]", "hydra.searchpath=nope", "hydra.sweeper.params=1",
    "hydra/job_logging=nope", "hydra/launcher=submitit_local", "hydra.verbose=nope", "hydra.job.env_set=1",
    "hydra.callbacks=1", "hydra.callbacks={x:{_target_:nope.Nope}}", "é=1", "a b=1", "a\x00=1", "seed=1\x00",
    "\x1b[31m=1", "seed =1", "seed= 1", " ", "", "'", '"', "[", "]", "{", "}", "$", "${", "${x}",
)  # fmt: skip
# whose size is the size of the work: what is right of them is tried elsewhere, and what is huge would be obeyed
_WORK = (
    "max_steps", "dim", "num_heads", "count", "length", "variants", "steps", "window", "rows", "rank", "num_workers",
    "devices", "workers", "timestep_bins", "warmup_steps", "prefetch",
)  # fmt: skip
_SMALL = {"1", "2", "0", "-1", "1.5", "-1e30", "nan", "inf", "-inf"}


def _override(rng: random.Random, keys: tuple[str, ...]) -> str:
    key, value = rng.choice(keys), rng.choice(_VALUES)
    if key.rpartition(".")[2] in _WORK and value not in _SMALL:
        try:
            float(value.replace("_", ""))
            value = "abc"
        except ValueError:
            pass
    return f"{rng.choice(('', '', '', '', '', '+', '++', '~'))}{key}={value}"


def overrides(rng: random.Random, corpus: Corpus, folder: Path) -> Case:
    """One to three odd words on a command line that is otherwise right."""
    program = rng.choice(("train", "train", "train", "plan", "sample"))
    keys = {"train": _TRAIN, "plan": (*_TRAIN, *_PLAN * 4), "sample": _SAMPLE}[program]
    words: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        words += [_override(rng, keys)] if rng.random() < 0.65 else rng.choice(_WORDS).split(" ")
    (folder / "runs").mkdir()
    call: Callable[[], Any]
    if program == "train":
        from ovi_lab.train import main

        base = [*TINY, "evaluation=none", f"data.root={corpus.folder}/data"]
        if (
            "-m" in words
            or "--multirun" in words
            or any("MULTIRUN" in w or "fusion_ablation" in w for w in words)
        ):
            # a sweep starts processes, which is tried elsewhere: here what it would begin with
            words = [w for w in words if w not in ("-m", "--multirun", "--run")] + ["--cfg", "job"]
        call = command(main, [*base, *words])
    elif program == "plan":
        from ovi_lab.plan import main as plan

        call = lambda: plan(["gpus=8xH100", *words])  # noqa: E731
    else:
        from ovi_lab.sample import main as sample

        call = command(
            sample,
            [f"checkpoint={corpus.run}", "prompt=a ball", "sampler.steps=1", "out=out", "size=32", *words],
        )
    codes = (0, 1) if program == "plan" else (0,)
    return Case(call, f"ovi-{program} {words!r}", lambda text: "left out" in text, codes)
