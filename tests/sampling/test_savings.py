"""What sampling does once instead of again: every saving can be switched off, and none changes the clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import golden_twin, read_golden, tiny_batch, tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.flow import SampledLatents, noise_batch, sample
from ovi_lab.models import TwinDiT
from ovi_lab.models.embeddings import merged_text_batch
from ovi_lab.models.rope import RopeTables, apply_rotation
from ovi_lab.models.savings import LoopedTables

PASSES = {"cache_text": True, "batch_passes": True, "merge_padding": True, "share_opening": True}
MODEL = {"shared_modulation": True, "cache_rope": True, "cache_masks": True}


class Clips:
    """Two clips of a tiny twin, guided, texts of several lengths; the first frame given where wanted."""

    def __init__(self, **options: Any) -> None:
        self.model = tiny_twin(spread=0.1, **options)
        g = torch.Generator().manual_seed(0)
        self.text = [torch.randn(n, 10, generator=g) for n in (6, 2)]
        self.negative = [torch.randn(n, 10, generator=g) for n in (1, 5)]
        self.frame = torch.randn(2, 4, 1, 4, 4, generator=g)

    def sampled(self, first_frame: bool, savings: dict[str, bool], **settings: Any) -> SampledLatents:
        self.model.set_savings(**{k: v for k, v in savings.items() if k in MODEL})
        return sample(
            self.model,
            noise_batch([1, 2], (4, 3, 4, 4), "video"),
            noise_batch([1, 2], (9, 3), "audio"),
            text=self.text,
            negative_text_video=self.negative,
            negative_text_audio=self.negative[:1],
            video_guidance=4.0,
            audio_guidance=3.0,
            steps=4,
            first_frame=self.frame if first_frame else None,
            **{k: v for k, v in savings.items() if k in PASSES},
            **settings,
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
@pytest.mark.parametrize("off", [*PASSES, *MODEL, "all"])
def test_no_saving_changes_the_clip(clips: Clips, off: str, first_frame: bool) -> None:
    savings = PASSES | MODEL
    saved = clips.sampled(first_frame, savings)
    without = {name: on and off not in (name, "all") for name, on in savings.items()}
    same(clips.sampled(first_frame, without), saved)


def test_what_is_saved_by_default_gives_the_same_bits_as_before(clips: Clips) -> None:
    """Texts kept, both passes in one batch, no key merged: what sampling did before it could be chosen."""
    explicit = clips.sampled(True, MODEL | {"cache_text": True, "batch_passes": True, "merge_padding": False})
    default = clips.sampled(True, {})
    assert torch.equal(explicit.video, default.video)
    assert torch.equal(explicit.audio, default.audio)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_one_modality_opens_once_too(clips: Clips, modality: str) -> None:
    clips.model.set_savings()
    both = {}
    for share in (False, True):
        both[share] = sample(
            clips.model,
            noise_batch([1, 2], (4, 3, 4, 4), "video") if modality == "video" else None,
            noise_batch([1, 2], (9, 3), "audio") if modality == "audio" else None,
            text=clips.text,
            negative_text_video=clips.negative,
            negative_text_audio=clips.negative,
            video_guidance=4.0,
            audio_guidance=3.0,
            steps=3,
            share_opening=share,
        )
    a, b = getattr(both[False], modality), getattr(both[True], modality)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_passes_of_clips_of_several_shapes(clips: Clips) -> None:
    clips.model.set_savings()
    g = torch.Generator().manual_seed(0)
    video = [torch.randn(4, f, 4, 4, generator=g) for f in (3, 2)]
    audio = [torch.randn(n, 3, generator=g) for n in (5, 9)]
    times = {"t_video": torch.tensor([10.0, 500.0]), "t_audio": torch.tensor([900.0, 20.0])}
    clean = torch.tensor([True, False])
    texts = [*clips.text, *clips.negative]

    def predicted(n: int) -> Any:
        given = {k: torch.cat([v] * (2 // n)) for k, v in times.items()}
        settings = {"text_video": texts, "text_audio": texts, "passes": n}
        return clips.model(
            video * (2 // n),
            audio * (2 // n),
            **given,
            **settings,
            first_frame_is_clean=torch.cat([clean] * (2 // n)),
        )

    with torch.no_grad():
        together, apart = predicted(2), predicted(1)
    for modality in ("video", "audio"):
        a, b = getattr(together, modality), getattr(apart, modality)
        assert len(a) == len(b) == 4
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_texts_of_all_passes_are_asked_for(clips: Clips) -> None:
    batch = tiny_batch()
    with pytest.raises(UserError, match="text_video holds 2 texts for 2 clips and 2 passes"):
        clips.model(**batch, passes=2)


@pytest.mark.parametrize("mode", ["clip_ratio", "learned"])
def test_looped_rotations_follow_the_audio_positions(mode: str) -> None:
    clips = Clips(rope={"mode": mode, "factor": 0.3})
    same(clips.sampled(False, {"cache_rope": False}), clips.sampled(False, {}))
    clips.model.set_audio_rope_factor(1.7)
    moved = clips.sampled(False, {"cache_rope": False})
    same(moved, clips.sampled(False, {}))
    clips.model.set_audio_rope_factor(None)
    assert not torch.allclose(moved.audio, clips.sampled(False, {}).audio, atol=1e-3)


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
        torch.testing.assert_close(
            apply_rotation(values, loop), apply_rotation(values, table), atol=1e-6, rtol=1e-6
        )


def test_the_savings_off_hold_the_golden(goldens: Path) -> None:
    """The ways that are replaced are the released code's: they give its latents too."""
    model, x = golden_twin(goldens), read_golden(goldens / "sampling_tiny.safetensors")[0]
    model.set_savings(shared_modulation=False, cache_rope=False, cache_masks=False)
    for merge in (False, True):
        out = sample(
            model,
            x["inputs/video_noise"][None],
            x["inputs/audio_noise"][None],
            text=[x["inputs/text_pos"]],
            negative_text_video=[x["inputs/text_video_neg"]],
            negative_text_audio=[x["inputs/text_audio_neg"]],
            steps=6,
            video_guidance=4.0,
            audio_guidance=3.0,
            skip_layers=[1],
            first_frame=x["inputs/image_latent"][None],
            batch_passes=False,
            cache_text=False,
            merge_padding=merge,
        )
        torch.testing.assert_close(out.video[0], x["out/unipc_6_i2v.video"], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(out.audio[0], x["out/unipc_6_i2v.audio"], atol=2e-5, rtol=1e-5)


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
    clips.sampled(True, {saving: True})
    assert counted.rows == with_it
    counted.rows.clear()
    clips.sampled(True, {saving: False})
    assert counted.rows == without


def test_merged_padding_leaves_fewer_keys() -> None:
    model = tiny_twin(spread=0.1)
    text = [torch.randn(n, 10, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    merged = model.prepare_text(text, "video", merge_padding=True)
    assert merged.embedded.shape[1] == 4
    assert merged.per_block is not None
    assert merged.per_block[0][0].shape == (2, 4, 2, 32)
    assert model.prepare_text(text, "video").embedded.shape[1] == 6
    batch = tiny_batch()
    whole = model(**batch | {"text_video": text, "text_audio": text})
    both = {f"text_{m}": model.prepare_text(text, m, merge_padding=True) for m in ("video", "audio")}
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
    model = tiny_twin()
    with pytest.raises(UserError, match="a text has 7 tokens, this tower takes at most 6"):
        model.prepare_text([torch.zeros(2, 10), torch.zeros(7, 10)], "audio", merge_padding=True)
    with pytest.raises(UserError, match="text embeddings have 9 channels"):
        model.prepare_text([torch.zeros(2, 9)], "video", merge_padding=True)


def test_a_saving_may_be_switched_alone() -> None:
    model = tiny_twin()
    assert model.savings.shared_modulation
    model.set_savings(cache_rope=False)
    model.set_shared_modulation(False)
    assert model.savings == type(model.savings)(shared_modulation=False, cache_rope=False, cache_masks=True)
