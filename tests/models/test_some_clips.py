"""Predictions of some clips of a batch: the same as of all, and no work on the others past what is read of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import tiny_batch, tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.models.given import Mask

BOTH: tuple[Modality, ...] = ("video", "audio")
CLIPS = 6


def given_of(batch: dict[str, Any]) -> Given:
    """Two clips with their picture given, one with its sound, one with a beginning, one without a picture."""
    lengths = {m: [x.shape[1 if m == "video" else 0] for x in batch[m]] for m in BOTH}
    masks = {m: np.zeros((CLIPS, max(own)), bool) for m, own in lengths.items()}
    masks["video"][1, : lengths["video"][1]] = True
    masks["video"][3, : lengths["video"][3]] = True
    masks["audio"][2, : lengths["audio"][2]] = True
    masks["video"][4, :2], masks["audio"][4, :5] = True, True
    return Given(**masks, no_video=np.arange(CLIPS) == 5)


def wanted_of(given: Given, batch: dict[str, Any]) -> dict[Modality, Mask]:
    found: dict[Modality, Mask] = {}
    for m in BOTH:
        scored = given.scored(m, [x.shape[1 if m == "video" else 0] for x in batch[m]])
        assert scored is not None
        found[m] = scored.any(axis=1)
    assert {m: own.tolist() for m, own in found.items()} == {
        "video": [True, False, True, False, True, False],
        "audio": [True, True, False, True, True, True],
    }
    return found


def ragged(batch: dict[str, Any]) -> dict[str, Any]:
    """Clips of two lengths, as lists."""
    short = {m: list(batch[m]) for m in BOTH}
    for i in (0, 2, 3):
        short["video"][i] = short["video"][i][:, :3]
        short["audio"][i] = short["audio"][i][:7]
    return batch | short


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("tensors", {}),
        ("lists", {}),
        ("tensors", {"activation_checkpointing": "full"}),
        ("tensors", {"fusion": {"direction": "audio_to_video"}}),
        ("lists", {"rope": {"mode": "learned"}}),
    ],
)
def test_predictions_and_gradients_are_those_of_the_whole_batch(form: str, settings: dict[str, Any]) -> None:
    model: TwinDiT = tiny_twin(spread=0.2, **settings)
    batch = tiny_batch(batch=CLIPS)
    batch = ragged(batch) if form == "lists" else batch
    given = given_of(batch)
    wanted = wanted_of(given, batch)

    def outcome(**how: Any) -> tuple[dict[Modality, list[Tensor]], dict[str, Tensor]]:
        out = model(**batch, given=given, **how)
        model.zero_grad()
        made = {m: list(getattr(out, m)) for m in BOTH}
        total = sum(made[m][i].square().mean() for m in BOTH for i in np.flatnonzero(wanted[m]))
        assert isinstance(total, Tensor)
        total.backward()
        return made, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    all_made, all_gradients = outcome()
    made, gradients = outcome(wanted=wanted)
    for m in BOTH:
        assert [x.shape for x in made[m]] == [x.shape for x in all_made[m]]
        for i, is_wanted in enumerate(wanted[m]):
            if is_wanted:
                torch.testing.assert_close(made[m][i], all_made[m][i], atol=2e-6, rtol=0)
            else:
                assert not made[m][i].any()
    assert gradients.keys() == all_gradients.keys()
    for name, gradient in gradients.items():
        bound = 2e-6 * float(all_gradients[name].abs().max()) + 1e-9
        torch.testing.assert_close(gradient, all_gradients[name], atol=bound, rtol=1e-5)


def test_the_last_feed_forward_sees_no_other_clips() -> None:
    model = tiny_twin()
    batch = tiny_batch(batch=CLIPS)
    seen: dict[str, list[int]] = {m: [] for m in BOTH}
    for m in BOTH:
        for block in model.tower(m).each_block():
            block.ffn.register_forward_hook(lambda _, args, __, m=m: seen[m].append(len(args[0])))
    given = given_of(batch)
    model(**batch, given=given, wanted=wanted_of(given, batch))
    assert seen["video"][-1] == 3
    assert seen["audio"][-1] == 5
    assert set(seen["video"][:-1]) == set(seen["audio"][:-1]) == {CLIPS}


@pytest.mark.parametrize(
    "wanted", [{}, {"video": None}, {"video": np.ones(CLIPS, bool)}, {"video": np.zeros(CLIPS, bool)}]
)
def test_all_or_none_wanted_is_the_plain_pass(wanted: dict[str, Any]) -> None:
    """Of none too, so that every parameter has a gradient under every strategy."""
    model, batch = tiny_twin(spread=0.2), tiny_batch(batch=CLIPS)
    plain, own = model(**batch), model(**batch, wanted=wanted)
    assert torch.equal(plain.video, own.video)
    assert torch.equal(plain.audio, own.audio)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"which predictions are wanted is marked for \[5\] clips; expected \[6\]"
    ):
        tiny_twin()(**tiny_batch(batch=CLIPS), wanted={"audio": np.ones(5, bool)})
