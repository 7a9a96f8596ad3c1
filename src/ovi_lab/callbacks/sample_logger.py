"""Fixed prompts with fixed noise, sampled during training: pictures, clips and sound in the loggers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ovi_lab.callbacks.joint_sampling import SamplesInTraining, decoded, sample_together
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.strategies.ema import EMA


class SampleLogger(SamplesInTraining):
    """Samples the averaged model every so many steps.

    Each clip is written to `<run>/samples/step_N/<i>.mp4`; TensorBoard gets the frames beside the spectrogram, the
    clip as a moving picture, and its sound; W&B gets the mp4 files.

    Args:
        run_dir: the run's folder.
        data: the data module, whose codec decodes and whose `latent_shapes` say how large a clip is.
        ema: where the averaged weights are; None samples the raw ones.
        every_n_steps, steps: how often, and with how many solver steps.
        prompts, seed: what is sampled; prompt i always gets the same noise.
    """

    def __init__(
        self,
        run_dir: Path,
        data: Any,
        ema: EMA | None,
        every_n_steps: int,
        prompts: Sequence[str],
        seed: int,
        steps: int,
    ) -> None:
        if not prompts:
            raise UserError(
                "samples.prompts is empty: name at least one prompt, or set samples.every_n_steps=0"
            )
        super().__init__(data, ema, every_n_steps)
        self.run_dir, self.prompts, self.seed = run_dir, list(prompts), seed
        self.settings = SamplerSettings(steps=steps)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check_texts(pl_module, self.prompts, self.settings)

    def sample(self, trainer: Trainer, task: Any, step: int) -> Callable[[], None]:
        """One clip of each prompt; the first rank decodes, writes and logs them."""
        seeds = [self.seed + i for i in range(len(self.prompts))]
        latents = sample_together(trainer, task, self.data, self.prompts, seeds, self.settings)
        return lambda: self._write(trainer, latents, step)

    def _write(self, trainer: Trainer, latents: Sequence[tuple[Tensor | None, ...]], step: int) -> None:
        from ovi_eval.clips.writing import write_mp4

        codec = self.data.codec
        folder = self.run_dir / "samples" / f"step_{step:06d}"
        for i, (prompt, clip, wave) in enumerate(zip(self.prompts, *decoded(latents, codec), strict=True)):
            path = write_mp4(folder / f"{i}.mp4", clip, codec.fps, wave, codec.sample_rate)
            for logger in trainer.loggers:
                _send(logger, f"sample {i}: {prompt}", clip, wave, codec, path, step)


def _enlarged(frames_THWC: Tensor, side: int = 64) -> Tensor:
    factor = max(1, side // max(frames_THWC.shape[1:3]))
    return frames_THWC.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def picture(frames_THWC: Tensor, wave_S: Tensor, sample_rate: int) -> Tensor:
    """A strip of frames above the spectrogram on the same time axis: uint8 [H, W, 3]."""
    big = _enlarged(frames_THWC[:: max(1, len(frames_THWC) // 16)])
    strip = torch.cat(list(big), dim=1)
    window = torch.hann_window(256)
    power = torch.stft(wave_S.float(), 256, 64, window=window, return_complex=True).abs().pow(2)
    level = (10 * torch.log10(power + 1e-10)).clamp(-70, 20)
    level = ((level + 70) / 90).flip(0)[None, None]
    level = torch.nn.functional.interpolate(
        level, (96, strip.shape[1]), mode="bilinear", align_corners=False
    )[0, 0]
    heat = torch.stack([(2.2 * level), (1.6 * level - 0.25), (1.2 * level - 0.6)], -1).clamp(0, 1)
    return torch.cat([strip, (255 * heat).to(torch.uint8)])


def _gif(frames_THWC: Tensor, fps: float) -> bytes:
    from PIL import Image

    pictures = [Image.fromarray(f.numpy()) for f in _enlarged(frames_THWC, 128)]
    stream = io.BytesIO()
    pictures[0].save(
        stream, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0
    )
    return stream.getvalue()


def _send(logger: Any, title: str, clip: Tensor, wave: Tensor, codec: Any, path: Path, step: int) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    if isinstance(logger, TensorBoardLogger):
        from tensorboard.compat.proto.summary_pb2 import Summary

        board = logger.experiment
        board.add_image(
            f"{title}/frames and sound", picture(clip, wave, codec.sample_rate), step, dataformats="HWC"
        )
        board.add_audio(f"{title}/sound", wave[None].clamp(-1, 1), step, sample_rate=codec.sample_rate)
        side = _enlarged(clip, 128).shape[1:3]
        moving = Summary.Image(
            height=side[0], width=side[1], colorspace=3, encoded_image_string=_gif(clip, codec.fps)
        )
        writer = board._get_file_writer()
        writer.add_summary(Summary(value=[Summary.Value(tag=f"{title}/clip", image=moving)]), step)
    elif isinstance(logger, WandbLogger):
        import wandb

        logger.experiment.log({title: wandb.Video(str(path), format="mp4")}, step=step)
