"""`ovi-attention`: what each tower looks at in the other, as a picture (the question of arXiv 2510.01284, figure 3).

Shapes: B batch (one clip), H heads, K head dim, L audio tokens, V video tokens, F latent frames.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovi_eval.common.boundary import LineParser, command
from ovi_eval.common.files import written_whole
from ovi_lab import __version__
from ovi_lab.errors import UserError


@dataclass(frozen=True)
class AttentionMap:
    """Shares of attention between the towers, averaged over heads and fused blocks; each row sums to 1.

    Attributes:
        name: of the model.
        sound_to_picture: float32 [L, F]: a row is an audio token, a column the latent frame it reads; None where
            the audio tower does not read the other.
        picture_to_sound: float32 [F, L], the mean over a frame's tokens; None likewise.
        frames_per_token: latent frames that one audio token lasts; token n is at frame n * frames_per_token.
    """

    name: str
    sound_to_picture: Any
    picture_to_sound: Any
    frames_per_token: float

    def near(self, frames: float = 1.0) -> dict[str, tuple[float, float]]:
        """By direction, the mean share of attention within `frames` latent frames of the same moment.

        Beside it, the share that even attention would have there.
        """
        import torch

        found = {}
        for name, shares in (
            ("sound reads picture", self.sound_to_picture),
            ("picture reads sound", self.picture_to_sound),
        ):
            if shares is None:
                continue
            steps = (self.frames_per_token, 1.0) if name.startswith("sound") else (1.0, self.frames_per_token)
            rows, columns = (torch.arange(n) * step for n, step in zip(shares.shape, steps, strict=True))
            close = (rows[:, None] - columns[None]).abs() <= frames
            found[name] = (float((shares * close).sum(1).mean()), float(close.float().mean()))
        return found


@contextmanager
def _recorded(towers: Any, modality: str) -> Iterator[list[Any]]:
    """Collects, while the model runs, the attention [queries, keys] of one tower to the other, block by block."""
    found: list[Any] = []
    replaced = []
    for block in towers.tower(modality).each_block():
        cross = block.cross_attn
        if not cross.reads_other:
            continue
        attend = cross.attend_other

        def record(q: Any, k: Any, v: Any, mask: Any, attend: Any = attend) -> Any:
            products = (q[0].transpose(0, 1) @ k[0].permute(1, 2, 0)).float() / math.sqrt(q.shape[-1])
            found.append(products.softmax(-1).mean(0).cpu())
            return attend(q, k, v, mask)

        cross.attend_other = record
        replaced.append((cross, attend))
    try:
        yield found
    finally:
        for cross, attend in replaced:
            cross.attend_other = attend


def attention_map(pipeline: Any, request: Any, sigma: float = 0.5) -> AttentionMap:
    """The map of one clip: sampled, put back on the path from data to noise at `sigma`, and passed through once.

    Args:
        pipeline: an `OviPipeline` of a model with both towers.
        request: its prompt and seed.
        sigma: 0 (data) to 1 (noise).

    Raises:
        UserError: the model has one tower, or its towers do not read each other.
    """
    import torch

    from ovi_lab.common.seeding import generator_for
    from ovi_lab.flow.path import MODEL_TIME, interpolate

    towers, formats = pipeline.parts.towers, pipeline.parts.formats
    if len(towers.tower_configs) < 2 or towers.fusion_config.direction == "none":
        raise UserError(f"{formats.name} has no exchange between towers: choose a model with fusion")
    plan = pipeline.plan(request)
    video, audio = pipeline.latents(plan)
    generator = generator_for(request.seed, "attention map")
    points = {}
    for name, clean in (("video", video), ("audio", audio)):
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        points[name], _ = interpolate(clean, noise, torch.full((1,), sigma, device=clean.device))
    text = pipeline.texts(plan)[0]
    time = torch.full((1,), MODEL_TIME * sigma, device=video.device)
    with (
        torch.no_grad(),
        pipeline.placement.working(towers),
        _recorded(towers, "audio") as heard,
        _recorded(towers, "video") as seen,
    ):
        towers(
            points["video"], points["audio"], t_video=time, t_audio=time,
            text_video=text.positive, text_audio=text.positive_of("audio"),
        )  # fmt: skip
    F, L = video.shape[2] // towers.tower_configs["video"].patch_size[0], audio.shape[1]
    to_picture = torch.stack(heard).mean(0).unflatten(1, (F, -1)).sum(-1) if heard else None
    to_sound = torch.stack(seen).mean(0).unflatten(0, (F, -1)).mean(1) if seen else None
    return AttentionMap(formats.name, to_picture, to_sound, F / L)


def attention_png(maps: Sequence[AttentionMap]) -> bytes:
    """A column a model, a row a direction, time from left to right and from top to bottom; drawn without a display."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [
        ("sound reads picture", "latent frame", "audio token"),
        ("picture reads sound", "audio token", "latent frame"),
    ]
    drawn = [row for row in rows if any(row[0] in one.near() for one in maps)]
    figure = Figure(figsize=(1.2 + 3.6 * len(maps), 3.4 * len(drawn)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(drawn), len(maps), squeeze=False)
    for down, (direction, across, along) in enumerate(drawn):
        for place, one in enumerate(maps):
            axis = axes[down][place]
            near = one.near().get(direction)
            if near is None:
                axis.set_visible(False)
                continue
            shares = (
                one.sound_to_picture if down == 0 and direction.startswith("sound") else one.picture_to_sound
            )
            axis.imshow(shares.numpy(), aspect="auto", cmap="magma", interpolation="nearest")
            height, width = shares.shape
            axis.plot([-0.5, width - 0.5], [-0.5, height - 0.5], color="#59c3ff", lw=0.8, ls=(0, (4, 4)))
            axis.set_xlim(-0.5, width - 0.5)
            axis.set_ylim(height - 0.5, -0.5)
            axis.set_title(
                f"{one.name}\n{direction}: {near[0]:.0%} within one latent frame ({near[1]:.0%} if even)",
                fontsize=8,
                parse_math=False,
            )
            axis.set_xlabel(across, fontsize=8)
            axis.set_ylabel(along, fontsize=8)
            axis.tick_params(labelsize=7)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


@command("ovi-attention")
def main(argv: Sequence[str] | None = None) -> int:
    """The command `ovi-attention`; returns its exit code."""
    options = _parser().parse_args(argv)
    if options.steps < 1:
        raise UserError(f"--steps is {options.steps}: expected at least 1")
    if not 0 <= options.sigma <= 1:
        raise UserError(f"--sigma is {options.sigma}; expected 0 (data) to 1 (noise)")
    from ovi_lab.flow import SamplerSettings
    from ovi_lab.sampling.opening import open_bundle
    from ovi_lab.sampling.pipeline import Options, OviPipeline
    from ovi_lab.sampling.requests import Request

    maps = []
    for checkpoint, name in zip(options.checkpoints, _names(options.checkpoints), strict=True):
        print(f"{checkpoint}: sampling", file=sys.stderr, flush=True)
        bundle = open_bundle(checkpoint, options.weights)
        settings, place = SamplerSettings(steps=options.steps), Options(options.device, options.dtype)
        pipeline = OviPipeline.load(bundle, settings, place)
        found = attention_map(pipeline, Request("attention", options.prompt, options.seed), options.sigma)
        found = dataclasses.replace(found, name=name or found.name)
        for direction, (share, even) in found.near().items():
            print(f"{found.name}: {direction}: {share:.3f} within one latent frame, {even:.3f} if even")
        maps.append(found)
    with written_whole(options.out) as path:
        path.write_bytes(attention_png(maps))
    print(options.out)
    return 0


def _names(checkpoints: Sequence[str]) -> list[str]:
    """What distinguishes the checkpoints' paths: `a` and `b` of `runs/a/last` and `runs/b/last`."""
    parts = [Path(checkpoint).parts for checkpoint in checkpoints]
    common = set.intersection(*map(set, parts))
    return ["/".join(part for part in path if part not in common) for path in parts]


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="ovi-attention",
        description="Draw what a token of sound looks at in the picture, and the reverse, for one model or several.",
    )
    parser.examples = (
        ("ovi-attention runs/fusion/last", "one model, into attention.png"),
        (
            "ovi-attention runs/fusion_ablation/bidirectional_{,un}scaled/seed_0/last --out maps.png",
            "two arms side by side: sound positions scaled to the picture's, and not",
        ),
        ("ovi-attention small_ovi --steps 4 --sigma 0.9", "what ovi-small wrote, near to noise"),
    )
    parser.add_argument("--version", action="version", version=f"ovi-attention {__version__}")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="as ovi-sample takes it")
    parser.add_argument(
        "--prompt", default="a red ball bounces three times low drum", help="the clip's prompt"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the clip's noise (0)")
    parser.add_argument("--steps", type=int, default=12, help="of the sampler that makes the clip (12)")
    parser.add_argument("--sigma", type=float, default=0.5, help="from 0, data, to 1, noise (0.5)")
    parser.add_argument("--weights", type=Path, help="folder of released weights")
    parser.add_argument("--device", default="cpu", help="(cpu)")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"), help="of the towers (fp32)")
    parser.add_argument("--out", type=Path, default=Path("attention.png"), help="(attention.png)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
