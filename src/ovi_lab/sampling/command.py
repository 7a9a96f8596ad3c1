"""`ovi-sample`: from the composed configuration to clips in a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ovi_lab.checkpoints.presets import ReleasedModel
from ovi_lab.common.progress import Reporter, SilentReporter, reporter_on
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, build_solver
from ovi_lab.models.sequence_parallel import SequenceGroup, sequence_group
from ovi_lab.sampling.arguments import requested_shape, sampler_settings
from ovi_lab.sampling.batch import Batch, Outcome, plan_rows
from ovi_lab.sampling.bundle import Bundle
from ovi_lab.sampling.given_files import GIVEN, parse_redo
from ovi_lab.sampling.offload import Placement
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.pipeline import Options, OviPipeline, Plan
from ovi_lab.sampling.requests import (
    BadRow,
    Request,
    check_request,
    check_seed,
    prompt_name,
    read_requests,
    variants,
)
from ovi_lab.sampling.sizes import Size

LARGE = 2**30
SIDE = 256
"""Pixels of the files' longer side, of runs with a codec of their own."""
FILES = ("image", *GIVEN)
"""Keys of files of one clip, which are columns with `_path` in a file of prompts."""
OF_A_ROW = ("redo", "seconds", "overlap")
"""Keys of one clip that are columns of the same name in a file of prompts."""
MemoryCheck = Callable[[ReleasedModel, list[Plan], SamplerSettings, Options], None]


def sample_clips(config: DictConfig, check_memory: MemoryCheck | None = None) -> Outcome:
    """Make the clips that the configuration names; finished ones are kept.

    Everything that can be wrong with prompts, images, sizes and files is reported before weights are loaded.
    `check_memory` raises UserError for plans that do not fit into memory; it is called for weights of a GiB and more.

    Raises:
        UserError: what stops all of it; with `strict`, or with one prompt, the first that cannot be made.
    """
    if Path(config.out).is_file():
        raise UserError(f"out={config.out} is a file: name a folder for the clips")
    strict = config.strict or config.prompts is None
    settings = sampler_settings(config)
    bundle = configured_bundle(config)
    options = pipeline_options(config, bundle)
    check_settings(settings, bundle)
    requests, bad = requested(config, bundle)
    plans, unplanned = plan_rows(requests, bundle, settings, options.long_prompts, strict)
    with processes(config, options.device) as group:
        batch = Batch(bundle, settings, options, Path(config.out), group, strict)
        if group.index == 0:
            for row in (*bad, *unplanned):
                batch.leave_out(row)
        plans = batch.missing(plans[group.index :: group.count], config.overwrite)
        if not plans:
            return batch.outcome
        check_fits(check_memory, bundle, plans, settings, options)
        _say_what_is_given(plans)
        # on stderr: what is printed is the list of clips
        first = group.rank == group.index == 0
        reporter: Reporter = reporter_on(Console(stderr=True)) if first else SilentReporter()
        with closing(reporter):
            pipeline = OviPipeline.load(bundle, settings, options, partial(reporter.at, "loading"))
            batch.make(
                pipeline,
                plans,
                enlarge_to=_file_side(config) if bundle.own_codec else 0,
                preview=config.preview,
                on_step=partial(reporter.at, "sampling"),
            )
    return batch.outcome


def _say_what_is_given(plans: list[Plan]) -> None:
    """On stderr, once for all seeds of a request: which parts of a clip are given, and how its files were fitted."""
    for request_id, given in {plan.request.id: plan.given for plan in plans}.items():
        for line in () if given is None else given.lines():
            print(f"{request_id}: {line}", file=sys.stderr, flush=True)


def check_fits(
    check: MemoryCheck | None, bundle: Bundle, plans: list[Plan], settings: SamplerSettings, options: Options
) -> None:
    """Calls `check`, which raises UserError, for large weights whose memory can be predicted."""
    # the prediction takes seconds, and megabytes of weights fit wherever torch does
    if check and bundle.preset is not None and bundle.size > LARGE:
        check(bundle.preset, plans, settings, options)


def configured_bundle(config: DictConfig) -> Bundle:
    """The bundle that the configuration names. Raises UserError as `open_bundle`."""
    return open_bundle(
        config.checkpoint,
        config.weights,
        ema=config.ema,
        text_files=config.text,
        length=config.length,
        rope_factor=config.rope_factor,
    )


