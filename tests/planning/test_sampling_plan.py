"""Predicted memory against memory that was taken, part by part, and the plan as it is printed.

Predictions come from shapes alone; what they are held against is the same work done with numbers on the CPU:
storages alive at any time, and for the towers also every allocation and release that PyTorch's CPU allocator
recorded. What kernels of a GPU take for themselves (convolutions above all) only a GPU can show.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from helpers.small_presets import CODEC, GUIDED, alive, make_preset, write_preset
from ovi_lab.checkpoints.presets import ReleasedModel
from ovi_lab.codecs import mmaudio, wan22
from ovi_lab.errors import UserError
from ovi_lab.flow import Texts, sample
from ovi_lab.models import TwinDiT
from ovi_lab.planning import sampling_parts, sampling_report
from ovi_lab.planning.asked import AskedOf
from ovi_lab.planning.live_memory import LiveMemory
from ovi_lab.planning.sampling_planner import MemoryOptions
from ovi_lab.planning.sampling_report import GIB, SamplingPlanner, check_memory, parse_memory, plan_command
from ovi_lab.sampling.bundle import released_formats
from ovi_lab.sampling.pipeline import Options, plan_request
from ovi_lab.sampling.quantise import quantise, stored_bytes
from ovi_lab.sampling.requests import Request
from ovi_lab.text import umt5

pytestmark = pytest.mark.usefixtures("own_cache")


def clip(preset: ReleasedModel, model: TwinDiT, size: tuple[int, int], **options: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(32, 48, generator=generator) for _ in range(3)]
    towers = model.tower_configs
    video = (1, towers["video"].in_dim, preset.video_latent_frames, size[0] // 16, size[1] // 16)
    noise = {
        "video": torch.randn(video, generator=generator),
        "audio": torch.randn(1, preset.audio_latents, towers["audio"].in_dim, generator=generator),
    }
    settings = dataclasses.replace(GUIDED, steps=3, **options)
    sample(model, noise, Texts(texts[:1], texts[1:2], texts[2:]), settings)


def allocated(work: object) -> int:
    """The most that PyTorch's CPU allocator had given out at a time, by its own record."""
    from torch.profiler import ProfilerActivity, profile

    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def test_live_memory_counts_what_is_alive_and_no_more() -> None:
    weight = nn.Linear(8, 8)
    with torch.no_grad(), LiveMemory("cpu", weight) as live:
        a = torch.empty(100, dtype=torch.float64)
        assert live.now == 800
        view = a[10:]
        del a
        assert live.now == 800  # the view keeps it
        del view
        assert live.now == 0
        out = weight(torch.ones(2, 8))
        del out
        assert (live.now, live.peak) == (0, 800)
        live.reach(5000)
        assert live.peak == 5000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_passes": False}, {"cache_text": False}],
    ids=lambda o: next(iter(o), "as it is"),
)
@pytest.mark.parametrize(
    ("dim", "layers", "frames", "size"), [(96, 3, 5, (160, 192)), (128, 5, 6, (224, 256))]
)
@pytest.mark.slow
def test_towers_work_is_what_the_latent_loop_takes(
    dim: int, layers: int, frames: int, size: tuple[int, int], options: dict[str, bool], dtype: torch.dtype
) -> None:
    preset = make_preset(dim, layers, frames, audio=8 * frames)
    settings = dataclasses.replace(GUIDED, **options)
    predicted = sampling_parts.towers_work(preset, size, dtype, settings, tokens=32)
    model = TwinDiT(**preset.model).to(dtype).eval().requires_grad_(False)
    assert 0.9 < predicted / alive(lambda: clip(preset, model, size, **options), model) < 1.1
    if dim > 96:  # in the smaller one, what the audio embedding's convolutions take for themselves counts
        assert 0.9 < predicted / allocated(lambda: clip(preset, model, size, **options)) < 1.1


