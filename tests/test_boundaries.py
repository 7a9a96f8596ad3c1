"""Rules between the packages, held by reading the code."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_ovi_eval_never_imports_ovi_lab():
    files = list((ROOT / "evaluation" / "ovi_eval").rglob("*.py"))
    assert len(files) > 20
    assert [str(f) for f in files if "ovi_lab" in imported(f)] == []


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
