"""Untrusted checkpoints: nothing that they name is run or followed, and what contradicts itself is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from helpers.run_parts import load_run
from ovi_lab.checkpoints import Checkpoint, initialise_from
from ovi_lab.checkpoints.folder import FORMAT
from ovi_lab.checkpoints.lightning_io import facts_of
from ovi_lab.codecs import LatentCodec
from ovi_lab.codecs.pair import default_codec
from ovi_lab.errors import UserError
from ovi_lab.export.cli import main as export
from ovi_lab.models import TwinDiT
from ovi_lab.text import LearnedText

TOWER = {
    "dim": 16, "ffn_dim": 16, "num_heads": 2, "num_layers": 2, "freq_dim": 16, "text_len": 4, "text_dim": 8,
}  # fmt: skip
MODEL = {
    "_target_": "ovi_lab.models.TwinDiT",
    "_partial_": True,
    "_convert_": "all",
    "video": {**TOWER, "in_dim": 24, "patch_size": [1, 1, 1]},
    "audio": {**TOWER, "in_dim": 12, "patch_kernel_size": 1, "patch_hidden_dim": 0},
}
TEXT = {"_target_": "ovi_lab.text.LearnedText", "_partial_": True, "dim": 8, "rows": 16, "max_words": 4}
SHAPES = {"video": [24, 4, 2, 2], "audio": [20, 12]}
CONFIG = {"name": "theirs", "seed": 0, "model": MODEL, "text": TEXT, "latent_shapes": SHAPES}
SETTINGS = {key: value for key, value in MODEL.items() if not key.startswith("_")}


def listed(folder: Path) -> None:
    (folder / "checkpoint.json").unlink(missing_ok=True)
    files = {file.name: facts_of(file) for file in sorted(folder.iterdir())}
    (folder / "checkpoint.json").write_text(json.dumps({"format": FORMAT, "step": 3, "files": files}))


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """A whole small checkpoint, which no test changes."""
    folder = tmp_path_factory.mktemp("theirs") / "step_000003"
    folder.mkdir()
    save_file(TwinDiT(**SETTINGS).state_dict(), folder / "model.safetensors")
    save_file(LearnedText(8, 16, 4).state_dict(), folder / "text_encoder.safetensors")
    codec = default_codec(8, 8000)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (8, 8, 16, 16, 3), dtype=torch.uint8, generator=generator)
    codec.fit([(frames, torch.randn(8, 8000, generator=generator).clamp(-1, 1))])
    codec.save(folder / "codec.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    listed(folder)
    return folder


@pytest.fixture
def theirs(whole, tmp_path) -> Path:
    """A copy of it to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "step_000003"))


def configured(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text)
    listed(folder)
    return folder


def with_settings(folder: Path, **changes) -> Path:
    return configured(folder, yaml.safe_dump(CONFIG | changes))


def refusal(load, *arguments) -> str:
    with pytest.raises(UserError) as found:
        load(*arguments)
    assert "\n" not in str(found.value)
    return str(found.value)


