"""The Python API: open a model, sample it, compose a configuration, train. `import ovi_lab` gives these names.

model = ovi_lab.load("runs/fusion/last")
clip = model.sample("a red ball bounces three times low drum", seed=1)   # plays in a notebook
clip.save("clip.mp4")
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovi_eval.common.collector import no_collector
from ovi_eval.common.plain_data import read_yaml
from ovi_eval.results.files import RunResults
from ovi_lab.common.paths import config_dir
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor

    from ovi_lab.models import TwinDiT
    from ovi_lab.sampling.bundle import Bundle
    from ovi_lab.sampling.pipeline import Clip, OviPipeline

__all__ = ["Model", "Run", "Sample", "compose", "load", "train"]

_SHOWN = 256
"""Pixels to which the longer side of a small clip is enlarged, by a whole factor, in files and notebooks."""
_RELEASED_EXAMPLE = "Two women talk in a kitchen. <S>Is it ready?<E> Audio: voices, a pan sizzling"


@dataclass(frozen=True)
class Sample:
    """A sampled clip. In a notebook it is shown as a player.

    Attributes:
        frames: uint8 [T, H, W, 3], at `fps` frames a second.
        wave: float32 [S] from -1 to 1, mono at `sample_rate` Hz, as long as the frames.
        video_latents: float32 [C, F, h, w]; None where the model has no video tower.
        audio_latents: float32 [L, C]; None where the model has no audio tower.
        record: what made the clip, as in the metadata of the files of `ovi-sample`: prompt, seed, size, sampler, model,
            weights' SHA-256, …
    """

    frames: Tensor
    fps: float
    wave: Tensor
    sample_rate: int
    video_latents: Tensor | None
    audio_latents: Tensor | None
    record: Mapping[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write an mp4 (H.264 and AAC), its record in the metadata. Raises UserError where there is no place for it."""
        from ovi_lab.sampling.clip_files import write_clip

        return write_clip(
            Path(path), self.frames, self.fps, self.wave, self.sample_rate, self.record, enlarge_to=_SHOWN
        )

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            content = self.save(Path(folder) / "clip.mp4").read_bytes()
        source = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
        return (
            f'<video controls loop style="max-width:100%" src="{source}"></video>'
            f"<div>{escape(str(self.record['prompt']))} (seed {self.record['seed']})</div>"
        )


