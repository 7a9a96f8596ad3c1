"""Synthetic audio-video worlds: generated clips whose ground truth is known. A new world is one file here,
of the world's name, or an entry point of another package (docs/adding_a_world.md).

    @register("my_world")
    class MyWorld: ...

The file is found by its place in this package; the class follows the `World` protocol.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ovi_eval.common.shown import did_you_mean, shown
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
ENTRY_POINTS = "ovi_lab.worlds"
"""The group of entry points in which installed packages name their worlds."""
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
    """Names of all worlds: files of this package, and entry points of others'. Nothing is imported."""
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} | points.names)


def get_world(name: str) -> World:
    """The world of that name, which the command line or a composed configuration gives.

    Another package's world is imported here and only if it is the one named; a name that a run's stored configuration
    holds never comes here (SECURITY.md).

    Raises:
        UserError: there is none (the message lists those there are), or its package gives none.
    """
    own = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in own and name not in (names := world_names()):
        offer = did_you_mean(name, names)
        raise UserError(
            f"no world is called {shown(name)!r}; {offer}{' ' if offer else ''}there is {', '.join(names)}"
        )
    for module in own:
        importlib.import_module(f"{__name__}.{module}")
    if name in _REGISTRY:
        return _REGISTRY[name]()
    (point, *others) = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
    if others:
        packages = ", ".join(sorted(_package(p) for p in (point, *others)))
        raise UserError(f"the world {name!r} is registered by {packages}: uninstall all but one")
    try:
        world: World = point.load()()
        lacking = [field for field in (*World.__annotations__, "render") if not hasattr(world, field)]
        if lacking:
            raise TypeError(f"it has no {lacking[0]}")
    except Exception as error:  # another package's module may raise anything
        where = f"{_package(point)}: its entry point {name} = {point.value}"
        raise UserError(f"{where} gives no world: {shown(f'{type(error).__name__}: {error}')}") from error
    return world


def _package(point: importlib.metadata.EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist is not None else "a package"
