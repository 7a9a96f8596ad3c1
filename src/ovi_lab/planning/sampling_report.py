"""What a clip takes, before anything is loaded: `ovi-sample --plan`, and the refusal of what cannot fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Column, Table

from ovi_eval.common.boundary import command
from ovi_lab.checkpoints.presets import ReleasedModel, is_released, released_model
from ovi_lab.common.sizes import DRIVER, GIB, MARGIN, gib
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.planning.asked import AskedOf
from ovi_lab.planning.sampling_parts import Footprint
from ovi_lab.planning.sampling_planner import (
    STAGES,
    MemoryOptions,
    Peak,
    SamplingPlanner,
    in_words,
    offload_of,
    savings,
    what_fits,
)
from ovi_lab.sampling.bundle import lengthened, released_formats
from ovi_lab.sampling.command import configured_bundle, single_request
from ovi_lab.sampling.offload import OFFLOADS
from ovi_lab.sampling.pipeline import Options, Plan, plan_request


# --------------------------------------------------------------------------------------------- before a run
def check_memory(
    preset: ReleasedModel, plans: Sequence[Plan], settings: SamplerSettings, options: Options
) -> None:
    """Refuses clips that the device has no memory for, before anything is loaded.

    Raises:
        UserError: what is needed, what there is, and which options would fit.
    """
    if not plans:
        return
    device, choice = torch.device(options.device), MemoryOptions.of(options, settings)
    formats = released_formats(preset)
    largest = max(plans, key=lambda plan: plan.size[0] * plan.size[1])
    asked = AskedOf.most((AskedOf.by(plan, formats) for plan in plans), formats)
    planner = SamplingPlanner(preset, largest.size, settings, asked)
    if device.type == "cuda":
        _check(planner, choice, str(device), torch.cuda.mem_get_info(device)[0])
    elif device.type == "cpu":
        _check(planner, choice, "this machine", available_host_memory(), host=True)


def _check(
    planner: SamplingPlanner, options: MemoryOptions, where: str, free: int | None, host: bool = False
) -> None:
    measure = planner.host_peak if host else planner.peak
    predicted = measure(options)
    if free is None or predicted.total <= free:
        return
    size = f"{planner.size[0]}x{planner.size[1]}"
    need = f"{planner.preset.name} at {size} needs about {gib(predicted.total)}, {where} has {gib(free)} free"
    peaks = [measure(choice) for choice in savings(options, planner, ("bf16",))]
    fitting = next((p for p in peaks if p.total * MARGIN <= free), None)
    if fitting is None:
        least = min(peaks, key=lambda p: p.total)
        words = in_words(least.options, planner, least.options.dtype != options.dtype)
        raise UserError(f"{need}: nothing fits; least is {words} with {gib(least.total)}")
    words = in_words(fitting.options, planner, fitting.options.dtype != options.dtype)
    raise UserError(f"{need}: {words} takes {gib(fitting.total)} and fits")


def available_host_memory() -> int | None:
    """Bytes that this process can still have, by Linux's count and its control group's; None elsewhere."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    if match is None:
        return None
    free = int(match[1]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


# ------------------------------------------------------------------------------------------------- --plan
def parse_memory(text: str) -> int:
    """Bytes of `24GB`, `24GiB`, `24` or `24000MB`. GPUs are sold in units of 2^30 bytes, so both words mean these.

    Raises UserError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([gmt]?)i?b?\s*", text, re.IGNORECASE)
    if match is None or not float(match[1]):
        raise UserError(f"gpu={text} is not understood: give its memory such as gpu=24GB")
    unit = {"": GIB, "g": GIB, "m": 2**20, "t": 2**40}[match[2].lower()]
    return int(float(match[1]) * unit)


@command("error")
def plan_command(argv: Sequence[str], console: Console | None = None) -> int:
    """`ovi-sample --plan …`: print what a clip takes with which options.

    Returns:
        0 where something fits the given memory, else 1; 2 after one line for a user's mistake.
    """
    from ovi_lab.common.command_line import composed
    from ovi_lab.common.paths import config_dir
    from ovi_lab.sampling.arguments import hydra_arguments, requested_shape, sampler_settings

    config = composed(hydra_arguments([a for a in argv if a != "--plan"]), config_dir(), "sample")
    if OmegaConf.is_missing(config, "checkpoint"):
        raise UserError("checkpoint is not given: ovi-sample --plan checkpoint=ovi_960x960_10s gpu=24GB")
    preset = _preset(config)
    formats = released_formats(preset)
    plan = plan_request(single_request(config, "clip", requested_shape(config)), formats)
    planner = SamplingPlanner(preset, plan.size, sampler_settings(config), AskedOf.by(plan, formats))
    options = _memory_options(config)
    console = console or Console()
    memory = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
    if config.gpu is not None:
        memory = parse_memory(str(config.gpu))
    _print_parts(console, planner, options)
    fitting = _print_choices(console, planner, options, memory)
    return 0 if memory is None or fitting else 1


def _preset(config: Any) -> ReleasedModel:
    if is_released(config.checkpoint):
        return lengthened(released_model(config.checkpoint), config.length)
    try:
        preset = configured_bundle(config).preset
    except UserError as error:
        raise UserError(
            f"checkpoint={config.checkpoint} is no released model, and no run that can be planned for ({error})"
        ) from error
    if preset is None:
        raise UserError(
            f"checkpoint={config.checkpoint} is no released model, and --plan is for those and for runs on the "
            "published latents: give a name such as ovi_960x960_10s, or a folder with a preset.yaml"
        )
    return preset


def _memory_options(config: Any) -> MemoryOptions:
    dtype = "bf16" if config.dtype == "auto" else str(config.dtype)
    names = ("offload", "weights_8bit", "vae_tiling", "batch_passes", "cache_text", "cache_given")
    options = MemoryOptions(device="cpu", dtype=dtype, **{name: config[name] for name in names})
    offload_of(options)
    return options


def _print_parts(console: Console, planner: SamplingPlanner, options: MemoryOptions) -> None:
    preset, (height, width) = planner.preset, planner.size
    frames = planner.pixels // (3 * height * width)
    asks = _in_words(planner)
    table = Table(
        "Part",
        "Type",
        Column("Weights", justify="right"),
        Column("Its work takes", justify="right"),
        title=f"{preset.name}: {height}x{width}, {frames} frames{asks}",
        title_justify="left",
        title_style="bold",
    )
    parts = planner.footprints(options)

    def add(name: str, dtype: str, part: Footprint) -> None:
        table.add_row(name, dtype, gib(part.weights), gib(part.work))

    def changed(part: str, **change: bool) -> Footprint:
        return planner.footprints(replace(options, **change))[part]  # type: ignore[arg-type]

    add(STAGES["text"], "bf16", parts["text"])
    add(STAGES["towers"], options.dtype, parts["towers"])
    if planner.batches(options):
        add("  passes one by one", options.dtype, changed("towers", batch_passes=False))
    if not options.weights_8bit:
        add("  weights in 8 bits", "int8", changed("towers", weights_8bit=True))
    add(STAGES["picture"], options.dtype, parts["picture"])
    if not options.vae_tiling:
        add("  in tiles", options.dtype, changed("picture", vae_tiling=True))
    add(STAGES["sound"], "fp32", parts["sound"])
    console.print(table)
    towers = parts["towers"]
    if options.cache_text:
        console.print(
            f"Of the towers' work, {gib(towers.kept)} are keys and values of the texts (cache_text)."
        )
    if options.cache_given and planner.keeps_given:
        console.print(
            f"And {gib(towers.kept_given)} of it are a given modality's work that no step changes (cache_given)."
        )
    console.print(f"With offload=blocks {gib(towers.streamed)} of the towers' weights are there at a time.\n")


def _in_words(planner: SamplingPlanner) -> str:
    """What is asked of the clip beside its size, for a table's title."""
    asked, words = planner.asked, []
    if asked.windows > 1:
        words.append(f"{asked.windows} windows")
    if asked.image:
        words.append("from an image")
    given = [f"{asked.frames} frames"] * (asked.frames > 0)
    if asked.samples:
        given.append(f"{asked.samples / planner.preset.sample_rate:.2f} s of sound")
    if given:
        words.append(f"{' and '.join(given)} given")
    return "".join(f", {word}" for word in words)


def _print_choices(
    console: Console, planner: SamplingPlanner, options: MemoryOptions, memory: int | None
) -> Peak | None:
    types = list(dict.fromkeys((options.dtype, "bf16", "fp32")))
    table = Table(
        Column("Options", overflow="fold"),
        *(Column(name, justify="right", no_wrap=True) for name in types),
        Column("Most in", no_wrap=True),
        title="Peak memory on the device",
        title_justify="left",
        title_style="bold",
    )
    best = what_fits(planner, options, memory) if memory is not None else None
    for choice in _ladder(planner, options, best):
        peaks = [planner.peak(replace(choice, dtype=name)) for name in types]
        cells = []
        for peak in peaks:
            fits = memory is not None and peak.fits(memory)
            cells.append(f"[green]{gib(peak.total)} fits[/]" if fits else gib(peak.total))
        chosen = best is not None and choice == best.options
        style = "bold" if chosen else ""
        table.add_row(in_words(choice, planner), *cells, STAGES[peaks[0].stage], style=style)
    console.print(table)
    if planner.settings.skip_layers:
        console.print("sampler.skip_layers is set: the two passes of guidance run one by one in any case.")
    weights = sum(part.weights for part in planner.footprints(options).values())
    console.print(f"With offload, {gib(weights)} of weights stay in host memory or in their mapped files.")
    given, made = planner.frames
    beside = f", beside {gib(given)} of given files" if given else ""
    console.print(f"The finished clip's frames take {gib(made)} of host memory{beside}.")
    if memory is None:
        console.print("Give gpu=24GB to see what fits.")
    elif best is not None:
        words = in_words(best.options, planner)
        taken = f"{gib(best.total)} of {gib(memory)}"
        console.print(f"[bold]Least drastic that fits, {options.dtype}: {words}[/] ({taken}).")
    else:
        least = min((planner.peak(choice) for choice in savings(options, planner)), key=lambda p: p.total)
        words = in_words(least.options, planner)
        console.print(f"[bold]Nothing fits {gib(memory)}[/]; least is {words} with {gib(least.total)}.")
    console.print(f"Fits: {MARGIN:g} x peak + {gib(DRIVER)} for the driver, kernels and allocator.")
    return best


def _ladder(planner: SamplingPlanner, options: MemoryOptions, best: Peak | None) -> list[MemoryOptions]:
    """The sets that are shown: from nothing to everything, each different in what it takes."""
    saved: list[dict[str, bool]] = [{}]
    for name, value in (("vae_tiling", True), ("batch_passes", False), ("weights_8bit", True)):
        saved.append({**saved[-1], name: value})
    offloads = OFFLOADS[OFFLOADS.index(offload_of(options)) :]
    steps = [replace(options, offload=o, **s) for o in offloads for s in saved]  # type: ignore[arg-type]
    if best is not None:
        steps.append(best.options)
    shown: dict[str, MemoryOptions] = {}
    for step in steps:
        shown.setdefault(in_words(step, planner), step)
    order = {choice: place for place, choice in enumerate(savings(options, planner))}
    return sorted(shown.values(), key=lambda choice: order.get(choice, len(order)))
