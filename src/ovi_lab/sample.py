"""`ovi-sample`, also `python -m ovi_lab.sample`: clips with sound from a released model or a run of our own."""

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
from ovi_lab.released.asked import prepared
from ovi_lab.runs.command_line import check, fail

RELEASED_ONLY = ("weights", "aspect", "image", "prompts")


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

    from ovi_lab.adapters import model_weights
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
    weights = dict(model_weights(checkpoint, ema=averaged).stream())
    towers = {m: f"{m}_model." for m in ("video", "audio")}
    absent = [m for m, prefix in towers.items() if not any(n.startswith(prefix) for n in weights)]
    model = instantiate(config.model)(**dict.fromkeys(absent))
    text = instantiate(config.text)()
    model.load_state_dict(weights)
    text.load_state_dict(checkpoint.weights("text_encoder", ema=averaged))
    codec = LatentCodec.load(checkpoint.path / "codec.safetensors")
    return model.to(device).eval(), text.to(device).eval(), codec, config


def sample_clips(config: DictConfig) -> list[Path]:
    """Write the clips that the configuration asks for, from a run of our own; returns their paths."""
    from ovi_eval.media import write_mp4
    from ovi_lab.callbacks.samples import decode_present
    from ovi_lab.released.command import usable_device
    from ovi_lab.runs.evaluate import scaled_shapes
    from ovi_lab.runs.progress import ConsoleReporter
    from ovi_lab.sampling import SamplerSettings, generate_latents
    from ovi_lab.text.lengths import CutTexts

    if config.count < 1:
        raise UserError(f"count is {config.count}, expected at least 1")
    for name in RELEASED_ONLY:
        if config[name] is not None:
            raise UserError(
                f"{name}= is for released models, and {config.checkpoint} is none of them: leave it out"
            )
    side = 256 if config.size is None else config.size
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise UserError(f"size is {side!r}: expected the longer side of the clips in pixels")
    device = usable_device("cpu" if config.device == "auto" else config.device)
    model, text, codec, trained = load_model(config.checkpoint, config.ema, device)
    if isinstance(getattr(text, "fit", None), CutTexts):
        text.fit = CutTexts(text.fit.limit, text.fit.count, config.long_prompts, "long_prompts=")
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
        paths.append(write_mp4(path, frames[i], codec.fps, waves[i], codec.sample_rate, enlarge_to=side))
    return paths


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="sample")
def run(config: DictConfig) -> None:
    """Sample and say where the clips are."""
    from ovi_eval.errors import EvalError
    from ovi_lab.checkpoints.released import is_released

    try:
        if OmegaConf.is_missing(config, "checkpoint"):
            raise UserError(
                'checkpoint is not given: ovi-sample checkpoint=runs/fusion/last prompt="a red ball bounces"'
            )
        if is_released(config.checkpoint):
            _run_released(config)
            return
        if OmegaConf.is_missing(config, "prompt"):
            raise UserError(
                'prompt is not given: ovi-sample checkpoint=runs/fusion/last prompt="a red ball bounces"'
            )
        for path in sample_clips(config):
            print(path)
    except (UserError, EvalError) as error:
        fail(error)


def _run_released(config: DictConfig) -> None:
    from ovi_lab.released.command import sample_released

    try:
        outcome = sample_released(config)
    except KeyboardInterrupt:
        print("stopped: the same command goes on with what is missing", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    for path in outcome.kept:
        print(f"{path} (finished before)")
    for path in outcome.made:
        print(path)
    if outcome.bad:
        made = len(outcome.made) + len(outcome.kept)
        raise UserError(f"{len(outcome.bad)} of {made + len(outcome.bad)} rows were left out, named above")


def main() -> None:
    """Check the command line, then sample; a user's mistake is one line and exit code 2."""
    with suppress(BrokenPipeError):
        try:
            if "--plan" in sys.argv[1:]:
                from ovi_lab.released.planning import plan_command

                raise SystemExit(plan_command(sys.argv[1:]))
            sys.argv[1:] = prepared(sys.argv[1:])
            check(sys.argv[1:], config_dir(), "sample")
            run()
        except UserError as error:
            fail(error)


if __name__ == "__main__":
    main()
