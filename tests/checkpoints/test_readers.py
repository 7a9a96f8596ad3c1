"""One reader behind starting a run, exporting and sampling: prefixes, quantised weights, archives that unfold."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from helpers.exports import exported
from helpers.run_folders import same
from ovi_lab.adapters import add_lora, load_adapter, save_adapter
from ovi_lab.checkpoints.init_from import find_beginning, initialise_from
from ovi_lab.checkpoints.presets import load_released, released_model
from ovi_lab.errors import UserError
from ovi_lab.export.export import export_run
from ovi_lab.models import TwinDiT
from ovi_lab.weights.torch_files import load_plain

TOWER = {
    "dim": 16, "ffn_dim": 16, "num_heads": 2, "num_layers": 1, "freq_dim": 16, "text_len": 4, "text_dim": 8,
}  # fmt: skip
SETTINGS = {
    "video": {**TOWER, "in_dim": 4, "patch_size": [1, 1, 1]},
    "audio": {**TOWER, "in_dim": 3, "patch_kernel_size": 1, "patch_hidden_dim": 0},
}
LAYER = "video_model.blocks.0.self_attn.q"


@pytest.fixture(scope="session")
def weights():
    return TwinDiT(**SETTINGS).state_dict()


@pytest.fixture
def save(tmp_path):
    """Writes tensors under a file name, with the model's configuration beside it."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": SETTINGS}))

    def write(name, tensors) -> Path:
        (torch.save if name.endswith(".pt") else save_file)(tensors, tmp_path / name)
        return tmp_path / name

    return write


PREFIXES = (
    "model.", "module.", "_orig_mod.", "diffusion_model.", "model.diffusion_model.", "state_dict.",
    "state_dict.model._orig_mod.", "module.model._orig_mod.",
)  # fmt: skip


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_taken_off_alike(prefix, name, save, weights, tmp_path):
    path = save(name, {prefix + key: value for key, value in weights.items()})
    twin = TwinDiT(**SETTINGS, init_seed=1)
    assert initialise_from(twin, None, path) == []
    assert same(twin.state_dict(), weights)
    assert same(exported(path, tmp_path / "out")[0], weights)
    if name == "w.safetensors":
        assert same(load_released(path, SETTINGS).state_dict(), weights)


def test_a_bare_tower_comes_under_prefixes_too(save, weights):
    bare = {
        key.removeprefix("video_model."): v for key, v in weights.items() if key.startswith("video_model.")
    }
    path = save("wan.safetensors", {f"model.diffusion_model.{key}": value for key, value in bare.items()})
    twin = TwinDiT(**SETTINGS, init_seed=1)
    initialise_from(twin, None, {"video": path})
    assert torch.equal(twin.state_dict()[f"{LAYER}.weight"], weights[f"{LAYER}.weight"])
    with pytest.raises(UserError, match=r"init_from\.video"):
        export_run(path, path.parent / "out")


def quantised(weights):
    name, one = f"{LAYER}.weight", torch.ones(1)
    fp8 = weights | {name: weights[name].to(torch.float8_e4m3fn)}
    yield fp8  # without scales
    scaled = (f"{LAYER}.scale_weight", f"{LAYER}.scale_input", f"{LAYER}.weight_scale", "scaled_fp8")
    yield from (fp8 | {scale: one} for scale in scaled)
    yield weights | {name: weights[name].to(torch.int8), f"{LAYER}.SCB": torch.ones(16)}
    packed = torch.zeros(128, 1, dtype=torch.uint8)
    yield weights | {name: packed, f"{name}.absmax": one, f"{name}.quant_map": torch.ones(16)}
    yield weights | {"comfy_quant": torch.zeros(4, dtype=torch.uint8)}  # weights of a plain type, marked
    yield weights | {f"{LAYER}.scale_weight": one}


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_quantised_weights_are_refused_by_all(name, save, weights, tmp_path):
    with torch.device("meta"):
        twin = TwinDiT(**SETTINGS)
    for number, tensors in enumerate(quantised(weights)):
        prefix = "model.diffusion_model." if number % 2 else ""
        path = save(name, {prefix + key: value for key, value in tensors.items()})
        refused = [(find_beginning, twin, path), (find_beginning, twin, {"video": path})]
        refused.append((export_run, path, tmp_path / "out"))
        if name == "w.safetensors":
            refused.append((load_released, path, SETTINGS))
        for attempt, *arguments in refused:
            with pytest.raises(UserError, match="quantised weights need their own loader"):
                attempt(*arguments)


