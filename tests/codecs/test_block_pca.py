"""Video latents: exact where the components are complete, close where they are few, deterministic always."""

import pytest
import torch
from torch import Tensor

from ovi_lab.codecs.block_pca import BlockPCA
from ovi_lab.data.worlds import get_world
from ovi_lab.errors import UserError


@pytest.fixture(scope="module")
def ball_frames() -> Tensor:
    return get_world("bouncing_ball").render(range(96), seed=1).frames_NTHWC


@pytest.fixture(scope="module")
def codec(ball_frames: Tensor) -> BlockPCA:
    codec = BlockPCA()
    codec.fit([ball_frames[:48], ball_frames[48:]])
    return codec


def test_all_components_give_every_pixel_back() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (40, 4, 8, 8, 3), generator=generator, dtype=torch.uint8)
    codec = BlockPCA(channels=2 * 2 * 2 * 3, block=(2, 2, 2))
    codec.fit([frames])
    assert codec.explained == pytest.approx(1, abs=1e-6)
    assert torch.equal(codec.decode(codec.encode(frames)), frames)


def test_the_ball_keeps_96_percent_of_the_variance(codec: BlockPCA, ball_frames: Tensor) -> None:
    latents = codec.encode(ball_frames)
    assert latents.shape == (96, 24, 16, 2, 2)
    assert codec.explained == pytest.approx(0.96, abs=0.01)
    assert float(latents.square().mean()) == pytest.approx(1, abs=0.01)
    error = (codec.decode(latents).float() - ball_frames.float()).square().mean().sqrt() / 255
    assert float(error) < 0.035


def test_one_scale_for_all_components(codec: BlockPCA, ball_frames: Tensor) -> None:
    """The strong components stay strong: no whitening."""
    std_C = codec.encode(ball_frames).transpose(0, 1).flatten(1).std(1)
    assert bool((std_C[:-1] >= std_C[1:] - 1e-3).all())
    assert float(std_C[0] / std_C[-1]) > 5


def test_components_are_orthonormal_with_signs_that_are_deterministic(codec: BlockPCA) -> None:
    components = codec.components_CP
    torch.testing.assert_close(components @ components.T, torch.eye(24), atol=1e-5, rtol=0)
    peaks = components.gather(1, components.abs().argmax(1, keepdim=True))
    assert bool((peaks > 0).all())


def test_any_size_and_length_that_divides(codec: BlockPCA, ball_frames: Tensor) -> None:
    wide = ball_frames.repeat(1, 2, 2, 3, 1)[:2]
    back = codec.decode(codec.encode(wide))
    assert back.shape == (2, 64, 32, 48, 3)
    assert torch.equal(back[:, :32, :16, :16], codec.decode(codec.encode(ball_frames[:2])))


def test_pixels_stay_in_range(codec: BlockPCA) -> None:
    for far in (-100.0, 100.0):
        frames = codec.decode(torch.full((1, 24, 1, 1, 1), far))
        assert frames.dtype == torch.uint8  # without the cut, values would wrap around
        assert {0, 255} <= set(frames.flatten().tolist())


def test_wrong_sizes_are_refused_with_those_that_fit(codec: BlockPCA, ball_frames: Tensor) -> None:
    with pytest.raises(UserError, match="has not been fitted"):
        BlockPCA().encode(ball_frames)
    with pytest.raises(UserError, match=r"31 frames of 16x20 do not divide.*use 30 frames of 16x16"):
        codec.encode(torch.zeros(1, 31, 16, 20, 3, dtype=torch.uint8))
    with pytest.raises(UserError, match="expected uint8"):
        codec.encode(ball_frames.float())
    with pytest.raises(UserError, match=r"expected \[B,24,F,h,w\]"):
        codec.decode(torch.zeros(1, 20, 1, 1, 1))
    with pytest.raises(UserError, match="no clips"):
        BlockPCA().fit([])
    with pytest.raises(UserError, match="1 to 384 channels, not 500"):
        BlockPCA(500)
