"""Prompts in, clips out: the sampling of a bundle, part after part, each on the device while it works.

The latent loop is `flow.sample`; here are its texts, noise, first frame and sizes, and the way back to picture
and sound. Shape suffixes: T frames, H rows, W columns, C channels, F latent frames, S samples, L audio tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovi_eval.common.files import file_sha256
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, Windows, first_frame_given, noise_batch, sample
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.models.sequence_parallel import SequenceGroup, sequence_parallel
from ovi_lab.sampling.bundle import DTYPES, Bundle, Formats, Parts
from ovi_lab.sampling.given_media import GivenMedia, encoded, put_back, read_given
from ovi_lab.sampling.given_plan import GivenParts, plan_given
from ovi_lab.sampling.images import read_image, scaled
from ovi_lab.sampling.long_clips import (
    sample_long,
    shared_again,
    texts_of_windows,
    whole_formats,
    windows_of,
)
from ovi_lab.sampling.offload import Placement, enough_memory
from ovi_lab.sampling.quantise import quantise
from ovi_lab.sampling.requests import BETWEEN_WINDOWS, Request
from ovi_lab.sampling.sizes import Size, size_for_image, snapped
from ovi_lab.text.lengths import check_choice
from ovi_lab.text.parts import parts_of, vectors_by_tower, vectors_for
from ovi_lab.text.prompts import with_sound_as

BLANK = (16, 16)
"""Height and width of the black frames of a model that makes sound alone."""
_Read = tuple[str, Modality | None]
"""A text and the tower that reads it; None: both."""


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
    """Everything that decides a request's clip, beside the weights."""

    request: Request
    prompt: str
    """As the model reads it."""
    size: Size
    frames: int
    shapes: Mapping[str, tuple[int, ...]]
    """Of its latents: video [C,F,h,w] and audio [L,C], those that the model has."""
    image_sha256: str | None
    given: GivenParts | None = None
    """What files give of it, its image apart."""
    windows: Windows | None = None
    """Of a clip that is longer than the model's, whose prompts have `BETWEEN_WINDOWS` between them; else None."""

    @property
    def texts(self) -> list[str]:
        """The prompt of each window, or the one of all, as the model reads them."""
        return [self.prompt] if self.windows is None else self.prompt.split(BETWEEN_WINDOWS)

    @property
    def name(self) -> str:
        """Of the clip's file, without suffix."""
        return self.request.name


@dataclass(frozen=True)
class Clip:
    """A finished clip: frames uint8 [T, H, W, 3], wave float32 [S] as long as they are, and its latents."""

    plan: Plan
    frames_THWC: Tensor
    fps: float
    wave_S: Tensor
    sample_rate: int
    video_latents: Tensor | None
    audio_latents: Tensor | None