def test_what_is_beside_the_model_is_not_lost_silently(save, weights):
    path = save("w.safetensors", weights | {"video_model.blocks.0.extra": torch.ones(1)})
    with pytest.raises(UserError, match=r"has video_model.blocks.0.extra"):
        find_beginning(TwinDiT(**SETTINGS), path)
    bare = {key.removeprefix("video_model."): value for key, value in weights.items()}
    with pytest.raises(UserError, match="beside the towers"):
        find_beginning(TwinDiT(**SETTINGS), save("comfyui.safetensors", bare))


class _Runs:
    def __reduce__(self):
        return (exec, ("open('marker', 'w')",))


def archive(path, pickled, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in (("a/data.pkl", pickled), ("a/byteorder", b"little"), ("a/version", b"3\n")):
            file.writestr(name, content)
    return path


def test_archives_hold_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    itself: dict = {}
    itself["a"] = itself
    nested = pickle.dumps(1, 2)[:-1]
    makers = [
        lambda: torch.save({"a": torch.zeros(1).expand(10**12)}, path),
        lambda: torch.save({"a": torch.zeros(3).to_sparse()}, path),
        lambda: torch.save({"a": torch.empty(3, device="meta")}, path),
        lambda: torch.save({"a": torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)])}, path),
        lambda: torch.save([torch.zeros(1)], path),
        lambda: archive(path, pickle.dumps({"a": _Runs()}, 2)),
        lambda: archive(path, pickle.dumps({"a": 1}, 2), compression=zipfile.ZIP_DEFLATED),
        lambda: archive(path, b"\x80\x02" + b"(" * 10**5 + b"."),
        lambda: archive(path, b""),
        lambda: archive(path, nested),
        lambda: path.write_bytes(b"PK\x03\x04" + b"\x00" * 100),
        lambda: path.write_bytes(pickle.dumps({"a": 1})),
    ]
    for make in makers:
        make()
        with pytest.raises(UserError) as found:
            load_plain(path)
        assert "\n" not in str(found.value)
    assert not (tmp_path / "marker").exists()
    torch.save(itself, path)
    assert load_plain(path).keys() == {"a"}  # a dictionary in itself ends too
    archive(path, b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * 5000 + b"a" * 4999 + b"s.")
    assert load_plain(path).keys() == {"a"}  # and lists in lists do


def test_an_adapters_expressions_are_not_run(tmp_path):
    twin = TwinDiT(**SETTINGS)
    add_lora(twin, {"rank": 2})
    save_adapter(twin, tmp_path / "a.safetensors", {"rank": 2, "targets": ["(a|a|aa)+$", "((.*)*)*x"]})
    load_adapter(TwinDiT(**SETTINGS), tmp_path / "a.safetensors")
    state = {"video_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 16)}
    for settings in ("[" * 5000, "[]", json.dumps({"rank": 10**12}), json.dumps({"rank": 2, "targets": 5})):
        save_file(state, tmp_path / "b.safetensors", {"ovi_lab.lora": settings})
        with pytest.raises(UserError):
            load_adapter(TwinDiT(**SETTINGS), tmp_path / "b.safetensors")


PRESET = {
    "file": "Ovi/model.safetensors", "model": SETTINGS, "video_latent_frames": 3, "audio_latents": 5, "area": [64, 64],
    "fps": 24, "sample_rate": 16000, "audio_tag": "Audio: {}",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../model.safetensors"}, {"file": "/etc/model.safetensors"}, {"file": ""}, {"file": 3},
        {"model": {"_target_": "os.system", "command": "touch marker"}}, {"model": "ovi_11b"},
        {"model": {**SETTINGS, "fusion": {"_target_": "os.system"}}},
        {"audio_tag": "{0.__class__}"}, {"audio_tag": "no place"}, {"area": [10**9, 64]}, {"area": [64]},
        {"video_latent_frames": 10**9}, {"audio_latents": True}, {"fps": float("nan")}, {"sample_rate": 10**12},
        {"text_encoder": {"num_layers": 10**9}}, {"text_encoder": {"_target_": "x"}}, {"video_codec": [1]},
        {"audio_codec": {"hidden": 10**12}}, {"surprise": 1},
    ],
)  # fmt: skip
def test_an_untrusted_preset_is_plain_and_bounded(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(PRESET))
    assert released_model(tmp_path).area == (64, 64)
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(PRESET | change))
    with pytest.raises(UserError) as found:
        released_model(tmp_path)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "marker").exists()


def test_references_stay_text_in_a_preset(tmp_path, monkeypatch):
    monkeypatch.setenv("OVI_SECRET", "s3cret")
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(PRESET | {"name": "${oc.env:OVI_SECRET}"}))
    assert released_model(tmp_path).name == "${oc.env:OVI_SECRET}"
