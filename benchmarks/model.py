"""Step time and peak memory of the model, and what its savings save; writes model.md beside this file.

    python benchmarks/model.py                 all sizes, one thread
    python benchmarks/model.py --sizes tiny    one size, without touching model.md unless --out is given

Each size and mode runs in a process of its own, so that its peak memory is its own. The two sides of a saving
run alternately in one process, so that their ratio does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.progress import track
from torch import Tensor

from ovi_eval.common.files import write_whole
from ovi_lab.common.paths import config_dir
from ovi_lab.models import TwinDiT
from ovi_lab.models.rope import apply_rotation, rotation, video_angles
from ovi_lab.models.tower import Conditions

HERE = Path(__file__).resolve().parent
MODES = ("forward", "forward + backward")
SAVINGS = ("modulation", "text", "rotary", "guidance")

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"config": "tiny", "batch": 16, "video": (16, 2, 2), "audio": 81, "repeats": 200},
    "mid": {
        "tower": {
            "dim": 384,
            "num_heads": 6,
            "num_layers": 6,
            "ffn_dim": 1536,
            "text_len": 128,
            "text_dim": 512,
        },
        "batch": 2,
        "video": (8, 16, 16),
        "audio": 157,
        "repeats": 5,
    },
    "large": {
        "tower": {
            "dim": 1024,
            "num_heads": 8,
            "num_layers": 4,
            "ffn_dim": 4096,
            "text_len": 512,
            "text_dim": 4096,
        },
        "batch": 1,
        "video": (31, 16, 16),
        "audio": 157,
        "repeats": 2,
    },
}


def build(size: str, cls: type[TwinDiT] = TwinDiT) -> TwinDiT:
    """The model of one size; the tiny one is the ball world's, as configured."""
    spec = SIZES[size]
    if "config" in spec:
        config = OmegaConf.load(config_dir() / "model" / f"{spec['config']}.yaml")
        towers = [OmegaConf.to_container(config[m], resolve=True) for m in ("video", "audio")]
    else:
        towers = [spec["tower"] | {"in_dim": 48}, spec["tower"] | {"in_dim": 20}]
    model = cls(*towers)
    for name, parameter in model.named_parameters():
        if name.endswith("head.head.weight") and not parameter.is_meta:
            # A fresh head is zero, and zeros would agree with everything.
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    return model


def inputs(size: str, model: TwinDiT) -> dict[str, Any]:
    """A batch with texts of full length."""
    spec, g = SIZES[size], torch.Generator().manual_seed(0)
    batch, video, audio = spec["batch"], model.tower_configs["video"], model.tower_configs["audio"]
    text = torch.randn(batch, video.text_len, video.text_dim, generator=g)
    return {
        "video": torch.randn(batch, video.in_dim, *spec["video"], generator=g),
        "audio": torch.randn(batch, spec["audio"], audio.in_dim, generator=g),
        "t_video": 1000 * torch.rand(batch, generator=g),
        "t_audio": 1000 * torch.rand(batch, generator=g),
        "text_video": text,
        "text_audio": text,
    }


