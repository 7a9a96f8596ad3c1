"""Where the parts lie, what is missing or damaged, and files that hold something else: one line each."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovi_lab.checkpoints import weights_layout
from ovi_lab.checkpoints.digests import Digests
from ovi_lab.checkpoints.presets import ReleasedModel, released_model
from ovi_lab.checkpoints.weights_layout import PARTS, fault, find_layout
from ovi_lab.errors import UserError
from ovi_lab.sampling.opening import open_bundle

pytestmark = pytest.mark.usefixtures("own_cache")

FILES = [file for part, (_, _, file) in PARTS.items() if part != "tokenizer"]


def faults(folder: Path, preset: ReleasedModel) -> list[str]:
    return [line for part in PARTS if (line := fault(folder, part, preset))]


def refusal(folder: Path) -> str:
    """What loading says."""
    with pytest.raises(UserError) as error:
        open_bundle(folder).load()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_whole_folder_is_found(small_ovi: Path) -> None:
    preset = released_model(small_ovi)
    assert faults(small_ovi, preset) == []
    found = find_layout(small_ovi, preset)
    assert set(found.weight_files()) == set(FILES)
    assert found.tokenizer == small_ovi / weights_layout.TOKENIZER


def test_everything_that_is_missing_is_named_with_its_place_and_source(tmp_path: Path) -> None:
    preset = released_model("ovi_960x960_10s")
    lines = faults(tmp_path, preset)
    assert len(lines) == len(weights_layout.PARTS)
    assert any("Ovi/model_960x960_10s.safetensors: fetch it from https://" in line for line in lines)
    assert all("\n" not in line for line in lines)
    with pytest.raises(UserError, match=r"Wan2\.2_VAE\.pth.*best_netG\.pt"):
        find_layout(tmp_path, preset)
    with pytest.raises(UserError, match="is no folder: name the one that holds Ovi"):
        find_layout(tmp_path / "nowhere", preset)


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_is_named_before_anything_loads(own_ovi: Path, file: str) -> None:
    content = (own_ovi / file).read_bytes()
    (own_ovi / file).write_bytes(content[: len(content) * 2 // 3])
    (line,) = faults(own_ovi, released_model(own_ovi))
    assert str(own_ovi / file) in line
    assert "again" in line
    assert line in refusal(own_ovi)
    (own_ovi / file).write_bytes(b"")
    assert len(faults(own_ovi, released_model(own_ovi))) == 1
    (own_ovi / file).unlink()
    assert "no " in refusal(own_ovi)


@pytest.mark.parametrize("file", FILES[1:])
@pytest.mark.slow
def test_pickled_code_is_not_run(own_ovi: Path, file: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    for save in (torch.save, lambda x, p: p.write_bytes(pickle.dumps(x, protocol=2))):
        save({"generator": Harmful(), "a": Harmful()}, own_ovi / file)
        assert "code and no tensor" in refusal(own_ovi)
        assert not marker.exists()


@pytest.mark.slow
def test_weights_of_another_size_or_model_are_refused(own_ovi: Path) -> None:
    weights = load_file(own_ovi / weights_layout.MODEL)
    name = "video_model.blocks.0.ffn.0.weight"
    save_file({**weights, name: weights[name][:-1].contiguous()}, own_ovi / weights_layout.MODEL)
    assert f"{name} is [95, 48], expected [96, 48]" in refusal(own_ovi)
    save_file({n: t for n, t in weights.items() if n != name}, own_ovi / weights_layout.MODEL)
    assert f"lacks {name} (1 of" in refusal(own_ovi)
    save_file(weights, own_ovi / weights_layout.MODEL)
    for file, what in ((weights_layout.VIDEO_VAE, "Wan2.2 VAE"), (weights_layout.AUDIO_VAE, "MMAudio VAE")):
        content = torch.load(own_ovi / file, weights_only=True)
        torch.save({n: t[:1] if t.dim() > 1 else t for n, t in content.items()}, own_ovi / file)
        assert f"read as the {what}, does not fit this model: " in refusal(own_ovi)
        torch.save(content, own_ovi / file)
    torch.save({"a": torch.zeros(1)}, own_ovi / weights_layout.VOCODER)
    assert "holds no 'generator'" in refusal(own_ovi)


def test_the_presets_of_the_real_models_refuse_small_files(small_ovi: Path) -> None:
    with pytest.raises(UserError, match="does not fit this model"):
        open_bundle("ovi_720x720_5s", small_ovi).load()


@pytest.mark.slow
def test_parts_that_do_not_belong_together_are_refused(own_ovi: Path) -> None:
    text = (own_ovi / "preset.yaml").read_text()
    (own_ovi / "preset.yaml").write_text(text.replace("    in_dim: 48", "    in_dim: 40"))
    assert "expected [" in refusal(own_ovi)
    (own_ovi / "preset.yaml").write_text(text.replace("    text_dim: 64", "    text_dim: 32"))
    assert "text_dim=32" in refusal(own_ovi)


@pytest.mark.slow
def test_safetensors_stand_for_torchs_format(own_ovi: Path) -> None:
    for file in FILES[1:]:
        content = torch.load(own_ovi / file, weights_only=True)
        tensors = content.get("generator", content)
        save_file(
            {n: t.contiguous() for n, t in tensors.items()}, (own_ovi / file).with_suffix(".safetensors")
        )
        (own_ovi / file).unlink()
    parts = open_bundle(own_ovi).load(torch.bfloat16)
    assert parts.towers.get_parameter("video_model.head.head.weight").dtype == torch.bfloat16
    assert {p.dtype for p in parts.sound.vocoder.parameters()} == {torch.float32}


def test_the_folder_may_hold_the_tokenizer_only_in_part(own_ovi: Path) -> None:
    (own_ovi / weights_layout.TOKENIZER / "tokenizer.json").unlink()
    assert "tokenizer.json" in refusal(own_ovi)


def test_digests_are_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return path.read_text()

    monkeypatch.setattr("ovi_lab.checkpoints.digests.file_sha256", counted)
    file, kept = tmp_path / "a", tmp_path / "cache" / "sha256.json"
    file.write_text("one")
    for _ in range(3):
        assert Digests({"a": file}, kept).result() == {"a": "one"}
    assert len(read) == 1
    file.write_text("three")
    assert Digests({"a": file}, kept).result() == {"a": "three"}
    kept.write_text("no JSON")
    assert Digests({"a": file}, kept).result() == {"a": "three"}
    assert len(read) == 3


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights cannot be read"):
        Digests({"a": tmp_path / "gone"}, tmp_path / "kept.json").result()
