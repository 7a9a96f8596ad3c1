"""Good files to be spoiled, made once by the code under test; each is made when the first case asks for it."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
SAMPLES = 3
"""Samples of a shard: few, since each case reads all of them."""


class Corpus:
    """Good files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def run(self) -> Path:
        """A run of the ball world of two steps, scored on a few clips; its data lie in `world`."""
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        from ovi_lab.common.paths import config_dir
        from ovi_lab.common.progress import SilentReporter
        from ovi_lab.runs.run import execute

        GlobalHydra.instance().clear()
        run = self.folder / "run"
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("train", [*TINY, *SCORED, f"data.root={self.folder}/data", f"run_dir={run}"])
        GlobalHydra.instance().clear()
        execute(config, SilentReporter())
        return run

    @cached_property
    def world(self) -> Path:
        """The ball world's folder of shards and its codec."""
        _ = self.run
        (found,) = (p.parent for p in (self.folder / "data").glob("*/codec.safetensors"))
        return found

    def samples(self, kind: str) -> list[tuple[str, bytes]]:
        """Members of a small shard of `media`, `latents` or `mp4`."""
        if kind == "mp4":
            movie = self.media["clip.mp4"].read_bytes()
            return [
                (f"clip{i}.{ending}", content)
                for i in range(SAMPLES)
                for ending, content in (("json", b'{"caption": "a ball", "fps": 24}'), ("mp4", movie))
            ]
        members: list[tuple[str, bytes]] = []
        with tarfile.open(self.world / f"eval-{kind}-000.tar") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    members.append((member.name, file.read()))
        keys = list(dict.fromkeys(name.partition(".")[0] for name, _ in members))[:SAMPLES]
        return [(name, content) for name, content in members if name.partition(".")[0] in keys]

    @cached_property
    def small(self) -> Path:
        """A whole small Ovi in the released layout."""
        from ovi_lab.sampling.small_weights import write_small

        return write_small(self.folder / "small")

    @cached_property
    def lightning(self) -> Path:
        """Somebody's Lightning checkpoint of the tiny model, with its configuration beside it."""
        import torch
        import yaml
        from safetensors.torch import load_file

        folder = self.folder / "lightning"
        folder.mkdir()
        zero = GOLDENS / "zero" / "stage1"
        weights = load_file(zero / "weights.safetensors")
        state = {f"model.{name}": tensor for name, tensor in weights.items()}
        content = {"state_dict": state, "global_step": 2, "epoch": 0, "pytorch-lightning_version": "2.5.0"}
        torch.save(content, folder / "epoch0.ckpt")
        shutil.copy(zero / "config.yaml", folder / "config.yaml")
        assert yaml.safe_load((folder / "config.yaml").read_text())
        return folder

    @cached_property
    def media(self) -> dict[str, Path]:
        """Short clips and sounds in every container, by name."""
        folder = self.folder / "media"
        folder.mkdir()
        made = {}
        for name, video, audio in MEDIA:
            path = folder / name
            write_media(path, video, audio)
            made[name] = path
        return made

    @cached_property
    def images(self) -> dict[str, bytes]:
        """Pictures of 48 x 64 pixels in several formats."""
        from PIL import Image

        picture = Image.fromarray(_frame(3, 64, 48))
        made = {}
        for kind, mode in (("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
                           ("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"), ("GIF", "P")):  # fmt: skip
            stream = io.BytesIO()
            changed = picture.convert("L").convert("I") if mode == "I;16" else picture.convert(mode)
            changed.convert("I;16").save(stream, kind) if mode == "I;16" else changed.save(stream, kind)
            made[f"{mode.replace(';', '')}.{kind.lower()}"] = stream.getvalue()
        return made


TINY = (
    "experiment=fusion",
    "debug=fast",
    "logger.tensorboard=false",
    "samples.every_n_steps=0",
    "checkpoint.every_n_steps=0",
    "sampler.steps=1",
    "trainer.max_steps=1",
)
"""Overrides of a run that takes a second."""
SCORED = ("evaluation=ball", "evaluation.num_clips=6", "evaluation.num_mp4=2", "evaluation.size=32")

MEDIA = (
    ("clip.mp4", "libx264", "aac"),
    ("clip.mkv", "libx264", "flac"),
    ("clip.webm", "libvpx-vp9", "libopus"),
    ("clip.avi", "mpeg4", "mp2"),
    ("clip.mov", "libx264", "pcm_s16le"),
    ("silent.mp4", "mpeg4", None),
    ("sound.wav", None, "pcm_s16le"),
    ("sound.mp3", None, "libmp3lame"),
    ("sound.ogg", None, "libopus"),
    ("sound.flac", None, "flac"),
)


def _frame(number: int, width: int, height: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([(x * 3 + number * 9) % 256, (y * 4) % 256, (x + y + number * 5) % 256], -1).astype(
        np.uint8
    )


def write_media(path: Path, video: str | None, audio: str | None, seconds: float = 0.75) -> None:
    """A clip of 64 x 48 pixels at 16 frames a second, with a tone of 440 Hz at 16 kHz."""
    import av

    with av.open(str(path), "w") as container:
        container.metadata["title"] = "of the fuzz test"
        streams: list[tuple[Any, Any]] = []
        if video is not None:
            moving: Any = container.add_stream(video, rate=16)
            moving.width, moving.height, moving.pix_fmt = 64, 48, "yuv420p"
            frames = (
                av.VideoFrame.from_ndarray(_frame(i, 64, 48), format="rgb24")
                for i in range(int(16 * seconds))
            )
            streams.append((moving, frames))
        if audio is not None:
            rate = 48000 if audio == "libopus" else 16000
            sound: Any = container.add_stream(audio, rate=rate)
            sound.layout = "mono"
            streams.append((sound, _sound(rate, seconds)))
        for stream, frames in streams:
            for number, frame in enumerate(frames):
                if stream.type == "video":
                    frame.pts, frame.time_base = number, Fraction(1, 16)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def _sound(rate: int, seconds: float) -> Any:
    import av

    wave = (8000 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.int16)
    for begin in range(0, len(wave), 960):
        piece = wave[None, begin : begin + 960]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
        yield frame


def linked(source: Path, target: Path) -> None:
    """A copy of a folder whose files share their bytes with the source: one is spoiled by putting another there."""
    shutil.copytree(source, target, copy_function=_link, symlinks=True)


def _link(source: str, target: str) -> None:
    os.link(source, target)


def put(path: Path, content: bytes) -> None:
    """Other content under a name that may share its bytes with the corpus."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
