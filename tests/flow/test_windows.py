"""Long clips window by window: where windows begin, what they share, and that one window is the ordinary clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.flow import SampledLatents, SamplerSettings, Texts, Windows, noise_batch, sample, sample_windows
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import Modality

F, L = 4, 11
SHAPES: dict[Modality, tuple[int, ...]] = {"video": (4, F, 4, 4), "audio": (L, 3)}
SETTINGS = SamplerSettings(steps=2)
BOTH: tuple[Modality, ...] = ("video", "audio")


@pytest.fixture(scope="module")
def model() -> TwinDiT:
    return tiny_twin(spread=0.2)


def noise_of(windows: Windows, modalities: tuple[Modality, ...] = BOTH) -> list[dict[Modality, Tensor]]:
    return [
        {m: noise_batch([5, 6], SHAPES[m], m, window=k) for m in modalities} for k in range(windows.count)
    ]


def text(seed: int) -> Texts:
    return Texts([torch.randn(4, 10, generator=torch.Generator().manual_seed(seed))])


def cut(latents: Tensor, modality: Modality, span: slice) -> Tensor:
    return latents[:, :, span] if modality == "video" else latents[:, span]


@pytest.mark.parametrize(
    ("total", "lengths", "overlap", "rate", "begin"),
    [
        (10, {"video": 4, "audio": 11}, 1, 2.75, (0, 3, 6)),
        (9, {"video": 4, "audio": 11}, 2, 2.75, (0, 2, 4, 5)),  # the last one shares more
        (4, {"video": 4, "audio": 11}, 2, 2.75, (0,)),
        (301, {"video": 31, "audio": 157}, 7, 5.2083333, (*range(0, 270, 24), 270)),  # a minute of the released model
        (40, {"audio": 11}, 3, 1.0, (0, 8, 16, 24, 29)),
        (9, {"video": 4}, 1, 1.0, (0, 3, 5)),
    ],
)  # fmt: skip
def test_windows_cover_the_clip_and_sound_stays_with_the_picture(
    total: int, lengths: dict[Modality, int], overlap: int, rate: float, begin: tuple[int, ...]
) -> None:
    windows = Windows.over(total, lengths, overlap, rate)
    lead: Modality = "video" if "video" in lengths else "audio"
    assert windows.starts[lead] == begin
    assert windows.total(lead) == total
    for modality in lengths:
        pieces = [windows.lengths[modality] - windows.overlap(modality, k) for k in range(windows.count)]
        assert sum(pieces) == windows.total(modality)
        assert np.cumsum(pieces)[:-1].tolist() == windows.seams(modality)
    if len(lengths) == 2:
        for video, audio in zip(windows.starts["video"], windows.starts["audio"], strict=True):
            assert abs(audio - video * rate) <= 0.5  # half a token, in the hundredth window too
        assert all(windows.overlap("video", k) >= overlap for k in range(1, windows.count))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, {"video": 4}, 1), "the clip has 3 latent frames; expected at least a window's 4"),
        ((9, {"video": 4}, 4), "windows share 4 of 4 latent frames; expected 1 to 3"),
        ((9, {"audio": 4}, 0), "windows share 0 of 4 audio tokens; expected 1 to 3"),
        ((10, {"video": 4, "audio": 3}, 1, 1.0), "window 2 shares 0 of 3 audio tokens with the one before"),
    ],
)
def test_windows_that_do_not_fit_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Windows.over(*arguments)


def test_each_window_goes_on_from_the_one_before(model: TwinDiT) -> None:
    """The first is the clip of ordinary length to the bit; a later one is `sample` with what is shared given."""
    windows, texts, seen = Windows.over(7, {"video": F, "audio": L}, 2, 2.75), [text(k) for k in range(3)], []
    noise = noise_of(windows)
    long = sample_windows(
        model, noise, texts, SETTINGS, windows, on_step=lambda done, total: seen.append((done, total))
    )
    assert seen == [(n, 6) for n in range(1, 7)]
    assert long.video is not None
    assert long.audio is not None
    assert long.video.shape == (2, 4, 7, 4, 4)
    assert long.audio.shape == (2, windows.total("audio"), 3)
    ordinary = sample(model, {m: noise_batch([5, 6], SHAPES[m], m) for m in BOTH}, texts[0], SETTINGS)
    for m in BOTH:
        assert torch.equal(cut(getattr(long, m), m, windows.span(m, 0)), getattr(ordinary, m))
    for window in (1, 2):
        clean = {m: cut(getattr(long, m), m, windows.span(m, window)) for m in BOTH}
        shared = {m: np.zeros((2, windows.lengths[m]), bool) for m in BOTH}
        for m in BOTH:
            shared[m][:, : windows.overlap(m, window)] = True
        made = sample(model, noise[window], texts[window], SETTINGS, given=Given(**shared), clean=clean)
        for m in BOTH:
            assert torch.equal(getattr(made, m), clean[m])
    other = sample_windows(model, noise, texts[:1], SETTINGS, windows)
    assert torch.equal(other.video[:, :, :F], long.video[:, :, :F])
    assert not torch.allclose(other.video[:, :, F:], long.video[:, :, F:], atol=1e-3)
    again = sample_windows(model, noise_of(windows), texts, SETTINGS, windows)
    assert torch.equal(again.audio, long.audio)


def test_what_is_shared_may_be_made_anew(model: TwinDiT) -> None:
    """By the codec: the later window sees it, the clip keeps what it was."""
    windows = Windows.over(6, {"video": F, "audio": L}, 2, 2.75)
    asked: list[tuple[Tensor, int]] = []

    def again(latents: Tensor, shared: int) -> Tensor:
        asked.append((latents, shared))
        return -latents[:, :, -shared:]

    plain, anew = (
        sample_windows(model, noise_of(windows), [text(0)], SETTINGS, windows, again=a) for a in (None, again)
    )
    ((latents, shared),) = asked
    assert shared == 2
    assert torch.equal(latents, plain.video[:, :, :F])
    assert torch.equal(anew.video[:, :, :F], plain.video[:, :, :F])
    assert not torch.allclose(anew.video[:, :, F:], plain.video[:, :, F:], atol=1e-3)


def test_given_parts_of_the_whole_clip(model: TwinDiT) -> None:
    """A picture, or a beginning longer than a window, which costs no steps."""
    windows, seen = Windows.over(7, {"video": F, "audio": L}, 1, 2.75), []
    shapes = {"video": (2, 4, 7, 4, 4), "audio": (2, windows.total("audio"), 3)}
    g = torch.Generator().manual_seed(1)
    clean: dict[Modality, Tensor] = {m: torch.randn(shapes[m], generator=g) for m in BOTH}

    def made(given: Given) -> SampledLatents:
        seen.clear()
        return sample_windows(
            model, noise_of(windows), [text(0)], SETTINGS, windows, given=given, clean=clean,
            on_step=lambda done, total: seen.append((done, total)),
        )  # fmt: skip

    out = made(Given(video=np.ones((2, 7), bool)))
    assert torch.equal(out.video, clean["video"])
    assert len(seen) == 4
    video, audio = np.arange(7) < 5, np.arange(windows.total("audio")) < 13
    out = made(Given(np.stack([video] * 2), np.stack([audio] * 2)))
    assert torch.equal(out.video[:, :, :5], clean["video"][:, :, :5])
    assert torch.equal(out.audio[:, :13], clean["audio"][:, :13])
    assert not torch.allclose(out.video[:, :, 5:], clean["video"][:, :, 5:], atol=1e-3)
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("modality", BOTH)
def test_one_modality_alone(model: TwinDiT, modality: Modality) -> None:
    windows = Windows.over(19, {modality: SHAPES[modality][1 if modality == "video" else 0]}, 2)
    out = sample_windows(model, noise_of(windows, (modality,)), [text(0)], SETTINGS, windows)
    assert getattr(out, modality).shape[2 if modality == "video" else 1] == 19


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": 1}, "noise is given for 1 windows; expected 2"),
        ({"texts": [text(0)] * 3}, "3 texts are given for 2 windows; give one, or one a window"),
        ({"given": Given(video=np.ones((2, 4), bool))}, r"marked for \[2, 4\] clips and frames; expected \[2, 7\]"),
        ({"given": Given(video=np.ones((2, 7), bool))}, r"the given video latents have shape None; expected \[2, 4, 7"),
        ({"lengths": {"video": 5, "audio": L}}, "a window's video noise has 4 latent frames; expected 5"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_windows_is_refused(
    model: TwinDiT, change: dict[str, Any], message: str
) -> None:
    lengths = change.pop("lengths", {"video": F, "audio": L})
    windows = Windows.over(7, lengths, 1 if lengths["video"] == F else 3, 2.75)
    noise = noise_of(windows)[: change.pop("noise", 2)]
    arguments = {"texts": [text(0)], **change}
    with pytest.raises(UserError, match=message):
        sample_windows(model, noise, settings=SETTINGS, windows=windows, **arguments)
