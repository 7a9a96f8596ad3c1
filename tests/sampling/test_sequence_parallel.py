"""One clip over two processes: the latents of one process, whatever the number of tokens."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from helpers.forks import ranks, wait_for_all
from helpers.twin_goldens import (
    begun_with,
    golden_twin,
    hold_the_golden,
    read_golden,
    sampled_golden,
    tiny_twin,
)
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, noise_batch, sample
from ovi_lab.models.sequence_parallel import SequenceGroup, sequence_group, sequence_parallel
from ovi_lab.models.tower import Tokens

# Latents of one clip: 4 x 2 x 2 and 10 tokens divide by two; 5 x 3 x 1 and 9 do not, nor does a single one.
EVEN = {"video": (4, 4, 4, 4), "audio": (10, 3)}
ODD = {"video": (4, 5, 6, 2), "audio": (9, 3)}
ONE = {"video": (4, 2, 2, 2), "audio": (1, 3)}

CASES: dict[str, dict[str, Any]] = {
    "t2av": {"shapes": EVEN},
    "i2av": {"shapes": EVEN, "first_frame": True},
    "t2av, odd": {"shapes": ODD},
    "i2av, odd": {"shapes": ODD, "first_frame": True},
    "i2av, odd, passes apart, a block skipped": {
        "shapes": ODD,
        "first_frame": True,
        "skip_layers": [1],
        "batch_passes": False,
    },
    "one audio token": {"shapes": ONE},
    "video alone": {"shapes": {"video": ODD["video"]}},
    "audio alone": {"shapes": {"audio": ODD["audio"]}},
    "padding merged, one opening, nothing cached": {"shapes": ODD, "long_texts": True, "cache_text": False},
    "i2av, odd, one opening": {"shapes": ODD, "first_frame": True, "long_texts": True},
    "one direction": {"shapes": ODD, "fusion": {"direction": "audio_to_video", "blocks": [0, 2]}},
    "key masks": {"shapes": ODD, "key_masks": True},
    "bfloat16": {"shapes": ODD, "dtype": torch.bfloat16},
}


def with_mask(_tower: Any, _args: Any, tokens: Tokens) -> Tokens:
    """Keys masked as where clips are padded."""
    B, L, _ = tokens.x.shape
    return dataclasses.replace(tokens, mask=torch.ones(B, 1, 1, L, dtype=torch.bool))


def made(group: SequenceGroup, case: dict[str, Any], steps: int = 3) -> dict[str, Tensor]:
    """The latents of two clips, guided, on the processes of `group`."""
    settings = dict(case)
    shapes, fusion = settings.pop("shapes"), settings.pop("fusion", None)
    model = tiny_twin(spread=0.1, fusion=fusion).to(settings.pop("dtype", torch.float32))
    if settings.pop("long_texts", False):
        model.shares_opening = True
        for modality in model.tower_configs:
            model.tower(modality).merges_padding = True
    if settings.pop("key_masks", False):
        for modality in model.tower_configs:
            model.tower(modality).register_forward_hook(with_mask)
    g = torch.Generator().manual_seed(0)
    text, negative = ([torch.randn(n, 10, generator=g) for n in lengths] for lengths in ((6, 2), (1, 5)))
    noise = {m: noise_batch([1, 2], shape, m) for m, shape in shapes.items()}
    begin = {}
    if settings.pop("first_frame", False):
        begin = begun_with(torch.randn(2, 4, 1, *shapes["video"][2:], generator=g), noise["video"])
    with sequence_parallel(model, group):
        out = sample(
            model,
            noise,
            Texts(text, negative, negative),
            SamplerSettings(steps=steps, video_guidance=4.0, audio_guidance=3.0, **settings),
            **begin,
        )
    return {m: x for m in ("video", "audio") if (x := getattr(out, m)) is not None}


def golden_i2av(group: SequenceGroup, goldens: Path) -> dict[str, Tensor]:
    """The released loop's stored case, its first frame given, guided, a block skipped."""
    model, x = golden_twin(goldens), read_golden(goldens / "sampling_tiny.safetensors")[0]
    with sequence_parallel(model, group):
        return sampled_golden(model, x)


