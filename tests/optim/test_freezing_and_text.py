"""Named freezing rules and the small text encoder."""

import pytest
import torch

from ovi_lab.data.worlds import get_world
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.optim.freezing import FreezeRule
from ovi_lab.text import LearnedText

TOWER = {"dim": 32, "num_heads": 2, "num_layers": 2, "ffn_dim": 64, "text_len": 4, "text_dim": 8}


@pytest.fixture
def model():
    return TwinDiT({**TOWER, "in_dim": 4}, {**TOWER, "in_dim": 3, "patch_hidden_dim": 16})


def test_frozen_ffns_keep_everything_else(model):
    trained, total = FreezeRule(frozen=[r"\.ffn\."]).apply(model)
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(".ffn." in n for n in frozen)
    assert trained == total - sum(p.numel() for n, p in model.named_parameters() if ".ffn." in n)


def test_a_pattern_that_matches_nothing_is_refused(model):
    for pattern, message in (("fnn", "matches no parameter"), ("(", "regular expression")):
        with pytest.raises(UserError, match=message):
            FreezeRule(frozen=[pattern]).apply(model)


def test_the_worlds_words_do_not_share_rows():
    text = LearnedText(dim=8, rows=1024)
    words = get_world("bouncing_ball").vocabulary
    rows = [int(text.indices(w)[0]) for w in words]
    assert len(set(rows)) == len(set(words))


def test_captions_become_vectors_and_an_empty_one_none():
    text = LearnedText(dim=8, rows=64, max_words=3)
    vectors = text(["a red ball bounces", "", "ball"])
    assert [tuple(v.shape) for v in vectors] == [(3, 8), (0, 8), (1, 8)]
    assert torch.equal(text(["a red ball bounces"])[0], vectors[0])
    vectors[0].sum().backward()
    assert text.words.grad is not None
