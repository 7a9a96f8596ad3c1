"""What is given of a clip, and its windows, in the memory that is planned: against what is taken of the CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from helpers.given_clips import request_of, write_files
from helpers.small_presets import GUIDED, alive, make_preset, write_preset
from ovi_lab.checkpoints.presets import ReleasedModel
from ovi_lab.codecs import mmaudio, wan22
from ovi_lab.flow import SamplerSettings, Texts, sample
from ovi_lab.flow.guidance import GuidedVelocity
from ovi_lab.models import Given, TwinDiT
from ovi_lab.planning import sampling_parts
from ovi_lab.planning.asked import AskedOf
from ovi_lab.planning.live_memory import LiveMemory
from ovi_lab.planning.sampling_planner import MemoryOptions, SamplingPlanner, in_words, savings
from ovi_lab.planning.sampling_report import _print_parts, plan_command
from ovi_lab.sampling.bundle import released_formats
from ovi_lab.sampling.long_clips import shared_again
from ovi_lab.sampling.pipeline import plan_request
from ovi_lab.sampling.requests import Request

pytestmark = pytest.mark.usefixtures("own_cache")

SIZE, FRAMES, AUDIO = (160, 192), 5, 40
WHOLE, PART = (FRAMES, 0), (2, 16)


def inputs(model: TwinDiT, lead: tuple[int, int]) -> tuple[dict[Any, Tensor], Texts, Given]:
    towers, g = model.tower_configs, torch.Generator().manual_seed(0)
    shape = (1, towers["video"].in_dim, FRAMES, SIZE[0] // 16, SIZE[1] // 16)
    noise: dict[Any, Tensor] = {
        "video": torch.randn(shape, generator=g),
        "audio": torch.randn(1, AUDIO, towers["audio"].in_dim, generator=g),
    }
    texts = [[torch.randn(32, 48, generator=g)] for _ in range(3)]
    masks = (np.arange(n)[None] < own for n, own in zip((FRAMES, AUDIO), lead, strict=True))
    return noise, Texts(*texts), Given(*masks)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["bidirectional", "video_to_audio"])
def test_the_loop_beside_what_is_given(direction: str) -> None:
    """Fusion from the given picture alone keeps its whole tower: what `cache_given` keeps is exact."""
    preset = make_preset(96, 4, FRAMES, AUDIO)
    preset = dataclasses.replace(preset, model={**preset.model, "fusion": {"direction": direction}})
    model = TwinDiT(**preset.model).eval().requires_grad_(False)
    cases = ((WHOLE, True), (WHOLE, False), (PART, True))
    for lead, cached in cases if direction == "bidirectional" else cases[:1]:
        asked, settings = AskedOf(leads=(lead,)), dataclasses.replace(GUIDED, cache_given=cached, steps=3)
        noise, texts, given = inputs(model, lead)
        predicted = sampling_parts.towers_work(preset, SIZE, torch.float32, settings, tokens=32, asked=asked)
        loop = alive(lambda: sample(model, noise, texts, settings, given=given, clean=noise), model)  # noqa: B023
        assert 0.9 < predicted / loop < 1.1
    left = []
    for cached in (True, False):
        settings, (noise, texts, given) = (
            dataclasses.replace(GUIDED, cache_given=cached),
            inputs(model, WHOLE),
        )
        with torch.no_grad(), LiveMemory("cpu", model) as live:
            velocity = GuidedVelocity(model, ["video", "audio"], 1, texts, settings, given)
            velocity(noise, torch.tensor(500.0))
            left.append(live.now)
    asked = AskedOf(leads=(WHOLE,))
    kept = sampling_parts.given_kept(preset, SIZE, torch.float32, GUIDED, asked=asked)
    assert 0.95 < kept / (left[0] - left[1]) < 1.05
    assert kept > (4 if direction == "video_to_audio" else 1) * 4 * 2 * 60 * FRAMES * 96
    assert sampling_parts.given_kept(preset, SIZE, torch.float32, GUIDED, asked=AskedOf(leads=(PART,))) == 0


def small_vae(preset: ReleasedModel) -> wan22.Wan22VAE:
    config = wan22.Wan22Config.of(preset.video_codec)
    return wan22.Wan22VAE(wan22.build(config).to_empty(device="cpu").eval(), config)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "tiling"), [((64, 96), False), ((272, 16), True)], ids=["whole", "tiles"])
def test_a_given_picture_is_encoded(size: tuple[int, int], tiling: bool) -> None:
    """13 frames of it, beside a clip of one latent frame."""
    preset = make_preset(frames=1)
    codec = small_vae(preset)
    if tiling:
        codec.model.enable_tiling()
    frames = torch.zeros(1, 13, *size, 3, dtype=torch.uint8)
    taken = alive(lambda: codec.encode(frames.clone()), codec.model)
    asked = AskedOf(frames=13)
    predicted = sampling_parts.picture_footprint(preset, size, torch.float32, tiling=tiling, asked=asked)
    assert 0.9 < predicted.work / taken < 1.1
    alone = sampling_parts.picture_footprint(preset, size, torch.float32, tiling=tiling)
    assert alone.work < 0.8 * predicted.work


@pytest.mark.slow
def test_a_long_clip_is_decoded_whole_and_its_windows_encoded_again() -> None:
    preset, size = make_preset(frames=4), (32, 48)
    codec = small_vae(preset)
    again = shared_again(codec)
    h, w = size[0] // 16, size[1] // 16
    sharing = alive(lambda: again(torch.zeros(1, 12, 4, h, w), 2), codec.model)
    decoding = alive(lambda: codec.decode(torch.zeros(1, 12, 16, h, w)), codec.model)
    asked = AskedOf(total=(16, 84), windows=7, shared=2)
    predicted = sampling_parts.picture_footprint(preset, size, torch.float32, asked=asked)
    assert 0.9 < predicted.work / max(sharing, decoding) < 1.1


@pytest.mark.slow
def test_a_given_sound_is_encoded() -> None:
    preset = make_preset(audio=10)
    config = mmaudio.MMAudioConfig.of(preset.audio_codec)
    parts = [m(config).to_empty(device="cpu").eval() for m in (mmaudio.build_vae, mmaudio.build_vocoder)]
    codec = mmaudio.MMAudioCodec(*parts, config)
    taken = alive(lambda: codec.encode(torch.zeros(1, 16000)), *parts)
    asked = AskedOf(samples=16000)
    assert 0.9 < sampling_parts.sound_footprint(preset, asked=asked).work / taken < 1.1


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("files"))


def test_what_requests_ask_for(files: dict[str, Path]) -> None:
    """Of 25 frames (7 latent frames, 35 tokens): what is encoded, what each kind of window is given, what is held."""
    preset = make_preset(frames=7, audio=35)
    formats = released_formats(preset)

    def asked(fields: dict[str, str], **more: Any) -> AskedOf:
        return AskedOf.by(plan_request(request_of(files, fields, **more), formats), formats)

    assert asked({}) == AskedOf()
    assert asked({"video": "silent"}) == AskedOf(leads=((7, 0),), frames=25)
    assert asked({"audio": "long"}) == AskedOf(leads=((0, 35),), samples=35 * 512)
    begins = AskedOf(leads=((4, 16),), frames=13, samples=16 * 512, frames_replaced=True)
    assert asked({"start": "short"}) == begins
    assert asked({"clip": "long", "redo": "audio:0.3-0.6"}).leads == ((7, 25),)
    longer = asked({}, seconds=1.75)
    assert longer.leads == ((3, 14),)
    assert (longer.total, longer.windows, longer.shared) == ((11, 56), 2, 3)
    both = AskedOf.most([begins, longer], formats)
    assert both.leads == ((4, 16),)
    kinds = AskedOf.most([both, asked({"audio": "long"}), asked({"video": "silent"})], formats).leads
    assert set(kinds) == {(4, 16), (0, 35), (7, 0)}
    assert (both.total, both.windows, both.frames, both.frames_replaced) == ((11, 56), 2, 13, True)
    frame = 3 * 64 * 96
    assert sampling_parts.frames_held(preset, (64, 96), begins) == (13 * frame + 4 * 16 * 512, 2 * 25 * frame)
    assert sampling_parts.frames_held(preset, (64, 96), longer) == (0, 41 * frame)


@pytest.mark.slow
def test_a_long_clip_takes_memory_for_its_frames_and_the_towers_for_one_window() -> None:
    preset = make_preset(frames=2, audio=10)
    formats = released_formats(preset)
    short, long = (
        SamplingPlanner(preset, plan.size, GUIDED, AskedOf.by(plan, formats))
        for plan in (plan_request(Request("a", "x", **more), formats) for more in ({}, {"seconds": 30.0}))
    )
    latents, a_frame = 181, 3 * 128 * 128  # of 721 frames, the first alone
    assert long.pixels == (1 + 4 * (latents - 1)) * a_frame
    assert (long.asked.windows, long.asked.shared) == (180, 1)
    parts = [planner.footprints(MemoryOptions()) for planner in (short, long)]
    noise = 12 * 8 * 8 * 4
    assert parts[1]["towers"].work - noise * (2 * 180 + 2 * latents) < 1.2 * parts[0]["towers"].work
    # on the device frames are float32 before they are bytes; then the sound is decoded beside these
    assert parts[1]["picture"].work > 4 * long.pixels
    assert long.host_peak(MemoryOptions()).total >= max(
        parts[1]["picture"].work, parts[1]["sound"].work + long.pixels
    )


@pytest.mark.slow
def test_the_plan_says_what_is_given(files: dict[str, Path], tmp_path: Path) -> None:
    preset = make_preset(32, 1, frames=7, audio=35)
    formats = released_formats(preset)
    plan = plan_request(request_of(files, {"video": "silent"}, seconds=1.75, shape=(64, 64)), formats)
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    planner = SamplingPlanner(preset, plan.size, SamplerSettings(), AskedOf.by(plan, formats))
    _print_parts(console, planner, MemoryOptions(vae_tiling=True, weights_8bit=True))
    said = " ".join(console.export_text().split())
    assert "41 frames, 2 windows, 41 frames given" in said
    assert "a given modality's work that no step changes (cache_given)" in said


def test_a_plan_of_files_that_do_not_fit_is_one_line(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = write_preset(tmp_path, frames=7, audio=35)
    for words, said in (
        ([f"video={tmp_path}/none.mp4"], "no file at"),
        (
            [f"video={files['short']}"],
            "the picture of the given video short.mp4 lasts 0.60 s and the clip 1.04 s",
        ),
        (["seconds=0.5"], "seconds=0.5 is shorter than the 1.04 s"),
        (["overlap=0.5"], "overlap is of a long clip's windows: give seconds too"),
    ):
        assert plan_command(["--plan", f"checkpoint={preset}", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_cache_given_is_offered_where_it_keeps_something() -> None:
    def offered(**asked: Any) -> list[str]:
        planner = SamplingPlanner(make_preset(), (96, 128), GUIDED, AskedOf(**asked))
        return [in_words(choice, planner) for choice in savings(MemoryOptions(), planner)]

    assert "cache_given=false" in offered(leads=((4, 0),), frames=13)
    assert not any("cache_given" in words for words in (*offered(), *offered(leads=((3, 20 - 1),))))
