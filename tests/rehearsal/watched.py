"""Run by a test in a process of its own: what `Watch` does with operations of a GPU that is not there."""

# ruff: noqa: E402 - the library comes before torch
from __future__ import annotations

from ovi_lab.rehearsal import library

library.load(library.built())

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    in_kernel_invocation_manager,
)

from ovi_lab.rehearsal import stand_in
from ovi_lab.rehearsal.record import Record
from ovi_lab.rehearsal.watch import Watch

watch = Watch(Record())
record = watch.record
stand_in.install(stand_in.Machine(), watch.wait, lambda: (watch.live.now, watch.live.peak))


def refused(function: object, error: type[Exception]) -> bool:
    """Whether a call raises."""
    try:
        function()  # type: ignore[operator]
    except error:
        return True
    return False


class Read(torch.autograd.Function):
    """A node of autograd that is made without computing anything on the GPU."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> None:
        return None


with watch.everywhere():
    gpu = torch.device("cuda", 0)
    x = torch.empty(1000, 1000, device=gpu, requires_grad=True)
    assert watch.live.now == 4_000_000
    assert refused(lambda: x + torch.zeros(1000, 1000), FakeTensorDeviceMismatchError)
    assert (x + torch.tensor(1.0)).device == gpu  # numbers may come from the CPU

    record.clear()
    with torch.autocast("cuda", torch.bfloat16):
        y = x @ x
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None
    assert record.calls["mm"] == 3
    assert record.waits == {}

    q = torch.empty(1, 2, 64, 64, device=gpu, dtype=torch.bfloat16)
    mask = torch.ones(1, 1, 1, 64, device=gpu, dtype=torch.bool)
    F.scaled_dot_product_attention(q, q, q)
    F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert record.calls["_scaled_dot_product_flash_attention"] == 1
    assert record.calls["_scaled_dot_product_efficient_attention"] == 1

    before = watch.live.now
    held = torch.empty(500, device=gpu)
    del held
    assert watch.live.now == before

    # a kernel of a build for CUDA, which one for CPUs takes apart
    record.clear()
    torch.nn.functional.rms_norm(x, x.shape[-1:], torch.ones(x.shape[-1], device=gpu)).sum().backward()
    assert record.calls["_fused_rms_norm"] == record.calls["_fused_rms_norm_backward"] == 1

    # the host waits for numbers that it reads, and knows those that it sent
    record.clear()
    sent = torch.tensor([3.0, 4.0], device=gpu)
    assert sent.tolist() == [3.0, 4.0]
    assert sent.sum().item() == 0.0
    assert refused(lambda: x.detach()[x.detach() > 0], DynamicOutputShapeException)
    torch.cuda.synchronize()
    assert sorted(place.partition(" ")[0] for place in record.waits) == [
        "index",
        "item",
        "tolist",
        "torch.cuda.synchronize",
    ]

    # a copy is waited for unless it is of pinned memory and may end later
    record.clear()
    host = torch.ones(10)
    host.to(gpu)
    host.to(gpu, non_blocking=True)
    host.pin_memory().to(gpu, non_blocking=True)
    assert sorted((direction, soon) for direction, soon, _, _ in record.copies.elements()) == [
        ("to the GPU", False), ("to the GPU", False), ("to the GPU", True),
    ]  # fmt: skip

    # in a thread of its own too, as batches are moved
    made: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: made.append(torch.ones(3).to("cuda")))
    thread.start()
    thread.join()
    assert made[0].device == gpu

    # while one thread computes shapes, another sees devices as they are; so does its autograd, which remembers them
    computes, over = threading.Event(), threading.Event()

    def compute() -> None:
        with watch._lock, in_kernel_invocation_manager(watch.fake):
            computes.set()
            over.wait(60)

    weight = torch.ones(3, device=gpu, requires_grad=True)
    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    assert computes.wait(60)
    device, read = weight.device, Read.apply(weight)
    over.set()
    thread.join()
    assert device == gpu
    (2 * weight).sum().backward()
    assert weight.grad is not None
    del read

    generator = torch.Generator("cuda").manual_seed(1)
    assert torch.randn(3, device=gpu, generator=generator).device == gpu
print("all as on a GPU")