class Model:
    """A model that samples clips: a run of one's own or a released one. Made by `load`.

    It makes one clip at a time; calls from several threads must wait for each other.

    Attributes:
        example: a prompt of the kind that it was trained with.
    """

    def __init__(
        self, pipeline: OviPipeline, bundle: Bundle, sampler: Mapping[str, Any], example: str
    ) -> None:
        self._pipeline, self._bundle, self._sampler = pipeline, bundle, dict(sampler)
        self._digests = bundle.digests()
        self.example = example

    @property
    def name(self) -> str:
        """The model's name."""
        return self._bundle.name

    @property
    def model(self) -> TwinDiT:
        """The towers, an ordinary `torch.nn.Module`."""
        return self._pipeline.parts.towers

    @property
    def takes_image(self) -> bool:
        """Whether a clip may begin with a given image, and have another shape of the picture."""
        return not self._bundle.own_codec and "video" in self._bundle.formats.shapes

    @property
    def takes_media(self) -> bool:
        """Whether it makes picture and sound, so that one can be given as a file and the other made."""
        return len(self._bundle.formats.shapes) == 2

    @property
    def config(self) -> dict[str, Any]:
        """Plain values: `model` as `TwinDiT(**config["model"])` takes them, the `clips`' formats and the `sampler`."""
        formats = self._bundle.formats
        clips = {
            "fps": formats.fps,
            "sample_rate": formats.sample_rate,
            "frames": formats.frames,
            "latents": {name: list(shape) for name, shape in formats.shapes.items()},
        }
        return {"model": self.model.settings, "clips": clips, "sampler": dict(self._sampler)}

    def sample(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int = 0,
        image: str | Path | None = None,
        video: str | Path | None = None,
        audio: str | Path | None = None,
        start: str | Path | None = None,
        clip: str | Path | None = None,
        redo: str | None = None,
        keep_given: bool = True,
        seconds: float | None = None,
        overlap: float | None = None,
        size: str | tuple[int, int] | None = None,
        aspect: str | None = None,
        on_step: Callable[[int, int], None] | None = None,
        **sampler: Any,
    ) -> Sample:
        """One clip. The same prompt, seed and settings give the same clip, here and with `ovi-sample`.

        Args:
            prompt: what is seen and heard; for the released models with `<S>speech<E>` and `Audio: …`. Of a long clip
                one for each window, the last one for all further ones.
            seed: of the noise, from 0.
            image: file of the first frame, for models that take one.
            video: file whose picture is the clip's; its sound is made.
            audio: file whose sound is the clip's; its picture is made, from `image` where that is given too.
            start: file of a clip with which this one begins.
            clip: file of a clip of which `redo` is made anew, and all else is kept.
            redo: `audio:1.5-3.0`, `video:…` or `both:…`, in seconds of `clip`.
            keep_given: what is given comes back from its file; False: through the codec.
            seconds: of a clip longer than the model's, made window by window.
            overlap: seconds that two windows share; a quarter of a window by default.
            size: height and width, or `HEIGHTxWIDTH`, scaled to the model's area.
            aspect: `WIDTH:HEIGHT` instead of `size`.
            on_step: called with the steps that are done and the number of steps.
            sampler: settings other than the model's own (`config["sampler"]`): `steps`, `solver`, `shift`,
                `video_guidance`, `audio_guidance`, `negative_video`, `negative_audio`, `skip_layers`.

        Raises:
            UserError: a setting or the prompt cannot be used, with what was expected.
        """
        from ovi_lab.common.fields import checked, field_type, nearest
        from ovi_lab.common.settings import TABLES
        from ovi_lab.flow import SamplerSettings
        from ovi_lab.sampling.batch import record_of
        from ovi_lab.sampling.command import check_settings
        from ovi_lab.sampling.given_files import parse_redo
        from ovi_lab.sampling.requests import BETWEEN_WINDOWS, Request, check_request, prompt_name
        from ovi_lab.sampling.sizes import shape_of

        for name, value in sampler.items():
            if name not in self._sampler:
                raise UserError(f"unknown setting {name!r} of sample{nearest(name, list(self._sampler))}")
            checked(field_type(TABLES["sample"], f"sampler.{name}"), value, name)
        if isinstance(prompt, list | tuple) and all(isinstance(text, str) for text in prompt):
            prompt = BETWEEN_WINDOWS.join(prompt)
        if not isinstance(prompt, str):
            raise UserError(f"prompt is {prompt!r}: expected a text")
        if isinstance(size, tuple | list):
            size = "x".join(map(str, size))
        chosen = SamplerSettings(**{**self._sampler, **sampler})
        check_settings(chosen, self._bundle)
        shape = shape_of(size, aspect)
        files = {"image": image, "video": video, "audio": audio, "start": start, "clip": clip}
        paths: dict[str, Any] = {name: Path(file) for name, file in files.items() if file is not None}
        request = Request(
            prompt_name(prompt),
            prompt.strip(),
            seed,
            shape=shape,
            redo=None if redo is None else parse_redo(str(redo)),
            keep_given=keep_given,
            seconds=seconds,
            overlap=overlap,
            **paths,
        )
        pipeline = self._pipeline
        plan = pipeline.plan(check_request(request))
        pipeline.settings = chosen
        made = pipeline.make(plan, on_step)
        return _sample(made, record_of(plan, self._bundle.formats, chosen, pipeline.options, self._digests()))


def _sample(clip: Clip, record: Mapping[str, Any]) -> Sample:
    return Sample(
        clip.frames_THWC, clip.fps, clip.wave_S, clip.sample_rate, clip.video_latents, clip.audio_latents, record
    )  # fmt: skip


