"""`ovi-sample`, also `python -m ovi_lab.sample`: clips with sound from a checkpoint of our own."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from ovi_lab.errors import UserError
from ovi_lab.paths import config_dir
from ovi_lab.runs.command_line import check, fail


def load_model(path: str | Path, ema: bool = True, device: str = "cpu") -> tuple[Any, Any, Any, DictConfig]:
    """Model, text encoder, codec and configuration of a checkpoint, ready to sample.

    Args:
        path: a run, its `last`, or a checkpoint folder.
        ema: averaged weights, where the checkpoint has them.
        device: where the model goes.

    Raises:
        UserError: no checkpoint there, or it lacks what sampling needs.
    """
    from hydra.utils import instantiate

    from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
    from ovi_lab.codecs import LatentCodec

    checkpoint = Checkpoint.open(resolve_checkpoint(path))
    config = OmegaConf.create(checkpoint.config_text())
    if not isinstance(config, DictConfig):
        raise UserError(f"{checkpoint.path / 'config.yaml'} is no configuration: use another checkpoint")
    for part in ("model", "text_encoder", "codec"):
        if not checkpoint.has(f"{part}.safetensors"):
            raise UserError(
                f"checkpoint {checkpoint.path} has no {part}.safetensors: it cannot be sampled by itself"
            )
    averaged = ema and checkpoint.has("ema/model.safetensors")
    weights = checkpoint.weights("model", ema=averaged)
    towers = {m: f"{m}_model." for m in ("video", "audio")}
    absent = [m for m, prefix in towers.items() if not any(n.startswith(prefix) for n in weights)]
    model = instantiate(config.model)(**dict.fromkeys(absent))
    text = instantiate(config.text)()
    model.load_state_dict(weights)
    text.load_state_dict(checkpoint.weights("text_encoder", ema=averaged))
    codec = LatentCodec.load(checkpoint.path / "codec.safetensors")
    return model.to(device).eval(), text.to(device).eval(), codec, config


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device={name} cannot be used here ({str(error).splitlines()[0]}): try device=cpu"
        ) from error
    return name


def sample_clips(config: DictConfig) -> list[Path]:
    """Write the clips that the configuration asks for; returns their paths."""
    from ovi_eval.media import write_mp4
    from ovi_lab.callbacks.samples import decode_present
    from ovi_lab.runs.evaluate import scaled_shapes
    from ovi_lab.runs.progress import ConsoleReporter
    from ovi_lab.sampling import SamplerSettings, generate_latents

    if config.count < 1:
        raise UserError(f"count is {config.count}, expected at least 1")
    model, text, codec, trained = load_model(config.checkpoint, config.ema, _device(config.device))
    model.set_audio_rope_factor(config.rope_factor)
    shapes = {m: tuple(s) for m, s in trained.latent_shapes.items()}
    shapes = {m: s for m, s in scaled_shapes(shapes, config.length).items() if m in model.tower_configs}
    reporter = ConsoleReporter()
    try:
        video, audio = generate_latents(
            model,
            text,
            [config.prompt] * config.count,
            seeds=[config.seed + i for i in range(config.count)],
            shapes=shapes,
            settings=SamplerSettings(**config.sampler),
            on_step=lambda done, total: reporter.at("sampling", done, total),
        )
    finally:
        reporter.close()
    frames, waves = decode_present(codec, video, audio)
    name = re.sub(r"\W+", "_", config.prompt.lower()).strip("_")[:60] or "clip"
    paths = []
    for i in range(config.count):
        path = Path(config.out) / f"{name}_seed{config.seed + i}.mp4"
        paths.append(
            write_mp4(path, frames[i], codec.fps, waves[i], codec.sample_rate, enlarge_to=config.size)
        )
    return paths


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="sample")
def run(config: DictConfig) -> None:
    """Sample and say where the clips are."""
    from ovi_eval.errors import EvalError

    try:
        missing = [k for k in ("checkpoint", "prompt") if OmegaConf.is_missing(config, k)]
        if missing:
            raise UserError(
                f'{missing[0]} is not given: ovi-sample checkpoint=runs/fusion/last prompt="a red ball bounces"'
            )
        for path in sample_clips(config):
            print(path)
    except (UserError, EvalError) as error:
        fail(error)


def main() -> None:
    """Check the command line, then sample; a user's mistake is one line and exit code 2."""
    with suppress(BrokenPipeError):
        try:
            check(sys.argv[1:], config_dir(), "sample")
            run()
        except UserError as error:
            fail(error)


if __name__ == "__main__":
    main()
