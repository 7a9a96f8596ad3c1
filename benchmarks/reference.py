"""The model beside the released inference code, side by side in one process on the same weights; writes reference.md.

    git clone https://github.com/character-ai/Ovi && python benchmarks/reference.py --ovi Ovi --threads 2

The clone is read from where it lies; nothing of it is in this project. It is written for bfloat16 on CUDA with
flash-attn. Here its two model files are loaded with that type replaced by float32 and flash-attn by PyTorch's scaled
dot product attention without a mask, which favours it. Both sides run in turn, and what is compared must agree.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ovi_lab.flow import SamplerSettings, Texts, sample
from ovi_lab.flow.solvers import build_solver
from ovi_lab.models import TwinDiT
from sampling import HERE, NEGATIVE, PROMPT, SIZES, write_section  # beside this file

COMMIT = "5b69b25a4b3115216e9ea53a37a04410be6ad39a"
INTRODUCTION = """# Beside the released code

The same weights, inputs and texts through both models, in turn in one process; times are medians, their ratio is of
each turn. The released code runs in float32 with PyTorch's attention, since its own needs CUDA: compared is what a CPU
computes in both. The last column is the limit of the same arithmetic: how many times as fast ours would be if only its
matrix products, attention and convolutions took time.
"""
KERNELS = ("addmm", "bmm", "aten::mm", "scaled_dot_product", "convolution")
"""In the names of the operations that compute products, attention and convolutions, backward too."""
TASKS = ("forward", "forward + backward", "guided sampling")
TOLERANCE = 1e-4
GUIDANCE = {"video": 4.0, "audio": 3.0}


def released_classes(clone: Path) -> type[nn.Module]:
    """The released model's class, of a clone, in float32 on any device."""
    for name in ("ovi", "ovi.modules", "ovi.distributed_comms"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    stubs: dict[str, dict[str, Any]] = {
        "ovi.distributed_comms.communications": {"all_gather": None, "all_to_all_4D": None},
        "ovi.distributed_comms.parallel_states": {
            "nccl_info": None,
            "get_sequence_parallel_state": lambda: False,
        },
        "ovi.modules.attention": {"flash_attention": _attention},
    }
    for name, members in stubs.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)
    for name in ("model", "fusion"):
        path = clone / "ovi" / "modules" / f"{name}.py"
        if not path.is_file():
            raise SystemExit(f"{path} is not there; give --ovi a clone of character-ai/Ovi at {COMMIT}")
        source = (
            path.read_text().replace(".bfloat16()", ".float()").replace("torch.bfloat16", "torch.float32")
        )
        module = types.ModuleType(f"ovi.modules.{name}")
        module.__package__ = "ovi.modules"
        sys.modules[module.__name__] = module
        exec(compile(source, str(path), "exec"), vars(module))
    return sys.modules["ovi.modules.fusion"].FusionModel


