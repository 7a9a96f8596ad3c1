"""Weights of the released layout: presets, what is refused and in which words, and what loading costs."""

import gzip
import json
import re
import resource
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers.forks import Fork, wait_for_all
from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO, tiny_batch, tiny_twin
from ovi_lab.checkpoints.presets import load_released, released_model, released_names
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.weights.fit import check_fit
from ovi_lab.weights.tensor_files import StoredTensor, TensorFiles

CONFIG = {"_target_": "ovi_lab.models.TwinDiT", "_partial_": True, "video": TINY_VIDEO, "audio": TINY_AUDIO}


@pytest.fixture(scope="module")
def twin():
    return tiny_twin(spread=0.1)


@pytest.fixture
def state(twin):
    return {name: tensor.clone() for name, tensor in twin.state_dict().items()}


def save_sharded(state, folder: Path, shards: int = 3) -> Path:
    names = list(state)
    parts = [names[i::shards] for i in range(shards)]
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    places = {}
    for file, part in zip(files, parts, strict=True):
        save_file({name: state[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def refusal(path, config=CONFIG) -> str:
    with pytest.raises(UserError) as error:
        load_released(path, config)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_presets_are_the_released_models(goldens):
    expected = json.loads((goldens / "resolution_prompts.json").read_text())["model_specs"]
    assert released_names() == sorted(f"ovi_{name}" for name in expected)
    for name, facts in expected.items():
        preset = released_model(f"ovi_{name}")
        assert preset.video_latent_frames == facts["video_latent_length"]
        assert preset.audio_latents == facts["audio_latent_length"]
        assert preset.area[0] * preset.area[1] == facts["video_area"]
        # the VAE keeps the first frame and folds four of the others each; 512 samples make a latent
        assert 4 * (preset.video_latent_frames - 1) + 1 == facts["frames"]
        assert 512 * preset.audio_latents == facts["audio_samples"]
    assert released_model("ovi_720x720_5s").audio_tag.format("rain") == "<AUDCAP>rain<ENDAUDCAP>"
    assert released_model("ovi_960x960_10s").audio_tag.format("rain") == "Audio: rain"


def test_the_presets_model_has_every_released_tensor(goldens):
    with torch.device("meta"):
        own = TwinDiT(**released_model("ovi_960x960_5s").model).state_dict()
    with gzip.open(goldens / "ovi_state_dict_keys.txt.gz", "rt") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines if not line.startswith("#")]
    released = {n: StoredTensor(tuple(json.loads(s)), "BF16", Path("model.safetensors")) for n, s in rows}
    check_fit(released, own, "the released file")
    del released["audio_model.head.head.bias"]
    with pytest.raises(UserError, match=r"lacks audio_model\.head\.head\.bias \(1 of 2073 missing\)"):
        check_fit(released, own, "the released file")


def test_an_unknown_preset_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(UserError, match="no released model; there are ovi_720x720_5s, "):
        released_model("ovi_1080p")
    preset = released_model("ovi_960x960_10s")
    assert preset.weights_file(tmp_path) is None
    (tmp_path / "Ovi").mkdir()
    for place in ("model_960x960_10s.safetensors", "Ovi/model_960x960_10s.safetensors.index.json"):
        (tmp_path / place).touch()
        assert preset.weights_file(tmp_path) == tmp_path / place


@pytest.mark.parametrize("form", ["file", "index", "folder", "name_of_shards"])
def test_what_was_written_is_loaded_to_the_bit(twin, state, tmp_path, form):
    if form == "file":
        path = tmp_path / "model.safetensors"
        save_file(state, path)
    else:
        index = save_sharded(state, tmp_path)
        path = {"index": index, "folder": tmp_path, "name_of_shards": tmp_path / "model.safetensors"}[form]
    loaded = load_released(path, CONFIG)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    batch = tiny_batch()
    with torch.no_grad():
        ours, theirs = loaded(**batch), twin(**batch)
    assert torch.equal(ours.video, theirs.video)
    assert torch.equal(ours.audio, theirs.audio)


def test_weights_come_in_the_requested_type(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    loaded = load_released(tmp_path / "model.safetensors", CONFIG, torch.bfloat16)
    assert all(torch.equal(t, state[name].bfloat16()) for name, t in loaded.state_dict().items())


def test_tensors_that_do_not_fit_are_named_and_counted(state, tmp_path):
    path = tmp_path / "model.safetensors"
    lacking = {n: t for n, t in state.items() if not n.startswith("video_model.head.")}
    save_file(lacking | {"extra.weight": torch.zeros(1)}, path)
    message = refusal(path)
    assert f"lacks video_model.head.modulation (3 of {len(state)} missing)" in message
    assert "has extra.weight (1 unknown)" in message
    save_file(state | {"audio_model.head.head.bias": torch.zeros(7)}, path)
    assert f"head.head.bias is [7], expected [3] (1 of {len(state)} tensors differ)" in refusal(path)
    save_file(state | {"audio_model.head.head.bias": torch.zeros(3, dtype=torch.int8)}, path)
    assert "audio_model.head.head.bias as I8 (1 such tensors)" in refusal(path)
    bare = {n.removeprefix("video_model."): t for n, t in state.items() if n.startswith("video_model.")}
    save_file(bare, path)
    assert "one bare tower, which init_from.video takes" in refusal(path)


def test_a_misfit_is_found_before_anything_is_read(state, tmp_path, monkeypatch):
    def read(*_):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(TensorFiles, "stream", read)
    save_file(state | {"extra.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert "extra.weight" in refusal(tmp_path / "model.safetensors")


def test_files_that_are_not_whole_are_refused(state, tmp_path):
    path = tmp_path / "model.safetensors"
    assert "no model weights at" in refusal(path)
    save_file(state, path)
    whole = path.read_bytes()
    for share in (0.0, 0.02, 0.6, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "not a whole safetensors file" in refusal(path)
    torch.save(state, tmp_path / "model.pth")
    assert "neither a .safetensors file" in refusal(tmp_path / "model.pth")


def test_an_index_that_does_not_hold_is_refused(state, tmp_path):
    index = save_sharded(state, tmp_path)
    content = json.loads(index.read_text())
    name, file = next(iter(content["weight_map"].items()))
    index.write_text(json.dumps({"weight_map": content["weight_map"] | {name: "../model.safetensors"}}))
    assert "not a file beside it" in refusal(index)
    other = next(f for f in content["weight_map"].values() if f != file)
    index.write_text(json.dumps({"weight_map": content["weight_map"] | {name: other}}))
    assert re.search(rf"{name} \(1 tensors differ from its index\)", refusal(index))
    index.write_text(json.dumps(content))
    (tmp_path / file).unlink()
    assert f"names {file}, which is missing" in refusal(index)
    index.write_text("{}")
    assert "no index of weights" in refusal(index)
    (tmp_path / "second.safetensors.index.json").write_text("{}")
    assert "name the one file" in refusal(tmp_path)


def print_growth(path: Path, config: dict, dtype: torch.dtype, small: Path) -> None:
    """Prints by how many bytes this process grows at most while it loads a model and touches its every page."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def watch() -> None:
        while not done.wait(0.002):
            peak.append(resident())

    load_released(small, CONFIG, dtype)  # what loading imports
    before, peak, done = resident(), [], threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    model = load_released(path, config, dtype)
    assert all(float(p.sum()) == float(p.sum()) for p in model.parameters())
    done.set()
    thread.join()
    print(max(*peak, resident()) - before)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.slow
def test_loading_takes_one_copy_of_memory(state, tmp_path, dtype):
    wide = {"dim": 768, "num_heads": 6, "num_layers": 3, "ffn_dim": 3072}
    config = {"video": TINY_VIDEO | wide, "audio": TINY_AUDIO | wide}
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in TwinDiT(**config).state_dict().items()}
    path, small = tmp_path / "model.safetensors", tmp_path / "small.safetensors"
    save_file({n: torch.full(s, 0.5) for n, s in shapes.items()}, path)
    save_file(state, small)
    size = path.stat().st_size
    assert size > 200e6
    (printed,) = wait_for_all([Fork(print_growth, path, config, dtype, small)])
    # not less than what the model itself holds, or nothing was measured
    held = size if dtype == torch.float32 else size / 2
    assert 0.9 * held < int(printed) < 1.2 * size
