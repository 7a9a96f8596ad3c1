"""Samples of a trained model, decoded and scored; and real clips scored as ceilings and floors."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.writing import write_mp4
from ovi_eval.results.files import RunResults
from ovi_lab.common.progress import Reporter
from ovi_lab.errors import UserError
from ovi_lab.runs.evaluation_sampling import sampled
from ovi_lab.runs.evaluation_tasks import GIVEN, JOINT, LONG, EvaluationTask, evaluation_tasks
from ovi_lab.runs.identity import config_hash, lineage

_PACKAGES = ("ovi-lab", "lightning", "diffusers")


def provenance() -> dict[str, Any]:
    """What ovi_eval cannot know of where clips were made: the state of the code, and the libraries that trained."""
    try:
        root = Path(__file__).resolve().parents[3]
        git = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        git = "not a git checkout"
    return {
        "git": git,
        "trained_with": {name: version(name) for name in _PACKAGES},
        "threads": torch.get_num_threads(),
    }


def decode(data: Any, video: Tensor, audio: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Latents of many clips to frames [N,T,H,W,3] and waves [N,S]."""
    parts = [data.codec.decode(v, a) for v, a in zip(video.split(batch), audio.split(batch), strict=True)]
    frames, waves = map(torch.cat, zip(*parts, strict=True))
    return frames, waves


