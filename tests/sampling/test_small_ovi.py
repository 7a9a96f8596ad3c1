"""The small Ovi: published names in every part, real geometry, the same bytes again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from helpers.published_goldens import listed
from ovi_lab.checkpoints import weights_layout
from ovi_lab.checkpoints.presets import is_released, released_model
from ovi_lab.codecs.wan22 import Wan22Config, build
from ovi_lab.errors import UserError
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.small_ovi import main
from ovi_lab.sampling.small_weights import published_text_names, published_vae_names, write_small
from ovi_lab.text.umt5 import UMT5Config


def test_full_size_names_are_the_published(goldens: Path) -> None:
    rows = listed(goldens / "wan22_vae_keys.txt.gz")
    names = published_vae_names(Wan22Config())
    assert {row[2]: row[0] for row in rows} == {own: names[own] for own in build(Wan22Config()).state_dict()}
    rows = listed(goldens / "umt5_xxl_keys.txt.gz")
    names = published_text_names(UMT5Config())
    assert {row[2]: row[0] for row in rows} == names


def test_the_files_have_the_released_names(small_ovi: Path, goldens: Path) -> None:
    """All kinds of names of the published files, with their numbers left out."""

    def kinds(names: object) -> set[str]:
        return {".".join("*" if p.isdigit() else p for p in str(n).split(".")) for n in names}  # type: ignore

    def file(path: str) -> dict[str, torch.Tensor]:
        return torch.load(small_ovi / path, weights_only=True)

    for found, keys in (
        (file(weights_layout.VIDEO_VAE), "wan22_vae_keys"),
        (file(weights_layout.TEXT_ENCODER), "umt5_xxl_keys"),
        (file(weights_layout.AUDIO_VAE), "mmaudio_vae16k_keys"),
        (file(weights_layout.VOCODER)["generator"], "bigvgan16k_keys"),
    ):
        published = {row[0] for row in listed(goldens / f"{keys}.txt.gz")}
        assert kinds(found) == kinds(published), keys
    with safe_open(small_ovi / weights_layout.MODEL, "pt") as towers:
        assert kinds(towers.keys()) == kinds(row[0] for row in listed(goldens / "ovi_state_dict_keys.txt.gz"))


@pytest.mark.slow
def test_latents_have_the_real_geometry(small_ovi: Path) -> None:
    assert is_released(small_ovi)
    preset, real = released_model(small_ovi), released_model("ovi_720x720_5s")
    parts = open_bundle(small_ovi).load()
    assert parts.video.strides == (4, 16, 16)
    assert (parts.video.channels, parts.sound.channels) == (48, 20)
    assert parts.sound.token_samples == 512
    for name in ("video_latent_frames", "audio_latents", "fps", "sample_rate", "file"):
        assert getattr(preset, name) == getattr(real, name)
    assert preset.model["video"]["num_layers"] > 11  # so that sampler=ovi holds as it is
    vectors = parts.text(["a <S>word<E>", ""])
    assert [tuple(v.shape) for v in vectors] == [(13, 64), (1, 64)]
    assert all(0.3 < float(v.std()) < 3 for v in vectors)


def test_the_same_seed_gives_the_same_bytes(small_ovi: Path, tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

    first = files(small_ovi)
    again, other = (
        files(write_small(tmp_path / str(seed) / small_ovi.name, seed, (64, 64))) for seed in (0, 1)
    )
    assert first == again
    assert first.keys() == other.keys()
    changed = {name for name in first if first[name] != other[name]}
    assert changed == {name for name in first if "tokenizer" not in name}


def test_the_command_takes_only_a_place_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(tmp_path / "new"), "--side", "64", "--seed", "3"])
    assert "ovi-sample checkpoint=" in capsys.readouterr().out
    assert released_model(tmp_path / "new").area == (64, 64)
    main([str(tmp_path / "new")])  # made again over itself
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for arguments in ([str(tmp_path / "full")], [str(tmp_path / "x"), "--side", "8"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "text",
    ["", "name: [", "- 1", "file: a\nmodel: nothing_like_it\n", "file: a\nmodel: {video: {}}\narea: 3\n"],
)
def test_a_preset_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "preset.yaml").write_text(text)
    with pytest.raises(UserError, match=r"preset\.yaml is no preset") as error:
        released_model(tmp_path)
    assert "\n" not in str(error.value)


def test_the_vocoders_filters_are_its_own(small_ovi: Path) -> None:
    content = torch.load(small_ovi / weights_layout.VOCODER, weights_only=True)["generator"]
    filters = [t for n, t in content.items() if n.endswith(".filter")]
    assert len(filters) > 10
    # low-pass filters keep what does not change
    assert all(abs(float(f.sum()) - 1) < 1e-5 for f in filters)
