"""Where the parts of Ovi lie while one of them works: all on the device, one at a time, or block by block.

A part's weights stay where they were loaded (on the CPU, where they may be the mapped file itself) and are copied
to the device when they are needed; afterwards the copies are dropped, not copied back. No number changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT

OFFLOADS = ("none", "parts", "blocks")
"""`none`: all parts stay on the device; `parts`: each is there while it works; `blocks`: likewise, and of the twin
towers one pair of blocks works there while the next is copied."""


@contextmanager
def enough_memory(device: torch.device | str) -> Iterator[None]:
    """Turns an exhausted device into a UserError that names the options that need less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{device} has not enough free memory ({str(error).splitlines()[0]}): try offload=true, vae_tiling=true, "
            "batch_passes=false or weights_8bit=true; ovi-sample --plan shows what fits"
        ) from error


class Placement:
    """Brings parts to a device and sends them away again.

    Args:
        device: where the work is done.
        offload: one of `OFFLOADS`; True means `parts`, False `none`.

    Raises:
        UserError: unknown offload.
    """

    def __init__(self, device: torch.device | str, offload: bool | str = False) -> None:
        if isinstance(offload, bool):
            offload = "parts" if offload else "none"
        if offload not in OFFLOADS:
            raise UserError(f"offload is {offload!r}; expected true, false or one of {', '.join(OFFLOADS)}")
        self.device = torch.device(device)
        self.offload = offload

    @contextmanager
    def working(self, *parts: Any) -> Iterator[None]:
        """The parts are on the device inside; a part already there is left alone.

        A part is a module, or an object that keeps modules as its attributes, such as a codec.

        Raises:
            UserError: the device has not enough free memory for a part's weights.
        """
        moved: list[_Moved] = []
        streams: list[BlockStream] = []
        try:
            with enough_memory(self.device):
                for network in (n for part in parts for n in networks(part)):
                    blocks: list[nn.Module] = []
                    if self.offload == "blocks" and isinstance(network, TwinDiT):
                        blocks = network.sharding_units()
                        streams.append(BlockStream(blocks, self.device))
                    held = {id(m) for block in blocks for m in block.modules()}
                    moved.append(_Moved([m for m in network.modules() if id(m) not in held], self.device))
                yield
        finally:
            for stream in streams:
                stream.close()
            if self.offload != "none":
                for one in reversed(moved):
                    one.restore()
                if moved and self.device.type == "cuda":
                    torch.cuda.empty_cache()  # the next part needs other sizes of blocks than this one


def networks(part: Any) -> list[nn.Module]:
    """The modules that a part consists of, registered with nn.Module or not.

    A module that only groups tensors of another one is left out, such as twin towers' pairs of blocks: moved as
    networks of their own, they would all be on the device at once.

    Raises:
        TypeError: there is none.
    """
    found: list[nn.Module] = [part] if isinstance(part, nn.Module) else []
    for value in vars(part).values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, nn.Module) and all(item is not other for other in found):
                known = {id(t) for network in found for t in (*network.parameters(), *network.buffers())}
                own = [*item.parameters(), *item.buffers()]
                if not own or any(id(t) not in known for t in own):
                    found.append(item)
    if not found:
        raise TypeError(f"{type(part).__name__} is no module and keeps none")
    return found


class _Moved:
    """Copies of modules' tensors on a device, in the place of the originals until `restore`.

    What takes the copies' place is the original Parameter itself: nothing is copied back, and tensors of other
    libraries' types (quantised ones) need no more than their `to`.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device, wait: bool = True) -> None:
        self._before: list[tuple[dict[str, Any], str, Tensor]] = []
        copies: dict[int, Tensor] = {}  # a tensor that has two names is copied once
        try:
            for module in modules:
                # in torch's own dictionaries, since assigning an attribute would check and hook each
                registered: tuple[Any, ...] = (module._parameters, module._buffers)
                for book in registered:
                    for name, tensor in book.items():
                        if tensor is not None and not _on(tensor, device):
                            if id(tensor) not in copies:
                                copies[id(tensor)] = _copied(tensor, device, wait)
                            self._before.append((book, name, tensor))
                            book[name] = copies[id(tensor)]
        except BaseException:
            self.restore()
            raise

    def __bool__(self) -> bool:
        return bool(self._before)

    def restore(self) -> None:
        """The originals again."""
        while self._before:
            book, name, tensor = self._before.pop()
            book[name] = tensor


def _on(tensor: Tensor, device: torch.device) -> bool:
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)


def _copied(tensor: Tensor, device: torch.device, wait: bool) -> Tensor:
    with torch.no_grad():
        copy = tensor.detach().to(device, non_blocking=not wait)
    return (
        nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
    )


class BlockStream:
    """Brings each of a row of blocks to the device before it runs, and drops it afterwards.

    On CUDA the next block is copied on a stream of its own while a block runs, so that two are there at a time;
    elsewhere one. Blocks may be left out of a pass. `events` lists what happened, newest last: ("in" | "out", index of
    the block).
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self.blocks, self.device = blocks, device
        self.events: list[tuple[str, int]] = []
        self._there: dict[int, _Moved] = {}
        self._alone: dict[int, _Moved] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._started: Any = None
        self._hooks: list[Any] = []
        for index, block in enumerate(blocks):
            self._hooks.append(block.register_forward_pre_hook(partial(self._before_block, index)))
            self._hooks.append(
                block.register_forward_hook(partial(self._after_block, index), always_call=True)
            )
            # Keys and values of a text are made before any block runs, by some of its layers alone.
            for layer in block.modules():
                if layer is not block and (layer._parameters or layer._buffers):
                    self._hooks.append(layer.register_forward_pre_hook(self._before_layer))
                    self._hooks.append(layer.register_forward_hook(self._after_layer, always_call=True))

    def close(self) -> None:
        """Blocks are where they were, and no hook is left."""
        for hook in self._hooks:
            hook.remove()
        for index in list(self._there):
            self._send(index)
        for moved in self._alone.values():
            moved.restore()
        self._alone.clear()

    def _bring(self, index: int) -> None:
        if index in self._there:
            return
        self.events.append(("in", index))
        modules = list(self.blocks[index].modules())
        if self._stream is None:
            self._there[index] = _Moved(modules, self.device)
            return
        # What is freed by a block that was sent away belongs to this stream: a copy into it must not begin
        # before the work that read it has ended, which is when the block now running began.
        if self._started is not None:
            self._stream.wait_event(self._started)
        with torch.cuda.stream(self._stream):
            self._there[index] = _Moved(modules, self.device, wait=False)

    def _send(self, index: int) -> None:
        self.events.append(("out", index))
        self._there.pop(index).restore()

    def _before_block(self, index: int, *_: Any) -> None:
        for other in [i for i in self._there if i != index]:
            self._send(other)  # fetched for a pass that left it out
        if self._stream is None:
            self._bring(index)
            return
        main = torch.cuda.current_stream(self.device)
        if index not in self._there:
            self._started = main.record_event()
            self._bring(index)
        main.wait_stream(self._stream)
        self._started = main.record_event()

    def _after_block(self, index: int, *_: Any) -> None:
        if self._stream is not None:
            # The block's kernels are under way; the copy runs beside them.
            self._bring((index + 1) % len(self.blocks))
        if index in self._there:
            self._send(index)

    def _before_layer(self, layer: nn.Module, *_: Any) -> None:
        if moved := _Moved([layer], self.device):
            self._alone[id(layer)] = moved

    def _after_layer(self, layer: nn.Module, *_: Any) -> None:
        if moved := self._alone.pop(id(layer), None):
            moved.restore()