def load(
    checkpoint: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    ema: bool = True,
    length: float = 1.0,
    rope_factor: float | None = None,
    **options: Any,
) -> Model:
    """Open and load a model; the arguments are those of `ovi-sample`.

    Args:
        checkpoint: a run (`runs/fusion/last`), a checkpoint folder, a released model's name, or a folder with a preset.
        weights: folder of the published weights, for released models and runs trained on their latents.
        device: `auto`: the GPU where there is one, and the CPU for runs with a codec of their own.
        dtype: `fp32` or `bf16`; `auto`: bf16 on a GPU, else fp32.
        ema: averaged weights where the checkpoint has them.
        length: clips so many times as long as those trained on.
        rope_factor: another audio RoPE factor than the model was trained with.
        options: `offload`, `weights_8bit`, `vae_tiling`, `long_prompts`; see `ovi_lab.sampling.pipeline.Options`.

    Raises:
        UserError: there is no such model, a part is missing or damaged, the device cannot be used, or there is too
            little memory.
    """
    from ovi_lab.common.fields import nearest
    from ovi_lab.flow import SamplerSettings
    from ovi_lab.planning.sampling_report import check_memory
    from ovi_lab.sampling.arguments import default_sampler
    from ovi_lab.sampling.command import check_fits, options_for
    from ovi_lab.sampling.opening import open_bundle
    from ovi_lab.sampling.pipeline import Options, OviPipeline, plan_request
    from ovi_lab.sampling.requests import Request

    known = [name for name in Options.__dataclass_fields__ if name not in ("device", "dtype")]
    for name in options:
        if name not in known:
            raise UserError(f"unknown option {name!r} of load{nearest(name, known)}")
    bundle = open_bundle(checkpoint, weights, ema=ema, length=length, rope_factor=rope_factor)
    chosen = options_for(bundle, device, dtype, **options)
    sampler = dict(read_yaml(config_dir() / "sampler" / f"{default_sampler(checkpoint, weights)}.yaml"))
    settings = SamplerSettings(**sampler)
    check_fits(check_memory, bundle, [plan_request(Request("clip", ""), bundle.formats)], settings, chosen)
    example = _trained_example(checkpoint) if bundle.own_codec else _RELEASED_EXAMPLE
    return Model(OviPipeline.load(bundle, settings, chosen), bundle, sampler, example)


def _trained_example(checkpoint: str | Path) -> str:
    """The first prompt that the run sampled while it was trained; "" where it had none."""
    from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint

    samples = Checkpoint.open(resolve_checkpoint(checkpoint)).configuration().plain.get("samples")
    prompts = samples.get("prompts") if isinstance(samples, Mapping) else None
    return str(prompts[0]) if isinstance(prompts, list) and prompts else ""


def compose(*overrides: str, config: str = "train") -> DictConfig:
    """The configuration of a command line: `compose("experiment=fusion", "trainer.max_steps=50")`.

    Args:
        overrides: as they are typed.
        config: the command: `train` or `sample`.

    Raises:
        UserError: an override that does not hold, with the valid names.
    """
    if config not in ("train", "sample"):
        raise UserError(f"config is {config!r}; expected train or sample")
    return _composed(overrides, config)


def _composed(overrides: tuple[str, ...], config: str, one_run: bool = False) -> DictConfig:
    from omegaconf import OmegaConf

    from ovi_lab.common.command_line import check_text, composed
    from ovi_lab.runs.arguments import hydra_arguments as train_arguments
    from ovi_lab.sampling.arguments import hydra_arguments as sample_arguments

    for override in overrides:
        if not isinstance(override, str) or override.startswith("-"):
            raise UserError(f"override {override!r}: expected key=value, such as trainer.max_steps=50")
    check_text(overrides)
    ready = train_arguments(overrides) if config == "train" else sample_arguments(overrides)
    made = composed(ready, config_dir(), config, may_lack=not one_run, one_run=one_run)
    if config == "train" and not any(text.startswith("run_dir=") for text in overrides):
        # what Hydra makes of it when the command starts
        OmegaConf.update(made, "run_dir", str(Path.cwd() / "runs" / str(made.name)))
    return made


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it is.
        losses: validation losses by name.
        results: its scores; None where it was not scored.
    """

    folder: Path
    losses: Mapping[str, float]
    results: RunResults | None

    def load(self, **options: Any) -> Model:
        """Its model; see `load`."""
        return load(self.folder / "last", **options)


def train(*overrides: str) -> Run:
    """Train in this process what `ovi-train` would, and return the finished run: `train("experiment=fusion")`.

    One run at a time; a study of several is for the command. A finished run of the same configuration is returned
    as it is.

    Raises:
        UserError: as the command; the run's folder keeps what was good.
    """
    from rich.console import Console

    from ovi_eval.results.reading import read
    from ovi_lab.common.progress import reporter_on

    with no_collector():
        from ovi_lab.runs.run import execute

    settings = _composed(overrides, "train", one_run=True)
    reporter = reporter_on(Console())
    try:
        execute(settings, reporter)
    finally:
        reporter.close()
    folder = Path(settings.run_dir)
    outcome = json.loads((folder / "done.json").read_text())
    scored = folder / "results.json"
    return Run(folder, outcome["losses"], read(scored) if scored.is_file() else None)
