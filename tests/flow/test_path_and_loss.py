"""The path between data and noise, the times drawn on it, and the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ovi_lab.errors import UserError
from ovi_lab.flow import TimestepSampler, flow_matching_loss, interpolate, noise_batch, noise_for, shift_sigma
from ovi_lab.models import Given


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_path_runs_straight_from_data_to_noise() -> None:
    g = generator()
    x, n = torch.randn(3, 2, 4, 2, 2, generator=g), torch.randn(3, 2, 4, 2, 2, generator=g)
    sigma = torch.tensor([0.0, 0.3, 1.0])
    point, velocity = interpolate(x, n, sigma)
    assert torch.equal(point[0], x[0])
    assert torch.equal(point[2], n[2])
    torch.testing.assert_close(point[1], 0.7 * x[1] + 0.3 * n[1])
    torch.testing.assert_close(point - sigma.reshape(3, 1, 1, 1, 1) * velocity, x, atol=1e-6, rtol=0)
    points, velocities = interpolate(list(x), list(n), sigma)
    for i in range(3):
        assert torch.equal(points[i], point[i])
        assert torch.equal(velocities[i], velocity[i])
    with pytest.raises(UserError, match="3 clips came with 3 noises"):
        interpolate(x, n, sigma[:2])


@pytest.mark.parametrize(
    ("settings", "quartiles"),
    [
        ({}, (0.25, 0.5, 0.75)),
        ({"distribution": "logit_normal"}, (0.3375, 0.5, 0.6625)),
        ({"distribution": "logit_normal", "mean": 1.0, "std": 0.5}, (0.6599, 0.7311, 0.7920)),
        ({"distribution": "shifted", "shift": 5.0}, (0.625, 0.8333, 0.9375)),
    ],
)
def test_the_times_drawn(settings: dict[str, Any], quartiles: tuple[float, ...]) -> None:
    sigma, audio = TimestepSampler(**settings).sample(40_000, generator())
    assert sigma is audio
    assert float(sigma.min()) >= 0
    assert float(sigma.max()) <= 1
    got = sigma.quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(got, torch.tensor(quartiles), atol=8e-3, rtol=0)


def test_times_shared_or_independent() -> None:
    video, audio = TimestepSampler(shared=False).sample(4000, generator())
    assert abs(float(torch.corrcoef(torch.stack([video, audio]))[0, 1])) < 0.05
    shared, _ = TimestepSampler().sample(4000, generator())
    assert torch.equal(shared, video)


@pytest.mark.parametrize(
    "settings", [{"distribution": "normal"}, {"std": 0.0}, {"shift": -1.0}, {"mean": float("nan")}]
)
def test_wrong_times_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        TimestepSampler(**settings)


def test_shift() -> None:
    sigma = torch.tensor([0.0, 0.5, 1.0])
    assert shift_sigma(sigma, 1.0).tolist() == sigma.tolist()
    torch.testing.assert_close(shift_sigma(sigma, 5.0), torch.tensor([0.0, 5 / 6, 1.0]))


def test_loss_is_the_mean_squared_error_by_clip() -> None:
    g = generator()
    p, t = torch.randn(2, 5, 3, generator=g), torch.randn(2, 5, 3, generator=g)
    loss = flow_matching_loss(p, t)
    torch.testing.assert_close(loss.per_clip, ((p - t) ** 2).mean(dim=(1, 2)))
    torch.testing.assert_close(loss.mean, ((p - t) ** 2).mean())


def test_clips_of_different_length_count_alike() -> None:
    p = [torch.zeros(2, 3), torch.zeros(10, 3)]
    t = [torch.full((2, 3), 2.0), torch.ones(10, 3)]
    loss = flow_matching_loss(p, t)
    assert loss.per_clip.tolist() == [4.0, 1.0]
    assert loss.mean.item() == 2.5


def test_padding_is_masked_whatever_it_holds() -> None:
    g = generator()
    clips = [torch.randn(n, 3, generator=g) for n in (2, 5)]
    targets = [torch.randn(n, 3, generator=g) for n in (2, 5)]
    padded = torch.full((2, 5, 3), float("nan"))
    padded_targets = torch.full((2, 5, 3), float("inf"))
    mask = torch.zeros(2, 5, 1, dtype=torch.bool)
    for i, (clip, target) in enumerate(zip(clips, targets, strict=True)):
        padded[i, : len(clip)], padded_targets[i, : len(clip)], mask[i, : len(clip)] = clip, target, True
    padded.requires_grad_()
    loss = flow_matching_loss(padded, padded_targets, mask)
    torch.testing.assert_close(loss.per_clip, flow_matching_loss(clips, targets).per_clip)
    loss.mean.backward()
    assert padded.grad is not None
    assert not padded.grad[~mask.expand_as(padded)].any()
    assert padded.grad[mask.expand_as(padded)].all()
    listed = flow_matching_loss(list(padded.detach()), list(padded_targets), list(mask))
    torch.testing.assert_close(listed.per_clip, loss.per_clip.detach())
    nothing = flow_matching_loss(clips[1][None], targets[1][None], torch.zeros(1, 5, 1, dtype=torch.bool))
    assert nothing.per_clip.tolist() == [0.0]


def test_a_given_first_frame_is_not_scored() -> None:
    target = torch.zeros(2, 1, 3, 2, 2)
    predicted = torch.zeros_like(target)
    predicted[:, :, 0] = 100.0
    predicted[:, :, 1:] = 1.0
    later = ~Given.first_frame(target).mask("video")
    assert flow_matching_loss(predicted, target, scored=later).per_clip.tolist() == [1.0, 1.0]
    mixed = ~Given.first_frame(target, [True, False]).mask("video")
    some = flow_matching_loss(predicted, target, scored=mixed).per_clip
    torch.testing.assert_close(some, torch.tensor([1.0, (100.0**2 + 2) / 3]))
    listed = flow_matching_loss(list(predicted), list(target), scored=mixed)
    torch.testing.assert_close(listed.per_clip, some)
    mask = torch.ones(2, 1, 3, 1, 1, dtype=torch.bool)
    mask[:, :, 2] = False
    masked = flow_matching_loss(predicted, target, mask, scored=later)
    assert masked.per_clip.tolist() == [1.0, 1.0]
    nothing = flow_matching_loss(predicted[:, :, :1], target[:, :, :1], scored=later[:, :1])
    assert nothing.per_clip.tolist() == [0.0, 0.0]
    assert nothing.counted.tolist() == [False, False]


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(UserError, match=r"\[2, 5, 3\], the target \[2, 4, 3\]"):
        flow_matching_loss(torch.zeros(2, 5, 3), torch.zeros(2, 4, 3))


def test_bf16_is_scored_in_float32() -> None:
    p = torch.randn(2, 400, 3, generator=generator()).bfloat16()
    loss = flow_matching_loss(p, torch.zeros_like(p))
    assert loss.per_clip.dtype == torch.float32
    torch.testing.assert_close(loss.mean, p.float().square().mean())


def test_noise_belongs_to_a_clip_and_a_modality() -> None:
    video = noise_for(5, (2, 3, 4, 4), "video")
    assert torch.equal(video, noise_for(5, (2, 3, 4, 4), "video"))
    assert not torch.equal(video, noise_for(6, (2, 3, 4, 4), "video"))
    assert not torch.equal(noise_for(5, (7, 3), "video"), noise_for(5, (7, 3), "audio"))
    batch = noise_batch([4, 5], (2, 3, 4, 4), "video")
    assert torch.equal(batch[1], video)
    with pytest.raises(UserError, match="named, reference"):
        noise_for(5, (7, 3), "audio", convention="same")


def test_the_references_noise_has_one_seed_for_both() -> None:
    want = torch.randn(7, 3, generator=torch.Generator().manual_seed(5))
    for modality in ("video", "audio"):
        assert torch.equal(noise_for(5, (7, 3), modality, convention="reference"), want)