def seconds(function: Callable[[], object]) -> float:
    """One call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Largest resident size of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def measure(size: str, mode: str) -> dict[str, Any]:
    """Seconds of the quickest step, which other work on the machine disturbs least, and the peak memory."""
    before = peak_mib()
    model = build(size)
    batch = inputs(size, model)

    def step() -> None:
        if mode == "forward":
            with torch.no_grad():
                model(**batch)
            return
        out = model(**batch)
        (out.video.square().mean() + out.audio.square().mean()).backward()
        model.zero_grad(set_to_none=True)

    step()
    times = [seconds(step) for _ in range(SIZES[size]["repeats"])]
    return {
        "seconds": min(times),
        "peak_mib": peak_mib(),
        "before_mib": before,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


class PerTokenTwin(TwinDiT):
    """The same model with time embedded and projected for every token, as the reference does."""

    def _conditions(self, modality: Any, tokens: Any, t: Any, *rest: Any) -> Conditions:
        c = super()._conditions(modality, tokens, t, *rest)
        t_BL = t.reshape(-1, 1).expand(*tokens.x.shape[:2])
        e, e0 = self.tower(modality).embed_time(t_BL)
        return Conditions(e, e0, None, c.rope, c.mask, c.text)


def turn_clip_by_clip(x_BLHK: Tensor, grids: list[tuple[int, int, int]]) -> Tensor:
    """What the cached tables replace: every clip on its own, its table made anew, in float64."""
    turned = []
    for x_LHK, grid in zip(x_BLHK, grids, strict=True):
        table = torch.polar(*_unit(video_angles([grid], x_LHK.shape[0], x_LHK.shape[-1], 1e4, x_LHK.device)))
        pairs = torch.view_as_complex(x_LHK.double().unflatten(-1, (-1, 2)))
        turned.append(torch.view_as_real(pairs * table[0][:, None]).flatten(-2))
    return torch.stack(turned).to(x_BLHK.dtype)


def _unit(angles: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(angles), angles


@torch.no_grad()
def sides(size: str, saving: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Our way and the wasteful one, as calls whose results are checked to agree."""
    model = build(size)
    batch = inputs(size, model)
    if saving == "modulation":
        other = build(size, PerTokenTwin)
        return lambda: model(**batch).video, lambda: other(**batch).video
    if saving == "text":
        kept = batch | {f"text_{m}": model.prepare_text(batch[f"text_{m}"], m) for m in ("video", "audio")}
        return lambda: model(**kept).video, lambda: model(**batch).video
    if saving == "guidance":
        halves = [{k: v for k, v in batch.items()} for _ in range(2)]
        twice = {k: torch.cat([v, v]) for k, v in batch.items()}
        return lambda: model(**twice).video, lambda: torch.cat([model(**half).video for half in halves])
    config = model.tower_configs["video"]
    _, ph, pw = config.patch_size or (1, 2, 2)
    f, h, w = SIZES[size]["video"]
    grid, clips = (f, h // ph, w // pw), SIZES[size]["batch"]
    shape = (clips, grid[0] * grid[1] * grid[2], config.num_heads, config.head_dim)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    table = rotation(video_angles([grid], shape[1], config.head_dim, 1e4, x.device))
    return lambda: apply_rotation(x, table), lambda: turn_clip_by_clip(x, [grid] * clips)


@torch.no_grad()
def compare(size: str, saving: str) -> dict[str, Any]:
    """Seconds of the quickest call of both sides, measured in turn, and their ratio."""
    ours, wasteful = sides(size, saving)
    a, b = ours(), wasteful()
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not torch.allclose(a, b, atol=1e-4):
        raise SystemExit(f"{saving} at size {size}: the two sides disagree, so their times say nothing")
    pairs = [(seconds(ours), seconds(wasteful)) for _ in range(max(3, SIZES[size]["repeats"]))]
    ours_s, wasteful_s = zip(*pairs, strict=True)
    return {
        "ours": min(ours_s),
        "wasteful": min(wasteful_s),
        "ratio": min(wasteful_s) / min(ours_s),
    }


def in_a_process(threads: int, *job: str) -> dict[str, Any]:
    """The result of one job of this script in a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--threads", str(threads), "--job", *job]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(job)} failed: {done.stderr.strip().splitlines()[-1:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def report(
    steps: dict[tuple[str, str], dict[str, Any]], savings: dict[tuple[str, str], Any], threads: int
) -> str:
    """The table as Markdown."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    lines = [
        "# The model: step time, memory, and what its savings save",
        "",
        f"`python benchmarks/model.py`: {os.cpu_count()} cores ({platform.machine()}), {accelerator}, "
        f"{threads} thread a process, float32, PyTorch {torch.__version__.split('+')[0]}.",
        "",
        "| size | towers | batch | video + audio tokens | parameters | mode | step, s | peak MiB | own |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (size, mode), r in steps.items():
        spec = SIZES[size]
        with torch.device("meta"):
            c = build(size).tower_configs["video"]
        f, h, w = spec["video"]
        _, rows, columns = c.patch_size or (1, 2, 2)
        own = r["peak_mib"] - r["before_mib"]
        shape = f"dim {c.dim}, {c.num_heads} heads, {c.num_layers} blocks"
        lines.append(
            f"| {size} | {shape} | {spec['batch']} | {f * h * w // (rows * columns)} + {spec['audio']} "
            f"| {r['parameters']:,} | {mode} | {r['seconds']:.3f} | {r['peak_mib']:.0f} | {own:.0f} |"
        )
    titles = {
        "modulation": ("time projected per distinct timestep", "per token", "one forward"),
        "text": ("text keys and values kept", "computed in every pass", "one forward"),
        "rotary": (
            "cached table, the whole batch, float32",
            "table per clip and call, float64",
            "one application",
        ),
        "guidance": ("both guidance passes in one batch", "one after the other", "both passes"),
    }
    lines += [
        "",
        "Times are of the quickest of several calls. Peak memory is the process's largest resident size; own "
        "(MiB) leaves out the interpreter and its libraries. Both sides of a saving give the same result and "
        "run in turn in one process:",
        "",
        "| size | ours | instead of | of | s ours | s instead | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for (size, saving), r in savings.items():
        ours, instead, of = titles[saving]
        lines.append(
            f"| {size} | {ours} | {instead} | {of} "
            f"| {r['ours']:.5f} | {r['wasteful']:.5f} | {r['ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="where to write; model.md beside this file when all sizes run"
    )
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.job:
        kind, size, what = args.job
        print(json.dumps(measure(size, what) if kind == "step" else compare(size, what)))
        return
    jobs = [("step", s, m) for s in args.sizes for m in MODES] + [
        ("saving", s, x) for s in args.sizes for x in SAVINGS
    ]
    results = {job: in_a_process(args.threads, *job) for job in track(jobs, "measuring", transient=True)}
    steps = {(s, m): r for (kind, s, m), r in results.items() if kind == "step"}
    savings = {(s, x): r for (kind, s, x), r in results.items() if kind == "saving"}
    text = report(steps, savings, args.threads)
    print(text)
    out = args.out or (HERE / "model.md" if len(args.sizes) == len(SIZES) else None)
    if out is not None:
        write_whole(out, text)


if __name__ == "__main__":
    main()
