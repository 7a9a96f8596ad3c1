"""Optical flow by RAFT."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from ovi_eval.backbones import raft
from ovi_eval.check.case import Cases, Setting
from ovi_eval.check.cases.audio import architecture
from ovi_eval.check.generated import clip
from ovi_eval.check.lines import Line, close

CASES = Cases()
RAFT_JSON, RAFT_KEYS = "raft_golden.json", "raft_keys.txt.gz"
MOTION, REFERENCE = "motion of ovi-data build (RAFT)", "RAFT@2888e15a"


@CASES.case("raft.names", MOTION, REFERENCE, f"{RAFT_KEYS}: *")
def raft_names(setting: Setting) -> Iterator[Line]:
    yield architecture(setting, RAFT_KEYS, raft.PublishedRaft)


@CASES.case("raft.flow", MOTION, REFERENCE, f"{RAFT_JSON}: flow*")
def raft_flow(setting: Setting) -> Iterator[Line]:
    file = raft.FILES["raft-things"]
    network = copy.deepcopy(setting.network(raft.PublishedRaft, file, RAFT_KEYS))
    for tensor in network.module.update_block.flow_head.conv2.parameters():
        tensor.mul_(0.1)  # flows of a few pixels: by generated weights rounding alone moves larger ones
    first_NHWC, second_NHWC = torch.from_numpy(clip(2, 130, 150)).split(1)
    lengths = setting.goldens.json(RAFT_JSON, "flow_mean_length")
    for iterations, expected in setting.goldens.json(RAFT_JSON, "flow").items():
        flow_HW2 = raft.flow_between(network, first_NHWC, second_NHWC, int(iterations))[0]
        why = "pixels; sums in another order"
        shown = f"{iterations} iteration{'s' if iterations != '1' else ''}"
        yield close(f"{shown}: flow", flow_HW2[::13, ::15], expected, rtol=0, atol=1e-4, why=why)
        yield close(
            f"{shown}: mean length", flow_HW2.norm(dim=-1).mean(), lengths[iterations], atol=1e-4, why=why
        )
