# SPDX-License-Identifier: Apache-2.0
"""PyTorch's names for CUDA devices, made to mean the CPU in the whole process.

Functions of PyTorch are replaced by ones that take the CPU where a CUDA device is named, then call
the original. `torch.cuda.is_available()` is False. Nothing imitates the speed or the memory of a
GPU: events measure the time of the CPU, and memory figures are 0. `.cuda()` returns the tensor
itself, as on a GPU for a tensor that is there already; `.cpu()` returns a copy, as there.
"""

from __future__ import annotations

import functools
import os
import platform
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

_Device, _Generator = torch.device, torch.Generator
CPU = _Device("cpu")

# Functions that make tensors, and methods that do; all have the keyword `device`.
_FACTORIES = (
    *("arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "empty"),
    *("empty_like", "empty_permuted", "empty_quantized", "empty_strided", "eye", "full"),
    *("full_like", "hamming_window", "hann_window", "kaiser_window", "linspace", "logspace"),
    *("normal", "ones", "ones_like", "rand", "rand_like", "randint", "randint_like", "randn"),
    *("randn_like", "randperm", "range", "scalar_tensor", "sparse_bsc_tensor"),
    *("sparse_bsr_tensor", "sparse_compressed_tensor", "sparse_coo_tensor", "sparse_csc_tensor"),
    *("sparse_csr_tensor", "tensor", "tril_indices", "triu_indices", "zeros", "zeros_like"),
)
_METHODS = ("new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros")
_TYPES = ("Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short", "BFloat16")
_SILENT = (
    *("empty_cache", "init", "ipc_collect", "manual_seed", "manual_seed_all"),
    *("reset_accumulated_memory_stats", "reset_max_memory_allocated", "reset_max_memory_cached"),
    *("reset_peak_memory_stats", "seed", "seed_all", "set_device", "set_stream", "synchronize"),
    "set_per_process_memory_fraction",
)


def map_cuda_to_cpu() -> None:
    """Make CUDA devices mean the CPU, from now on and in all threads."""
    # Scripted functions would hold the devices that they were written with: they run as Python.
    os.environ["PYTORCH_JIT"] = "0"
    torch.jit._state.disable()
    _map_tensors()
    _map_modules()
    _map_devices()
    _map_loading()
    _map_cuda_functions()


def on_cpu(device: Any) -> Any:
    """The CPU for a CUDA device, given by name, number or object; anything else as it is."""
    if isinstance(device, bool) or device is None:
        return device
    if isinstance(device, int):
        return CPU
    if isinstance(device, str):
        return CPU if device.partition(":")[0] == "cuda" else device
    return CPU if isinstance(device, _Device) and device.type == "cuda" else device


def _map_tensors() -> None:
    for name in _FACTORIES:
        setattr(torch, name, _with_mapped_device(getattr(torch, name)))
    for name in ("fftfreq", "rfftfreq"):
        setattr(torch.fft, name, _with_mapped_device(getattr(torch.fft, name)))
    for name in _METHODS:
        setattr(torch.Tensor, name, _with_mapped_device(getattr(torch.Tensor, name)))
    for name in ("cuda", "pin_memory"):
        setattr(torch.Tensor, name, _returning_itself())
    torch.Tensor.cpu = _copied  # type: ignore[method-assign,assignment]
    torch.Tensor.record_stream = _returning(None)  # type: ignore[method-assign]
    torch.Tensor.to = _with_mapped_place(torch.Tensor.to)  # type: ignore[method-assign]
    torch.Tensor.type = _with_mapped_type(torch.Tensor.type)  # type: ignore[method-assign]
    for name in _TYPES:
        setattr(torch.cuda, f"{name}Tensor", getattr(torch, f"{name}Tensor"))
    torch.set_default_tensor_type = _with_mapped_type(torch.set_default_tensor_type, first=0)


def _map_modules() -> None:
    # Module.to passes what it is given on to Tensor.to.
    torch.nn.Module.cuda = _returning_itself()  # type: ignore[method-assign]


def _map_devices() -> None:
    torch.device = _standing_for(_Device, "type")  # type: ignore[misc]
    torch.Generator = _standing_for(_Generator, "device")  # type: ignore[misc]
    torch.set_default_device = _with_mapped_first(torch.set_default_device)


def _map_loading() -> None:
    load = torch.load

    @functools.wraps(load)
    def load_on_cpu(f: Any, map_location: Any = None, *args: Any, **options: Any) -> Any:
        """`torch.load`: to the CPU, or where a function says; its `storage.cuda()` is the CPU."""
        place = map_location if callable(map_location) else CPU
        return load(f, place, *args, **options)

    torch.load = load_on_cpu
    torch.UntypedStorage.cuda = _returning_itself()  # type: ignore[method-assign]
    torch.TypedStorage.cuda = _returning_itself()  # type: ignore[method-assign]


def _map_cuda_functions() -> None:
    cuda: Any = torch.cuda
    for name in _SILENT:
        setattr(cuda, name, _returning(None))
    cuda.is_available, cuda.is_initialized = _returning(False), _returning(False)
    cuda.device_count, cuda.current_device = _returning(0), _returning(0)
    cuda.initial_seed = torch.initial_seed
    cuda.get_rng_state = lambda device=None: torch.get_rng_state()
    cuda.set_rng_state = lambda state, device=None: torch.set_rng_state(state)
    cuda.get_rng_state_all = lambda: [torch.get_rng_state()]
    cuda.set_rng_state_all = lambda states: torch.set_rng_state(states[0]) if states else None
    cuda.memory_summary = lambda device=None, abbreviated=False: "no GPU memory is used"
    cuda.mem_get_info = lambda device=None: _memory()
    cuda.get_device_name = lambda device=None: _processor()
    cuda.get_device_capability = lambda device=None: (0, 0)
    cuda.get_device_properties = lambda device=None: SimpleNamespace(
        name=_processor(),
        total_memory=_memory()[1],
        major=0,
        minor=0,
        multi_processor_count=os.cpu_count() or 1,
    )
    cuda.Event, cuda.Stream = Event, Stream
    for name in ("current_stream", "default_stream"):
        setattr(cuda, name, lambda device=None: Stream())
    for name in ("device", "device_of", "stream"):
        setattr(cuda, name, lambda place=None: nullcontext(place))
    for name in ("range_push", "range_pop", "mark"):
        setattr(cuda.nvtx, name, _returning(None))
    cuda.nvtx.range = lambda *args, **options: nullcontext()


class Event:
    """A place in the order of the work: on the CPU, the moment of `record`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._seconds = 0.0

    def record(self, stream: Any = None) -> None:
        """Note the time."""
        self._seconds = time.perf_counter()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to the other."""
        return 1e3 * (end_event._seconds - self._seconds)

    def query(self) -> bool:
        """Whether the work before it is done: always."""
        return True

    def synchronize(self) -> None:
        """Wait for nothing."""

    def wait(self, stream: Any = None) -> None:
        """Wait for nothing."""


class Stream:
    """An order of work: on the CPU, that of the program."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.cuda_stream = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def query(self) -> bool:
        """Whether all its work is done: always."""
        return True

    def record_event(self, event: Event | None = None) -> Event:
        """The event, or a new one, at this moment."""
        event = Event() if event is None else event
        event.record()
        return event

    def synchronize(self) -> None:
        """Wait for nothing."""

    def wait_event(self, event: Any) -> None:
        """Wait for nothing."""

    def wait_stream(self, stream: Any) -> None:
        """Wait for nothing."""


def _with_mapped_device(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if "device" in options:
            options["device"] = on_cpu(options["device"])
        if options.get("pin_memory"):
            options["pin_memory"] = False
        return function(*args, **options)

    return call


def _with_mapped_first(function: Any) -> Any:
    @functools.wraps(function)
    def call(device: Any) -> Any:
        return function(on_cpu(device))

    return call


def _with_mapped_place(function: Any) -> Any:
    @functools.wraps(function)
    def call(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        place = options.pop("device", None)
        if args and not isinstance(args[0], (torch.dtype, torch.Tensor)):
            place, *args = args  # type: ignore[assignment]
        if place is not None:
            args = (on_cpu(place), *args)
        result = function(tensor, *args, **options)
        return _copied(result) if place == "cpu" and result is tensor else result

    return call


def _with_mapped_type(function: Any, first: int = 1) -> Any:
    """The function, whose argument number `first` may be the name of a CUDA type."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if len(args) > first and isinstance(args[first], str):
            name = args[first].replace("torch.cuda.", "torch.")
            args = (*args[:first], name, *args[first + 1 :])
        return function(*args, **options)

    return call


def _standing_for(real: type, keyword: str) -> Any:
    """What replaces the class `real`: calls make an object of `real` for the CPU.

    The device is the first argument, or the one with the `keyword`.
    """

    class Kind(type):
        def __call__(cls, *args: Any, **options: Any) -> Any:
            given = args[0] if args else options.get(keyword)
            mapped = on_cpu(given)
            if mapped is given:
                return real(*args, **options)
            return real(mapped) if real is _Device else real(device=mapped)

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, real)

    # The name and the module are those under which pickle finds the class.
    names = {"__doc__": real.__doc__, "__module__": "torch", "__qualname__": real.__name__}
    return Kind(real.__name__, (), names)


# PyTorch's compiler keeps tables of PyTorch's functions, in which none may occur twice: each name
# gets a function of its own.
def _returning_itself() -> Any:
    return lambda thing, *args, **options: thing


def _returning(value: Any) -> Any:
    return lambda *args, **options: value


def _copied(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    # A parameter that is trained further must not change what a script has taken to the CPU.
    return tensor.clone()


def _processor() -> str:
    return platform.processor() or platform.machine()


def _memory() -> tuple[int, int]:
    """Bytes of main memory: free, and in all; zeros where the system does not tell."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0, 0
