"""What the options that save memory save and cost: picture tiles, 8-bit weights, offload; writes into sampling.md.

    python benchmarks/sampling_memory.py                  about two minutes of one CPU thread
    python benchmarks/sampling_memory.py --size tiny      seconds, without touching sampling.md unless --out is given

With and without an option run in turn in one process, so that what else the machine does falls on both. Sizes are
decimal MB of storages that are alive, as `ovi_lab.planning.live_memory` counts them: no GPU is needed, and what a
GPU's kernels take for themselves is not seen. 8-bit rows need torchao; where it is missing they are left out.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from ovi_lab.checkpoints.presets import released_model
from ovi_lab.codecs import wan22
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, sample
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.planning.live_memory import LiveMemory
from ovi_lab.planning.sampling_parts import picture_footprint
from ovi_lab.sampling.offload import OFFLOADS, Placement, networks
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.pipeline import Options, OviPipeline
from ovi_lab.sampling.quantise import MAX_RELATIVE_CHANGE, quantise, stored_bytes
from ovi_lab.sampling.requests import Request
from ovi_lab.sampling.small_weights import drawn, write_small
from sampling import HERE, SIZES, build, write_section  # beside this file

MB = 1e6
PICTURES: dict[str, dict[str, Any]] = {
    "tiny": {
        "codec": {"base_dim": 4, "decoder_base_dim": 4, "res_blocks": 1},
        "sides": [(288, 32)],
        "frames": 2,
        "repeats": 1,
    },
    "mid": {
        "codec": {"base_dim": 8, "decoder_base_dim": 16, "res_blocks": 1},
        "sides": [(384, 384), (512, 512)],
        "frames": 3,
        "repeats": 2,
    },
}
FORWARDS = {"tiny": 1, "mid": 3}
STEPS = 4
"""Of a clip whose parts are brought and sent away."""
COPIES = "cpu:0"
"""The CPU under another name: torch makes copies of weights that are to be there, as for a GPU."""

Row = list[str]


class CopiedWeights(LiveMemory):
    """Counts copies of the modules' weights alone: what is on the device at a time, and all that was copied there."""

    def __init__(self, device: str, *modules: nn.Module) -> None:
        super().__init__(device, *modules)
        self.copied = 0
        self._originals = set(self._known)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self._originals:
            self.copied += out.untyped_storage().nbytes()
            self._count(out)
        return out


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the clock and of the processor for one call."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Row]:
    """The quickest of several calls of each, on the clock and on the processor."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(timed(call))
    return {name: [f"{min(t):.2f}" for t in zip(*runs, strict=True)] for name, runs in times.items()}


def change(after: Tensor, before: Tensor) -> float:
    """Relative L2 distance."""
    return float((after.float() - before.float()).norm() / before.float().norm())


def picture_rows(size: str) -> Iterator[Row]:
    """A random Wan2.2 VAE decodes noise, whole and in tiles."""
    spec = PICTURES[size]
    config = wan22.Wan22Config.of(spec["codec"])
    model = wan22.build(config)
    model.load_state_dict(drawn(model.state_dict(), 0, "Wan2.2 VAE", torch.float32), assign=True)
    codec = wan22.Wan22VAE(model.eval(), config)
    preset = dataclasses.replace(
        released_model("ovi_720x720_5s"), video_codec=spec["codec"], video_latent_frames=spec["frames"]
    )
    for height, width in spec["sides"]:
        shape = (1, config.channels, spec["frames"], height // 16, width // 16)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))

        def decode(tiled: bool, latents: Tensor = latents) -> Tensor:
            model.use_tiling = tiled
            return codec.decode(latents)

        frames, peaks = {}, {}
        for tiled in (False, True):
            with torch.no_grad(), LiveMemory("cpu", model) as live:
                frames[tiled] = decode(tiled)
            predicted = picture_footprint(preset, (height, width), torch.float32, tiling=tiled)
            peaks[tiled] = [f"{live.peak / MB:.1f}", f"{predicted.work / MB:.1f}"]
        apart = (frames[True].float() - frames[False].float()).abs()
        times = in_turn({"whole": lambda: decode(False), "tiles": lambda: decode(True)}, spec["repeats"])
        clip = f"{height}x{width}, {frames[True].shape[1]} frames"
        yield [clip, "whole", *times["whole"], *peaks[False], "", ""]
        different = [f"{float(apart.max()):.0f}", f"{float(apart.mean()):.1f}"]
        yield ["", "in tiles", *times["tiles"], *peaks[True], *different]


def inputs(model: TwinDiT, size: str, device: str = "cpu") -> dict[str, Tensor]:
    """Of one forward pass, with texts of full length."""
    g = torch.Generator().manual_seed(0)
    video, audio = (model.tower_configs[m] for m in ("video", "audio"))
    given = {
        "video": torch.randn(1, video.in_dim, *SIZES[size]["video"], generator=g),
        "audio": torch.randn(1, SIZES[size]["audio"], audio.in_dim, generator=g),
        "t_video": torch.tensor([600.0]),
        "t_audio": torch.tensor([600.0]),
        "text_video": torch.randn(1, video.text_len, video.text_dim, generator=g),
        "text_audio": torch.randn(1, audio.text_len, audio.text_dim, generator=g),
    }
    return {name: value.to(device) for name, value in given.items()}


@torch.no_grad()
def weight_rows(size: str) -> Iterator[Row]:
    """The towers' forward pass before and after their weights are stored in 8 bits, in both types."""
    wide = build(size, "cpu", torch.float32)
    given = inputs(wide, size)
    exact = wide(**given)
    for dtype in (torch.float32, torch.bfloat16):
        wide = wide.to(dtype)
        narrow = quantise(copy.deepcopy(wide))
        calls = {"wide": partial(wide, **given), "narrow": partial(narrow, **given)}
        before, after = (call() for call in calls.values())
        times = in_turn(calls, FORWARDS[size])
        apart = [
            [f"{change(getattr(a, m), getattr(b, m)):.4f}" for m in ("video", "audio")]
            for a, b in ((after, before), (before, exact), (after, exact))
        ]
        rounded = ["", ""] if dtype == torch.float32 else apart[1]
        yield [str(dtype)[6:], f"{stored_bytes(wide) / MB:.1f}", *times["wide"], "", "", *rounded]
        yield ["… in 8 bits", f"{stored_bytes(narrow) / MB:.1f}", *times["narrow"], *apart[0], *apart[2]]


