"""Attention by named kernels: equal results, padding cut off where a kernel takes no mask, one line for none."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.operations import Operations
from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO, mean_squares, tiny_batch, tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"


def padded() -> dict[str, Any]:
    """Two clips of different lengths in both modalities."""
    batch = tiny_batch()
    video, audio = list(batch["video"]), list(batch["audio"])
    return batch | {"video": [video[0], video[1][:, :2]], "audio": [audio[0], audio[1][:7]]}


def both(backend: str, batch: dict[str, Any]) -> tuple[list[Tensor], dict[str, Tensor], Operations]:
    """Predictions, gradients, and the operations of the forward pass."""
    model = tiny_twin(spread=0.2, attention_backend=backend)
    with Operations() as operations:
        out = model(**batch)
    clips = [*out.video, *out.audio]
    torch.stack([clip.square().mean() for clip in clips]).sum().backward()
    return clips, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, operations


@pytest.mark.parametrize("backend", ["flash", "math"])
@pytest.mark.parametrize("batch", [tiny_batch(), padded()], ids=["whole", "padded"])
def test_a_named_kernel_is_used_and_agrees(backend: str, batch: dict[str, Any]) -> None:
    want, want_gradients, _ = both("auto", batch)
    got, gradients, operations = both(backend, batch)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)
    for name, gradient in want_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=2e-5, rtol=1e-4)
    # 3 blocks of 6 attentions; clip by clip where keys are padded, which those to the texts are not
    calls = {"math": 0, "flash": 18 if isinstance(batch["video"], Tensor) else 6 + 2 * 12}
    assert operations.counts[FLASH] == calls[backend]


@torch.no_grad()
def test_products_with_a_bias_are_left_to_pytorch() -> None:
    """Long texts, prepared: their padding is two weighted keys."""
    towers = [tower | {"text_len": 96} for tower in (TINY_VIDEO, TINY_AUDIO)]
    models = [TwinDiT(*towers, attention_backend=backend) for backend in ("auto", "flash")]
    batch = tiny_batch()
    outs = []
    for model in models:
        texts = {f"text_{m}": model.prepare_text(batch[f"text_{m}"], m) for m in ("video", "audio")}
        assert texts["text_video"].bias is not None
        model.get_parameter("video_model.head.head.weight").fill_(0.1)
        outs.append(model(**(batch | texts)).video)
    assert outs[0].any()
    torch.testing.assert_close(outs[1], outs[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", ["cudnn", "efficient"])
def test_a_kernel_that_is_not_there_is_said_so_in_one_line(backend: str) -> None:
    line = rf"model.attention_backend is '{backend}', which has no kernel for torch.float32 on cpu with 32 channels"
    with pytest.raises(UserError, match=line):
        tiny_twin(attention_backend=backend)(**tiny_batch())


@pytest.mark.parametrize(
    ("backend", "module"), [("flash2", "flash_attn"), ("flash3", "flash_attn_interface")]
)
def test_kernels_of_packages_are_requested_by_name(backend: str, module: str) -> None:
    if importlib.util.find_spec(module) is None:
        with pytest.raises(UserError, match=f"'{backend}', but the package flash-attn.* is missing"):
            tiny_twin(attention_backend=backend)
    else:
        with pytest.raises(UserError, match="bfloat16 or float16 on CUDA"):
            mean_squares(tiny_twin(attention_backend=backend)(**tiny_batch()))
