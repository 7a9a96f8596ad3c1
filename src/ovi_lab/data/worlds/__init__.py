"""Synthetic audio-video worlds: generated clips whose ground truth is known. A new world is one file here.

    @register("my_world")
    class MyWorld: ...

The file is found by its place in this package; the class follows the `World` protocol.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from ovi_eval.clips.clipset import ClipSet


class World(Protocol):
    """The protocol of a world: its facts and the generator of its clips.

    Attributes:
        name: the registry's key; part of every clip's id and of every metric's name.
        version: raised when the generator changes, so that shards of the old one are not reused.
        fps, num_frames, height, width: of the picture. sample_rate, num_samples: of the mono sound.
        vocabulary: every word a caption may hold.
        partials_hz: frequencies of the sustained tones (for codecs that make sound from band energies).
    """

    name: str
    version: int
    fps: float
    num_frames: int
    height: int
    width: int
    sample_rate: int
    num_samples: int
    vocabulary: tuple[str, ...]
    partials_hz: tuple[float, ...]

    def render(self, indices: Sequence[int], seed: int) -> ClipSet:
        """The clips of `indices`; a clip depends on (seed, index) alone, never on its neighbours."""
        ...


AnyWorld = TypeVar("AnyWorld", bound=Callable[[], World])
_REGISTRY: dict[str, Callable[[], World]] = {}


def register(name: str) -> Callable[[AnyWorld], AnyWorld]:
    """Class decorator that puts a world into the registry under `name`."""

    def add(cls: AnyWorld) -> AnyWorld:
        known = _REGISTRY.get(name)
        if known is not None and getattr(known, "__qualname__", "") != getattr(cls, "__qualname__", ""):
            raise ValueError(f"two worlds are called {name!r}: {known} and {cls}")
        _REGISTRY[name] = cls
        return cls

    return add


def world_names() -> list[str]:
    """The registered worlds, every file of this package having been imported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_REGISTRY)


def get_world(name: str) -> World:
    """The world of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    names = world_names()
    if name not in names:
        raise UserError(f"no world is called {name!r}; there is {', '.join(names)}")
    return _REGISTRY[name]()
