"""Tensors of the GPU without data, and a record of what is done with them.

On the CPU everything is real: random numbers, schedules, batches, files. What touches `cuda:0` runs on shapes alone
(PyTorch's FakeTensorMode), which refuses tensors of different devices in one operation as a GPU would.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ovi_lab.planning.live_memory import LiveStorages
from ovi_lab.rehearsal.lines import line_of_code
from ovi_lab.rehearsal.record import Kind, Record

aten = torch.ops.aten

PRODUCTS = {
    "mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward", "_grouped_mm", "_scaled_mm",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_cudnn_attention_backward",
}  # fmt: skip
"""Matrix products, convolutions and fused attention: what FLOPs are counted of."""
_WITHOUT_KERNEL = {
    "detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
    "_unsafe_view", "_reshape_alias", "reshape", "view_of", "set_", "resize_", "record_stream", "is_pinned",
}  # fmt: skip
_WAITING = {
    "nonzero", "masked_select", "unique", "_unique2", "unique_consecutive", "unique_dim", "equal", "is_nonzero",
    "linalg_solve_ex", "_linalg_solve_ex", "linalg_inv_ex", "linalg_cholesky_ex", "linalg_lstsq", "bincount", "histc",
}  # fmt: skip
"""Operations that wait for the GPU: their results' shapes depend on values, or errors are looked for."""
_OF_PARTS = (aten.slice.Tensor, aten.view.default, aten.cat.default)
"""ZeRO 3 puts every parameter together from the parts of all ranks: without the mode's cache and its checks that takes
half of the time."""
_FLASH_BACKWARD = aten._scaled_dot_product_flash_attention_backward.default

_FAKE = torch._C._TorchDispatchModeKey.FAKE
_KNOWN = "_rehearsed_values"
_FEW = 2**14
"""Values of a tensor that is remembered with what the host put into it."""
_MANY = 2**22
"""Values from which on what the host reads is not even zeros."""


class _Shapes(FakeTensorMode):
    """PyTorch's mode, made for several threads.

    While one computes shapes, a tensor's device is "meta" to it. PyTorch keeps that for the mode as a whole, so that it
    is "meta" to the others as well: to autograd, which remembers a stream of the device for each of its nodes, and to
    whatever counts tensors of the GPU.
    """

    avoid_device_init = True  # constants would be computed on the GPU that it is given

    def __init__(self) -> None:
        self._of_thread = threading.local()
        super().__init__(allow_non_fake_inputs=True)

    @property
    def in_kernel_invocation(self) -> bool:
        """Whether this thread computes shapes."""
        return getattr(self._of_thread, "computes", False)

    @in_kernel_invocation.setter
    def in_kernel_invocation(self, value: bool) -> None:
        self._of_thread.computes = value