def _file_side(config: DictConfig) -> int:
    side = SIDE if config.size is None else config.size
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise UserError(f"size is {side!r}: expected the longer side of the clips in pixels")
    return side


def requested(config: DictConfig, bundle: Bundle) -> tuple[list[Request], list[BadRow]]:
    """The requests of `prompt` (with its files) or of the file `prompts`, each with its variants; and bad rows.

    Raises:
        UserError: both or neither are given, or what is given is no request.
    """
    single, many = not OmegaConf.is_missing(config, "prompt"), config.prompts is not None
    if single == many:
        state = "both given" if many else "neither given"
        raise UserError(f'prompt= and prompts= are {state}: give prompt="…" or prompts=FILE')
    if bundle.own_codec:
        _file_side(config)
        if config.aspect is not None:
            raise UserError(
                f"{bundle.name} makes clips of one size and without a given image: leave out aspect"
            )
    shape = None if bundle.own_codec else requested_shape(config)
    if many:
        for name in [name for name in (*FILES, *OF_A_ROW) if config[name] is not None]:
            column = name if name in OF_A_ROW else f"{name}_path"
            raise UserError(
                f"{name}= goes with prompt=: with prompts=FILE, name it for each row in its column {column}"
            )
        requests, bad = read_requests(config.prompts, check_seed(config.seed), shape)
        if config.strict and bad:
            raise UserError(bad[0].reason)
        requests = [replace(request, keep_given=config.keep_given) for request in requests]
        return variants(requests, config.variants), bad
    return variants([single_request(config, str(config.prompt), shape)], config.variants), []


def single_request(config: DictConfig, prompt: str, shape: Size | None) -> Request:
    """The request of a prompt with the configuration's files and lengths. Raises UserError for what is no request."""
    paths: dict[str, Any] = {name: Path(str(config[name])) for name in FILES if config[name] is not None}
    request = Request(
        prompt_name(prompt),
        prompt.strip(),
        check_seed(config.seed),
        shape=shape,
        redo=None if config.redo is None else parse_redo(str(config.redo)),
        keep_given=config.keep_given,
        seconds=config.seconds,
        overlap=config.overlap,
        **paths,
    )
    return check_request(request)


def check_settings(settings: SamplerSettings, bundle: Bundle) -> None:
    """Raises UserError for an unknown solver, wrong steps, and blocks to leave out that the model does not have."""
    build_solver(settings.solver, settings.steps, settings.shift)
    for index in settings.skip_layers:
        if not 0 <= index < bundle.layers:
            raise UserError(
                f"sampler.skip_layers names block {index}: {bundle.name} has blocks 0 to {bundle.layers - 1}"
            )


def pipeline_options(config: DictConfig, bundle: Bundle) -> Options:
    """The configuration's options; see `options_for`."""
    return options_for(
        bundle,
        str(config.device),
        str(config.dtype),
        offload=config.offload,
        weights_8bit=config.weights_8bit,
        vae_tiling=config.vae_tiling,
        long_prompts=str(config.long_prompts),
    )


def options_for(bundle: Bundle, device: str = "auto", dtype: str = "auto", **others: Any) -> Options:
    """Options for a bundle; `auto` is decided by whether there is a GPU, and is the CPU for small runs.

    Raises:
        UserError: the device cannot be used, or an option does not hold.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and not bundle.own_codec else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={device} cannot be used here ({reason}): try device=cpu") from error
    if dtype == "auto":
        dtype = "fp32" if device == "cpu" or bundle.own_codec else "bf16"
    options = Options(device=device, dtype=dtype, **others)
    Placement(device, options.offload)  # says what is wrong with it
    return options


@contextmanager
def processes(config: DictConfig, device: str) -> Iterator[SequenceGroup]:
    """This process's place among those of torchrun: rows are sharded over groups, a group shares each clip.

    Raises:
        UserError: the processes do not divide into groups of `sequence_parallel`.
    """
    import torch.distributed as dist

    world = int(os.environ.get("WORLD_SIZE", 1))
    begun = world > 1 and not dist.is_initialized()
    if begun:
        if device.startswith("cuda"):
            torch.cuda.set_device(torch.device(device))
        # one process may have much more to do than another before they meet again
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=timedelta(days=30))
    try:
        yield sequence_group(config.sequence_parallel)
        if world > 1:
            # torchrun ends all processes when one leaves with an error, such as a row that was left out
            dist.barrier()
    finally:
        if begun:
            dist.destroy_process_group()
