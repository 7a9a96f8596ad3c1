"""The published video tower, without the twin model's names, as what a run begins from."""

import json

import pytest
import torch
from safetensors.torch import save_file

from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO, tiny_batch, tiny_twin
from ovi_lab.checkpoints.init_from import find_beginning, initialise_from, is_fusion_parameter
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT


@pytest.fixture
def tower():
    """A video tower by itself, every parameter in use."""
    model = TwinDiT(TINY_VIDEO, None, init_seed=5)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def published(tower) -> dict[str, torch.Tensor]:
    """The tower's tensors as Wan2.2 publishes them."""
    state = {n.removeprefix("video_model."): t for n, t in tower.state_dict().items()}
    return {n.replace(".modulation.modulation", ".modulation"): t for n, t in state.items()}


def save(state, folder, form):
    if form == "file":
        path = folder / "diffusion_pytorch_model.safetensors"
        save_file(state, path)
        return path
    names = sorted(state)
    places = {
        name: f"diffusion_pytorch_model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)
    }
    for file in set(places.values()):
        save_file({n: state[n] for n in names if places[n] == file}, folder / file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return index if form == "index" else folder


@pytest.mark.parametrize("form", ["file", "index", "folder"])
def test_the_video_tower_is_set_and_nothing_else(tower, tmp_path, form):
    state = published(tower)
    assert "blocks.0.modulation" in state
    assert "head.modulation" in state
    source = save(state, tmp_path, form)
    twin, before = tiny_twin(spread=0.1), tiny_twin(spread=0.1).state_dict()
    left = initialise_from(twin, None, {"video": source})
    given = tower.state_dict()
    for name, tensor in twin.state_dict().items():
        assert torch.equal(tensor, given.get(name, before[name]))
    assert set(left) == {n for n in before if n not in given}
    assert all(is_fusion_parameter(n) for n in left if n.startswith("video_model."))
    batch = tiny_batch()
    alone = {key: batch[key] for key in ("video", "t_video", "text_video")}
    with torch.no_grad():
        assert torch.equal(twin(**alone).video, tower(**alone).video)


def test_what_is_no_such_tower_is_refused(tower, tmp_path):
    state = published(tower)
    twin = tiny_twin()
    source = save(state, tmp_path, "file")
    with pytest.raises(UserError, match=r"holds no audio_model\.\* weights"):
        initialise_from(twin, None, {"audio": source})
    with pytest.raises(UserError, match=r"as init_from\.video"):
        initialise_from(twin, None, str(source))
    save(state | {"blocks.0.attn1.to_q.weight": torch.zeros(1)}, tmp_path, "file")
    with pytest.raises(UserError, match=r"video_model\.blocks\.0\.attn1\.to_q\.weight, which this model"):
        initialise_from(twin, None, {"video": source})
    save({n: t for n, t in state.items() if n != "head.modulation"}, tmp_path, "file")
    with pytest.raises(UserError, match=r"gives no video_model\.head\.modulation \(1 parameters missing\)"):
        initialise_from(twin, None, {"video": source})
    save(state, tmp_path, "file")
    with pytest.raises(UserError, match="does not fit this model"):
        initialise_from(TwinDiT(TINY_VIDEO | {"ffn_dim": 64}, TINY_AUDIO), None, {"video": source})
    source.write_bytes(source.read_bytes()[:-9])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        initialise_from(twin, None, {"video": source})


@pytest.mark.parametrize("form", ["published", "run"])
def test_the_audio_tower_begins_with_the_video_towers_blocks(tower, tmp_path, form):
    state = published(tower) if form == "published" else dict(tower.state_dict())
    source = save(state, tmp_path, "file")
    twin, before = tiny_twin(spread=0.1), tiny_twin(spread=0.1).state_dict()
    left = initialise_from(twin, None, {"audio_from_video": source})
    theirs = {n.replace("video_model.", "audio_model."): t for n, t in tower.state_dict().items()}
    own = (".patch_embedding.", ".head.")
    taken = {n: t for n, t in theirs.items() if not any(part in n for part in own)}
    assert sum(".blocks." in name for name in taken) > 50
    for name, tensor in twin.state_dict().items():
        assert torch.equal(tensor, taken.get(name, before[name]))
    assert set(left) == set(before) - set(taken)
    note = find_beginning(twin, {"audio_from_video": source}).note
    assert f"begins with {len(taken)} of the video tower's parameters" in note
    assert note.endswith("its own initial values have patch_embedding, fusion, head")


def test_a_video_tower_of_another_size_gives_the_audio_tower_nothing(tower, tmp_path):
    state = published(tower)
    source, narrow = save(state, tmp_path, "file"), TINY_AUDIO | {"dim": 32, "num_heads": 1}
    with pytest.raises(
        UserError, match=r"blocks\.0\.\S+ is \[.*64.*\] in the video tower and \[.*32.* one width"
    ):
        initialise_from(TwinDiT(TINY_VIDEO, narrow), None, {"audio_from_video": source})
    source = save({n: t for n, t in state.items() if not n.startswith("blocks.2.")}, tmp_path, "file")
    with pytest.raises(UserError, match=r"blocks\.2\.\S+ is not in the video tower"):
        initialise_from(tiny_twin(), None, {"audio_from_video": source})


def test_two_beginnings_of_the_audio_tower_and_one_without_a_video_tower_are_refused(tower, tmp_path):
    source = save(published(tower), tmp_path, "file")
    with pytest.raises(UserError, match="both set the audio tower"):
        initialise_from(tiny_twin(), None, {"audio": source, "audio_from_video": source})
    sound = {n: t for n, t in tiny_twin().state_dict().items() if n.startswith("audio_model.")}
    source = save(sound, tmp_path, "file")
    with pytest.raises(UserError, match="it is not a video tower"):
        initialise_from(tiny_twin(), None, {"audio_from_video": source})
