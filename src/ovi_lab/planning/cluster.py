"""GPUs: what planning knows of each kind, and how many there are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from ovi_lab.common.fields import nearest
from ovi_lab.common.sizes import GIB, gib
from ovi_lab.errors import UserError

PER_NODE = 8
"""GPUs of a machine."""
NETWORK = 50.0
"""GB/s from each GPU to other machines: one 400 Gbit/s port a GPU, as in NVIDIA's DGX H100."""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU; see gpus.yaml for units and sources."""

    name: str
    device: str
    memory: int
    tflops: float
    bandwidth: float
    link: float
    host: float
    source: str


@cache
def known_gpus() -> tuple[Gpu, ...]:
    """The table of gpus.yaml, memory in bytes."""
    rows = yaml.safe_load(files(__package__).joinpath("gpus.yaml").read_text(encoding="utf-8"))
    return tuple(Gpu(**{**row, "memory": int(row["memory"] * GIB)}) for row in rows)


def gpu_of_device(name: str) -> Gpu | None:
    """The kind that CUDA calls so (`torch.cuda.get_device_name`); None where the table lacks it."""
    return next((gpu for gpu in known_gpus() if re.search(gpu.device, name)), None)


@dataclass(frozen=True)
class Cluster:
    """Equal GPUs in machines of `PER_NODE`."""

    count: int
    memory: int
    """Memory of each GPU in bytes."""
    gpu: Gpu | None
    """The kind named, or a kind with that memory; None where there is none."""
    named: bool
    """Whether the kind was named."""

    @classmethod
    def parse(cls, text: str) -> Cluster:
        """The cluster of `64x80GB`, `8xH100` or `H100`.

        Raises:
            UserError: anything else, or a kind that is not in the table.
        """
        match = re.fullmatch(r"\s*(?:(\d+)\s*x\s*)?(\S.*?)\s*", text, re.IGNORECASE)
        count = 0 if match is None else int(match[1] or 1)
        if match is None or not count:
            raise UserError(
                f"gpus={text} is not understood: give number and memory or kind, gpus=64x80GB or 8xH100"
            )
        word = match[2]
        size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*gi?b?", word, re.IGNORECASE)
        if size is not None and float(size[1]):
            memory = int(float(size[1]) * GIB)
            return cls(count, memory, next((g for g in known_gpus() if g.memory == memory), None), False)
        kinds = {_plain(g.name): g for g in known_gpus()}
        if _plain(word) not in kinds:
            names = [g.name for g in known_gpus()]
            raise UserError(
                f"gpus={text}: unknown GPU {word!r}{nearest(word, names)}; or memory, such as 8x80GB"
            )
        gpu = kinds[_plain(word)]
        return cls(count, gpu.memory, gpu, True)

    def of(self, count: int) -> Cluster:
        """A cluster of `count` GPUs of the same kind."""
        return Cluster(count, self.memory, self.gpu, self.named)

    @property
    def typed(self) -> str:
        """The cluster as typed on the command line."""
        kind = self.gpu.name if self.named and self.gpu else f"{self.memory / GIB:g}GB"
        return f"gpus={self.count}x{kind}"

    @property
    def bandwidth(self) -> float:
        """GB/s at the slowest place of a ring through all GPUs."""
        if self.gpu is None:
            return 0.0
        return self.gpu.link if self.count <= PER_NODE else min(self.gpu.link, NETWORK)

    def __str__(self) -> str:
        each = "" if self.count == 1 else f"{self.count} x "
        return f"{each}{self.gpu.name if self.named and self.gpu else gib(self.memory)}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("nvidia"))
