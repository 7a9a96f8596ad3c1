"""Evaluation of a run that is trained already, under settings of its own: `trained=runs/NAME`.

What it leaves is a folder like a run's, without a checkpoint. It is done once: what it is of is the checkpoint's
content and the settings, and the same again is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ovi_eval.common.files import write_whole
from ovi_eval.common.plain_data import read_json
from ovi_eval.results.settings import TFLOPS
from ovi_lab.checkpoints.configuration import Configuration
from ovi_lab.checkpoints.folder import Checkpoint, resolve_checkpoint
from ovi_lab.common.building import build
from ovi_lab.common.progress import Reporter, told
from ovi_lab.errors import UserError
from ovi_lab.runs.identity import check_same_run, check_same_training, config_hash, run_config
from ovi_lab.runs.processes import is_first_process
from ovi_lab.runs.written import remove_run

_ANEW = "name=… evaluates into another folder, overwrite=true deletes what is there and evaluates anew"


def averaged_model(checkpoint: Path, config: DictConfig) -> Any:
    """The averaged model of a checkpoint with its text encoder, as `evaluation_sampling.sampled` takes it."""
    import torch

    from ovi_lab.sampling.opening import run_bundle

    # the encoder's files as this run's own configuration names them
    bundle = run_bundle(checkpoint, text_files=config.get("text"))
    model = bundle.load_towers(torch.float32)
    return SimpleNamespace(model=model, text_encoder=bundle.text.load(), eval=model.eval)


def trained_run(folder: str | Path, seed: int) -> Path:
    """The finished run of a folder: itself, or its seed_SEED. Raises UserError where there is none."""
    path = Path(folder)
    own = path / f"seed_{seed}"
    run = own if not (path / "config.yaml").is_file() and own.is_dir() else path
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"trained={folder}: no run is there; name the folder of a finished run, or the one above its seeds"
        )
    if not (run / "done.json").is_file():
        raise UserError(f"trained={folder}: {run} is not finished; resume=last finishes it")
    return run


def evaluate_trained(config: DictConfig, reporter: Reporter) -> str:
    """Evaluate the last checkpoint of the run `config.trained` as `config.evaluation` says, into `config.run_dir`.

    One process does it; others return at once.

    Returns:
        "done", or "skipped" where that has been done.

    Raises:
        UserError: there is no such run, it is of another training than `config`, or the folder holds something else.
    """
    if not is_first_process():
        return "done"
    plain = run_config(config)
    if not config.evaluation.enabled:
        raise UserError(
            "trained=… evaluates a run, and evaluation=none leaves nothing to do: use evaluation=ball"
        )
    source, run_dir = trained_run(config.trained, config.seed), Path(plain["run_dir"])
    if source.resolve() == run_dir.resolve():
        raise UserError(f"trained={config.trained} is the folder to write to as well: give another name=…")
    trained = Configuration.read(source / "config.yaml").plain
    remedy = "Give this command the settings that it was trained with, or name another run"
    check_same_training(plain, trained, f"the run in {source}", remedy)
    checkpoint = Checkpoint.open(resolve_checkpoint(source))
    content = {
        name: facts["sha256"]
        for name, facts in sorted(checkpoint.files.items())
        if name.endswith(".safetensors")
    }
    if config.overwrite:
        remove_run(run_dir)
    if (run_dir / "done.json").is_file():
        _check_same_evaluation(plain, run_dir, content, source)
        reporter.at("scoring", 1, 1, "already done")
        return "skipped"
    if any((run_dir / "checkpoints").glob("step_*")):
        raise UserError(f"{run_dir} holds an unfinished run: name=… evaluates into another folder")
    _evaluate(config, plain, source, checkpoint, content, reporter)
    return "done"


def _check_same_evaluation(
    plain: Mapping[str, Any], run_dir: Path, content: Mapping[str, str], source: Path
) -> None:
    before = Configuration.read(run_dir / "config.yaml").plain
    check_same_run(plain, before, f"the evaluation in {run_dir}", _ANEW)
    done = read_json(run_dir / "done.json")
    evaluated = done.get("evaluated") if isinstance(done, dict) else None
    if evaluated is not None and evaluated != content:
        raise UserError(f"the evaluation in {run_dir} is of other weights than {source} has now. {_ANEW}")


def _evaluate(
    config: DictConfig,
    plain: Mapping[str, Any],
    source: Path,
    checkpoint: Checkpoint,
    content: Mapping[str, str],
    reporter: Reporter,
) -> None:
    from ovi_lab.runs.evaluate import evaluate_run
    from ovi_lab.runs.evaluation_tasks import check_tasks

    run_dir, done = Path(plain["run_dir"]), read_json(source / "done.json")
    losses = done.get("losses") if isinstance(done, dict) else None
    if not isinstance(losses, dict) or not {"loss_video", "loss_audio"} <= losses.keys():
        raise UserError(
            f"{source / 'done.json'} has no losses of video and audio: evaluation needs a run of both"
        )
    reporter.at("data", 0, 1)
    checkpoint.verify(list(content))
    data = build(config.data, "data")
    with told(reporter, "data"):
        data.prepare_data()
        data.setup("fit")
    check_tasks(config.evaluation, data.latent_shapes["video"][1])
    task = averaged_model(checkpoint.path, config)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(plain))))
    reporter.at("data", 1, 1)
    origin = {"checkpoint": dict(content), **{key: done[key] for key in (TFLOPS,) if key in done}}
    evaluate_run(config, plain, task, None, data, run_dir, losses, reporter, origin)
    outcome = {**done, "config_hash": config_hash(plain), "evaluated": dict(content)}
    write_whole(run_dir / "done.json", json.dumps(outcome, indent=1))