def evaluate_run(
    config: DictConfig,
    plain: Mapping[str, Any],
    task: Any,
    ema: Any,
    data: Any,
    run_dir: Path,
    losses: Mapping[str, float],
    reporter: Reporter,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Sample the evaluation captions, decode, score, and write it all into the run's folder.

    The first of the evaluation tasks is written into the folder itself, each other one into `tasks/NAME` below it.
    `origin`: more on where the model is from, for the results' provenance.
    """
    settings = config.evaluation
    evaluations = _evaluations(data, settings)
    made = sampled(task, ema, evaluations, settings, reporter)
    reference = _reference_set(data, settings.num_clips)
    for number, (each, latents) in enumerate(zip(evaluations, made, strict=True)):
        reporter.at("scoring", 2 * number, 2 * len(made))
        real, folder = each.real, run_dir / each.folder
        frames, waves = decode(data, *latents)
        meta = [{"prompt_of": m.get("index", i)} for i, m in enumerate(real.meta)]
        clips = ClipSet(list(real.ids), list(real.captions), frames, real.fps, waves, real.sample_rate, meta)
        clips.save(folder / "clips.safetensors")
        _write_mp4s(clips, folder / "clips", settings.num_mp4, settings.size)
        reporter.at("scoring", 2 * number + 1, 2 * len(made))
        score(
            clips,
            reference,
            each,
            world=_world_of(data),
            name=str(config.arm_name),
            seed=int(config.seed),
            kind="measured",
            config_hash=config_hash(plain),
            lineage=lineage(plain),
            losses={f"validation_{m}": losses[f"loss_{m}"] for m in ("video", "audio")},
            provenance={
                **provenance(),
                "training_clips": len(data.train_dataset),
                **_learned(task),
                **(origin or {}),
            },
        ).write(folder / "results.json")
    reporter.at("scoring", 2 * len(made), 2 * len(made))


def _world_of(data: Any) -> str | None:
    """The name of the world whose clips these are."""
    world = getattr(data, "world", None)
    return None if world is None else str(world.name)


def _learned(task: Any) -> dict[str, Any]:
    """The audio RoPE factor and the weights of the losses, where they were trained and are whole in this process."""
    found: dict[str, Any] = {}
    scales = [
        p
        for name, p in task.model.named_parameters()
        if name.endswith("rope_scale") and type(p.data) is Tensor
    ]
    if scales and scales[0].numel():
        found["learned_rope_factor"] = float(scales[0].detach())
    if (learned := getattr(task, "learned_weights", None)) is not None:
        found["learned_loss_weights"] = {m: float(w.detach()) for m, w in learned.weights().items()}
    return found


def _evaluations(data: Any, settings: Any) -> list[EvaluationTask]:
    return evaluation_tasks(settings, data.eval_clips(settings.num_clips), data.latent_shapes, data.codec)


def _reference_set(data: Any, first: int) -> ClipSet:
    """Real evaluation clips that lend no caption to a sample, so that no clip is measured against itself."""
    everything = data.eval_clips(None)
    rest = everything[first:]
    return rest if len(rest) >= 2 else everything


def _write_mp4s(clips: ClipSet, folder: Path, count: int, size: int) -> None:
    for i in range(min(count, len(clips))):
        write_mp4(
            folder / f"{clips.ids[i]}.mp4",
            clips.frames_NTHWC[i], clips.fps, clips.waves_NS[i], clips.sample_rate, enlarge_to=size,
        )  # fmt: skip


def score(
    clips: ClipSet, reference: ClipSet, task: EvaluationTask, world: str | None, **facts: Any
) -> RunResults:
    """Score the clips of one task with the world's metrics.

    Where a part of the clips is given, or they are longer than real ones, those that need a set of other real clips are
    left out. Where the whole picture or sound is given, the events are also held against those of the real clips.

    Args:
        clips: the sampled ones, or those of a reference row.
        reference: other real clips.
        task: what was sampled.
        world: which world the clips are of, by whose metrics they are scored.
        facts: as `results_of.run_results` takes them.
    """
    from ovi_eval.ball.event_sync import EventSync
    from ovi_eval.ball.parts import sync_in_parts
    from ovi_eval.clips.items import memory_items
    from ovi_eval.registry import METRICS, find, metrics_of_world
    from ovi_eval.scoring.results_of import run_results
    from ovi_eval.scoring.runner import ScoringOptions, score_items

    items = memory_items(clips)
    metrics = metrics_of_world(world)
    options = ScoringOptions(resamples=False, alone=True)
    if task.name == JOINT:
        scored = score_items(items, memory_items(reference), find([metrics]), options)
    else:
        compared = [f"{metrics}/real_events"] if task.name in GIVEN and not task.parts else []
        chosen = find([f"{metrics}/event_sync", f"{metrics}/agreement", *compared])
        if task.parts:
            whole = METRICS[f"{metrics}/event_sync"]
            assert issubclass(whole, EventSync)
            chosen.append(sync_in_parts(task.parts, whole))
        scored = score_items(items, memory_items(task.real), chosen, options)
    return run_results(items, scored, benchmark=task.benchmark, **facts)


def evaluate_references(config: DictConfig, folder: Path) -> None:
    """Score the reference rows: real clips through the codec, with shifted sound, with another clip's sound.

    Args:
        config: of any run of the study (its data and evaluation settings).
        folder: gets one folder per reference; those that are there are kept.
    """
    from hydra.utils import instantiate

    from ovi_eval.ball.references import make_references

    settings = config.evaluation
    asked = {key: str(settings[key]) for key in ("tasks", "num_given", "beginning")}
    stamp = json.dumps({"num_clips": settings.num_clips, "data": str(config.data), **asked}, sort_keys=True)
    marker = folder / "made_from.json"
    if marker.is_file() and marker.read_text() == stamp:
        return
    data = instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    real = data.eval_clips(settings.num_clips)
    frames, waves = decode(data, *data.codec.encode(real.frames_NTHWC, real.waves_NS))
    decoded = ClipSet(real.ids, real.captions, frames, real.fps, waves, real.sample_rate, real.meta)
    reference = _reference_set(data, settings.num_clips)
    # there are no real clips longer than those trained on
    evaluations = [task for task in _evaluations(data, settings) if task.name not in LONG]
    world = _world_of(data)
    for name, clips in make_references(decoded, seed=0).items():
        for task in evaluations:
            own, place = clips[: len(task.real)], folder / name / task.folder
            try:
                score(
                    own, reference, task, world, name=name, kind="reference", provenance=provenance()
                ).write(place / "results.json")
            except UserError as error:
                raise UserError(f"reference {name} cannot be scored: {error}") from error
            _write_mp4s(own, place / "clips", settings.num_mp4, settings.size)
    marker.write_text(stamp)
