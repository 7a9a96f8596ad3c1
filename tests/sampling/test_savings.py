"""What sampling does once instead of again: the ways that it replaces, of benchmarks/, give the same clips."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from sampling_reference import SAVINGS, LoopedTables, ReferenceTwin, turned
from torch import Tensor

from helpers.twin_goldens import (
    begun_with,
    golden_twin,
    hold_the_golden,
    read_golden,
    sampled_golden,
    tiny_batch,
    tiny_twin,
)
from ovi_lab.errors import UserError
from ovi_lab.flow import SampledLatents, SamplerSettings, Texts, noise_batch, sample
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.embeddings import merged_text_batch
from ovi_lab.models.rope import RopeTables, apply_rotation

PASSES = ("cache_text", "batch_passes")
GUIDED = SamplerSettings(steps=4, video_guidance=4.0, audio_guidance=3.0)


class Clips:
    """Two clips of a tiny twin, guided, texts of several lengths; the first frame given where wanted."""

    def __init__(self, **options: Any) -> None:
        self.model = tiny_twin(spread=0.1, kind=ReferenceTwin, **options)
        g = torch.Generator().manual_seed(0)
        self.text = [torch.randn(n, 10, generator=g) for n in (6, 2)]
        self.negative = [torch.randn(n, 10, generator=g) for n in (1, 5)]
        self.frame = torch.randn(2, 4, 1, 4, 4, generator=g)

    def sampled(
        self, first_frame: bool = False, modality: str = "", model: TwinDiT | None = None, **savings: bool
    ) -> SampledLatents:
        self.model.set_savings(**{k: v for k, v in savings.items() if k not in PASSES})
        noise = {
            "video": noise_batch([1, 2], (4, 3, 4, 4), "video"),
            "audio": noise_batch([1, 2], (9, 3), "audio"),
        }
        return sample(
            model or self.model,
            {modality: noise[modality]} if modality else noise,
            Texts(self.text, self.negative, self.negative[:1]),
            replace(GUIDED, **{k: v for k, v in savings.items() if k in PASSES}),
            **(begun_with(self.frame, noise["video"]) if first_frame else {}),
        )


@pytest.fixture(scope="module")
def clips() -> Clips:
    return Clips()


def same(a: SampledLatents, b: SampledLatents, atol: float = 1e-5) -> None:
    for x, y in ((a.video, b.video), (a.audio, b.audio)):
        assert x is not None
        assert y is not None
        torch.testing.assert_close(x, y, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("first_frame", [False, True])
@pytest.mark.parametrize("off", [*PASSES, *SAVINGS, "all"])
def test_no_saving_changes_the_clip(clips: Clips, off: str, first_frame: bool) -> None:
    saved = clips.sampled(first_frame)
    without = {name: off not in (name, "all") for name in (*PASSES, *SAVINGS)}
    same(clips.sampled(first_frame, **without), saved)


def test_small_models_keep_the_bits_of_their_recorded_results(clips: Clips) -> None:
    """Texts cached, both passes in one batch, no key merged and nothing shared."""
    explicit = clips.sampled(True, merge_padding=False, share_opening=False)
    default = clips.sampled(True, model=tiny_twin(spread=0.1))
    assert torch.equal(explicit.video, default.video)
    assert torch.equal(explicit.audio, default.audio)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_one_modality_opens_once_too(clips: Clips, modality: str) -> None:
    a, b = (clips.sampled(modality=modality, share_opening=share) for share in (False, True))
    torch.testing.assert_close(getattr(a, modality), getattr(b, modality), atol=1e-5, rtol=1e-5)


def test_passes_of_clips_of_several_shapes(clips: Clips) -> None:
    clips.model.set_savings()
    g = torch.Generator().manual_seed(0)
    video = [torch.randn(4, f, 4, 4, generator=g) for f in (3, 2)]
    audio = [torch.randn(n, 3, generator=g) for n in (5, 9)]
    times = {"t_video": torch.tensor([10.0, 500.0]), "t_audio": torch.tensor([900.0, 20.0])}
    given = Given.first_frame(video, [True, False])
    texts = [*clips.text, *clips.negative]

    def predicted(n: int) -> Any:
        copies = 2 // n
        arguments = {k: torch.cat([v] * copies) for k, v in times.items()}
        arguments |= {"text_video": texts, "text_audio": texts, "given": given.repeated(copies)}
        return clips.model(video * copies, audio * copies, **arguments, passes=n)

    with torch.no_grad():
        together, apart = predicted(2), predicted(1)
    for modality in ("video", "audio"):
        a, b = getattr(together, modality), getattr(apart, modality)
        assert len(a) == len(b) == 4
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_texts_of_all_passes_are_needed(clips: Clips) -> None:
    batch = tiny_batch()
    with pytest.raises(UserError, match="text_video holds 2 texts for 2 clips and 2 passes"):
        clips.model(**batch, passes=2)


@pytest.mark.parametrize("mode", ["clip_ratio", "learned"])
def test_looped_rotations_follow_the_audio_positions(mode: str) -> None:
    clips = Clips(rope={"mode": mode, "factor": 0.3})
    same(clips.sampled(cache_rope=False), clips.sampled())
    clips.model.set_audio_rope_factor(1.7)
    moved = clips.sampled(cache_rope=False)
    same(moved, clips.sampled())
    clips.model.set_audio_rope_factor(None)
    assert not torch.allclose(moved.audio, clips.sampled().audio, atol=1e-3)


@pytest.mark.parametrize("lengths", [[7, 7], [7, 4]])
def test_looped_rotations_equal_tables(lengths: list[int]) -> None:
    cpu = torch.device("cpu")
    x = torch.randn(2, 24, 2, 32, generator=torch.Generator().manual_seed(0))
    tables, loops = RopeTables(32, 1e4), LoopedTables(32, 1e4)
    grids = [(2, 3, 4), (lengths[1], 1, 2)]
    pairs = [
        (x, tables.video(grids, cpu), loops.video(grids, cpu)),
        (x[:, :7], tables.audio(lengths, [0.2, 0.3], cpu), loops.audio(lengths, [0.2, 0.3], cpu)),
    ]
    for values, table, loop in pairs:
        torch.testing.assert_close(turned(values, loop), apply_rotation(values, table), atol=1e-6, rtol=1e-6)


def test_the_savings_off_hold_the_golden(goldens: Path) -> None:
    """The ways that are replaced are the released code's: they give its latents too."""
    model = golden_twin(goldens, kind=ReferenceTwin)
    x = read_golden(goldens / "sampling_tiny.safetensors")[0]
    for merge in (False, True):
        model.set_savings(**dict.fromkeys(SAVINGS, False) | {"merge_padding": merge})
        hold_the_golden(sampled_golden(model, x, batch_passes=False, cache_text=False), x)


