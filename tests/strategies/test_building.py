"""What a strategy's settings and this machine allow, refused in one line before anything is built."""

import pytest
import torch

from ovi_lab.errors import UserError
from ovi_lab.strategies import build_strategy
from ovi_lab.strategies.zero import can_offload_to_disk

ZERO3 = {"name": "zero", "stage": 3}


def machine(processes: int = 4, accelerator: str = "cpu") -> dict[str, object]:
    return {"accelerator": accelerator, "devices": processes, "num_nodes": 1}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "fsdp2", "shard_within": 3}, "shard_within is 3 with 4 processes; expected a divisor"),
        ({"name": "fsdp2", "shard_within": 0}, "shard_within is 0"),
        (
            {"name": "zero", "stage": 2, "shard_within": 2},
            "shard_within is 2, which needs strategy=fsdp2 or strategy=zero3",
        ),
        ({"name": "ddp", "shard_within": 2}, "shard_within is 2, which needs strategy=fsdp2"),
        ({**ZERO3, "gradient_dtype": "fp8"}, "strategy.gradient_dtype is 'fp8'"),
        ({**ZERO3, "communication_dtype": "int4"}, "strategy.communication_dtype is 'int4'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, said):
    with pytest.raises(UserError) as told:
        build_strategy(settings, machine())
    assert said in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="this build of torch has NCCL")
def test_several_gpus_without_nccl_are_refused():
    with pytest.raises(UserError, match="4 processes need NCCL, which this build of torch lacks"):
        build_strategy({"name": "fsdp2"}, machine(accelerator="gpu"))


def test_a_disk_that_deepspeed_cannot_use_is_refused(tmp_path):
    pytest.importorskip("deepspeed")
    if can_offload_to_disk():
        pytest.skip("libaio is here")
    settings = {**ZERO3, "offload_optimizer": "nvme", "nvme_path": str(tmp_path)}
    with pytest.raises(UserError, match="offload to nvme needs DeepSpeed's async_io"):
        build_strategy(settings, machine())
