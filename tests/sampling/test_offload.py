"""Parts come to the device and go again, and no number changes.

There is no second device with values in these tests. What a GPU sees is held in two ways: on the CPU, results are
bit-identical with every offload; on the meta device, where a forward pass fails as soon as one weight is elsewhere,
every weight is brought in time and none stays. Only a GPU can show the copy that runs beside the work.
"""

import numpy as np
import pytest
import torch
from torch import nn

from ovi_lab.errors import UserError
from ovi_lab.models import Given, TwinDiT
from ovi_lab.sampling.offload import OFFLOADS, BlockStream, Placement, networks

TOWER = {
    "dim": 24,
    "num_heads": 2,
    "num_layers": 3,
    "ffn_dim": 32,
    "text_len": 6,
    "text_dim": 8,
    "freq_dim": 16,
}


def make_model(**towers: object) -> TwinDiT:
    video, audio = {**TOWER, "in_dim": 4}, {**TOWER, "in_dim": 5, "patch_hidden_dim": 16}
    return TwinDiT(**{"video": video, "audio": audio, **towers}).eval().requires_grad_(False)


def inputs(device: str = "cpu") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"video": (1, 4, 2, 4, 4), "audio": (1, 7, 5), "text_video": (1, 6, 8), "text_audio": (1, 6, 8)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    made |= {"t_video": torch.tensor([500.0]), "t_audio": torch.tensor([500.0])}
    return {name: value.to(device) for name, value in made.items()}


def blocks_on_the_device(model: TwinDiT) -> list[list[bool]]:
    """Gets, before each block runs, which of the blocks are on the device; hooks of now come after those of before."""
    seen: list[list[bool]] = []
    for block in model.twin_blocks:
        block.register_forward_pre_hook(
            lambda *_: seen.append([devices(b) == {"meta"} for b in model.twin_blocks])
        )
    return seen


def devices(module: nn.Module) -> set[str]:
    return {t.device.type for t in [*module.parameters(), *module.buffers()]}


@pytest.mark.parametrize("offload", OFFLOADS)
@torch.no_grad()
def test_results_are_bit_identical(offload: str) -> None:
    model = make_model()
    alone = model(**inputs())
    with Placement("cpu", offload).working(model):
        out = model(**inputs())
    assert torch.equal(out.video, alone.video)
    assert torch.equal(out.audio, alone.audio)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("direction", ["bidirectional", "video_to_audio"])
@torch.no_grad()
def test_a_given_modality_s_work_is_kept_with_blocks_brought_one_by_one(direction: str) -> None:
    model, given = make_model(fusion={"direction": direction}), Given(video=np.ones((1, 2), bool))
    with Placement("meta", "blocks").working(model):
        batch = inputs("meta")
        latents, texts = ({m: batch[f"{of}{m}"] for m in ("video", "audio")} for of in ("", "text_"))
        kept = model.prepare_given(latents, texts, given)
        assert kept.keys() == {"video"}
        assert model(**{**batch, **kept}, given=given).audio.device.type == "meta"
    assert devices(model) == {"cpu"}


@pytest.mark.parametrize("offload", ["parts", "blocks"])
@torch.no_grad()
def test_every_weight_is_there_in_time_and_none_stays(offload: str) -> None:
    model = make_model()
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    with pytest.raises((RuntimeError, NotImplementedError)):
        model(**inputs("meta"))  # so the passes below prove that weights came
    for _ in range(2):
        with Placement("meta", offload).working(model):
            given = inputs("meta")
            given["text_video"] = model.prepare_text(given["text_video"], "video")  # blocks' layers alone
            assert model(**given, skip_layers=[1]).audio.device.type == "meta"
            only = {k: given[k] for k in ("audio", "t_audio", "text_audio")}
            assert model(**only).audio.device.type == "meta"  # one tower's blocks, not the pairs
    assert devices(model) == {"cpu"}
    for name, parameter in model.named_parameters():
        assert (id(parameter)) == before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_without_offload_parts_stay() -> None:
    part = nn.Linear(2, 2)
    with Placement("meta").working(part):
        assert devices(part) == {"meta"}
    assert devices(part) == {"meta"}
    with Placement("meta", True).working(part):
        pass
    assert devices(part) == {"meta"}  # it was there before


@torch.no_grad()
def test_one_block_at_a_time_in_order() -> None:
    model = make_model()
    stream = BlockStream(model.sharding_units(), torch.device("meta"))
    there = blocks_on_the_device(model)
    rest = [m for name, m in model.named_modules() if name and ".blocks" not in name and "_model." in name]
    for module in rest:
        module.to("meta")
    model(**inputs("meta"), skip_layers=[1])
    stream.close()
    assert stream.events == [("in", 0), ("out", 0), ("in", 2), ("out", 2)]
    assert there == [[True, False, False], [False, False, True]]


@torch.no_grad()
def test_a_block_that_raises_is_sent_away() -> None:
    model = make_model()
    placement = Placement("meta", "blocks")
    with pytest.raises((RuntimeError, NotImplementedError)), placement.working(model):
        model(**inputs("cpu"))  # latents that are not on the device
    assert devices(model) == {"cpu"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@torch.no_grad()
def test_a_single_tower_streams_its_own_blocks() -> None:
    model = make_model(video=None)
    assert model.sharding_units() == list(model.tower("audio").blocks)
    given = {k: v for k, v in inputs("meta").items() if "audio" in k}
    with Placement("meta", "blocks").working(model):
        assert model(**given).audio.shape == (1, 7, 5)
    assert devices(model) == {"cpu"}


def test_a_tied_weight_is_copied_once_and_stays_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 2)
            self.out = nn.Linear(2, 3, bias=False)
            self.out.weight = self.table.weight
            self.register_buffer("scale", torch.ones(2), persistent=False)

    tied = Tied()
    with Placement("meta", True).working(tied):
        assert tied.out.weight is tied.table.weight
        assert devices(tied) == {"meta"}
    assert tied.out.weight is tied.table.weight
    assert devices(tied) == {"cpu"}


def test_modules_that_are_not_registered_are_found() -> None:
    class Codec:
        def __init__(self) -> None:
            self.name, self.networks = "codec", (nn.Linear(2, 2), "no module")
            self.mel = nn.Linear(1, 1)

    codec = Codec()
    assert networks(codec) == [codec.networks[0], codec.mel]
    with Placement("meta", True).working(codec):
        assert devices(codec.mel) | devices(codec.networks[0]) == {"meta"}
    assert devices(codec.mel) | devices(codec.networks[0]) == {"cpu"}
    with pytest.raises(TypeError, match="Namespace is no module"):
        networks(__import__("argparse").Namespace(a=1))


def test_bad_words_and_too_little_memory_are_one_line() -> None:
    with pytest.raises(
        UserError, match="offload is 'disk'; expected true, false or one of none, parts, blocks"
    ):
        Placement("cpu", "disk")
    part = nn.Linear(2, 2)
    placement = Placement("meta", True)
    with (
        pytest.raises(UserError, match=r"not enough free memory .out of memory") as caught,
        placement.working(part),
    ):
        raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB\nmore lines")
    assert "\n" not in str(caught.value)
    assert devices(part) == {"cpu"}


@torch.no_grad()
def test_streamed_blocks_wait_where_they_were() -> None:
    model = make_model()
    assert networks(model) == [model]  # its pairs of blocks are in it already
    with Placement("meta", "blocks").working(model):
        assert [devices(block) for block in model.twin_blocks] == [{"cpu"}] * 3
        there = blocks_on_the_device(model)
        model(**inputs("meta"))
    assert there == [[index == at for index in range(3)] for at in range(3)]
