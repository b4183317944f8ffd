"""A CUDA device that is not there: tensors that say they lie on it and are computed on the CPU.

Import this module before torch, in a process of its own, since it changes torch for the whole process. A
`DeviceTensor` has the device "cuda:0", so that torch and the project take their code path for a GPU: autocast, fused
kernels, the lookups of FBGEMM, pinned memory. Its values lie in a tensor on the CPU, with which each operator is
computed, so that a run goes on after it has read a value.

`FakeDevice` records each event at which a GPU would differ from a CPU (`Kind`), with its place in the code.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal, Self, get_args

from tests.gpu_proofs.fake_cuda.library import library

_library = ctypes.CDLL(str(library()), mode=ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
import torch._dynamo  # noqa: E402  # It compares functions that are replaced below with its own.
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten  # noqa: E402

aten = torch.ops.aten
DEVICE = torch.device("cuda", 0)
# read: the host waits for a value, or for the shape of a result, that the device computes.
# copy: the host waits for a copy to the device, since its source is not pinned or `non_blocking` is False.
# mixed: an operator has tensors of both devices, of which that on the CPU has no dimension or is an index.
Kind = Literal["read", "copy", "mixed"]
# Operators in whose name a value is read that torch's tags do not know.
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
_COPIES = (aten._to_copy.default, aten.copy_.default)
_PACKAGES = ("/ple_rec/", "/torchrec/", "/fbgemm_gpu/")


@dataclass(frozen=True)
class Event:
    """Event at which a run on a GPU waits, or at which it mixes devices.

    Args:
        kind: Kind of the event.
        operator: Name of the operator.
        place: File and function of the project, of TorchRec or of FBGEMM that called the operator, such as
            "ple_rec/training/step.py: train_step"; "backward pass" if autograd called it.
    """

    kind: Kind
    operator: str
    place: str


class DeviceTensor(Tensor):
    """Tensor on the fake device.

    Attributes:
        host: Tensor on the CPU that has the values.
    """

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> Self:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device=DEVICE,
        )
        tensor.host = host
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})

    def as_subclass(self, cls: Any) -> Any:
        """Return the tensor as an object of a class of TorchRec; torch converts plain tensors only."""
        both = _subclass(cls)
        tensor = DeviceTensor.__new__(both, self.host)
        return tensor.requires_grad_(self.requires_grad)

    def __repr__(self) -> str:
        return f"DeviceTensor({self.host!r})"

    def tolist(self) -> Any:
        # torch refuses this method for every subclass.
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def record_stream(self, stream: Any) -> None:
        """Do nothing, since no memory is used again."""


@cache
def _subclass(cls: type) -> Any:
    """Return the class of tensors of a class on the fake device."""
    return type(cls)(cls.__name__, (cls, DeviceTensor), {})


class FakeDevice(TorchDispatchMode):
    """Mode in which operators that make a tensor on a CUDA device make a `DeviceTensor`.

    Attributes:
        events: Events since the mode began, or since `take_events`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def __enter__(self) -> Self:
        _modes.append(self)
        # `torch.tensor(values, device="cuda")` then fills a tensor on the CPU, and calls an operator that copies it.
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)
        _modes.remove(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})

    def take_events(self) -> list[Event]:
        """Return the events, and forget them."""
        events, self.events = self.events, []
        return events


_modes: list[FakeDevice] = []


def _record(kind: Kind, operator: object) -> None:
    for mode in _modes:
        mode.events.append(Event(kind, str(operator), _place()))


def _place() -> str:
    """Return file and function of the innermost call from the project, TorchRec or FBGEMM."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        for package in _PACKAGES:
            if package in name:
                return f"{package[1:]}{name.rpartition(package)[2]}: {frame.f_code.co_qualname}"
        frame = frame.f_back
    return "elsewhere" if threading.current_thread() is threading.main_thread() else "backward pass"


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operator on the CPU, and return its result on the device on which a GPU would have it."""
    values, spec = tree_flatten((args, kwargs))
    inputs = {id(value.host): value for value in values if isinstance(value, DeviceTensor)}
    target = kwargs.get("device")
    on_device = bool(inputs) if target is None else torch.device(target).type == "cuda"
    if func in _COPIES:
        on_device = _check_copy(func, args, kwargs)
    elif inputs:
        _check(func, args, kwargs, [value for value in values if isinstance(value, Tensor)])
    host_args, host_kwargs = tree_unflatten([_host(value) for value in values], spec)
    if func.name().endswith("_pt2_wrapper"):
        host_args = _lookup_arguments(func, host_args)
    result = func(*host_args, **host_kwargs)
    if not on_device:
        return result

    def wrapped(value: Any) -> Any:
        # An operator that changes a tensor in place returns that tensor.
        return inputs[id(value)] if id(value) in inputs else DeviceTensor(value)

    return tree_map(lambda value: wrapped(value) if isinstance(value, Tensor) else value, result)


