"""Weight files as they come: whole, cut short, of another kind, and with code in them."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ovi_lab.errors import UserError
from ovi_lab.weights.torch_files import load_named, read_tensors


class Shell:
    def __reduce__(self):
        return print, ("this must not be printed",)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.fixture(params=["zip", "legacy", "safetensors"])
def file(request, state, tmp_path):
    path = tmp_path / ("w.safetensors" if request.param == "safetensors" else "w.pth")
    if request.param == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=request.param == "zip")
    return path


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_what_was_written_is_read(file, state) -> None:
    read = read_tensors(file, "layer")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_file_cut_short_is_refused(file, share) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError) as error:
        read_tensors(file, "layer")
    assert "fetch" in one_line(error)


def test_an_empty_file_and_none_are_refused(tmp_path) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).touch()
        with pytest.raises(UserError, match="fetch"):
            read_tensors(tmp_path / name, "layer")
    with pytest.raises(UserError, match="no layer at"):
        read_tensors(tmp_path / "other.pth", "layer")


def test_code_is_not_run(tmp_path, capsys) -> None:
    torch.save({"weight": Shell()}, tmp_path / "zip.pth")
    torch.save({"weight": Shell()}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"weight": Shell()}, protocol=2))
    for name in ("zip.pth", "legacy.pth", "plain.pth"):
        with pytest.raises(UserError) as error:
            read_tensors(tmp_path / name, "layer")
        assert "holds print, which is code and no tensor or plain value: refused" in one_line(error), name
    assert capsys.readouterr().out == ""


def test_a_page_instead_of_weights_is_refused(tmp_path) -> None:
    (tmp_path / "w.pth").write_text("<html>404</html>")
    with pytest.raises(UserError) as error:
        read_tensors(tmp_path / "w.pth", "layer")
    assert "does not read as tensors" in one_line(error)


def test_what_holds_no_tensors_is_refused(tmp_path, state) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="'epoch' \\(int\\)"):
        read_tensors(tmp_path / "w.pth", "layer")
    with pytest.raises(UserError, match="no 'generator'"):
        read_tensors(tmp_path / "w.pth", "layer", under="generator")
    torch.save({"generator": state}, tmp_path / "w.pth")
    assert read_tensors(tmp_path / "w.pth", "layer", under="generator").keys() == state.keys()


def test_a_module_takes_its_own_tensors_only(state) -> None:
    with torch.device("meta"):
        layer = nn.Linear(3, 2)
    renamed = {"kernel": state["weight"], "bias": state["bias"]}
    load_named(layer, renamed, "x", lambda name: "weight" if name == "kernel" else name)
    assert torch.equal(layer.weight, state["weight"])
    assert not layer.training
    assert not layer.weight.requires_grad
    with pytest.raises(UserError, match=r"it lacks bias \(1 of 2 missing\)"):
        load_named(layer, {"weight": state["weight"]}, "x")
    with pytest.raises(UserError, match=r"it has scale \(1 unknown\)"):
        load_named(layer, {**state, "scale": state["bias"]}, "x")
    with pytest.raises(UserError, match=r"it has kernel \(1 unknown\)"):
        load_named(layer, {**state, "kernel": state["weight"]}, "x", lambda n: n.replace("kernel", "weight"))
    with pytest.raises(UserError, match=r"weight is \[2\], expected \[2, 3\]"):
        load_named(layer, {"weight": state["bias"], "bias": state["bias"]}, "x")


def test_tensors_of_the_right_type_are_not_copied(state) -> None:
    layer = nn.Linear(3, 2, device="meta")
    load_named(layer, state, "x", dtype=torch.float32)
    assert layer.weight.data_ptr() == state["weight"].data_ptr()
    load_named(layer, state, "x", dtype=torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