def plan_request(request: Request, formats: Formats) -> Plan:
    """Sizes, latents' shapes, what is given and the prompt's form of one request.

    Raises:
        UserError: its image cannot be read or is of extreme shape, or the model takes no image or other size; its media
            cannot be used, see `plan_given`.
    """
    windows = None
    if request.seconds is not None:
        windows = windows_of(formats, request.seconds, request.overlap)
        formats = whole_formats(formats, windows)
    shapes, digest = dict(formats.shapes), None
    given = plan_given(request, formats)
    _, rows, columns = formats.strides
    if formats.area is None or "video" not in shapes:
        for name, value in (("image", request.image), ("size or aspect", request.shape)):
            if value is not None:
                raise UserError(
                    f"{formats.name} makes clips of one size and without a given image: leave out {name}"
                )
        size = (shapes["video"][2] * rows, shapes["video"][3] * columns) if "video" in shapes else BLANK
    else:
        area = formats.area[0] * formats.area[1]
        size = snapped(request.shape or formats.area, area)
        seen = None if given is None else given.size
        if request.image is not None:
            picture = read_image(request.image)
            digest, seen = file_sha256(Path(request.image)), (picture.height, picture.width)
        if request.shape is None and seen is not None:
            size = size_for_image(seen, area)
        C, F, *_ = shapes["video"]
        shapes["video"] = (C, F, size[0] // rows, size[1] // columns)
    texts = texts_of_windows(request.texts, windows)
    if formats.audio_tag is not None:
        texts = tuple(with_sound_as(text, formats.audio_tag) for text in texts)
    prompt = BETWEEN_WINDOWS.join(texts)
    return Plan(request, prompt, size, formats.frames, shapes, digest, given, windows)


def generate_latents(
    towers: TwinDiT,
    texts: Texts,
    seeds: Sequence[int],
    shapes: Mapping[str, Sequence[int]],
    settings: SamplerSettings,
    *,
    noise: str = "named",
    given: Given | None = None,
    clean: Mapping[Modality, Tensor] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Latents of one batch: video [B,C,F,h,w] and audio [B,L,C], None for a modality that has no shape.

    Args:
        towers: left in the mode they were in.
        texts: embedded, see `embed_captions`.
        seeds: of each clip's noise; a clip is the same in any batch, up to rounding.
        shapes: of one clip's latents, for the modalities that are wanted.
        settings: solver and guidance.
        noise: see `noise_for`.
        given, clean: see `sample`.
        on_step: called with steps done and steps in all.
    """
    device = texts.positive[0].device
    # drawn on the CPU, so that a GPU samples the same clip as a laptop
    begin: dict[Modality, Tensor] = {
        m: noise_batch(seeds, shapes[m], m, convention=noise).to(device) for m in MODALITIES if m in shapes
    }
    made = sample(towers, begin, texts, settings, given=given, clean=clean, on_step=on_step)
    return made.video, made.audio


@torch.no_grad()
def embed_captions(
    text_encoder: nn.Module | None, captions: Sequence[str], settings: SamplerSettings
) -> Texts:
    """A batch's captions and the settings' negatives. Raises UserError where there is no text encoder."""
    if text_encoder is None:
        raise UserError("sampling from captions needs a text encoder: choose text=…")
    positive = vectors_by_tower(text_encoder, list(captions))
    return Texts(
        positive["video"],
        vectors_for(text_encoder, [settings.negative_video], "video"),
        vectors_for(text_encoder, [settings.negative_audio], "audio"),
        positive["audio"],
    )


def decode_latents(
    video_codec: Any,
    audio_codec: Any,
    video: Tensor | None,
    audio: Tensor | None,
    fps: float,
    working: Callable[[Any], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Tensor, Tensor]:
    """Latents of N clips -> uint8 [N,T,H,W,3] and float32 [N,S] of equal length on the CPU.

    A modality that is not there becomes black frames, or silence. `working(codec)` is entered while a codec decodes.
    Raises UserError where neither is there.
    """
    rate = audio_codec.sample_rate
    if video is not None:
        with working(video_codec):
            frames = video_codec.decode(video).cpu()
        samples = round(frames.shape[1] * rate / fps)
        waves = torch.zeros(len(frames), samples)
        if audio is not None:
            with working(audio_codec):
                waves = audio_codec.decode(audio, samples).cpu()
    elif audio is not None:
        with working(audio_codec):
            waves = audio_codec.decode(audio).cpu()
        count = max(1, round(waves.shape[1] * fps / rate))
        frames = torch.zeros(len(waves), count, *BLANK, 3, dtype=torch.uint8)
    else:
        raise UserError("nothing was sampled: the task trains neither video nor audio")
    return frames, waves


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
        if self.options.vae_tiling and parts.formats.area is not None:
            parts.video.model.enable_tiling()
        self._vectors: dict[tuple[str, Modality | None], Tensor] = {}
        self._given: tuple[tuple[GivenParts, Size], GivenMedia, dict[Modality, Tensor]] | None = None

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        settings: SamplerSettings,
        options: Options | None = None,
        on_part: Callable[[int, int, str], None] = lambda done, total, name: None,
    ) -> OviPipeline:
        """Load a bundle's parts and put them where the options say; `on_part`: see `Bundle.load`.

        Raises:
            UserError: a file does not fit, an option cannot be had, or the device is too small.
        """
        options = options or Options()
        stay = options.offload in (False, "none") and not options.weights_8bit
        device = options.device if stay else "cpu"
        with enough_memory(options.device):
            parts = bundle.load(DTYPES[options.dtype], device, on_part, options.long_prompts)
            if options.weights_8bit:
                quantise(parts.towers, options.device)
        return cls(parts, settings, options)

    def plan(self, request: Request) -> Plan:
        """See `plan_request`."""
        return plan_request(request, self.parts.formats)

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
        video, audio = self.latents(plan, on_step, group)
        formats, given = whole_formats(self.parts.formats, plan.windows), plan.given
        back = given.parts if given is not None and plan.request.keep_given else {}
        decoded = {
            m: None if m in back and back[m].whole else x for m, x in (("video", video), ("audio", audio))
        }
        frames_THWC, wave_S = self.decode(decoded["video"], decoded["audio"])
        if given is not None and back:
            frames_THWC, wave_S = put_back(self._media(plan), given, formats, frames_THWC, wave_S)
        latents = (None if x is None else x[0].cpu() for x in (video, audio))
        return Clip(plan, frames_THWC, formats.fps, wave_S, formats.sample_rate, *latents)

    @torch.no_grad()
    def latents(
        self,
        plan: Plan,
        on_step: Callable[[int, int], None] | None = None,
        group: SequenceGroup | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Video [1,C,F,h,w] and audio [1,L,C] of one plan, on the device."""
        settings, request = self.settings, plan.request
        texts = self.texts(plan)
        given, clean = self.given(plan)
        how: dict[str, Any] = {"noise": self.parts.formats.noise, "given": given, "clean": clean}
        towers, together = self.parts.towers, partial(self._together, group)
        if plan.windows is not None:
            again = shared_again(self.parts.video, self._codec_works)
            return sample_long(
                towers, texts, request.seed, plan.shapes, plan.windows, settings,
                again=again, working=together, on_step=on_step, **how,
            )  # fmt: skip
        with together():
            return generate_latents(
                towers, texts[0], [request.seed], plan.shapes, settings, on_step=on_step, **how
            )

    @contextmanager
    def _together(self, group: SequenceGroup | None) -> Iterator[None]:
        """The towers are on the device, and work with those of the group's other processes."""
        towers = self.parts.towers
        with self.placement.working(towers), sequence_parallel(towers, group) if group else nullcontext():
            yield

    @property
    def _codec_works(self) -> Callable[[Any], AbstractContextManager[Any]]:
        """Entered while a codec works; one of the run's own is no network, and stays on the CPU."""
        return nullcontext if self.parts.formats.area is None else self.placement.working

    def texts(self, plan: Plan) -> list[Texts]:
        """What the towers read of each of a plan's prompts, and its negatives."""
        parts = parts_of(self.parts.text)
        if parts is not None:
            parts.tell(plan.texts)

        def read(text: str, tower: Modality, whole: bool = False) -> _Read:
            return (text, None) if parts is None else (text if whole else parts(text, tower), tower)

        negative = plan.request.negatives(self.settings)
        negatives = [read(text, tower, whole=True) for text, tower in zip(negative, MODALITIES, strict=True)]
        prompts = [(read(text, "video"), read(text, "audio")) for text in plan.texts]
        found = self._embedded([*chain.from_iterable(prompts), *negatives])
        own, other = ([found[each]] for each in negatives)
        return [Texts([found[video]], own, other, [found[audio]]) for video, audio in prompts]

    def _embedded(self, texts: Sequence[_Read]) -> Mapping[_Read, Tensor]:
        """Vectors [n, D] of each text, on the device; those of the last texts are kept."""
        encoder, missing = self.parts.text, [each for each in texts if each not in self._vectors]
        found: dict[_Read, Tensor] = {}
        if missing:
            with self.placement.working(encoder):
                # one by one: beside a longer text a shorter one is padded, which rounds it otherwise in bf16,
                # and a clip is to be the same whatever was made before it
                for text, tower in dict.fromkeys(missing):
                    (vectors,) = encoder([text]) if tower is None else vectors_for(encoder, [text], tower)
                    found[text, tower] = vectors.to(self.options.device)
        self._vectors = {each: self._vectors[each] for each in texts if each in self._vectors} | found
        return self._vectors

    def given(self, plan: Plan) -> tuple[Given, dict[Modality, Tensor]]:
        """What of a plan's clip is given, and its clean latents."""
        parts, given = self.parts, Given()
        clean: dict[Modality, Tensor] = {}
        if plan.given is not None:
            given = plan.given.masks
            if self._given is None or self._given[0] != (plan.given, plan.size):
                media = read_given(plan.given, whole_formats(parts.formats, plan.windows), plan.size)
                latents = encoded(media, plan.shapes, parts.video, parts.sound, self._codec_works)
                self._given = (plan.given, plan.size), media, latents
            clean = dict(self._given[2])
        if plan.request.image is not None:
            picture_HWC = scaled(read_image(plan.request.image), plan.size)
            with self.placement.working(parts.video):
                frame = parts.video.encode(picture_HWC[None, None])
            first, image = first_frame_given(frame, frame.new_zeros(1, *plan.shapes["video"]))
            given, clean = replace(given, video=first.video), clean | image
        return given, clean

    def _media(self, plan: Plan) -> GivenMedia:
        """The media of a plan's files, which are kept until those of another plan are read."""
        self.given(plan)
        assert self._given is not None
        return self._given[1]

    def decode(self, video: Tensor | None, audio: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents of one clip -> uint8 [T,H,W,3] and float32 [S], on the CPU, of equal length.

        Raises:
            UserError: the latents are not finite.
        """
        for name, latents in (("video", video), ("audio", audio)):
            if latents is not None and not bool(torch.isfinite(latents).all()):
                raise UserError(
                    f"the {name} latents are not finite: try dtype=fp32, or weights that are whole"
                )
        parts = self.parts
        working: Any = self.placement.working
        if parts.formats.area is None:  # the run's own codec is no network and stays on the CPU
            working = nullcontext
            video, audio = (None if x is None else x.cpu() for x in (video, audio))
        frames, waves = decode_latents(parts.video, parts.sound, video, audio, parts.formats.fps, working)
        return frames[0], waves[0]
