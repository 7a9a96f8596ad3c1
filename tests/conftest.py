"""Fixtures that every test may use."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = Path(__file__).resolve().parent / "goldens"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Tiny tensors are slower on several threads, and sums stay the same from machine to machine.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of clips and weights beside the checkout; tests that need it are skipped elsewhere."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("no ../shared beside this checkout: the clips and weights this test reads are not here")
    return path


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Numbers from reference implementations, kept beside the tests."""
    return GOLDENS