def exported(folder: Path, tmp_path: Path, capsys) -> str:
    assert export([str(folder), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    return said


@pytest.mark.slow
def test_a_whole_one_is_loaded(whole, tmp_path):
    assert load_run(whole).formats.shapes == {"video": (24, 4, 2, 2), "audio": (20, 12)}
    assert export([str(whole), "--out", str(tmp_path / "out")]) == 0


EVIL = {"_target_": "os.system", "command": "touch {marker}"}
NODES = {
    "model": EVIL,
    "with arguments": {"_target_": "builtins.exec", "_args_": ["open('{marker}', 'w')"]},
    "nested": MODEL | {"fusion": EVIL},
    "in a tower": MODEL | {"video": MODEL["video"] | {"dim": EVIL}},
    "in a list": MODEL | {"video": MODEL["video"] | {"patch_size": [EVIL, 1, 1]}},
    "arguments": MODEL | {"_args_": [EVIL]},
    "a method of ours": MODEL | {"_target_": "ovi_lab.export.export.shutil.rmtree"},
}


@pytest.mark.parametrize("node", NODES)
def test_no_name_in_a_configuration_is_run(node, theirs, tmp_path, capsys):
    marker = tmp_path / "marker"
    model = json.loads(json.dumps(NODES[node]).replace("{marker}", str(marker)))
    with_settings(theirs, model=model)
    refusal(load_run, theirs)
    exported(theirs, tmp_path, capsys)
    assert not marker.exists()


@pytest.mark.parametrize("part", ["text", "codec", "data", "task", "optim"])
def test_nor_is_one_beside_the_model(part, theirs, tmp_path):
    marker = tmp_path / "marker"
    with_settings(theirs, **{part: EVIL | {"command": f"touch {marker}"}})
    if part == "text":
        assert "text._target_ is os.system, refused" in refusal(load_run, theirs)
    else:
        load_run(theirs)  # what is not needed is not looked at
    initialise_from(TwinDiT(**SETTINGS), None, theirs)
    assert not marker.exists()


def test_no_path_in_a_configuration_is_followed(theirs, tmp_path):
    text = {"_target_": "ovi_lab.text.UMT5Text", "weights": "/dev/zero", "tokenizer": str(tmp_path)}
    with_settings(theirs, text=text, codec="/dev/zero", data={"root": "/proc"})
    assert "whose files it does not hold" in refusal(load_run, theirs)
    # named by the user, they are still not of this checkpoint
    files = {"weights": "/dev/zero", "tokenizer": str(tmp_path)}
    assert "contradicts itself" in refusal(load_run, theirs, files)


def test_references_stay_text_in_a_configuration(theirs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OVI_SECRET", "s3cret")
    with_settings(theirs, arm_name="${oc.env:OVI_SECRET}", data={"world": "${oc.env:OVI_SECRET}"})
    assert export([str(theirs), "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "s3cret" not in card
    assert "OVI_SECRET" in card
    capsys.readouterr()
    with_settings(theirs, model=MODEL | {"init_seed": "${oc.env:OVI_SECRET}"})
    assert "s3cret" not in exported(theirs, tmp_path / "second", capsys)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "[" * 5000, "- a list\n", "\x00", "",
        "model: !!python/object/apply:os.system [id]\n", "model: {video: {dim: 1, dim: 2}}\n",
    ],
)  # fmt: skip
def test_a_configuration_is_plain_and_bounded(text, theirs, tmp_path, capsys):
    configured(theirs, text)
    refusal(load_run, theirs)
    exported(theirs, tmp_path, capsys)


def tower(**changes):
    return {"model": MODEL | {"video": MODEL["video"] | changes}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (tower(dim=10**9, num_heads=10**8), "expected a whole number from 1 to 1048576"),
        (tower(num_layers=10**6), "expected a whole number from 1 to 1024"),
        (tower(freq_dim=10**7), "expected a whole number from 1 to 1048576"),
        (tower(num_layers=1000), "has 2 blocks, the configuration says 1000"),
        (tower(ffn_dim=2**20), "does not fit this model"),
        (tower(patch_size=[1024, 1024, 1024]), "does not fit this model"),
        (tower(dim="16"), "expected a whole number"),
        (tower(eps=[1]), "expected a number"),
        (tower(wings=2), "unknown key 'wings'"),
        ({"text": TEXT | {"rows": 10**12}}, "contradicts itself"),
        ({"latent_shapes": SHAPES | {"video": [24, 10**9, 2, 2]}}, "larger than any clip"),
        ({"latent_shapes": SHAPES | {"video": [24, -4, 2, 2]}}, "expected 4 whole numbers"),
        ({"latent_shapes": SHAPES | {"video": [23, 4, 2, 2]}}, "contradicts itself"),
        ({"latent_shapes": None}, "does not tell its latent_shapes"),
        ({"adapter": [1]}, "no mapping"),
        ({"adapter": {"rank": 10**9}}, "adapter"),
    ],
)
def test_settings_that_the_weights_contradict_are_refused(changes, said, theirs):
    with_settings(theirs, **changes)
    assert said in refusal(load_run, theirs)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.yaml", "codec.safetensors", "text_encoder.safetensors"]
)
def test_what_is_not_as_it_was_written_is_refused(name, theirs, tmp_path, capsys):
    content = bytearray((theirs / name).read_bytes())
    content[-1] ^= 1
    (theirs / name).write_bytes(content)
    assert f"{name} is not as it was written" in refusal(load_run, theirs)
    if name in ("model.safetensors", "config.yaml"):
        assert f"{name} is not as it was written" in exported(theirs, tmp_path, capsys)
        assert f"{name} is not as" in refusal(initialise_from, TwinDiT(**SETTINGS), None, theirs)


@pytest.mark.parametrize("tensor", ["nan", "inf"])
def test_values_that_are_no_numbers_are_refused(tensor, theirs, tmp_path, capsys):
    weights = load_file(theirs / "model.safetensors")
    weights["audio_model.blocks.1.self_attn.q.weight"][0, 0] = float(tensor)
    save_file(weights, theirs / "model.safetensors")
    listed(theirs)
    assert "no finite numbers" in refusal(load_run, theirs)
    assert "no finite numbers" in refusal(initialise_from, TwinDiT(**SETTINGS), None, theirs)
    assert "no finite numbers" in exported(theirs, tmp_path, capsys)


def test_a_listing_that_is_none_is_refused(theirs, tmp_path):
    good = json.loads((theirs / "checkpoint.json").read_text())
    outside = tmp_path / "model.safetensors"
    outside.write_bytes((theirs / "model.safetensors").read_bytes())
    facts = good["files"]["model.safetensors"]
    changes = [{"format": ["x"]}, *({"step": step} for step in ("3", -1, 4)), {"files": [1]}]
    changes += [{"files": {"model.safetensors": entry}} for entry in (1, {"size": 1})]
    changes += [{"files": {name: facts}} for name in ("../model.safetensors", str(outside))]
    for content in ("[]", '{"a":' * 100000, *(json.dumps(good | change) for change in changes)):
        (theirs / "checkpoint.json").write_text(content)
        refusal(Checkpoint.open, theirs)
    (theirs / "checkpoint.json").write_text(json.dumps(good))
    (theirs / "model.safetensors").unlink()
    (theirs / "model.safetensors").symlink_to(outside)
    assert "outside the checkpoint" in refusal(Checkpoint.open, theirs)


def test_a_codec_that_claims_more_than_it_holds_is_refused(whole, tmp_path):
    from safetensors import safe_open

    with safe_open(whole / "codec.safetensors", "pt") as file:
        about = json.loads(file.metadata()["codec"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    path = tmp_path / "codec.safetensors"
    changes = [
        ("video", {"block": [10**6, 8, 8]}), ("video", {"block": "abc"}), ("video", {"channels": 10**9}),
        ("video", {"kind": "os.system"}), ("video", {"kind": "wan22", "base_dim": 10**9}),
        ("audio", {"sample_rate": 8 * 10**9}), ("audio", {"iterations": 10**12}),
        ("audio", {"partials_hz": [1.0] * 10**5}), ("audio", {"seed": 10**30}),
    ]  # fmt: skip
    headers = [json.dumps(about | {part: about[part] | change}) for part, change in changes]
    headers += ["[" * 10**5, "{}", "null", '{"format": 1}', json.dumps(about | {"fps": float("inf")})]
    broken = tensors | {"video.mean": tensors["video.mean"] * float("nan")}
    for header, held in (*((header, tensors) for header in headers), (json.dumps(about), broken)):
        save_file(held, path, {"codec": header})
        refusal(LatentCodec.load, path)