def _host(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value.host
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value


def _lookup_arguments(func: Any, args: Sequence[Any]) -> list[Any]:
    """Return the arguments with which FBGEMM's kernel for CPUs does what its kernel for GPUs would do.

    FBGEMM passes tables, and the state of their optimizer, as `dev_weights` or `momentum1_dev` if they lie on a GPU;
    its kernel for CPUs reads `host_weights` and `momentum1_host`.
    """
    # Arguments at the end may be left out, since they have defaults.
    by_name = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    for name in by_name:
        if "host" in name:
            by_name[name] = by_name[name.replace("host", "dev")]
    return list(by_name.values())


def _check_copy(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Record the event of a copy that the host waits for; return True if its result lies on the device."""
    if func is aten.copy_.default:
        target, source = args[0], args[1]
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        to_device, pinned = isinstance(target, DeviceTensor), target.is_pinned()
    else:
        source, device = args[0], kwargs.get("device")
        non_blocking = kwargs.get("non_blocking", False)
        to_device = isinstance(source, DeviceTensor) if device is None else torch.device(device).type == "cuda"
        pinned = False
    from_device = isinstance(source, DeviceTensor)
    if from_device and not to_device and not (non_blocking and pinned):
        _record("read", func)
    if to_device and not from_device and source.device.type == "cpu" and not (non_blocking and source.is_pinned()):
        _record("copy", func)
    return to_device


def _check(func: Any, args: Any, kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> None:
    """Record that an operator reads a value or has tensors of both devices.

    Raises:
        RuntimeError: A tensor on the CPU has a dimension, and is no index.
    """
    others = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    is_index = func in _INDEXING and isinstance(args[0], DeviceTensor)
    for tensor in others:
        if tensor.dim() and not (is_index and any(tensor is index for index in args[1])):
            shapes = [(tuple(each.shape), each.device.type) for each in tensors]
            raise RuntimeError(f"{func}: tensors on two devices, {shapes}, in {_place()}")
        _record("mixed", func)
    reads = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
    if func in _INDEXING:
        masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        # A single value is written by `masked_fill`, whose shape does not depend on the mask.
        fills = func is not aten.index.Tensor and args[2].numel() == 1
        reads = masks and not fills
    if reads:
        _record("read", func)


class _Stream:
    """Stream of the fake device, on which an operator is done as soon as it is called."""

    def __init__(self, device: object = DEVICE, priority: int = 0) -> None:
        self.device = torch.device(device)

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def record_event(self, event: object = None) -> _Event:
        return _Event()

    def synchronize(self) -> None:
        _record("read", "Stream.synchronize")


class _Event:
    """Event of a stream of the fake device."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        pass

    def record(self, stream: object = None) -> None:
        pass

    def wait(self, stream: object = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: object) -> float:
        return 0.0

    def synchronize(self) -> None:
        _record("read", "Event.synchronize")


def _change_torch() -> None:
    """Make torch's Python code believe that there is a GPU."""
    stream = _Stream()
    for function, arguments in ((_library.pin_block, 2), (_library.unpin_block, 1)):
        function.argtypes = [ctypes.c_size_t] * arguments
    runtime = SimpleNamespace(
        cudaHostRegister=lambda address, bytes_, flags: _library.pin_block(address, bytes_),
        cudaHostUnregister=_library.unpin_block,
    )
    properties = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3", total_memory=80 << 30, major=9, minor=0, multi_processor_count=132
    )
    for name, value in {
        "Event": _Event,
        "Stream": _Stream,
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "stream": lambda stream: nullcontext(),
        "max_memory_allocated": lambda device=None: 0,
        # Random numbers of the device are drawn by the generator of the CPU.
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "cudart": lambda: runtime,
        "synchronize": lambda device=None: _record("read", "torch.cuda.synchronize"),
    }.items():
        setattr(torch.cuda, name, value)
    # `Module.to` would write a `DeviceTensor` into the object of a parameter on the CPU; now it makes a new parameter.
    is_compatible = torch._has_compatible_shallow_copy_type
    torch._has_compatible_shallow_copy_type = lambda one, other: (
        isinstance(one, DeviceTensor) == isinstance(other, DeviceTensor) and is_compatible(one, other)
    )


_change_torch()
