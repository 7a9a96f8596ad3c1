"""What is given, and what a clip lacks: inert where it must be, and the same in any batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import tiny_batch, tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.flow import flow_matching_loss
from ovi_lab.models import Given, TwinDiT


@pytest.fixture(scope="module")
def model() -> TwinDiT:
    return tiny_twin(spread=0.2)


BOTH = ("video", "audio")


def masks(batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    video, audio = batch["video"], batch["audio"]
    return np.zeros((len(video), video.shape[2]), bool), np.zeros(audio.shape[:2], bool)


def mixed(batch: dict[str, Any]) -> Given:
    """Seven clips: all generated, picture given, sound given, a first frame, a beginning, a span, sound alone."""
    video, audio = masks(batch)
    video[1], audio[2], video[3, 0] = True, True, True
    video[4, :2], audio[4, :5] = True, True
    video[5, 1:], audio[5, 2:7] = True, True
    lacking = np.arange(len(video)) == 6
    return Given(video, audio, no_video=lacking)


def one(given: Given, clip: int) -> Given:
    def row(mask: np.ndarray | None) -> np.ndarray | None:
        return None if mask is None else mask[clip : clip + 1]

    return Given(row(given.video), row(given.audio))


@pytest.mark.parametrize("listed", [False, True])
def test_a_batch_of_mixed_roles_is_its_clips_one_by_one(model: TwinDiT, listed: bool) -> None:
    """Predictions, losses and the gradient of the mean."""
    batch = tiny_batch(batch=7)
    given = mixed(batch)
    form = {k: list(v) if listed and k in BOTH else v for k, v in batch.items()}
    target = {m: torch.randn_like(batch[m]) for m in BOTH}

    def losses(out: Any, given: Given, clips: slice) -> list[Tensor]:
        found = []
        for m in BOTH:
            if getattr(out, m) is None:
                continue
            aim = target[m][clips]
            lengths = [aim.shape[2 if m == "video" else 1]] * len(aim)
            predicted = getattr(out, m)
            stacked = torch.stack(predicted) if isinstance(predicted, list) else predicted
            found.append(flow_matching_loss(stacked, aim, scored=given.scored(m, lengths)).per_clip)
        return found

    out = model(**form, given=given)
    model.zero_grad()
    together = losses(out, given, slice(None))
    sum(x.mean() for x in together).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for clip in range(7):
        rows = {k: v[clip : clip + 1] for k, v in batch.items()}
        if clip == 6:
            rows = {k: v for k, v in rows.items() if "video" not in k}
        alone = model(**rows, given=one(given, clip) if clip != 6 else None)
        for m in BOTH:
            if getattr(alone, m) is not None:
                torch.testing.assert_close(getattr(out, m)[clip], getattr(alone, m)[0], atol=2e-5, rtol=0)
        (sum(x.sum() for x in losses(alone, one(given, clip), slice(clip, clip + 1))) / 7).backward()
    for name, gradient in gradients.items():
        own = dict(model.named_parameters())[name].grad
        assert own is not None
        torch.testing.assert_close(own, gradient, atol=2e-5 * float(gradient.abs().max()) + 1e-9, rtol=1e-4)


def test_what_is_given_is_read_and_never_scored(model: TwinDiT) -> None:
    """Its value changes what is generated; its target changes no loss and no gradient."""
    batch = tiny_batch(batch=7)
    given = mixed(batch)
    targets = {m: torch.randn_like(batch[m], requires_grad=True) for m in BOTH}
    out = model(**batch, given=given)
    frames = {m: [batch[m].shape[2 if m == "video" else 1]] * 7 for m in BOTH}
    scored = {m: given.scored(m, frames[m]) for m in BOTH}
    total = sum(
        flow_matching_loss(getattr(out, m), targets[m], scored=scored[m]).per_clip.sum() for m in BOTH
    )
    total.backward()
    for m, axis in (("video", (1, 3, 4)), ("audio", (2,))):
        moved = targets[m].grad.abs().sum(dim=axis) > 0
        assert moved.tolist() == scored[m].tolist()
    other = {**batch, "video": batch["video"].clone()}
    other["video"][1] += 1.0  # given
    other["video"][6] += 1.0  # lacking
    again = model(**other, given=given)
    assert not torch.allclose(again.audio[1], out.audio[1], atol=1e-3)
    assert torch.equal(again.audio[6], out.audio[6])
    rest = [0, 2, 3, 4, 5]
    torch.testing.assert_close(again.video[rest], out.video[rest])


def test_a_given_modality_stands_at_zero_whatever_the_clip_s_time(model: TwinDiT) -> None:
    batch = tiny_batch()
    whole = Given(video=np.ones((2, batch["video"].shape[2]), bool))
    with torch.no_grad():
        out = model(**batch, given=whole)
        assert out.video is None
        by_hand = model(**(batch | {"t_video": torch.zeros(2)}))
    torch.testing.assert_close(out.audio, by_hand.audio)
    with torch.enable_grad():
        assert model(**batch, given=whole).video is not None


@pytest.mark.parametrize("passes", [1, 2])
def test_nothing_given_costs_nothing(model: TwinDiT, passes: int) -> None:
    """The same kernels and the same bits as without `given`."""
    batch = tiny_batch(batch=2 * passes)
    clips = {k: v[:2] if k in (*BOTH, "t_video", "t_audio") else v for k, v in batch.items()}
    with torch.no_grad():
        plain = model(**clips, passes=passes)
        empty = model(**clips, passes=passes, given=Given(*masks(clips)))
    assert torch.equal(plain.video, empty.video)
    assert torch.equal(plain.audio, empty.audio)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Given(video=np.zeros(3, bool)), r"given video is bool \[3\]; expected a NumPy array of bool"),
        (lambda: Given(audio=torch.zeros(2, 3)), r"given audio is torch.float32 \[2, 3\]; expected"),
        (lambda: Given(no_audio=np.zeros((2, 2), bool)), r"given no_audio is bool \[2, 2\]; .* \[clips\]"),
        (lambda: tiny_twin()(**tiny_batch(), given=Given(no_audio=np.ones(3, bool))), "marked for 3 clips; expected 2"),
        (lambda: tiny_twin()(**tiny_batch(), given=Given(np.ones((2, 90), bool))), r"\[2, 90\] clips and frames"),
    ],
)  # fmt: skip
def test_masks_of_another_kind_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
