"""What each saving of sampling saves: the same clip with all of them off, one alone, and all on; writes sampling.md.

    python benchmarks/sampling.py                                 the mid size on the CPU, 20 steps with guidance
    python benchmarks/sampling.py --size ovi_11b --device cuda    the released size, random weights, bfloat16
    python benchmarks/sampling.py --size tiny --steps 2 --repeats 1

All cases run in one process, one after the other, and again as often as `--repeats` says, so that what else the
machine does falls on all of them; the table has medians. A case is a whole call of `sample`: what is prepared once
for a clip is in its time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.progress import Progress
from sampling_reference import SAVINGS as MODEL_SAVINGS  # beside this file
from sampling_reference import ReferenceTwin
from torch import Tensor

from ovi_lab.common.paths import config_dir
from ovi_lab.flow import SamplerSettings, Texts, noise_batch, sample

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4
"""How far latents of two cases may be apart, in float32."""

PROMPT, NEGATIVE = 190, 12
"""Tokens: of the median of the reference's example prompts (134 words), and of its negative prompts."""

OFF = dict.fromkeys(("cache_text", "batch_passes", *MODEL_SAVINGS), False)
SAVINGS = {
    "cache_text": ("text embedding, and its keys and values, once a clip", "in every pass"),
    "shared_modulation": ("time projected per distinct timestep", "per token"),
    "cache_rope": (
        "rotary tables kept, float32, whole batch",
        "put together in every call, float64, by clip",
    ),
    "cache_masks": ("no key masks where nothing is padded", "made in every pass"),
    "batch_passes": ("both guidance passes in one batch", "one after the other"),
    "share_opening": ("… and what no text has reached once for both", "twice"),
    "merge_padding": ("a text's padding as two keys", "as 512 less its tokens"),
}

_TOWER = {"text_len": 512, "text_dim": 4096, "ffn_dim": 1536, "dim": 384, "num_heads": 6, "num_layers": 6}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"config": "tiny", "video": (4, 2, 2), "audio": 9},
    "mid": {"towers": (_TOWER | {"in_dim": 48}, _TOWER | {"in_dim": 20}), "video": (8, 16, 16), "audio": 157},
    # 704 x 704 pixels, which is what 720 x 720 comes to in multiples of 32; 121 frames
    "ovi_11b": {"config": "ovi_11b", "video": (31, 44, 44), "audio": 157},
}


def build(size: str, device: str, dtype: torch.dtype, **settings: Any) -> ReferenceTwin:
    """The model of one size with random weights, made where it runs: nothing of it passes through the host.

    `settings`: others than the towers'.
    """
    spec = SIZES[size]
    if "config" in spec:
        config = OmegaConf.load(config_dir() / "model" / f"{spec['config']}.yaml")
        towers = [OmegaConf.to_container(config[m], resolve=True) for m in ("video", "audio")]
    else:
        towers = list(spec["towers"])
    with torch.device("meta"):
        model = ReferenceTwin(*towers, **settings).to(dtype)
    model = model.to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                # Of an output that neither vanishes nor grows, so that rounding shows as it would in a trained model.
                p.normal_(std=p[0].numel() ** -0.5, generator=generator)
            elif name.endswith("weight"):
                p.fill_(1.0)
            else:
                p.zero_()
    return model


@dataclass
class Case:
    """One way to sample the clip, and what was measured of it."""

    title: str
    instead: str
    savings: dict[str, bool]
    against: str
    """The case whose time and latents it is compared with."""
    prompt: int = PROMPT
    clip: list[float] = field(default_factory=list)
    """Seconds of a whole call."""
    cpu: list[float] = field(default_factory=list)
    """Seconds of the processor for it: on a busy machine more telling than those of the clock."""
    step: list[float] = field(default_factory=list)
    """Seconds of a step, the median of a call's steps but the first."""
    peak_gib: float = 0.0
    latents: tuple[Tensor, Tensor] | None = None


def cases(text_len: int) -> dict[str, Case]:
    """All that is compared; savings that need another come with it."""
    prompt = min(PROMPT, text_len - 2)
    off = Case("**every saving off**", "", OFF, "off", prompt)
    made = {"off": off}
    for name, (title, instead) in SAVINGS.items():
        own = {"batch_passes": True, name: True} if name == "share_opening" else {name: True}
        made[name] = Case(title, instead, OFF | own, "off", prompt)
    on = dict.fromkeys(OFF, True)
    made["on"] = Case("**every saving on**", "", on, "off", prompt)
    made["full off"] = Case("a text without padding: every saving off", "", OFF, "full off", text_len)
    made["full on"] = Case("a text without padding: every saving on", "", on, "full off", text_len)
    return made