class Watch(TorchDispatchMode):
    """Everything inside computes on the CPU as ever, and on `cuda:0` without data.

    Args:
        record: gets what happens on the GPU.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record
        self.live = LiveStorages()
        self.fake = _Shapes()
        self._pinned: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.RLock()

    # ---- operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented  # its own dispatch calls the operations of its parts
        if func.namespace == "prim" or torch._C._get_dispatch_mode(_FAKE) is not None:
            # a question, such as a tensor's device; or shapes that another computes, as DTensor does
            return func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        device = kwargs.get("device")
        is_on_gpu = any(isinstance(x, FakeTensor) for x in tensors)
        if not is_on_gpu and (device is None or torch.device(device).type != "cuda"):
            return self._on_cpu(func, args, kwargs)
        name = func.name().partition("::")[2].partition(".")[0]
        if name == "_local_scalar_dense":
            return self._read(args[0])
        if name == "_pin_memory" or name == "is_pinned":
            return args[0] if name == "_pin_memory" else False
        if name == "record_stream":
            return None
        if name in _WAITING or (name.startswith("index") and _has_mask(args)):
            self.record.wait(name, line_of_code())
            if name in ("equal", "is_nonzero"):
                return True
        if name in ("_to_copy", "copy_"):
            return self._copied(func, name, args, kwargs, tensors)
        return self._run(func, name, args, kwargs, tensors)

    def _on_cpu(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        if name == "_pin_memory":
            pinned = args[0].clone()
            self._pinned.add(pinned.untyped_storage())
            return pinned
        if name == "is_pinned":
            return args[0].untyped_storage() in self._pinned
        return func(*args, **kwargs)

    def _shapes(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self._lock:  # FakeTensorMode is made for one thread at a time
            if func in _OF_PARTS and not kwargs:
                parts = args[0] if isinstance(args[0], list | tuple) else args[:1]
                devices = {x.fake_device for x in parts if isinstance(x, FakeTensor)}
                if len(devices) == 1 and all(isinstance(x, FakeTensor) for x in parts):
                    with in_kernel_invocation_manager(self.fake):
                        shape = func(*args)
                    return FakeTensor(self.fake, shape, *devices)
            return self.fake.__torch_dispatch__(func, (), args, kwargs)

    def _run(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """The operation on shapes alone, counted."""
        out = self._shapes(func, args, kwargs)
        collective = func.namespace in ("c10d", "_c10d_functional")
        if func._schema.is_mutable and not collective:  # what the first of equal ranks sends, it keeps
            for tensor in tensors:
                vars(tensor).pop(_KNOWN, None)
        elif name in ("lift_fresh", "detach", "alias") and _KNOWN in vars(args[0]):
            vars(out)[_KNOWN] = vars(args[0])[_KNOWN]
        made = [x for x in tree_leaves(out) if isinstance(x, FakeTensor) and x.device.type == "cuda"]
        line = "" if func.is_view else line_of_code()
        for tensor in made:
            self.live.count(tensor, line)
        if func is _FLASH_BACKWARD:
            self.live.reach(4 * args[1].numel(), line)  # the queries' gradient is summed in float32
        if not _is_view(func, name):
            moved = {id(x): x for x in (*tensors, *made) if x.device.type == "cuda"}.values()
            kind: Kind = "collective" if collective else "product" if name in PRODUCTS else "pointwise"
            size = sum(x.numel() * x.element_size() for x in moved)
            self.record.kernel(name, kind, size, [x.dtype for x in tensors], line)
        return out

    def _copied(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """A copy, which may be between devices, or of type alone."""
        if name == "copy_":
            target, source = args[0], args[1]
            where, soon = target.device, bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        else:
            source = args[0]
            where = torch.device(kwargs.get("device") or source.device)
            soon = bool(kwargs.get("non_blocking"))
        if where.type == source.device.type:
            return self._run(func, name, args, kwargs, tensors)
        size = source.numel() * source.element_size()
        if where.type == "cuda":
            pinned = source.untyped_storage() in self._pinned
            line = line_of_code()
            self.record.copy("to the GPU", size, soon and pinned, line)
            out = self._shapes(func, args, kwargs)
            self.live.count(out, line)
            vars(out).pop(_KNOWN, None)
            if name == "_to_copy" and source.numel() <= _FEW:
                vars(out)[_KNOWN] = source.to(out.dtype, copy=True)
            return out
        self.record.copy("from the GPU", size, soon, line_of_code())
        if name == "copy_":
            return target
        return _values(source).to(kwargs.get("dtype") or source.dtype)

    def _read(self, tensor: Tensor) -> Any:
        """A number of the GPU."""
        self.record.wait("item", line_of_code())
        return _values(tensor).item()

    # ---- beside operations

    def wait(self, what: str) -> None:
        """The host waits for the GPU otherwise than by reading a tensor."""
        self.record.wait(what, line_of_code())

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        """This mode in all threads that start within the block, and for what dispatch does not see."""
        thread, storage, listed = threading.Thread.run, torch.UntypedStorage.resize_, FakeTensor.tolist
        swap = torch.utils.swap_tensors
        watch = self

        def run(self: threading.Thread) -> None:
            with watch:
                thread(self)

        def resize_(self: torch.UntypedStorage, size: int) -> Any:
            out = storage(self, size)
            watch.live.resized(self)
            return out

        def tolist(self: FakeTensor) -> Any:
            watch.record.wait("tolist", line_of_code())
            return _values(self).tolist()

        def swap_tensors(old: Tensor, new: Tensor) -> None:
            # of nn.Module.to: tensors without data are known elsewhere by reference and cannot change identity
            if not isinstance(old, FakeTensor):
                swap(old, new)
            elif isinstance(new, FakeTensor) and new is not old:
                old.data = new

        before = torch._C._only_lift_cpu_tensors()
        threading.Thread.run, torch.UntypedStorage.resize_, FakeTensor.tolist = run, resize_, tolist  # type: ignore[method-assign,assignment]
        torch.utils.swap_tensors = swap_tensors
        # so that torch.tensor(…, device="cuda") copies, as it does on a GPU
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with self:
                yield
        finally:
            threading.Thread.run, torch.UntypedStorage.resize_, FakeTensor.tolist = thread, storage, listed  # type: ignore[method-assign]
            torch.utils.swap_tensors = swap
            torch._C._set_only_lift_cpu_tensors(before)


def _values(tensor: Tensor) -> Tensor:
    """What the host reads of a tensor of the GPU: the few numbers that it sent there itself, else zeros."""
    known = vars(tensor).get(_KNOWN)
    if known is not None:
        return known
    # whole weights are not worth the time of setting them
    make = torch.zeros if tensor.numel() <= _MANY else torch.empty
    return make(tensor.shape, dtype=tensor.dtype)


def _has_mask(args: Any) -> bool:
    """Whether a tensor is indexed by true and false, whose places the GPU has to tell first."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices)


_VIEWS: dict[Any, bool] = {}


def _is_view(func: Any, name: str) -> bool:
    """Whether the operation only describes memory anew, so that no kernel is launched."""
    if func not in _VIEWS:
        _VIEWS[func] = func.is_view or name in _WITHOUT_KERNEL
    return _VIEWS[func]
