"""What the model promises beside its numbers: padding, kept texts, times, skipped blocks, recomputing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO, mean_squares, tiny_batch, tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.norms import per_frame


@pytest.fixture(scope="module")
def model() -> TwinDiT:
    return tiny_twin(spread=0.2)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


@torch.no_grad()
def test_padding_is_inert(model: TwinDiT) -> None:
    g = torch.Generator().manual_seed(0)
    videos = [torch.randn(4, f, h, w, generator=g) for f, h, w in ((2, 4, 4), (4, 2, 6), (3, 4, 2))]
    audios = [torch.randn(n, 3, generator=g) for n in (5, 11, 1)]
    texts = [torch.randn(n, 10, generator=g) for n in (6, 1, 0)]
    t = torch.tensor([10.0, 500.0, 990.0])
    clean = [True, False, True]
    args: dict[str, Any] = {"text_video": texts, "text_audio": texts}
    out = model(videos, audios, t_video=t, t_audio=t, given=Given.first_frame(videos, clean), **args)
    for i in range(3):
        one = {k: v[i : i + 1] for k, v in args.items()} | {
            "given": Given.first_frame(videos[i][None], [clean[i]])
        }
        alone = model(videos[i][None], audios[i][None], t_video=t[i], t_audio=t[i], **one)
        assert out.video[i].shape == videos[i].shape
        close(out.video[i], alone.video[0])
        close(out.audio[i], alone.audio[0])


@torch.no_grad()
def test_a_batch_without_padding_has_no_mask(model: TwinDiT) -> None:
    clip = torch.zeros(4, 2, 4, 4)
    assert model.tower("video")(clip[None]).mask is None
    assert model.tower("video")([clip, clip.clone()]).mask is None
    mask = model.tower("video")([clip, clip[:, :1]]).mask
    assert mask is not None
    assert mask[:, 0, 0].tolist() == [[True] * 8, [True] * 4 + [False] * 4]


@torch.no_grad()
def test_a_prepared_text_is_the_text_and_is_not_computed_again(model: TwinDiT) -> None:
    batch = tiny_batch()
    plain = model(**batch)
    prepared = {f"text_{m}": model.prepare_text(batch[f"text_{m}"], m) for m in ("video", "audio")}
    calls = []
    parts = [
        f"{m}_model.{part}"
        for m in ("video", "audio")
        for part in ("text_embedding", "blocks.1.cross_attn.k")
    ]
    hooks = [model.get_submodule(name).register_forward_hook(lambda *_: calls.append(1)) for name in parts]
    kept = model(**(batch | prepared))
    assert not calls
    model(**batch)
    assert len(calls) == 4
    for hook in hooks:
        hook.remove()
    assert torch.equal(plain.video, kept.video)
    assert torch.equal(plain.audio, kept.audio)
    assert model.prepare_text(prepared["text_video"], "video") is prepared["text_video"]
    with pytest.raises(UserError, match="prepared for the video tower"):
        model(**(batch | {"text_audio": prepared["text_video"]}))


@torch.no_grad()
@pytest.mark.parametrize("clean", [False, True])
def test_time_is_projected_once_per_distinct_timestep(model: TwinDiT, clean: bool) -> None:
    shapes: list[torch.Size] = []
    hook = model.get_submodule("video_model.time_projection").register_forward_hook(
        lambda _m, _a, out: shapes.append(out.shape)
    )
    batch = tiny_batch(batch=3)
    model(**batch, given=Given.first_frame(batch["video"]) if clean else None)
    hook.remove()
    assert shapes == [torch.Size([3, 2 if clean else 1, 6 * 64])]


def test_frames_pick_their_timestep() -> None:
    vectors = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    clean = torch.tensor([[True, False, True]])[..., None]
    assert per_frame(vectors, clean)[..., 0].tolist() == [[1, 2, 1], [3, 4, 3]]


def test_long_texts_have_the_gradients_of_their_padding_read_token_by_token() -> None:
    """On a CPU, where it is two weighted keys; texts of several lengths, one of them whole."""
    batch, found = tiny_batch(batch=3), []
    texts = [torch.randn(n, 10, generator=torch.Generator().manual_seed(n)) for n in (3, 70, 0)]
    for merges in (False, True):
        model = TwinDiT(*(tower | {"text_len": 70} for tower in (TINY_VIDEO, TINY_AUDIO)))
        generator = torch.Generator().manual_seed(1)
        for modality in ("video", "audio"):
            assert model.tower(modality).merges_padding
            model.tower(modality).merges_padding = merges
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        out = model(**(batch | {"text_video": texts, "text_audio": texts}))
        mean_squares(out).backward()
        found.append((out.video, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (want, gradients), (got, merged) = found
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    assert not torch.equal(got, want)
    for name, gradient in gradients.items():
        torch.testing.assert_close(merged[name], gradient, atol=2e-5 * float(gradient.abs().max()), rtol=1e-4)


@torch.no_grad()
def test_clean_first_frames_by_clip(model: TwinDiT) -> None:
    batch = tiny_batch()
    frames = batch["video"]
    mixed = model(**batch, given=Given.first_frame(frames, [True, False]))
    yes, no = model(**batch, given=Given.first_frame(frames)), model(**batch)
    close(mixed.video[0], yes.video[0])
    close(mixed.video[1], no.video[1])
    assert not torch.allclose(yes.video[1], no.video[1], atol=1e-3)
    # At t = 0 every frame is as clean as the first.
    zero = batch | {"t_video": torch.zeros(2)}
    close(model(**zero, given=Given.first_frame(frames)).video, model(**zero).video)


@torch.no_grad()
def test_skipping_blocks(model: TwinDiT) -> None:
    batch = tiny_batch()
    ran: list[int] = []
    hooks = [b.register_forward_hook(lambda m, *_: ran.append(m.index)) for b in model.twin_blocks]
    out = model(**batch, skip_layers=[0])
    assert ran == [1, 2]
    assert not torch.equal(out.video, model(**batch).video)
    ran.clear()
    model(**batch, skip_layers=(0, 1, 2))
    assert ran == []
    for hook in hooks:
        hook.remove()
    like_reference = TwinDiT(TINY_VIDEO, TINY_AUDIO, first_block_skippable=False)
    like_reference.load_state_dict(model.state_dict())
    assert torch.equal(like_reference(**batch, skip_layers=[0]).video, model(**batch).video)
    assert torch.equal(
        like_reference(**batch, skip_layers=[0, 2]).video, model(**batch, skip_layers=[2]).video
    )


def test_training_mode_works_for_every_combination_and_reaches_every_parameter() -> None:
    model = tiny_twin(spread=0.2).train()
    batch = tiny_batch()
    out = model(**batch, given=Given.first_frame(batch["video"]))
    mean_squares(out).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_copy_is_independent(model: TwinDiT) -> None:
    twin = copy.deepcopy(model)
    batch = tiny_batch()
    with torch.no_grad():
        before = model(**batch).video
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(model(**batch).video, before)
        assert not torch.equal(twin(**batch).video, before)


def test_settings_rebuild_the_model() -> None:
    model = tiny_twin(fusion={"blocks": [0, 2]}, rope={"mode": "clip_ratio"}, first_block_skippable=False)
    again = TwinDiT(**model.settings)
    assert again.settings == model.settings
    shapes, want = ({n: p.shape for n, p in m.named_parameters()} for m in (again, model))
    assert shapes == want
    alone = TwinDiT(None, TINY_AUDIO)
    assert alone.settings["video"] is None
    assert TwinDiT(**alone.settings).settings == alone.settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": torch.zeros(2, 5, 4, 4, 4)}, "5 channels, this model's video tower takes 4"),
        ({"video": torch.zeros(2, 4, 4, 4)}, r"expected \[B, C, F, H, W\]"),
        ({"video": torch.zeros(2, 4, 4, 5, 4)}, "5 latent rows"),
        ({"video": torch.zeros(3, 4, 4, 4, 4)}, "3 video clips, 2 audio clips"),
        ({"audio": torch.zeros(2, 11, 4)}, "4 channels"),
        ({"audio": [torch.zeros(11)] * 2}, r"expected \[L, C\]"),
        ({"audio": []}, "empty"),
        ({"t_video": torch.zeros(3)}, r"t_video has shape \[3\]"),
        ({"t_audio": None}, "without t_audio"),
        ({"text_video": None}, "without text_video"),
        ({"text_audio": torch.zeros(2, 7, 10)}, "7 tokens, this tower takes at most 6"),
        ({"text_audio": [torch.zeros(3, 9)] * 2}, "9 channels, this tower takes 10"),
        ({"text_video": torch.zeros(1, 5, 10)}, "1 texts for 2 clips"),
        ({"skip_layers": [3]}, "block 3; this model has blocks 0 to 2"),
        (
            {"given": Given.first_frame(torch.zeros(2, 1, 9))},
            r"marked for \[2, 9\] clips and frames; expected \[2, ",
        ),
        ({"video": None, "audio": None}, "at least one"),
    ],
)
def test_what_does_not_fit_is_named(model: TwinDiT, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        model(**(tiny_batch() | change))
    assert "\n" not in str(error.value)


def test_a_missing_tower_is_named() -> None:
    batch = tiny_batch()
    with pytest.raises(UserError, match="no video tower"):
        TwinDiT(None, TINY_AUDIO)(batch["video"], t_video=batch["t_video"], text_video=batch["text_video"])


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"dims": 64}, r"unknown key 'dims', did you mean dim\? Valid: dim, eps"),
        ({"dim": None}, "model.video.dim is null: expected a whole number from 1 to"),
        ({"dim": 65}, "does not divide by num_heads=2"),
        ({"num_heads": 32}, "head dim 2"),
        ({"num_layers": 2}, "num_layers is 2 in the video, 3 in the audio"),
        ({"dim": 128}, "head_dim is 64 in the video, 32 in the audio"),
        ({"patch_size": [2, 2]}, "expected three numbers: frames, rows, columns"),
        ({"patch_kernel_size": 3}, "which no video tower has"),
        ({"eps": 0}, "eps is 0"),
        ({"ffn_dim": 1.5}, "ffn_dim is 1.5"),
        ({"freq_dim": 15}, "freq_dim=15 is odd"),
    ],
)
def test_wrong_tower_settings_are_refused(video: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TwinDiT(TINY_VIDEO | video, TINY_AUDIO)


@pytest.mark.parametrize(
    ("video", "audio", "settings", "message"),
    [
        ({k: v for k, v in TINY_VIDEO.items() if k != "dim"}, None, {}, "model.video.dim is not given"),
        (None, TINY_AUDIO | {"patch_size": [1, 2, 2]}, {}, "which no audio tower has"),
        (None, TINY_AUDIO | {"patch_kernel_size": 4}, {}, "is even"),
        (None, None, {}, "neither a video nor an audio tower"),
        (TINY_VIDEO, None, {"rope": {"mode": "squeezed"}}, "constant, clip_ratio or learned"),
        (TINY_VIDEO, None, {"rope": {"factor": -1}}, "rope.factor is -1"),
        (TINY_VIDEO, None, {"rope": {"scale": 1}}, "Valid: factor, mode, theta"),
        (
            TINY_VIDEO,
            None,
            {"attention_backend": "fast"},
            "auto, cudnn, flash, efficient, math, flash2 or flash3",
        ),
        (3, None, {}, "model.video is 3: expected settings such as model.video.dim="),
    ],
)
def test_wrong_settings_elsewhere_are_refused(
    video: Any, audio: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        TwinDiT(video, audio, **settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: it watches for waits on one")
@pytest.mark.parametrize("padded", [False, True])
def test_a_pass_never_waits_for_the_device(padded: bool) -> None:
    with torch.device("cuda"):
        model = tiny_twin(rope={"mode": "clip_ratio"})
    batch = {k: v.cuda() for k, v in tiny_batch().items()}
    if padded:
        batch["video"] = [batch["video"][0], batch["video"][1, :, :2]]
        batch["audio"] = [batch["audio"][0], batch["audio"][1, :7]]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = model(**batch, given=Given.first_frame(batch["video"]))
        (out.video[0].sum() + out.audio[0].sum()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert out.video[0].is_cuda