@torch.no_grad()
def brought(parts: list[list[nn.Module]], shapes: tuple[tuple[int, ...], ...], offload: str) -> CopiedWeights:
    """What comes to a device while the parts work in turn, the towers over a clip of latents of these shapes.

    The device is torch's meta device: no numbers, but a pass fails as soon as one weight that it needs is missing.
    """
    parts = copy.deepcopy(parts)  # without offload, what has come stays there
    placement = Placement("meta", offload)
    with CopiedWeights("meta", *(network for part in parts for network in part)) as count:
        for part in parts:
            with placement.working(*part):
                for towers in part:
                    if isinstance(towers, TwinDiT):
                        sample_shapes(towers, *shapes)
    return count


def sample_shapes(towers: TwinDiT, video: tuple[int, ...], audio: tuple[int, ...]) -> None:
    """Runs the sampler with guidance on the meta device, both passes in one batch."""
    config = towers.tower_configs["video"]
    texts = [torch.empty(config.text_len, config.text_dim, device="meta") for _ in range(3)]
    noise: dict[Modality, Tensor] = {
        "video": torch.empty(1, *video, device="meta"),
        "audio": torch.empty(1, *audio, device="meta"),
    }
    settings = SamplerSettings(steps=STEPS, video_guidance=4.0, audio_guidance=3.0)
    sample(towers, noise, Texts(*([text] for text in texts)), settings)


def offload_rows(size: str) -> Iterator[Row]:
    """The whole small Ovi, prompt to frames and sound, and the towers of this size alone."""
    probe = torch.zeros(1)
    if probe.to(COPIES).data_ptr() == probe.data_ptr():
        raise SystemExit(
            f"this PyTorch copies nothing to {COPIES}, so that offload would not be put to the test"
        )
    with TemporaryDirectory() as folder:
        weights = write_small(Path(folder) / "weights", area=(64, 64))
        settings = SamplerSettings(steps=STEPS, video_guidance=4.0, audio_guidance=3.0)

        def made(device: str, offload: str) -> tuple[OviPipeline, tuple[Tensor, ...]]:
            pipeline = OviPipeline.load(
                open_bundle(weights), settings, Options(device=device, offload=offload)
            )
            clip = pipeline.make(pipeline.plan(Request("clip", "a red ball. Audio: rain", seed=0)))
            return pipeline, (clip.video_latents, clip.audio_latents, clip.frames_THWC, clip.wave_S)

        pipeline, alone = made("cpu", "none")
        own = pipeline.parts
        parts = [networks(part) for part in (own.text, own.towers, own.video, own.sound)]
        shapes = tuple(tuple(latents.shape) for latents in alone[:2])
        yield from _offload_rows("small Ovi, all parts", parts, shapes, alone, lambda x: made(COPIES, x)[1])
    model = build(size, "cpu", torch.float32)
    given = inputs(model, size)

    @torch.no_grad()
    def forward(offload: str) -> tuple[Tensor, ...]:
        with Placement(COPIES, offload).working(model):
            out = model(**given)
        return out.video, out.audio

    with torch.no_grad():
        out = model(**given)
    shapes = tuple(tuple(given[m].shape[1:]) for m in ("video", "audio"))
    yield from _offload_rows(f"towers, {size}", [[model]], shapes, (out.video, out.audio), forward)


