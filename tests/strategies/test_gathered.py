"""ZeRO 3 frees the frozen parameters of a block that is recomputed when its backward pass has ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.forks import ranks, wait_for_all
from helpers.zero_training import MODEL

pytest.importorskip("deepspeed")

BLOCKS = 5


def _gathered_at_each_block(out: Path) -> None:
    """The number of frozen parameters that are whole each time a gradient arrives at a block's input."""
    import deepspeed
    import torch

    from ovi_lab.models import TwinDiT

    torch.distributed.init_process_group("gloo")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    towers = {m: config | {"num_layers": BLOCKS} for m, config in MODEL.items()}
    model = TwinDiT(**towers, activation_checkpointing="full")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".ffn." not in name)
    trained = [p for p in model.parameters() if p.requires_grad]
    zero = {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        # what is fetched ahead or kept for its next use: all of so small a model
        "stage3_prefetch_bucket_size": 0,
        "stage3_max_reuse_distance": 0,
    }
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(trained),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
        },
        dist_init_required=False,
    )
    counts: list[int] = []

    def count(_: torch.Tensor) -> None:
        frozen = (p for p in model.parameters() if not p.requires_grad)
        counts.append(sum(p.ds_status.name == "AVAILABLE" for p in frozen))

    def watch(_: torch.nn.Module, arguments: tuple[object, ...]) -> None:
        for stream in arguments:
            if isinstance(stream, torch.Tensor) and stream.requires_grad:
                stream.register_hook(count)

    for call in model.calls:
        call.register_forward_pre_hook(watch)
    video, audio = torch.randn(1, 3, 2, 2, 2), torch.randn(1, 4, 2)
    texts, time = [torch.randn(2, 5)], torch.tensor([500.0])
    for _ in range(3):
        output = engine(
            video=video, audio=audio, t_video=time, t_audio=time, text_video=texts, text_audio=texts
        )
        engine.backward(output.video.square().mean() + output.audio.square().mean())
        engine.step()
    (out / "counts.json").write_text(json.dumps(counts))


@pytest.mark.slow
def test_frozen_parameters_of_one_block_at_a_time_are_whole_in_the_backward_pass(tmp_path: Path) -> None:
    wait_for_all(ranks(_gathered_at_each_block, tmp_path, world=1))
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert len(counts) >= 3 * 2 * BLOCKS
    of_a_block = 2 * 4  # weights and biases of the two layers of each tower's FFN
    assert max(counts) <= 2 * of_a_block < BLOCKS * of_a_block
