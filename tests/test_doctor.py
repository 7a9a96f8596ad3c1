"""What the doctor finds: packages, extras, encoders; and weights that are whole, missing, cut short or not ours."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from ovi_eval.common.files import file_sha256
from ovi_lab import doctor
from ovi_lab.checkpoints import weights_layout
from ovi_lab.sampling import small_ovi

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small Ovi in the released layout."""
    folder = tmp_path_factory.mktemp("weights")
    small_ovi.main([str(folder / "small")])
    return folder / "small"


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(published, tmp_path / "ckpts"))


def told(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and what was printed, in 80 columns."""
    with (tmp_path / "out").open("w") as out:
        console = Console(width=80, record=True, file=out)
        code = doctor.main(arguments, console)
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    return code, text


def faults(folder: Path, **options: bool) -> dict[str, str]:
    return {f.name: f.fault for f in doctor.weights(folder, **options) if f.fault}


def test_an_installation_that_works(tmp_path: Path) -> None:
    code, text = told(tmp_path)
    assert code == 0
    assert importlib.metadata.version("torch") in text
    assert "libavcodec" in text
    assert "All that is needed is here" in text


def test_whole_weights_with_their_digests(published: Path, tmp_path: Path) -> None:
    code, text = told(tmp_path, f"weights={published}", "--sha256")
    assert code == 0
    assert "The weights and all that is needed are here" in text
    found = {f.name: f.state for f in doctor.weights(published, sha256=True)}
    assert len(found) == len(weights_layout.PARTS)
    assert file_sha256(published / weights_layout.VIDEO_VAE) in found["Wan2.2 VAE"]
    assert file_sha256(published / weights_layout.TOKENIZER / "tokenizer.json") in found["umT5 tokenizer"]


def test_a_missing_file_is_told_with_where_to_get_it(folder: Path, tmp_path: Path) -> None:
    (folder / weights_layout.VOCODER).unlink()
    shutil.rmtree(folder / weights_layout.TOKENIZER)
    wrong = faults(folder)
    assert set(wrong) == {"BigVGAN vocoder", "umT5 tokenizer"}
    assert wrong["BigVGAN vocoder"].endswith("fetch it from https://huggingface.co/hkchengrex/MMAudio")
    code, text = told(tmp_path, f"weights={folder}")
    assert code == 1
    assert "2 of what is needed is missing or not whole" in text


@pytest.mark.parametrize(
    "part",
    [
        weights_layout.MODEL,
        weights_layout.VIDEO_VAE,
        weights_layout.TEXT_ENCODER,
        weights_layout.AUDIO_VAE,
        weights_layout.VOCODER,
    ],
)
def test_a_file_that_is_cut_short_is_told(folder: Path, part: str) -> None:
    whole = (folder / part).read_bytes()
    (folder / part).write_bytes(whole[: len(whole) // 2])
    wrong = faults(folder)
    assert len(wrong) == 1
    (line,) = wrong.values()
    assert str(folder / part) in line
    assert "again" in line
    assert "\n" not in line


def test_another_model_is_told_by_name_and_shape(folder: Path) -> None:
    tensors = load_file(folder / weights_layout.MODEL)
    name = "video_model.head.head.bias"
    save_file({**tensors, name: tensors[name][:1].clone()}, folder / weights_layout.MODEL)
    assert f"{name} is [1], expected" in faults(folder)["Ovi towers (small)"]
    del tensors[name]
    save_file(tensors, folder / weights_layout.MODEL)
    assert f"lacks {name} (1 of" in faults(folder)["Ovi towers (small)"]
    shutil.copy(folder / weights_layout.AUDIO_VAE, folder / weights_layout.VIDEO_VAE)
    assert "does not fit this model" in faults(folder)["Wan2.2 VAE"]


def test_an_empty_folder_lists_all_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    wrong = faults(tmp_path / "none")
    assert len(wrong) == len(weights_layout.PARTS)
    assert all("fetch it from https://" in line for line in wrong.values())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["weights=/nowhere/at/all"], "weights=/nowhere/at/all is no folder"),
        (["wieghts=x"], "'wieghts=x' is not understood: python -m ovi_lab.doctor"),
        (["--sha256"], "weights=DIR is not given"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(arguments, Console(quiet=True)) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_a_package_that_is_missing_or_too_old_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "ftfy":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "safetensors" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    wrong = {f.name: f.fault for f in doctor.packages() if f.fault and f.needed}
    assert wrong["ftfy"].startswith("missing: pip install 'ftfy")
    assert wrong["safetensors"].startswith("needs ")
    assert told(tmp_path)[0] == 1


def test_an_extra_that_is_missing_says_how_it_comes_and_is_not_needed() -> None:
    extras = {f.name: f for f in doctor.packages() if f.name.startswith("[")}
    assert "[dev]" not in extras
    for extra in extras.values():
        assert not extra.needed
        assert not extra.fault or f"pip install 'ovi-lab{extra.name}'" in extra.fault


def test_a_project_that_is_not_installed_is_one_line() -> None:
    from ovi_lab.errors import UserError

    with pytest.raises(UserError, match="is not installed in this Python"):
        doctor.packages("no-such-distribution-of-ours")