@pytest.mark.slow
def test_the_savings_of_the_towers_are_seen() -> None:
    preset = make_preset(128, 5, 6)
    planner = SamplingPlanner(preset, (256, 256), GUIDED)
    most = planner.footprints(MemoryOptions())["towers"]
    least = planner.footprints(MemoryOptions(batch_passes=False, cache_text=False))["towers"]
    assert most.work > least.work
    # towers, keys and values, blocks, passes, tokens, width, bytes
    assert (most.kept, least.kept) == (2 * 2 * 5 * 2 * 32 * 128 * 4, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_exact(dtype: torch.dtype) -> None:
    preset = make_preset(64, 4)
    weights, streamed, _ = sampling_parts.towers_weights(preset, dtype)
    model = TwinDiT(**preset.model).to(dtype)
    assert weights == stored_bytes(model)
    block = stored_bytes(model.twin_blocks[0])
    assert streamed == weights - 4 * block + 2 * block


def test_weights_of_8_bits_are_exact() -> None:
    pytest.importorskip("torchao", reason="torchao is not installed: 8-bit weights are not measured here")
    preset = make_preset(64, 4)
    weights, streamed, widest = sampling_parts.towers_weights(preset, torch.bfloat16, weights_8bit=True)
    model = quantise(TwinDiT(**preset.model).to(torch.bfloat16))
    assert weights == stored_bytes(model)
    assert streamed == weights - 2 * stored_bytes(model.twin_blocks[0])
    assert widest == 64 * 256 * 2
    predicted = sampling_parts.towers_work(preset, (256, 256), torch.bfloat16, GUIDED, tokens=32) + widest
    assert 0.9 < predicted / allocated(lambda: clip(preset, model, (256, 256))) < 1.1


@pytest.mark.parametrize("tiling", [False, True], ids=["whole", "tiles"])
@pytest.mark.parametrize(("frames", "size"), [(3, (64, 96)), (7, (288, 64))])
@pytest.mark.slow
def test_picture_work_is_what_decoding_takes(frames: int, size: tuple[int, int], tiling: bool) -> None:
    preset = make_preset(frames=frames)
    predicted = sampling_parts.picture_footprint(preset, size, torch.float32, tiling=tiling)
    config = wan22.Wan22Config.of(CODEC)
    model = wan22.build(config).to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    if tiling:
        model.enable_tiling()
    codec = wan22.Wan22VAE(model, config)
    assert predicted.weights == stored_bytes(model)
    latents = (1, 12, frames, size[0] // 16, size[1] // 16)
    assert 0.9 < predicted.work / alive(lambda: codec.decode(torch.zeros(latents)), model) < 1.1
    asked = AskedOf(image=True)
    first = sampling_parts.picture_footprint(preset, size, torch.float32, tiling=tiling, asked=asked)
    frame = torch.zeros(1, 1, *size, 3, dtype=torch.uint8)
    encoding = alive(lambda: codec.encode(frame.clone()), model)
    assert 0.9 < first.work / max(predicted.work, encoding) < 1.1


@pytest.mark.slow
def test_sound_and_text_work_are_what_they_take() -> None:
    preset = make_preset(audio=60)
    config = mmaudio.MMAudioConfig.of(preset.audio_codec)
    parts = [m(config).to_empty(device="cpu").eval() for m in (mmaudio.build_vae, mmaudio.build_vocoder)]
    codec = mmaudio.MMAudioCodec(*parts, config)
    predicted = sampling_parts.sound_footprint(preset)
    assert predicted.weights == sum(map(stored_bytes, parts))
    assert 0.9 < predicted.work / alive(lambda: codec.decode(torch.zeros(1, 60, 10)), *parts) < 1.1

    encoder = umt5.build(umt5.UMT5Config.of(preset.text_encoder)).to_empty(device="cpu").to(torch.bfloat16)
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    predicted = sampling_parts.text_footprint(preset, tokens=64)
    assert predicted.weights == stored_bytes(encoder)
    ids, mask = torch.zeros(3, 64, dtype=torch.long), torch.ones(3, 64, dtype=torch.long)
    mask[1, 20:] = 0

    def read() -> list[torch.Tensor]:
        return [v.float() for v in umt5.encode(encoder, ids.clone(), mask)]

    assert 0.9 < predicted.work / alive(read, encoder) < 1.1


@pytest.mark.slow
def test_peaks_add_up() -> None:
    planner = SamplingPlanner(make_preset(), (96, 128), GUIDED)
    parts = planner.footprints(MemoryOptions())
    whole = planner.peak(MemoryOptions())
    assert whole.total == sum(p.weights for p in parts.values()) + max(p.work for p in parts.values())
    offloaded = planner.peak(MemoryOptions(offload=True))
    assert offloaded.total == max(p.weights + p.work for p in parts.values())
    blocks = planner.peak(MemoryOptions(offload="blocks"))
    assert blocks.total <= offloaded.total < whole.total
    assert planner.batches(MemoryOptions())
    skipping = dataclasses.replace(GUIDED, skip_layers=(1,))
    assert not SamplingPlanner(make_preset(), (96, 128), skipping).batches(MemoryOptions())


@pytest.mark.slow
def test_what_fits_is_the_least_drastic() -> None:
    planner = SamplingPlanner(make_preset(), (96, 128), GUIDED)
    fitting = sampling_report.what_fits(planner, MemoryOptions(), 40 * GIB)
    assert fitting.options == MemoryOptions(offload="none")
    assert sampling_report.what_fits(planner, MemoryOptions(), 2**20) is None
    savings = sampling_report.savings(MemoryOptions(offload=True), planner)
    assert all(sampling_report.offload_of(options) != "none" for options in savings)
    assert sampling_report.in_words(savings[0], planner) == "offload=true"


@pytest.mark.slow
def test_too_little_memory_is_refused_with_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = make_preset(256, 6)
    plans = [plan_request(Request("a", "rain", 0, None, None), released_formats(preset))]
    check_memory(preset, plans, GUIDED, Options())
    planner = SamplingPlanner(preset, plans[0].size, GUIDED)
    monkeypatch.setattr(
        sampling_report, "SamplingPlanner", lambda *_: planner
    )  # each footprint is computed once
    needed = planner.host_peak(MemoryOptions())
    monkeypatch.setattr(sampling_report, "available_host_memory", lambda: int(needed.total * 0.6))
    with pytest.raises(
        UserError, match=r"small at 128x128 needs about .* free: dtype=bf16 takes .* fits"
    ) as caught:
        check_memory(preset, plans, GUIDED, Options())
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(sampling_report, "available_host_memory", lambda: 1000)
    with pytest.raises(UserError, match="nothing fits; least is"):
        check_memory(preset, plans, GUIDED, Options())
    check_memory(preset, [], GUIDED, Options())


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * GIB), ("24", 24 * GIB), ("7.5 GiB", int(7.5 * GIB)), ("512mb", 2**29)]
)
def test_memory_is_read_as_it_is_sold(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0GB", "24 GBit"])
def test_other_memory_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="give its memory such as gpu=24GB"):
        parse_memory(text)


