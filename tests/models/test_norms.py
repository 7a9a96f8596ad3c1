"""Normalisations and modulation: float32 inside, each span's own vectors, gradients of the plain formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.run_folders import same
from helpers.twin_goldens import mean_squares, tiny_batch, tiny_twin
from ovi_lab.models import Given
from ovi_lab.models.clean_tokens import CleanTokens, modulate
from ovi_lab.models.norms import AdaptiveLayerNorm, LayerNorm, RMSNorm, layer_norm, multiply_add


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).requires_grad_()


def affine(norm: Any, dtype: torch.dtype) -> Any:
    with torch.no_grad():
        for i, p in enumerate(norm.parameters()):
            p.copy_(drawn(*p.shape, seed=i + 1))
    return norm.to(dtype)


@pytest.mark.parametrize("norm", [RMSNorm(48, 1e-6), LayerNorm(48, 1e-6)], ids=["rms", "layer"])
def test_bf16_is_normalised_in_float32_and_rounded_once(norm: Any) -> None:
    norm, x = affine(norm, torch.bfloat16), drawn(3, 7, 48, dtype=torch.bfloat16)
    exact = norm.double()(x.double())
    got = norm.bfloat16()(x)
    assert got.dtype == torch.bfloat16
    assert ((got.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all()


@pytest.mark.parametrize("norm", [RMSNorm(48, 1e-6), LayerNorm(48, 1e-6)], ids=["rms", "layer"])
def test_a_stream_of_another_type_than_the_weights_keeps_its_type(norm: Any) -> None:
    norm, x = affine(norm, torch.float32), drawn(3, 7, 48, dtype=torch.bfloat16)
    assert torch.equal(norm(x), norm(x.float()).bfloat16())


@pytest.mark.parametrize(("B", "S"), [(1, 1), (2, 1), (1, 3), (2, 3), (2, 12)])
def test_every_span_is_modulated_by_its_own_vectors(B: int, S: int) -> None:
    """Against the formula with vectors repeated for every token, gradients included."""
    x, shift, scale = drawn(2, 12, 48), drawn(B, S, 48, seed=1), drawn(B, S, 48, seed=2)
    norm, inputs = AdaptiveLayerNorm(1e-6), [x, shift, scale]

    def each(vector: Tensor) -> Tensor:
        return vector.repeat_interleave(12 // S, dim=1).expand(2, 12, 48)

    got = norm(x, shift, scale)
    want = layer_norm(x, None, None, 1e-6) * (1 + each(scale)) + each(shift)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    found, expected = (torch.autograd.grad(y.square().sum(), inputs) for y in (got, want))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("S", [1, 4])
def test_the_gated_sum_has_the_gradients_of_its_formula(S: int) -> None:
    inputs = [drawn(2, 12, 8), drawn(2, 12, 8, seed=1), drawn(2, S, 8, seed=2)]
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(multiply_add, doubles)
    with torch.no_grad():
        without = multiply_add(*inputs)
    assert torch.equal(multiply_add(*inputs), without)


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("tokens", [1, 3])
def test_clean_tokens_have_vectors_of_their_own(vectors: bool, tokens: int) -> None:
    """Values and gradients of the formula with a vector for each token, of spans of one or several tokens; repeated,
    and a share of the tokens."""
    mask = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 1]], bool)
    clean = CleanTokens.of(mask, torch.device("cpu"))

    def compared(clean: CleanTokens, mask: np.ndarray) -> None:
        B, L = len(mask), mask.shape[1] * tokens
        shapes = (B, 2, 8) if vectors else (B, L, 8), (B, L, 8), (B, 2, 8)
        inputs = [drawn(*shape, seed=n).detach().double().requires_grad_() for n, shape in enumerate(shapes)]
        own = torch.from_numpy(mask).repeat_interleave(tokens, dim=1)[..., None]

        def formula(base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
            base, factor = (
                torch.where(own, v[:, :1], v[:, 1:]) if two else v
                for v, two in ((base, vectors), (factor, True))
            )
            return base + x * factor

        made, weights = modulate(*inputs, clean, vectors), drawn(B, L, 8, seed=3)
        torch.testing.assert_close(made, formula(*inputs))
        with torch.no_grad():
            assert torch.equal(modulate(*inputs, clean, vectors), made)
        found, expected = (torch.autograd.grad((f * weights).sum(), inputs) for f in (made, formula(*inputs)))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)

    compared(clean, mask)
    compared(clean.repeated(2), np.concatenate([mask, mask]))
    if tokens == 1:
        compared(clean.share(3, 3), np.pad(mask[:, 3:], ((0, 0), (0, 1))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("autocast", [False, True])
def test_vectors_are_looked_up_without_rounding(dtype: torch.dtype, autocast: bool) -> None:
    """Whatever the type, and where autocast would have products in bfloat16."""
    mask = np.array([[1, 0, 0], [0, 1, 1]], bool)
    clean, own = CleanTokens.of(mask, torch.device("cpu")), torch.from_numpy(mask)[..., None]
    shift, scale = (drawn(2, 2, 8, seed=n).detach().to(dtype) for n in (0, 1))
    ones = torch.ones(2, 3, 8, dtype=dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        shifted, scaled = (modulate(shift, x, scale, clean, True) for x in (0 * ones, ones))
    want = torch.where(own, shift[:, :1], shift[:, 1:])
    assert shifted.dtype == dtype
    assert torch.equal(shifted, want)
    assert torch.equal(scaled, want + torch.where(own, scale[:, :1], scale[:, 1:]))


@pytest.mark.parametrize("rope", [{}, {"mode": "learned"}])
def test_frames_of_a_regular_batch_are_what_a_mask_of_tokens_makes(rope: dict[str, Any]) -> None:
    """The same clips as a list with a longer third one, whose grid makes spans unequal."""
    model, batch = tiny_twin(spread=0.2, rope=rope), tiny_batch(batch=3)
    longer = {**tiny_batch(batch=3), "video": [*batch["video"][:2], tiny_batch(1, frames=6)["video"][0]]}
    for clean in (None, [True, False, True]):
        regular = model(**batch, given=Given.first_frame(batch["video"], clean))
        mixed = model(**longer, given=Given.first_frame(longer["video"], clean))
        for i in range(2):
            torch.testing.assert_close(regular.video[i], mixed.video[i], atol=2e-6, rtol=0)
            torch.testing.assert_close(regular.audio[i], mixed.audio[i], atol=2e-6, rtol=0)


def test_what_nothing_is_trained_of_gets_no_gradient() -> None:
    """Frozen modulation: the vectors' gradients are not made, those of the stream stay."""
    want, got = {}, {}
    for found, frozen in ((want, False), (got, True)):
        model = tiny_twin(spread=0.2)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not (frozen and "modulation" in name))
        mean_squares(model(**tiny_batch())).backward()
        found |= {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert same(got, {n: g for n, g in want.items() if "modulation" not in n})
