"""What the doctor finds: packages, extras, encoders; and weights that are whole, missing, cut short or not ours."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from ovi_eval.common.files import file_sha256
from ovi_eval.common.installation import install_hint
from ovi_lab import doctor
from ovi_lab.checkpoints import weights_layout

pytestmark = pytest.mark.usefixtures("own_cache")


def printed(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and what was printed, in 80 columns."""
    with (tmp_path / "out").open("w") as out:
        console = Console(width=80, record=True, file=out)
        code = doctor.main(arguments, console)
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    return code, text


def faults(folder: Path) -> dict[str, str]:
    return {f.name: f.fault for f in doctor.weights(folder) if f.fault}


def first_fault(folder: Path) -> str:
    """Parts behind the first faulty one are not read."""
    return next(f.fault for f in doctor.weights(folder) if f.fault)


def test_an_installation_that_works(tmp_path: Path) -> None:
    code, text = printed(tmp_path)
    assert code == 0
    assert importlib.metadata.version("torch") in text
    assert "libavcodec" in text
    assert "All that is needed is here" in text


@pytest.mark.slow
def test_whole_weights_with_their_digests(small_ovi: Path, tmp_path: Path) -> None:
    code, text = printed(tmp_path, f"weights={small_ovi}", "--sha256")
    assert code == 0
    assert "The weights and all that is needed are here" in text
    found = {f.name: f.state for f in doctor.weights(small_ovi, sha256=True)}
    assert len(found) == len(weights_layout.PARTS)
    assert file_sha256(small_ovi / weights_layout.VIDEO_VAE) in found["Wan2.2 VAE"]
    assert file_sha256(small_ovi / weights_layout.TOKENIZER / "tokenizer.json") in found["umT5 tokenizer"]


def test_a_missing_file_is_reported_with_its_source(own_ovi: Path, tmp_path: Path) -> None:
    (own_ovi / weights_layout.VOCODER).unlink()
    shutil.rmtree(own_ovi / weights_layout.TOKENIZER)
    wrong = faults(own_ovi)
    assert set(wrong) == {"BigVGAN vocoder", "umT5 tokenizer"}
    assert wrong["BigVGAN vocoder"].endswith("fetch it from https://huggingface.co/hkchengrex/MMAudio")
    code, text = printed(tmp_path, f"weights={own_ovi}")
    assert code == 1
    assert "2 of what is needed is missing or not whole" in text


@pytest.mark.parametrize("name", ["MODEL", "VIDEO_VAE", "TEXT_ENCODER", "AUDIO_VAE", "VOCODER"])
@pytest.mark.slow
def test_a_truncated_file_is_reported(own_ovi: Path, name: str) -> None:
    part = getattr(weights_layout, name)
    whole = (own_ovi / part).read_bytes()
    (own_ovi / part).write_bytes(whole[: len(whole) // 2])
    wrong = faults(own_ovi)
    assert len(wrong) == 1
    (line,) = wrong.values()
    assert str(own_ovi / part) in line
    assert "again" in line
    assert "\n" not in line


def test_another_model_is_reported_by_name_and_shape(own_ovi: Path) -> None:
    tensors = load_file(own_ovi / weights_layout.MODEL)
    name = "video_model.head.head.bias"
    save_file({**tensors, name: tensors[name][:1].clone()}, own_ovi / weights_layout.MODEL)
    assert f"{name} is [1], expected" in first_fault(own_ovi)
    del tensors[name]
    save_file(tensors, own_ovi / weights_layout.MODEL)
    assert f"lacks {name} (1 of" in first_fault(own_ovi)
    shutil.copy(own_ovi / weights_layout.AUDIO_VAE, own_ovi / weights_layout.VIDEO_VAE)
    assert "does not fit this model" in faults(own_ovi)["Wan2.2 VAE"]


def test_an_empty_folder_lists_all_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    wrong = faults(tmp_path / "none")
    assert len(wrong) == len(weights_layout.PARTS)
    assert all("fetch it from https://" in line for line in wrong.values())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["weights=/nowhere/at/all"], "weights=/nowhere/at/all is no folder"),
        (["wieghts=x"], "'wieghts=x' is not understood, did you mean weights: ovi-doctor"),
        (["weights"], "'weights' is not understood, did you mean weights: ovi-doctor [weights=DIR]"),
        (["--sha265"], "unrecognized arguments: --sha265, did you mean --sha256; see ovi-doctor --help"),
        (["--sha256"], "weights=DIR is not given"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(arguments, Console(quiet=True)) == 2
    (printed,) = capsys.readouterr().err.splitlines()
    assert line in printed


def test_a_missing_or_too_old_package_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "ftfy":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "safetensors" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    wrong = {f.name: f.fault for f in doctor.packages() if f.fault and f.needed}
    assert wrong["ftfy"].startswith("missing: pip install 'ftfy")
    assert wrong["safetensors"].startswith("needs ")
    assert printed(tmp_path)[0] == 1


def test_an_extra_that_is_missing_says_how_it_comes_and_is_not_needed() -> None:
    extras = {f.name: f for f in doctor.packages() if f.name.startswith("[")}
    assert "[dev]" not in extras
    for extra in extras.values():
        assert not extra.needed
        assert not extra.fault or install_hint(extra.name.strip("[]")) in extra.fault


def test_a_project_that_is_not_installed_is_one_line() -> None:
    from ovi_lab.errors import UserError

    with pytest.raises(UserError, match="is not installed in this Python"):
        doctor.packages("no-such-distribution-of-ours")
