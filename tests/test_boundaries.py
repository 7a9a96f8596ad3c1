"""Rules of imports between packages, folders and files, checked by parsing the code."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"ovi_lab": ROOT / "src", "ovi_eval": ROOT / "evaluation"}
ORDER = {
    "ovi_lab": "cli demo train sample plan rehearse doctor stages sync_metrics api sweeps rehearsal runs callbacks "
    "tasks export planning sampling data strategies checkpoints adapters flow text codecs models optim weights "
    "common errors",
    "ovi_eval": "cli api commands report scoring ranking registry check mouth ball metrics faces backbones results "
    "clips stats common errors",
}
"""Folders and modules of each package from top to bottom: each imports only what stands further down."""


def modules(package: str) -> dict[str, Path]:
    """The package's modules by name, `ovi_lab.flow.path`; a folder's `__init__` has the folder's name."""
    found = {}
    for path in (PACKAGES[package] / package).rglob("*.py"):
        parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """Those of the known modules that a file imports, at its top or in a function, but not for type hints alone."""
    names: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports by the full name only"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(full if full <= known.keys() else {*full, str(node.module)})
        nodes.extend(ast.iter_child_nodes(node))
    return names & known.keys()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.slow
def test_a_folder_imports_only_folders_below_it(package):
    order, known = ORDER[package].split(), modules(package)
    assert {name.split(".")[1] for name in known if "." in name} == set(order)
    upward = []
    for name, path in known.items():
        for other in imported_modules(path, known) - {package}:
            if name == package or order.index(other.split(".")[1]) < order.index(name.split(".")[1]):
                upward.append(f"{name} -> {other}")
    assert upward == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_files_import_each_other_in_a_circle(package):
    known = modules(package)
    imports = {name: imported_modules(path, known) - {name} for name, path in known.items()}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.slow
def test_no_two_classes_have_one_name():
    places: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in modules(package).values():
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_the_guides_name_files_that_exist_and_the_walk_to_a_clip_is_short():
    guide = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(
        r"`((?:src|evaluation|conf|tests|docs|experiments|benchmarks)/[\w./]+)`",
        guide + (ROOT / "CONTRIBUTING.md").read_text(),
    )
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
    walk = guide.partition("### Caption to mp4")[2].partition("###")[0]
    assert 0 < len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) <= 20
    for package, order in ORDER.items():
        table = guide.partition(f"{package}\n")[2].partition("###")[0]
        places = [table.find(f"`{name}") for name in order.split()]
        assert -1 not in places, (package, order.split()[places.index(-1)])
        assert places == sorted(places)


def test_ovi_eval_never_imports_ovi_lab():
    files = list((ROOT / "evaluation" / "ovi_eval").rglob("*.py"))
    assert len(files) > 20
    assert [str(f) for f in files if "ovi_lab" in imported(f)] == []


@pytest.mark.slow
def test_nothing_needs_what_does_not_import_beside_a_cpu_torch():
    forbidden = {"torchvision", "torchaudio", "torchcodec"}
    files = [f for part in ("src", "evaluation", "tests", "benchmarks") for f in (ROOT / part).rglob("*.py")]
    assert {str(f): imported(f) & forbidden for f in files if imported(f) & forbidden} == {}


def test_no_file_is_unpickled():
    for part in ("src", "evaluation"):
        for file in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "torch.load",
                    "np.load",
                    "numpy.load",
                ):
                    safe = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert safe.get("weights_only") == "True" or safe.get("allow_pickle") == "False", (
                        f"{file}"
                    )
