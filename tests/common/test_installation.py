"""The hint for an extra works: from the checkout's folder, or by name where a wheel is installed."""

import json
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from ovi_eval.common import installation
from ovi_eval.common.installation import install_hint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(monkeypatch):
    """Makes the project's direct_url.json the given one; an exception is raised instead."""

    def found(direct_url):
        def distribution(name):
            assert name == "ovi-lab"
            if isinstance(direct_url, Exception):
                raise direct_url
            return SimpleNamespace(read_text=lambda file: direct_url if file == "direct_url.json" else None)

        monkeypatch.setattr(installation, "distribution", distribution)
        installation._checkout.cache_clear()

    yield found
    monkeypatch.undo()
    installation._checkout.cache_clear()


def test_a_checkout_in_editable_mode(installed, tmp_path, monkeypatch):
    checkout = tmp_path / "my checkout"
    checkout.mkdir()
    url = {"dir_info": {"editable": True}, "url": checkout.as_uri()}
    installed(json.dumps(url))
    monkeypatch.chdir(checkout)
    assert install_hint("wandb") == "pip install -e '.[wandb]'"
    assert install_hint("clap", "torchvision") == "pip install -e '.[clap]' torchvision"
    monkeypatch.chdir(tmp_path)
    assert install_hint("wandb") == "pip install -e '.[wandb]' in ovi-lab's checkout"


@pytest.mark.parametrize(
    "direct_url",
    [None, '{"dir_info": {}, "url": "file:///src/ovi"}', '{"archive_info": {}, "url": "file:///ovi.whl"}'],
)
def test_a_wheel(installed, direct_url):
    installed(direct_url)
    assert install_hint("clap", "torchvision") == "pip install 'ovi-lab[clap]' torchvision"


def test_a_checkout_that_is_not_installed(installed, monkeypatch):
    installed(PackageNotFoundError())
    monkeypatch.chdir(Path(installation.__file__).resolve().parents[3])
    assert install_hint("quant") == "pip install -e '.[quant]'"


def test_no_module_writes_the_hint_itself():
    files = [file for part in ("src", "evaluation") for file in (ROOT / part).rglob("*.py")]
    found = [str(file) for file in files if re.search(r"pip install[^`\n]*\[\w", file.read_text())]
    assert [name for name in found if not name.endswith("installation.py")] == []
