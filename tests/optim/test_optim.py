"""Optimisers and schedules against torch's own and against their definitions."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from ovi_lab.errors import UserError
from ovi_lab.optim import Muon, fused_where_possible, parameter_groups, warmup_flat_decay
from ovi_lab.optim.muon import orthogonalise


def test_orthogonalise_brings_singular_values_near_one():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 8, 8), (2, 16, 5), (2, 5, 16)):
        matrices = torch.randn(shape, generator=generator)
        result = orthogonalise(matrices)
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.5
        assert values.max() < 1.3
        # the singular vectors stay: U^T O V is diagonal, with a positive diagonal
        u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
        core = u.mT @ result @ vt.mT
        assert torch.allclose(core, torch.diag_embed(core.diagonal(dim1=-2, dim2=-1)), atol=1e-4)
        assert core.diagonal(dim1=-2, dim2=-1).min() > 0


def test_orthogonalise_does_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(1)
    matrices = torch.randn(4, 6, 9, generator=generator)
    alone = torch.stack([orthogonalise(m[None])[0] for m in matrices])
    assert torch.allclose(orthogonalise(matrices), alone, atol=1e-5)


def test_the_adamw_groups_are_torchs_adamw():
    torch.manual_seed(0)
    a = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    b, x, y = copy.deepcopy(a), torch.randn(16, 5), torch.randn(16, 3)
    ours = Muon(parameter_groups(a.named_parameters(), 0.1, muon=True), adamw_lr=1e-2, betas=(0.9, 0.95))
    theirs = torch.optim.AdamW(parameter_groups(b.named_parameters(), 0.1), lr=1e-2, betas=(0.9, 0.95))
    for _ in range(20):
        for model, optimizer in ((a, ours), (b, theirs)):
            optimizer.zero_grad()
            (model(x) - y).pow(2).mean().backward()
            optimizer.step()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_muon_learns_and_its_state_survives_a_checkpoint():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            for block in self.blocks:
                x = x + torch.tanh(block(x))
            return self.head(x)

    torch.manual_seed(0)
    model, x, y = Blocks(), torch.randn(32, 5), torch.randn(32, 3)
    groups = parameter_groups(model.named_parameters(), 0.0, muon=True)
    assert [g["use_muon"] for g in groups] == [True, False, False]
    assert all(p.shape == (5, 5) for p in groups[0]["params"])
    optimizer = Muon(groups)

    def step(m, o):
        o.zero_grad()
        loss = (m(x) - y).pow(2).mean()
        loss.backward()
        o.step()
        return float(loss.detach())

    losses = [step(model, optimizer) for _ in range(60)]
    assert losses[-1] < 0.75 * losses[0]
    other = copy.deepcopy(model)
    resumed = Muon(parameter_groups(other.named_parameters(), 0.0, muon=True))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [step(model, optimizer) for _ in range(5)] == [step(other, resumed) for _ in range(5)]


def test_muon_refuses_what_is_not_a_matrix():
    with pytest.raises(UserError, match="matrices only"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "use_muon": True}])


def test_schedule_warms_up_stays_and_falls():
    factor = warmup_flat_decay(100, warmup_steps=10, flat_until=0.7, final=0.02)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == factor(50) == factor(70) == 1.0
    assert factor(85) == pytest.approx(0.51)
    assert factor(100) == factor(1000) == pytest.approx(0.02)
    assert warmup_flat_decay(100)(99) == 1.0


@pytest.mark.parametrize("wrong", [{"flat_until": 1.5}, {"warmup_steps": -1}, {"final": -0.1}])
def test_schedule_refuses_nonsense(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        warmup_flat_decay(100, **wrong)


def test_adamw_is_fused_on_gpus_alone_and_where_nothing_else_is_asked_for():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    adamw = partial(torch.optim.AdamW, lr=1e-3)
    assert fused_where_possible(adamw, cuda).keywords == {"lr": 1e-3, "fused": True}
    assert fused_where_possible(adamw, cpu) is adamw
    assert fused_where_possible(Muon, cuda) is Muon
    chosen = partial(adamw, foreach=True)
    assert fused_where_possible(chosen, cuda) is chosen
