"""The library that stands in for CUDA: built once, and refused in one line where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovi_lab.errors import UserError
from ovi_lab.rehearsal import library
from ovi_lab.rehearsal.library import Torch


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        (Torch(Path(), "2.13.0+cu130", True), "needs a build of PyTorch without CUDA, and this is 2.13.0"),
        (Torch(Path(), "2.12.1+cpu", False), r"is written for PyTorch 2\.13, and this is 2\.12\.1"),
    ],
    ids=["CUDA", "another version"],
)
def test_another_pytorch_is_refused(torch: Torch, words: str) -> None:
    with pytest.raises(UserError, match=words):
        torch.refuse_unfit()


def test_no_compiler_and_a_failing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "TESTED", tuple(map(int, Torch.installed().version.split(".")[:2])))
    monkeypatch.setattr(Torch, "refuse_unfit", lambda self: None)
    failing = tmp_path / "compiler"
    failing.write_text("#!/bin/sh\necho 'no_gpu.cpp:1: error: this one never works' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    with pytest.raises(UserError, match=r"could not be compiled by .*: no_gpu.cpp:1: error: this one never"):
        library.built(tmp_path)
    assert list(tmp_path.iterdir()) == [failing]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "none")
    with pytest.raises(UserError, match="finds no C\\+\\+ compiler: install g\\+\\+"):
        library.built(tmp_path)


def test_loading_after_torch_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="imported already"):
        library.load(tmp_path / "none.so")