class Counted:
    """How often a module of a model runs, and with how many rows."""

    def __init__(self, model: TwinDiT, name: str) -> None:
        self.rows: list[int] = []
        self.hook = model.get_submodule(name).register_forward_hook(self.count)

    def count(self, _module: object, args: tuple[Tensor, ...], _out: object) -> None:
        self.rows.append(args[0].shape[:-1].numel())


@pytest.mark.parametrize(
    ("module", "saving", "with_it", "without"),
    [
        # text_len 6; 2 clips, each with a positive and a negative text; 4 steps
        ("video_model.text_embedding", "cache_text", [24], [24] * 4),
        ("video_model.blocks.1.cross_attn.k", "cache_text", [24], [24] * 4),
        # 12 video tokens a clip, of which 4 are of the first frame: two distinct times, or 12
        ("video_model.time_projection", "shared_modulation", [8] * 4, [48] * 4),
        ("audio_model.time_projection", "shared_modulation", [4] * 4, [36] * 4),
        ("video_model.blocks.0.ffn", "batch_passes", [48] * 4, [24] * 8),
        ("video_model.blocks.0.self_attn.q", "share_opening", [24] * 4, [48] * 4),
        ("audio_model.patch_embedding.0", "share_opening", [18] * 4, [36] * 4),
        ("video_model.blocks.1.self_attn.q", "share_opening", [48] * 4, [48] * 4),
    ],
)
def test_what_runs_how_often(module: str, saving: str, with_it: list[int], without: list[int]) -> None:
    clips = Clips()
    counted = Counted(clips.model, module)
    base = {"merge_padding": False, "share_opening": saving == "share_opening"}
    clips.sampled(True, **base)
    assert counted.rows == with_it
    counted.rows.clear()
    clips.sampled(True, **base | {saving: False})
    assert counted.rows == without


def test_merged_padding_leaves_fewer_keys() -> None:
    model = tiny_twin(spread=0.1)
    assert (
        model.prepare_text([torch.randn(1, 10)], "video").embedded.shape[1] == 6
    )  # short texts are not merged
    for modality in ("video", "audio"):
        model.tower(modality).merges_padding = True
    text = [torch.randn(n, 10, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    merged = model.prepare_text(text, "video")
    assert merged.embedded.shape[1] == 4
    assert merged.per_block is not None
    assert merged.per_block[0][0].shape == (2, 4, 2, 32)
    batch = tiny_batch()
    whole = model(**batch | {"text_video": text, "text_audio": text})
    both = {f"text_{m}": model.prepare_text(text, m) for m in ("video", "audio")}
    few = model(**batch | both)
    torch.testing.assert_close(few.video, whole.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(few.audio, whole.audio, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 100, 301, 510, 511, 512])
def test_merged_keys_weigh_as_much_as_the_padding(tokens: int, dtype: torch.dtype) -> None:
    texts = [torch.ones(tokens, 3), torch.ones(512, 3)]
    batch, bias = merged_text_batch(texts, 512, 3, dtype)
    assert batch.shape == (2, 514, 3)
    assert bias.shape == (2, 1, 1, 514)
    assert bias.dtype == dtype
    weights = bias.double().exp()[:, 0, 0]
    assert torch.equal(weights[:, :tokens], torch.ones(2, tokens, dtype=torch.float64))
    # In bfloat16 one key alone would miss by up to one part in a hundred.
    assert float(weights[0].sum()) == pytest.approx(512, rel=1e-6 if dtype == torch.float32 else 5e-4)
    assert float(weights[1].sum()) == 512


def test_texts_that_do_not_fit_are_refused_with_merged_padding_too() -> None:
    model = tiny_twin(kind=ReferenceTwin)
    with pytest.raises(UserError, match="a text has 7 tokens, this tower takes at most 6"):
        model.prepare_text([torch.zeros(2, 10), torch.zeros(7, 10)], "audio")
    with pytest.raises(UserError, match="text embeddings have 9 channels"):
        model.prepare_text([torch.zeros(2, 9)], "video")
