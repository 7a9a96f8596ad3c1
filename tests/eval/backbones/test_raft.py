"""RAFT: frames of any size, the parts whose values are known, and what is refused."""

from pathlib import Path

import pytest
import torch

from helpers.generated_weights import GeneratedWeights
from ovi_eval.backbones import raft
from ovi_eval.check.generated import clip
from ovi_eval.errors import UserError

FILE = raft.FILES["raft-things"]


def test_places_between_cells_are_interpolated_and_those_outside_are_zero() -> None:
    """By comparisons whose value at column x and row y is 10 y + x, at four sizes."""
    pyramid = [10 * raft.grid(8, 16)[1:] + raft.grid(8, 16)[:1] + 1]
    pyramid = [level.expand(1, 1, 8, 16) for level in pyramid]
    for _ in range(3):
        pyramid.append(torch.nn.functional.avg_pool2d(pyramid[-1], 2))
    assert pyramid[-1].shape == (1, 1, 1, 2)
    place = torch.tensor([6.25, 3.5]).reshape(1, 2, 1, 1)
    found = raft.around(pyramid, place).reshape(4, 9, 9)  # the column changes slowest
    assert found[0, 4, 4] == pytest.approx(10 * 3.5 + 6.25 + 1)
    assert found[0, 6, 4] == pytest.approx(10 * 3.5 + 8.25 + 1)
    assert found[0, 4, 3] == pytest.approx(10 * 2.5 + 6.25 + 1)
    # at half the size cell (c, r) holds the mean of columns 2c and 2c + 1
    assert found[1, 4, 4] == pytest.approx(10 * (2 * 1.75 + 0.5) + (2 * 3.125 + 0.5) + 1)
    assert found[0, 4, 0] == pytest.approx(0.5 * (6.25 + 1))  # half a row above the first
    # one row of cells: inside for the part of it that is there
    assert not found[3, :2].any()
    assert found[3, 4, 4] == pytest.approx(
        float(pyramid[3][0, 0, 0] @ torch.tensor([0.21875, 0.78125])) * (1 - 0.4375)
    )


def test_a_finer_flow_is_a_mean_of_nine_cells() -> None:
    flow = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(1, 9, 8, 8, 3, 4)
    weights[:, 4] = 100.0  # the cell itself
    weights[:, 4, 2, 5], weights[:, 5, 2, 5] = 0.0, 100.0  # of one pixel the cell to the right
    fine = raft.finer(flow, weights.flatten(1, 3))
    assert fine.shape == (1, 2, 24, 32)
    wanted = 8 * flow.repeat_interleave(8, 2).repeat_interleave(8, 3)
    wanted[:, :, 2::8, 5::8] = 8 * torch.nn.functional.pad(flow[..., 1:], (0, 1))
    torch.testing.assert_close(fine, wanted)


def test_frames_of_any_size_have_a_flow_for_every_pixel(generated: GeneratedWeights) -> None:
    network = raft.load(generated.path(FILE), FILE).network
    frames = torch.from_numpy(clip(3, 50, 71))
    together = raft.flow_between(network, frames[:2], frames[1:], 2)
    assert together.shape == (2, 50, 71, 2)
    assert together.isfinite().all()
    alone = raft.flow_between(network, frames[1:2], frames[2:], 2)
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(alone, raft.flow_between(network, frames[1:2], frames[2:], 1), atol=1e-2)


def test_other_files_are_refused(generated: GeneratedWeights, tmp_path: Path) -> None:
    path = tmp_path / FILE.name
    whole = raft.load(generated.path(FILE), FILE).network.state_dict()
    torch.save({name: x.clone() for name, x in whole.items()}, path)
    assert raft.load(path, FILE).sha256
    short = {name: x for name, x in whole.items() if name != "module.update_block.mask.2.bias"}
    other = {**whole, "module.fnet.conv1.weight": torch.zeros(32, 3, 7, 7)}
    bare = {name.removeprefix("module."): x for name, x in whole.items()}
    for tensors, fault in (
        (
            short,
            r"module\.update_block\.mask\.2\.bias is missing; fetch RAFT \(FlyingThings3D\) weights: raft-things",
        ),
        (other, r"module\.fnet\.conv1\.weight is float32 \[32, 3, 7, 7\] instead of float32 \[64, 3, 7, 7\]"),
        (bare, r"module\.fnet\.conv1\.weight is missing; .* and \d+ more"),
        ({**whole, "run": Path("x")}, "raft-things.pth"),
    ):
        torch.save(tensors, path)
        with pytest.raises(UserError, match=fault) as error:
            raft.load(path, FILE)
        assert "\n" not in str(error.value)
