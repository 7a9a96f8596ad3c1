"""Prompts in, clips out: the released models' sampling, part after part, each on the device while it works.

The latent loop is `flow.sample`; here are its texts, noise, first frame and sizes, and the way back to picture
and sound. Shape suffixes: T frames, H rows, W columns, C channels, F latent frames, S samples, L audio tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovi_eval.common.files import file_sha256
from ovi_lab.checkpoints.presets import ReleasedModel
from ovi_lab.checkpoints.weights_layout import Layout
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, noise_batch, sample
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.models.sequence_parallel import SequenceGroup, sequence_parallel
from ovi_lab.sampling.images import read_image, scaled
from ovi_lab.sampling.offload import Placement
from ovi_lab.sampling.parts import DTYPES, Parts, load_parts
from ovi_lab.sampling.requests import Request
from ovi_lab.sampling.sizes import Size, size_for_image, snapped
from ovi_lab.text.lengths import check_choice
from ovi_lab.text.prompts import with_sound_as


@dataclass(frozen=True)
class Options:
    """Where and how the parts run.

    Apart from `dtype`, `weights_8bit` and `long_prompts`, none changes a clip beyond rounding.
    """

    device: str = "cpu"
    dtype: str = "fp32"
    """Of the towers and the Wan2.2 VAE: fp32 or bf16."""
    offload: bool | str = False
    """See `Placement`."""
    weights_8bit: bool = False
    vae_tiling: bool = False
    """Decode the picture in overlapping tiles: less memory, more time."""
    long_prompts: str = "refuse"
    """What becomes of texts of more tokens than umT5 reads: see `ovi_lab.text.lengths`."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"dtype is {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        check_choice(self.long_prompts, "long_prompts")


@dataclass(frozen=True)
class Plan:
    """What is made of a request: everything that decides the clip, beside the weights."""

    request: Request
    prompt: str
    """As the model reads it."""
    size: Size
    frames: int
    video_shape: tuple[int, int, int, int]
    audio_shape: tuple[int, int]
    image_sha256: str | None


@dataclass(frozen=True)
class Clip:
    """A finished clip: frames uint8 [T, H, W, 3], wave float32 [S] as long as they are, and its latents."""

    plan: Plan
    frames_THWC: Tensor
    fps: float
    wave_S: Tensor
    sample_rate: int
    video_latents: Tensor
    audio_latents: Tensor


def plan_request(request: Request, preset: ReleasedModel) -> Plan:
    """Sizes, latents' shapes and the prompt's form of one request.

    Raises:
        UserError: its image cannot be read or is of extreme shape.
    """
    area = preset.area[0] * preset.area[1]
    digest = None
    if request.image is not None:
        picture = read_image(request.image)
        size = size_for_image((picture.height, picture.width), area)
        digest = file_sha256(Path(request.image))
        if request.shape is not None:
            size = snapped(request.shape, area)
    else:
        size = snapped(request.shape or preset.area, area)
    frames = 4 * (preset.video_latent_frames - 1) + 1
    channels = {m: preset.model_config[m]["in_dim"] for m in ("video", "audio")}
    return Plan(
        request=request,
        prompt=with_sound_as(request.prompt, preset.audio_tag),
        size=size,
        frames=frames,
        video_shape=(channels["video"], preset.video_latent_frames, size[0] // 16, size[1] // 16),
        audio_shape=(preset.audio_latents, channels["audio"]),
        image_sha256=digest,
    )


class OviPipeline:
    """A loaded model that makes clips, one at a time.

    Args:
        parts: of the model.
        settings: solver, steps, guidance, negatives.
        options: where and how the parts run.
    """

    def __init__(self, parts: Parts, settings: SamplerSettings, options: Options | None = None) -> None:
        self.parts, self.settings = parts, settings
        self.options = options or Options()
        self.placement = Placement(self.options.device, self.options.offload)
        if self.options.vae_tiling:
            parts.video.model.enable_tiling()
        self._vectors: dict[str, Tensor] = {}

    @classmethod
    def load(
        cls,
        preset: ReleasedModel,
        layout: Layout,
        settings: SamplerSettings,
        options: Options | None = None,
        on_part: Callable[[int, int, str], None] | None = None,
    ) -> OviPipeline:
        """Load a preset's parts and put them where the options say.

        Raises:
            UserError: a file does not fit, an option cannot be had, or the device is too small.
        """
        options = options or Options()
        stay = options.offload in (False, "none") and not options.weights_8bit
        try:
            parts = load_parts(
                preset,
                layout,
                DTYPES[options.dtype],
                options.device if stay else "cpu",
                on_part,
                options.long_prompts,
            )
            if options.weights_8bit:
                from ovi_lab.sampling.quantise import quantise

                quantise(parts.towers, options.device)
        except torch.OutOfMemoryError as error:
            raise UserError(_out_of_memory(options.device, error)) from error
        return cls(parts, settings, options)

    def plan(self, request: Request) -> Plan:
        """See `plan_request`."""
        return plan_request(request, self.parts.preset)

    def generate(
        self, requests: Iterable[Request | Plan], on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[Clip]:
        """The clips of requests, in order.

        Args:
            requests: what to make; a plan is taken as it is.
            on_step: called with steps done and steps in all of the clip that is being made.

        Raises:
            UserError: a request cannot be planned, or the device is too small for it.
        """
        for item in requests:
            yield self.make(item if isinstance(item, Plan) else self.plan(item), on_step)

    def make(
        self,
        plan: Plan,
        on_step: Callable[[int, int], None] | None = None,
        group: SequenceGroup | None = None,
    ) -> Clip:
        """One clip. With a group of processes that share it, all call this; see `generate`."""
        try:
            video, audio = self.latents(plan, on_step, group)
            frames_THWC, wave_S = self.decode(video, audio)
        except torch.OutOfMemoryError as error:
            raise UserError(_out_of_memory(self.options.device, error)) from error
        preset = self.parts.preset
        return Clip(plan, frames_THWC, preset.fps, wave_S, preset.sample_rate, video[0].cpu(), audio[0].cpu())

    @torch.no_grad()
    def latents(
        self,
        plan: Plan,
        on_step: Callable[[int, int], None] | None = None,
        group: SequenceGroup | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Video [1,C,F,h,w] and audio [1,L,C] of one plan, on the device."""
        settings, options, request = self.settings, self.options, plan.request
        texts = [
            plan.prompt,
            settings.negative_video if request.negative_video is None else request.negative_video,
            settings.negative_audio if request.negative_audio is None else request.negative_audio,
        ]
        prompt, low_video, low_audio = self.embed(texts)
        first_frame = self.first_frame(plan) if request.image is not None else None
        noise: dict[Modality, Tensor] = {
            modality: noise_batch([request.seed], shape, modality, convention="reference").to(options.device)
            for modality, shape in zip(MODALITIES, (plan.video_shape, plan.audio_shape), strict=True)
        }
        towers = self.parts.towers
        with self.placement.working(towers), sequence_parallel(towers, group) if group else nullcontext():
            made = sample(
                towers,
                noise,
                Texts([prompt], [low_video], [low_audio]),
                settings,
                first_frame=first_frame,
                on_step=on_step,
            )
        if made.video is None or made.audio is None:
            raise TypeError("both modalities were asked for")
        return made.video, made.audio

    def embed(self, texts: Sequence[str]) -> list[Tensor]:
        """Vectors [n, D] of each text, on the device; those of the last texts are kept."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if missing:
            with self.placement.working(self.parts.text):
                # one by one: beside a longer text a shorter one is padded, which rounds it otherwise in bf16,
                # and a clip is to be the same whatever was made before it
                found = {text: self.parts.text([text])[0] for text in missing}
            known = {text: vectors for text, vectors in self._vectors.items() if text in texts}
            self._vectors = {**known, **{t: v.to(self.options.device) for t, v in found.items()}}
        return [self._vectors[text] for text in texts]

    def first_frame(self, plan: Plan) -> Tensor:
        """The image's latent [1,C,1,h,w]."""
        if plan.request.image is None:
            raise TypeError("the plan has no image")
        picture_HWC = scaled(read_image(plan.request.image), plan.size)
        with self.placement.working(self.parts.video):
            return self.parts.video.encode(picture_HWC[None, None])

    def decode(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of one clip -> uint8 [T,H,W,3] and float32 [S], on the CPU, of equal length.

        Raises:
            UserError: the latents are not finite.
        """
        for name, latents in (("video", video), ("audio", audio)):
            if not bool(torch.isfinite(latents).all()):
                raise UserError(
                    f"the {name} latents are not finite: try dtype=fp32, or weights that are whole"
                )
        parts = self.parts
        with self.placement.working(parts.video):
            frames_THWC = parts.video.decode(video)[0].cpu()
        samples = round(len(frames_THWC) / parts.preset.fps * parts.preset.sample_rate)
        with self.placement.working(parts.sound):
            wave_S = parts.sound.decode(audio, samples)[0].cpu()
        return frames_THWC, wave_S


def _out_of_memory(device: str, error: Exception) -> str:
    first = str(error).splitlines()[0]
    return (
        f"{device} has not enough memory ({first}): try offload=true, vae_tiling=true, batch_passes=false or "
        "weights_8bit=true; ovi-sample --plan shows what fits"
    )