class Clip:
    """One clip's noise and texts, and the model that samples it."""

    def __init__(self, size: str, device: str, dtype: torch.dtype, steps: int) -> None:
        self.model, self.device, self.steps = build(size, device, dtype), device, steps
        video, audio = (self.model.tower_configs[m] for m in ("video", "audio"))
        self.text_len, self.text_dim, self.dtype = video.text_len, video.text_dim, dtype
        self.video = noise_batch([0], (video.in_dim, *SIZES[size]["video"]), "video").to(device)
        self.audio = noise_batch([0], (SIZES[size]["audio"], audio.in_dim), "audio").to(device)

    def _text(self, tokens: int, seed: int) -> list[Tensor]:
        g = torch.Generator().manual_seed(seed)
        return [torch.randn(tokens, self.text_dim, generator=g).to(self.device, self.dtype)]

    def _now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def run(self, case: Case, steps: int) -> None:
        """One call of `sample` as the case says; adds what it took to the case."""
        self.model.set_savings(**{name: case.savings[name] for name in MODEL_SAVINGS})
        # A text without padding has none in the negative pass either.
        short = case.prompt if case.prompt == self.text_len else min(NEGATIVE, case.prompt)
        text, *negatives = (self._text(n, i) for i, n in enumerate((case.prompt, short, short)))
        cuda = self.device.startswith("cuda")
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        cpu, times = time.process_time(), [self._now()]
        passes = {name: on for name, on in case.savings.items() if name not in MODEL_SAVINGS}
        out = sample(
            self.model,
            {"video": self.video, "audio": self.audio},
            Texts(text, *negatives),
            SamplerSettings(steps=steps, video_guidance=4.0, audio_guidance=3.0, **passes),
            on_step=lambda *_: times.append(self._now()),
        )
        case.clip.append(self._now() - times[0])
        case.cpu.append(time.process_time() - cpu)
        each = [b - a for a, b in itertools.pairwise(times)]
        case.step.append(statistics.median(each[1:] or each))
        if cuda:
            case.peak_gib = max(case.peak_gib, torch.cuda.max_memory_allocated(self.device) / 2**30)
        if case.latents is None and out.video is not None and out.audio is not None:
            case.latents = (out.video.cpu(), out.audio.cpu())


def difference(case: Case, other: Case) -> tuple[float, float]:
    """Largest absolute difference of the latents of both modalities, and the relative one in the L2 norm."""
    if case.latents is None or other.latents is None:
        raise SystemExit("a case was not run, so there is nothing to compare")
    pairs = list(zip(case.latents, other.latents, strict=True))
    largest = max(float((a - b).abs().max()) for a, b in pairs)
    return largest, max(float((a - b).norm() / b.norm()) for a, b in pairs)


def report(size: str, clip: Clip, done: dict[str, Case], command: str) -> str:
    """The section of one size and machine as Markdown."""
    cuda = clip.device.startswith("cuda")
    threads = torch.get_num_threads()
    machine = (
        torch.cuda.get_device_name(clip.device) if cuda else f"no GPU, {threads} thread{'s' * (threads > 1)}"
    )
    c = clip.model.tower_configs["video"]
    _, rows, columns = c.patch_size or (1, 2, 2)
    f, h, w = SIZES[size]["video"]
    more = "peak GiB" if cuda else "CPU s | times off"
    latents = done["off"].latents or (torch.zeros(1), torch.zeros(1))
    lines = [
        f"## {size}, {'GPU' if cuda else 'CPU'}",
        "",
        f"`{command}`: {os.cpu_count()} cores ({platform.machine()}), {machine}, {str(clip.dtype)[6:]}, "
        f"PyTorch {torch.__version__.split('+')[0]}. Dim {c.dim}, {c.num_heads} heads, {c.num_layers} blocks, "
        f"{f * h * w // (rows * columns)} video + {SIZES[size]['audio']} audio tokens, text length {c.text_len} x "
        f"{c.text_dim}, of which the prompt fills {done['off'].prompt} and each negative prompt "
        f"{min(NEGATIVE, done['off'].prompt)}; one clip, {clip.steps} UniPC steps, guidance 4 and 3, "
        f"{len(done['off'].clip)} runs of each, load average "
        f"{os.getloadavg()[0]:.1f} at the end. The latents reach {max(float(x.abs().max()) for x in latents):.1f}.",
        "",
        f"| | instead of | s a clip | s a step | times off | {more} | largest difference | L2 |",
        f"|---|---|---|---|---|{'---|' if cuda else '---|---|'}---|---|",
    ]
    for name, case in done.items():
        other = done[case.against]
        ratio = statistics.median(b / a for a, b in zip(case.clip, other.clip, strict=True))
        cpu = statistics.median(b / a for a, b in zip(case.cpu, other.cpu, strict=True))
        more = f"{case.peak_gib:.2f}" if cuda else f"{statistics.median(case.cpu):.2f} | {1 / cpu:.2f}"
        largest, relative = difference(case, other)
        apart = "| | |" if name == case.against else f"| {largest:.1e} | {relative:.1e} |"
        lines.append(
            f"| {case.title} | {case.instead} | {statistics.median(case.clip):.2f} "
            f"| {statistics.median(case.step):.3f} | {1 / ratio:.2f} "
            f"| {more} {apart}"
        )
    return "\n".join(lines) + "\n"