@pytest.mark.slow
def test_the_plan_is_printed_in_80_columns(tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    arguments = ["--plan", f"checkpoint={write_preset(tmp_path)}", "gpu=900MB", "sampler.skip_layers=[]"]
    assert plan_command(arguments, console) == 0
    text = console.export_text()
    assert "small: 128x128, 13 frames" in text
    assert "text encoder" in text
    assert "Least drastic that fits, bf16: as it is" in text
    assert "batch_passes=false" in text
    assert max(map(len, text.splitlines())) <= 80
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    assert plan_command([*arguments[:2], "gpu=1MB"], console) == 1
    assert "Nothing fits 1.0 MiB; least is offload=" in console.export_text()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["gpu=24GB"], "checkpoint is not given"),
        (["checkpoint=runs/mine"], "runs/mine is no released model"),
        (["checkpoint=ovi_720x720_5s", "gpu=lots"], "gpu=lots is not understood"),
        (["checkpoint=ovi_720x720_5s", "gpus=1"], "unknown key 'gpus'"),
        (["checkpoint=ovi_720x720_5s", "offload=disk"], "offload is 'disk'"),
        (["checkpoint=ovi_720x720_5s", "dtype=int4"], "dtype is 'int4'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command(["--plan", *arguments]) == 2
    (printed,) = capsys.readouterr().err.splitlines()
    assert line in printed
