"""Published weight files: read strictly, never run, and every fault told in one line."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ovi_eval.common.weights import WEIGHTS_FOLDER, PublishedFile, find_weights, load_published
from ovi_eval.errors import UserError

FILE = PublishedFile("Toy", "toy.pth", "its authors' page", inside="model")


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.level = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.level(self.conv(x))


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in Toy().state_dict().items()}


def told(path: Path, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        load_published(Toy, path, FILE)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "inside", "legacy"])
def test_every_kind_of_file_gives_the_same_network(
    state: dict[str, Tensor], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / ("toy.safetensors" if kind == "safetensors" else "toy.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        content = {"iteration": 7, "model": state} if kind == "inside" else state
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    loaded = load_published(Toy, path, FILE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.sha256, loaded.as_published) == (digest, None)
    assert loaded.variant == f"weights {digest[:12]}"
    assert all(loaded.network.state_dict()[name].equal(tensor) for name, tensor in state.items())
    assert not loaded.network.training
    assert not any(weight.requires_grad for weight in loaded.network.parameters())
    assert load_published(Toy, path, FILE, sha256=digest[:8].upper()).sha256 == digest
    x = torch.randn(1, 2, 9)
    ours = Toy().eval()
    ours.load_state_dict(state)
    assert loaded.network(x).equal(ours(x))


def test_counters_may_be_missing(state: dict[str, Tensor], tmp_path: Path) -> None:
    del state["level.num_batches_tracked"]
    torch.save(state, tmp_path / "toy.pth")
    loaded = load_published(Toy, tmp_path / "toy.pth", FILE)
    assert int(loaded.network.level.num_batches_tracked) == 0


def test_missing_and_other_digest(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "toy.pth"
    told(path, "no such file; it should hold Toy weights: toy.pth from its authors' page")
    torch.save(state, path)
    for wrong in ("0" * 64, "", hashlib.sha256(path.read_bytes()).hexdigest()[:7]):
        with pytest.raises(UserError, match=f"expected {wrong}; fetch Toy weights"):
            load_published(Toy, path, FILE, sha256=wrong)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("keep", [0, 10, 400, -40])
def test_cut_off_files(state: dict[str, Tensor], tmp_path: Path, keep: int, legacy: bool) -> None:
    path = tmp_path / "toy.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:keep])
    told(path, "is not a whole file of torch.save.*fetch it again")
    path = tmp_path / "toy.safetensors"
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:keep])
    told(path, "is not a whole safetensors file.*fetch it again")


@pytest.mark.parametrize("content", [b"nothing", b"<!DOCTYPE html><html>", b"version https://", b"\x1f\x8b"])
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "toy.pth").write_bytes(content)
    told(tmp_path / "toy.pth", "is not a whole file of torch.save.*fetch it again")


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(state: dict[str, Tensor], tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "toy.pth"
    torch.save(
        {"model": state, "more": Harmful(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not legacy
    )
    told(path, "is code and no tensor or plain value: refused, because it can run")
    torch.save(Toy(), path, _use_new_zipfile_serialization=not legacy)
    told(path, "is code and no tensor or plain value: refused, because it can run")
    assert not (tmp_path / "ran").exists()


def test_a_program_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "toy.pt"
    torch.jit.save(torch.jit.trace(Toy().eval(), torch.zeros(1, 2, 9)), path)
    told(path, "can run code; save its state dict alone")


def test_wrong_tensors_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "toy.pth"
    for change, text in (
        ({"conv.bias": None}, "conv.bias is missing"),
        ({"extra": torch.zeros(1)}, "extra is unknown"),
        ({"conv.bias": torch.zeros(4)}, r"conv.bias is float32 \[4\] instead of float32 \[3\]"),
        ({"conv.bias": torch.zeros(3).half()}, r"conv.bias is float16 \[3\] instead of float32 \[3\]"),
        ({"conv.bias": torch.tensor([1.0, torch.nan, 0])}, "conv.bias is not finite"),
        ({f"x{i}": torch.zeros(1) for i in range(5)}, "x2 is unknown and 2 more"),
    ):
        changed = {name: t for name, t in {**state, **change}.items() if t is not None}
        torch.save(changed, path)
        told(path, f"holds other weights than those of Toy: .*{text}")
    torch.save(torch.zeros(3), path)
    told(path, "holds a Tensor instead of tensors by name")
    torch.save({"epoch": 3, "state_dict": state}, path)
    told(path, "epoch, state_dict is no tensor")
    torch.save({"model": {**state, "epoch": 3}}, path)
    told(path, "epoch is no tensor")


def test_weights_are_found_in_the_folder_and_one_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PublishedFile("a network", "net_mAP=0.4[1].pth", "https://example.org")
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    with pytest.raises(UserError, match=rf"a metric needs a network weights: .*; put it into {tmp_path}"):
        find_weights(file, "a metric")
    (tmp_path / "sub").mkdir()
    below = tmp_path / "sub" / "net_mAP=0.4[1].safetensors"
    below.write_bytes(b"")
    assert find_weights(file, "a metric") == below
    own = tmp_path / file.name
    own.write_bytes(b"")
    assert find_weights(file, "a metric") == own