def _attention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class Sides:
    """Both models with the same weights, and the same inputs for both."""

    def __init__(self, clone: Path, size: str) -> None:
        towers = SIZES[size]["towers"]
        kinds = {"video": ("ti2v", [1, 2, 2], 1.0), "audio": ("t2a", [1], 0.19676)}
        settings = {
            f"{m}_config": {
                "model_type": kind,
                "patch_size": patch,
                "temporal_rope_scaling_factor": scale,
                "out_dim": tower["in_dim"],
                **tower,
            }
            for (m, (kind, patch, scale)), tower in zip(kinds.items(), towers, strict=True)
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.theirs: Any = released_classes(clone)(**settings).eval()
        self.ours = TwinDiT(*towers).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.theirs.parameters():
                p.normal_(std=p[0].numel() ** -0.5 if p.dim() > 1 else 0.1, generator=generator)
        self.ours.load_state_dict(self.theirs.state_dict())
        self.latents = {
            "video": torch.randn(1, towers[0]["in_dim"], *SIZES[size]["video"], generator=generator),
            "audio": torch.randn(1, SIZES[size]["audio"], towers[1]["in_dim"], generator=generator),
        }
        lengths = (PROMPT, NEGATIVE, NEGATIVE)
        self.texts = [torch.randn(n, towers[0]["text_dim"], generator=generator) for n in lengths]
        _, f, h, w = self.latents["video"][0].shape
        self.lengths = {"video": f * h * w // 4, "audio": SIZES[size]["audio"]}

    def their_velocity(self, latents: dict[str, Tensor], t: Tensor, *texts: Tensor) -> dict[str, Tensor]:
        """The released model's prediction for one clip."""
        clip = [list(latents[m]) for m in ("video", "audio")]
        lengths = {"vid_seq_len": self.lengths["video"], "audio_seq_len": self.lengths["audio"]}
        contexts = {"vid_context": [texts[0]], "audio_context": [texts[-1]]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of autocast for a device that is not there
            video, audio = self.theirs(*clip, t=t, **contexts, **lengths)
        return {"video": video[0][None], "audio": audio[0][None]}

    def our_velocity(self) -> dict[str, Tensor]:
        """Our prediction of the same."""
        text = [self.texts[0]]
        t = torch.tensor([500.0])
        out = self.ours(**self.latents, t_video=t, t_audio=t, text_video=text, text_audio=text)
        return {"video": out.video, "audio": out.audio}

    @torch.no_grad()
    def their_clip(self, steps: int) -> dict[str, Tensor]:
        """The released loop: two passes a step, guided, solved."""
        solvers = {m: build_solver("unipc", steps, 5.0, torch.device("cpu")) for m in self.latents}
        latents = dict(self.latents)
        positive, *negative = self.texts
        for time_ in solvers["video"].timesteps:
            t = time_.reshape(1)
            high = self.their_velocity(latents, t, positive)
            low = self.their_velocity(latents, t, *negative)
            guided = {m: low[m] + g * (high[m] - low[m]) for m, g in GUIDANCE.items()}
            latents = {m: solvers[m].step(guided[m], time_, x) for m, x in latents.items()}
        return latents

    def our_clip(self, steps: int) -> dict[str, Tensor]:
        """Our sampler on the same."""
        guidance = {f"{m}_guidance": g for m, g in GUIDANCE.items()}
        texts = Texts(*([text] for text in self.texts))
        out = sample(self.ours, self.latents, texts, SamplerSettings(steps=steps, shift=5.0, **guidance))
        return {"video": out.video, "audio": out.audio}

    def calls(self, task: str, steps: int) -> list[Callable[[], dict[str, Tensor]]]:
        """The task on our side and on theirs."""
        t = torch.tensor([500.0])

        def forward() -> dict[str, Tensor]:
            return self.their_velocity(self.latents, t, self.texts[0])

        if task == "forward":
            return [torch.no_grad()(self.our_velocity), torch.no_grad()(forward)]
        if task == "guided sampling":
            return [lambda: self.our_clip(steps), lambda: self.their_clip(steps)]

        def trained(model: nn.Module, velocity: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
            model.zero_grad(set_to_none=True)
            out = velocity()
            torch.stack([x.square().mean() for x in out.values()]).sum().backward()
            return {m: x.detach() for m, x in out.items()}

        return [lambda: trained(self.ours, self.our_velocity), lambda: trained(self.theirs, forward)]


def share_of_kernels(call: Callable[[], dict[str, Tensor]]) -> float:
    """The part of a call's own time that is spent in :data:`KERNELS`, by PyTorch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    return sum(t for key, t in times.items() if any(kernel in key for kernel in KERNELS)) / sum(
        times.values()
    )


def measured(sides: Sides, task: str, steps: int, repeats: int) -> str:
    """A row: medians of both sides' seconds, and of their ratio in each turn."""
    calls = sides.calls(task, steps)
    a, b = (call() for call in calls)
    apart = max(float((a[m] - b[m]).abs().max() / b[m].abs().max()) for m in a)
    if apart > TOLERANCE:
        raise SystemExit(
            f"{task}: the two sides differ by {apart:.1e} of the largest value; expected {TOLERANCE}"
        )
    seconds: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    for turn in track(range(repeats), task, transient=True):
        # in turn, and each of them first every other time
        for side in (0, 1) if turn % 2 else (1, 0):
            start, start_cpu = time.perf_counter(), time.process_time()
            calls[side]()
            seconds[side].append(time.perf_counter() - start)
            cpu[side].append(time.process_time() - start_cpu)
    ratios, of_cpu = (
        sorted(theirs / ours for ours, theirs in zip(*times, strict=True)) for times in (seconds, cpu)
    )
    ours, theirs = (statistics.median(s) for s in seconds)
    limit = statistics.median(ratios) / share_of_kernels(calls[0])
    return (
        f"| {task} | {theirs:.3f} | {ours:.3f} | {statistics.median(ratios):.2f} "
        f"({ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f}) "
        f"| {statistics.median(of_cpu):.2f} | {apart:.0e} | {limit:.2f} |"
    )


def main() -> None:
    """Measures what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ovi", type=Path, required=True, help=f"a clone of character-ai/Ovi at {COMMIT[:7]}"
    )
    parser.add_argument("--size", choices=[s for s in SIZES if "towers" in SIZES[s]], default="mid")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="of sampling")
    parser.add_argument("--repeats", type=int, default=21, help="turns; of sampling a fifth of them")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--out", type=Path, default=HERE / "reference.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sides = Sides(args.ovi, args.size)
    repeats = {task: args.repeats for task in args.tasks}
    if "guided sampling" in repeats:
        repeats["guided sampling"] = max(1, args.repeats // 5)
    rows = [measured(sides, task, args.steps, n) for task, n in repeats.items()]
    tower = sides.ours.tower_configs["video"]
    text = "\n".join(
        [
            f"## {args.size}, CPU",
            "",
            f"`python benchmarks/reference.py --ovi DIR --threads {args.threads}`: {os.cpu_count()} cores "
            f"({platform.machine()}), no GPU, {args.threads} threads, float32, PyTorch "
            f"{torch.__version__.split('+')[0]}, {args.repeats} turns, load average {os.getloadavg()[0]:.1f} at "
            f"the end. Dim {tower.dim}, {tower.num_heads} heads, {tower.num_layers} blocks, "
            f"{sides.lengths['video']} video + {sides.lengths['audio']} audio tokens, text length {tower.text_len}, "
            f"of which the prompt fills {PROMPT} and each negative prompt {NEGATIVE}; sampling is {args.steps} UniPC "
            "steps, guidance 4 and 3.",
            "",
            "| | released code, s | ours, s | times as fast (middle half) | by CPU seconds | largest difference "
            "| limit |",
            "|---|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
        ]
    )
    print(text)
    if not args.out.is_file():
        args.out.write_text(INTRODUCTION)
    write_section(args.out, text)


if __name__ == "__main__":
    main()