def refused(call: Any) -> str:
    """The one line with which `call` is refused."""
    try:
        call()
    except UserError as error:
        return str(error)
    return "nothing was refused"


def work(folder: str, goldens: str) -> None:
    """What each of the two processes does: all cases, results in a file of its own."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
    rank = dist.get_rank()
    group = sequence_group(2)
    results: dict[str, Any] = {name: made(group, case) for name, case in CASES.items()}
    results["golden"] = golden_i2av(group, Path(goldens))
    alone = sequence_group(1)
    results["places"] = [(g.rank, g.size, g.index, g.count) for g in (group, alone)]

    model = tiny_twin(spread=0.1)
    video, text = noise_batch([rank], EVEN["video"], "video"), [torch.ones(2, 10)]

    def different_noise() -> None:
        with sequence_parallel(model, group):
            sample(model, {"video": video}, Texts(text), SamplerSettings(steps=1))

    def twice() -> None:
        with sequence_parallel(model, group), sequence_parallel(model, group):
            pass

    results["different noise"] = refused(different_noise)
    results["twice"] = refused(twice)
    # See tests/models/test_sequence_training.py for their values.
    with sequence_parallel(model, group):
        out = model(noise_batch([7], EVEN["video"], "video"), t_video=torch.tensor(1.0), text_video=text)
    results["passes gradients"] = out.video.requires_grad
    # Outside, the model predicts by itself again: the other process takes no part in this.
    if rank == 0:
        with torch.no_grad():
            results["after"] = model(video, t_video=torch.tensor(1.0), text_video=text).video
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> list[dict[str, Any]]:
    """What each of two processes made."""
    folder = tmp_path_factory.mktemp("two")
    wait_for_all(ranks(work, str(folder), str(goldens)))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


ALONE = SequenceGroup(0, 1, 0, 1, None)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_two_processes_make_the_latents_of_one(together: list[dict[str, Any]], name: str) -> None:
    expected = made(ALONE, CASES[name])
    bf16 = CASES[name].get("dtype") == torch.bfloat16
    for rank in (0, 1):
        assert together[rank][name].keys() == expected.keys()
        for modality, want in expected.items():
            got = together[rank][name][modality]
            assert got.shape == want.shape
            if bf16:
                assert float((got - want).norm() / want.norm()) < 3e-2
            else:
                torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
            assert torch.equal(got, together[0][name][modality])


@pytest.mark.slow
def test_two_processes_hold_the_golden(together: list[dict[str, Any]], goldens: Path) -> None:
    x = read_golden(goldens / "sampling_tiny.safetensors")[0]
    hold_the_golden(together[1]["golden"], x)


@pytest.mark.slow
def test_groups_of_processes(together: list[dict[str, Any]]) -> None:
    assert together[0]["places"] == [(0, 2, 0, 1), (0, 1, 0, 2)]
    assert together[1]["places"] == [(1, 2, 0, 1), (0, 1, 1, 2)]
    assert sequence_group(1) == ALONE


@pytest.mark.slow
def test_what_two_processes_refuse_and_pass(together: list[dict[str, Any]]) -> None:
    for results in together:
        assert "were given different noise" in results["different noise"]
        assert "already on, over 2 processes" in results["twice"]
        assert results["passes gradients"]


@pytest.mark.slow
def test_the_model_is_left_as_it_was(together: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        model = tiny_twin(spread=0.1)
        video = noise_batch([0], EVEN["video"], "video")
        own = model(video, t_video=torch.tensor(1.0), text_video=[torch.ones(2, 10)]).video
    assert torch.equal(together[0]["after"], own)


def test_what_is_refused_before_anything_is_exchanged() -> None:
    with pytest.raises(UserError, match=r"sequence_parallel is 2 with 1 process; .*--nproc-per-node=2"):
        sequence_group(2)
    with pytest.raises(UserError, match="expected a whole number of at least 1"):
        sequence_group(0)
    model = tiny_twin()
    three = SequenceGroup(0, 3, 0, 1, None)
    with (
        pytest.raises(UserError, match="the video tower has 2 attention heads"),
        sequence_parallel(model, three),
    ):
        pass
    assert model.sharding is None
