"""Training with one clip over two processes: the mean of their gradients is the gradient of one process."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from helpers.forks import ranks, wait_for_all
from helpers.twin_goldens import tiny_batch, tiny_twin
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.sequence_parallel import enable_sequence_parallel, sequence_group
from ovi_lab.optim.freezing import FreezeRule

BOTH = ("video", "audio")
# 5 x 2 x 2 video and 11 audio tokens: the audio's do not divide by two.
CASES: dict[str, dict[str, Any]] = {
    "fused": {},
    "odd": {"frames": 5, "rows": 6, "columns": 2, "tokens": 9},  # 5 x 3 x 1
    "padded": {"padded": True},
    "first frame": {"clean": True, "tokens": 10},
    "learned positions": {"model": {"rope": {"mode": "learned"}}},
    "video alone": {"modalities": ("video",), "frames": 5, "rows": 6, "columns": 2},
    "one direction, fusion alone trained": {
        "model": {"fusion": {"direction": "audio_to_video", "blocks": [0, 2]}},
        "trained": [r"_fusion\."],
    },
}
for choice, every in (("full", 1), ("attention", 2), ("matmul", 1)):
    recomputed = {"activation_checkpointing": choice, "checkpoint_every": every}
    CASES[f"{choice}, every {every}"] = {"padded": True, "model": recomputed}
    compiled = {"compile": "blocks", "compile_backend": "aot_eager", **recomputed}
    CASES[f"compiled, {choice}"] = {
        "padded": choice != "matmul",
        "clean": choice == "matmul",
        "model": compiled,
    }


def batch_of(case: dict[str, Any]) -> dict[str, Any]:
    """Two clips; where `padded`, the second is shorter in both modalities."""
    batch = tiny_batch(frames=case.get("frames", 5), tokens=case.get("tokens", 11))
    video = batch["video"]
    if "rows" in case:
        g = torch.Generator().manual_seed(1)
        batch["video"] = torch.randn(*video.shape[:3], case["rows"], case["columns"], generator=g)
    if case.get("padded"):
        batch["video"] = [video[0], video[1, :, :3]]
        batch["audio"] = [batch["audio"][0], batch["audio"][1, :6]]
    return {k: v for k, v in batch.items() if k.split("_")[-1] in case.get("modalities", BOTH)}


def model_of(case: dict[str, Any]) -> TwinDiT:
    """A model whose every parameter matters."""
    model = tiny_twin(spread=0.1, **case.get("model", {}))
    FreezeRule(trained=case.get("trained", ())).apply(model)
    return model


def gradients(model: TwinDiT, case: dict[str, Any]) -> dict[str, Tensor]:
    """Of the mean square of both predictions."""
    batch = batch_of(case)
    out = model(**batch, given=Given.first_frame(batch["video"]) if case.get("clean") else None)
    loss = torch.zeros(())
    for modality in case.get("modalities", BOTH):
        predicted = getattr(out, modality)
        clips = [predicted] if isinstance(predicted, Tensor) else predicted
        loss = loss + torch.stack([clip.square().mean() for clip in clips]).mean()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def work(folder: str) -> None:
    """What each of the two processes does: all cases, gradients in a file of its own."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
    rank = dist.get_rank()
    group = sequence_group(2)
    results = {}
    for name, case in CASES.items():
        model = model_of(case)
        enable_sequence_parallel(model, group)
        results[name] = gradients(model, case)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """The gradients of each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    wait_for_all(ranks(work, str(folder)))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_the_mean_of_two_processes_gradients_is_that_of_one(
    together: list[dict[str, dict[str, Tensor]]], name: str
) -> None:
    case = CASES[name]
    plain = {key: value for key, value in case.get("model", {}).items() if not key.startswith("compile")}
    want = gradients(model_of(case | {"model": plain}), case)
    first, second = (results[name] for results in together)
    assert first.keys() == second.keys() == want.keys()
    assert want
    # Keys' biases have no gradient but rounding's: softmax does not see what all keys have in common.
    largest = max(gradient.norm().item() for gradient in want.values())
    for parameter, gradient in want.items():
        mean = (first[parameter] + second[parameter]) / 2
        assert (mean - gradient).norm() <= 1e-5 * max(gradient.norm().item(), 1e-3 * largest), parameter
    # Each process has seen its own tokens alone: that the mean agrees is the exchange's doing.
    assert any(not torch.allclose(first[n], second[n], rtol=1e-3) for n in want)
