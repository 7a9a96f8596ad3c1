"""The notebooks run from first cell to last, shortened by their parameters, and are stored without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="no nbformat here: pip install -e '.[notebooks]'")
nbclient = pytest.importorskip("nbclient", reason="no nbclient here: pip install -e '.[notebooks]'")
pytest.importorskip("ipykernel", reason="no ipykernel here: pip install -e '.[notebooks]'")

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> list[Any]:
    """The outputs of a notebook with other parameters, in a folder of its own."""
    for variable in ("XDG_CACHE_HOME", "IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(folder / variable))
    book = nbformat.read(NOTEBOOKS / name, 4)
    (at,) = [i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", ())]
    known = dict(line.split(" = ", 1) for line in book.cells[at].source.splitlines())
    assert parameters.keys() <= known.keys()
    lines = [f"{key} = {value!r}" for key, value in {**parameters, "FOLDER": str(folder)}.items()]
    book.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=place).execute()
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def shown(outputs: list[Any], kind: str) -> list[str]:
    """What was shown of one kind, such as text/html."""
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


@pytest.mark.parametrize("name", ["ablation.ipynb", "own_clips.ipynb"])
def test_notebooks_are_stored_without_outputs(name: str) -> None:
    book = nbformat.read(NOTEBOOKS / name, 4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(code) > 3
    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []
    assert book.metadata.kernelspec.name == "python3"


@pytest.mark.slow
def test_the_ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = executed(
        "ablation.ipynb",
        tmp_path,
        monkeypatch,
        STEPS=2,
        SAMPLING_STEPS=1,
        TRAINING=["debug=fast", "trainer.max_steps=2"],
    )
    table = shown(outputs, "text/markdown")[0]
    assert "| fusion, scaled RoPE | 0.889 [" in table
    assert len(shown(outputs, "image/png")) == 1
    assert sum("<video" in html for html in shown(outputs, "text/html")) == 2
    assert (tmp_path / "runs" / "notebook_2" / "done.json").is_file()


@pytest.mark.slow
def test_own_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = executed("own_clips.ipynb", tmp_path, monkeypatch, STEPS=2, SAMPLING_STEPS=1, SIDE=64)
    assert sum("<video" in html for html in shown(outputs, "text/html")) == 1
    assert "temporal_flickering" in shown(outputs, "text/plain")[-1]
    assert (tmp_path / "results.json").is_file()
    assert (tmp_path / "made" / "clip.mp4").stat().st_size > 10_000