INTRODUCTION = """# Sampling: what each saving saves

Each row is the same clip, sampled with every saving off but the one named (off is what the released inference code
does), times as medians of runs in turn; "times off" is the median of the ratios to the run with every saving off of
the same turn, so 0.50 is half the time; on the CPU once more for the processor's own seconds. "Largest difference"
is between latents, over video and sound; L2 is relative.
"""


def write_section(path: Path, section: str) -> None:
    """Puts the section into the file in place of the one with the same heading, else at its end."""
    heading = section.split("\n", 1)[0]
    before = path.read_text() if path.is_file() else INTRODUCTION
    introduction, *sections = before.split("\n## ")
    kept = [f"## {s.strip()}\n" for s in sections]
    same = [i for i, s in enumerate(kept) if s.split("\n", 1)[0] == heading]
    kept[slice(same[0], same[0] + 1) if same else slice(len(kept), None)] = [section]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join([introduction.strip() + "\n", *kept]))
    temporary.replace(path)


def main() -> None:
    """Measures what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="bf16 on a GPU, else fp32")
    parser.add_argument("--steps", type=int, help="20; 4 at the released size")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", nargs="+", metavar="CASE", help="these cases, beside those they are compared with"
    )
    parser.add_argument(
        "--out", type=Path, help="default: sampling.md beside this file, unless the size is tiny"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cuda = args.device.startswith("cuda")
    dtype = torch.bfloat16 if args.dtype == "bf16" or (cuda and args.dtype is None) else torch.float32
    steps = args.steps or (4 if args.size == "ovi_11b" else 20)
    clip = Clip(args.size, args.device, dtype, steps)
    wanted = cases(clip.text_len)
    if args.only:
        unknown = [name for name in args.only if name not in wanted]
        if unknown:
            raise SystemExit(f"--only has {', '.join(unknown)}; expected some of: {', '.join(wanted)}")
        needed = {wanted[name].against for name in args.only} | {"off", *args.only}
        wanted = {name: case for name, case in wanted.items() if name in needed}
    given = {f"--{n}": v for n, v in vars(args).items() if n != "out" and v != parser.get_default(n)}
    told = [" ".join([n, *(v if isinstance(v, list) else [str(v)])]) for n, v in given.items()]
    command = " ".join(["python benchmarks/sampling.py", *told])
    out = args.out or (HERE / "sampling.md" if args.size != "tiny" and not args.only else None)
    section = ""
    with Progress(transient=True) as progress:
        task = progress.add_task("measuring", total=args.repeats * len(wanted))
        # What the first call does beside its work, such as loading kernels, is in no case's time.
        clip.run(cases(clip.text_len)["on"], 1)
        for _ in range(args.repeats):
            for case in wanted.values():
                clip.run(case, clip.steps)
                progress.advance(task)
            wrong = [n for n, c in wanted.items() if difference(c, wanted[c.against])[0] > TOLERANCE]
            if dtype == torch.float32 and wrong:
                raise SystemExit(
                    f"latents are more than {TOLERANCE} apart: {', '.join(wrong)}; nothing is written"
                )
            # After every turn, so that a long run that is stopped has not been for nothing.
            section = report(args.size, clip, wanted, command)
            if out is not None:
                write_section(out, section)
    print(section)


if __name__ == "__main__":
    main()