def _offload_rows(
    title: str,
    parts: list[list[nn.Module]],
    shapes: tuple[tuple[int, ...], ...],
    alone: tuple[Tensor, ...],
    again: Callable[[str], tuple[Tensor, ...]],
) -> Iterator[Row]:
    every = [network for part in parts for network in part]
    weights = stored_bytes(nn.ModuleList(every))  # towers also list their blocks on their own
    for offload in OFFLOADS:
        same = all(torch.equal(a, b) for a, b in zip(again(offload), alone, strict=True))
        count = brought(parts, shapes, offload)
        if not same or (offload == "none" and count.peak != weights):
            raise SystemExit(f"{title}: offload {offload} changes the result, or was not counted right")
        word = {"none": "false", "parts": "true"}.get(offload, offload)
        cells = [f"{x / MB:.2f}" for x in (count.peak, count.copied)]
        yield [title if offload == "none" else "", f"`{word}`", *cells, f"{count.peak / weights:.2f}", "yes"]


def table(head: str, rows: list[Row]) -> list[str]:
    """As Markdown, and an empty line."""
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def report(
    size: str, command: str, pictures: list[Row], weights: list[Row] | str, offloads: list[Row]
) -> str:
    """The section as Markdown; `weights` are rows, or why there are none."""
    threads = torch.get_num_threads()
    tower, picture = build(size, "cpu", torch.float32).tower_configs["video"], PICTURES[size]
    lines = [
        "## memory, CPU",
        "",
        f"`{command}`: {os.cpu_count()} cores ({platform.machine()}), no GPU, {threads} thread{'s' * (threads > 1)}, "
        f"PyTorch {torch.__version__.split('+')[0]}, load average {os.getloadavg()[0]:.1f} at the end. MB are 10^6 "
        "bytes of storages that are alive; what a GPU's kernels take for themselves is not in them. Times are the "
        "quickest of several calls, with and without in turn; weights are random. How memory is predicted, and "
        "what the released sizes take: [docs/memory.md](../docs/memory.md).",
        "",
        f"**Picture in tiles** (`vae_tiling`): the Wan2.2 VAE, its decoder {picture['codec']['decoder_base_dim']} wide"
        " (released: 256) decodes noise, float32. Beside its weights; predicted as `--plan` does. Differences are in "
        "levels of 255: with random weights and noise every frame is noise of about 60 levels, so they bound "
        "nothing for a trained VAE. Memory follows the tile and the finished frames, not the picture.",
        "",
        *table("picture | | s | CPU s | peak MB | predicted MB | largest difference | mean", pictures),
        f"**8-bit weights** (`weights_8bit`): one forward pass of the towers of the size {size}, dim {tower.dim}, "
        f"{tower.num_layers} blocks. The last columns are "
        f"relative L2 distances; the tolerance that tests hold at fresh weights is {MAX_RELATIVE_CHANGE}. The random "
        "matrices here keep their input's size, as those of benchmarks/sampling.py; fresh ones change less "
        "([docs/memory.md](../docs/memory.md)).",
        "",
    ]
    if isinstance(weights, str):
        lines += [f"Not measured here: {weights}", ""]
    else:
        lines += table(
            "weights | MB | s | CPU s | video, to the same type | audio | video, to float32 | audio", weights
        )
    lines += [
        f"**Offload** (`offload`): weights that are on the device at a time, and copied there for one clip of {STEPS} "
        "steps with both guidance passes in one batch. Counted by shapes (the device is torch's meta device, where a "
        "pass fails if a weight is missing). On a GPU, `blocks` has two blocks there, not one, since the next is "
        "copied while one works. The small Ovi's largest part is its sound codec. "
        "Results are those of a CPU under another name, to which every weight is copied. How "
        "much of the copies' time hides behind the work only a GPU can show.",
        "",
        *table("| offload | MB at a time | MB copied a clip | of all weights | bit-identical", offloads),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Measures all three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=PICTURES, default="mid")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="default: sampling.md beside this file, unless the size is tiny"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    given = {f"--{n}": v for n, v in vars(args).items() if n != "out" and v != parser.get_default(n)}
    command = " ".join(["python benchmarks/sampling_memory.py", *(f"{n} {v}" for n, v in given.items())])
    weights: list[Row] | str
    with Progress(transient=True) as progress:
        task = progress.add_task("measuring", total=3)
        pictures = list(picture_rows(args.size))
        progress.advance(task)
        try:
            weights = list(weight_rows(args.size))
        except UserError as error:  # torchao is missing; the message says so and how to install it
            weights = str(error)
        progress.advance(task)
        offloads = list(offload_rows(args.size))
    section = report(args.size, command, pictures, weights, offloads)
    out = args.out or (HERE / "sampling.md" if args.size != "tiny" else None)
    if out is not None:
        write_section(out, section)
    print(section)


if __name__ == "__main__":
    main()
