# SPDX-License-Identifier: Apache-2.0
"""Compiles the CUDA sources of this package when they are first needed, and launches their kernels.

There is nothing to build: NVRTC, NVIDIA's compiler as a library, makes code for the card that is
there, and `cuda-bindings` loads and launches it; PyTorch's CUDA wheels bring both. Neither is
imported before the first tensor on a CUDA device. docs/gpu.md describes the parts.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

SOURCES = Path(__file__).parent / "cuda"
CACHE_VARIABLE = "FAST3DGS_CACHE"
OPTIONS = ("--std=c++17", "--extra-device-vectorization")

_INCLUDE = re.compile(r'^#include "([^"]+)"', re.M)
_KERNEL = re.compile(r"^KERNEL\((\w+), (\d+), [\w:]+\)", re.M)
# NVRTC has no standard library; the mathematical functions are built in.
_INTEGERS = "\n".join(
    f"typedef signed {kind} int{bits}_t; typedef unsigned {kind} uint{bits}_t;"
    for bits, kind in ((8, "char"), (16, "short"), (32, "int"), (64, "long long"))
)
_STANDARD_HEADERS = {
    **dict.fromkeys(("cmath", "math.h"), ""),
    **dict.fromkeys(("cstdint", "stdint.h"), f"#pragma once\n{_INTEGERS}\n"),
}


class CudaMissingError(RuntimeError):
    """One sentence: what of CUDA is missing on this machine."""


class Arguments(ctypes.Structure):
    """The one argument of a kernel, or a part of it: a structure that may point to tensors.

    Fields of the type `pointer` take a tensor, or None for null. The tensors are kept, so that
    their memory is not given away before the launch.
    """

    tensors: tuple[torch.Tensor, ...]

    def __init__(self, **values: Any) -> None:
        """All fields by name; ValueError if one is missing or a tensor is not contiguous."""
        names = [field[0] for field in self._fields_]
        if set(names) != set(values):
            raise ValueError(f"{type(self).__name__} has the fields {names}, not {list(values)}.")
        found: list[torch.Tensor] = []
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                if not value.is_contiguous():
                    raise ValueError(f"{name} must be contiguous.")
                found.append(value)
                values[name] = value.data_ptr()
            elif isinstance(value, Arguments):
                found.extend(value.tensors)
        super().__init__(**values)
        self.tensors = tuple(found)


pointer = ctypes.c_void_p


@dataclass(frozen=True)
class Source:
    """A CUDA source file and the headers that it includes, directly or not."""

    name: str
    text: str
    headers: Mapping[str, str]

    @classmethod
    def read(cls, name: str, folders: Sequence[Path] = (SOURCES,)) -> Source:
        """The file NAME.cu in the first of the folders, with the headers from any of them."""
        text = (folders[0] / f"{name}.cu").read_text(encoding="utf-8")
        headers: dict[str, str] = {}
        missing = _INCLUDE.findall(text)
        while missing:
            include = missing.pop()
            path = next((f / include for f in folders if (f / include).is_file()), None)
            if include in headers or path is None:  # the latter: for another compiler only
                continue
            headers[include] = path.read_text(encoding="utf-8")
            missing.extend(_INCLUDE.findall(headers[include]))
        return cls(name, text, headers)

    @property
    def kernels(self) -> dict[str, int]:
        """Name of each kernel -> threads of its blocks."""
        return {name: int(threads) for name, threads in _KERNEL.findall(self.text)}

    def digest(self, *circumstances: str) -> str:
        """A hash of the source and of all else that its compiled form depends on."""
        parts = [self.name, self.text, *circumstances]
        parts += [part for item in sorted(self.headers.items()) for part in item]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Compiler(Protocol):
    """Makes code for one architecture."""

    def version(self) -> str:
        """What distinguishes this compiler from others."""
        ...

    def compile(self, source: Source, architecture: str) -> tuple[bytes, str]:
        """(cubin, log) for an architecture like "sm_90"."""
        ...


class Driver(Protocol):
    """What is needed of a CUDA driver; devices are numbered as by PyTorch."""

    def architecture(self, device: int) -> str:
        """Like "sm_90"."""
        ...

    def stream(self, device: int) -> int:
        """PyTorch's current stream."""
        ...

    def load(self, image: bytes, device: int) -> Any:
        """A module from a cubin."""
        ...

    def function(self, module: Any, name: str) -> Any:
        """A kernel of the module."""
        ...

    def launch(
        self,
        function: Any,
        blocks: int,
        threads: int,
        where: tuple[int, int],
        arguments: Arguments,
    ) -> None:
        """Start a kernel; `where` is (device, stream)."""
        ...


class KernelRunner(Protocol):
    """Runs the kernels of one source file."""

    def launch(self, name: str, blocks: int, arguments: Arguments) -> None:
        """Start a kernel with so many blocks; none where that is 0."""
        ...

    def launch_over(self, name: str, items: int, arguments: Arguments) -> None:
        """Start a kernel with at least one thread for each item."""
        ...


class Kernels:
    """The kernels of one source file on one device, compiled when the first of them is launched."""

    def __init__(
        self, source: Source, device: int, compiler: Compiler, driver: Driver, folder: Path
    ) -> None:
        """`folder`: where compiled code is kept."""
        self._source, self._device, self._folder = source, device, folder
        self._compiler, self._driver = compiler, driver
        self._threads = source.kernels
        self._module: Any = None
        self._functions: dict[str, Any] = {}

    def launch_over(self, name: str, items: int, arguments: Arguments) -> None:
        """See KernelRunner."""
        self.launch(name, -(-items // self._threads[name]), arguments)

    def launch(self, name: str, blocks: int, arguments: Arguments) -> None:
        """See KernelRunner. CudaMissingError if the kernel cannot be compiled or loaded here."""
        if blocks == 0:
            return
        if name not in self._functions:
            if self._module is None:
                self._module = self._driver.load(self._image(), self._device)
            self._functions[name] = self._driver.function(self._module, name)
        where = self._device, self._driver.stream(self._device)
        function, threads = self._functions[name], self._threads[name]
        self._driver.launch(function, blocks, threads, where, arguments)

    def _image(self) -> bytes:
        """The compiled source, from the cache if it is there."""
        architecture = self._driver.architecture(self._device)
        circumstances = architecture, self._compiler.version(), *OPTIONS
        path = self._folder / f"{self._source.name}-{self._source.digest(*circumstances)}.cubin"
        image = _kept(path)
        if image is None:
            image, _ = self._compiler.compile(self._source, architecture)
            _write(path, hashlib.sha256(image).digest() + image)
        return image


def _kept(path: Path) -> bytes | None:
    """The compiled code in a file of the cache; None without one, or where it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    digest, image = content[:size], content[size:]
    return image if hashlib.sha256(image).digest() == digest else None


def _write(path: Path, content: bytes) -> None:
    """Write a file that others see complete or not at all; none where the folder is read-only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError:
        return  # a cache is a convenience: it is compiled again next time
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)


class NvrtcCompiler:
    """See Compiler."""

    def __init__(self) -> None:
        self._nvrtc = _binding("nvrtc", "NVRTC, CUDA's run-time compiler,")

    def version(self) -> str:
        """See Compiler."""
        return "nvrtc {}.{}".format(*self._call("nvrtcVersion"))

    def compile(self, source: Source, architecture: str) -> tuple[bytes, str]:
        """See Compiler. RuntimeError, with the compiler's messages, if the source has an error."""
        supported = self._call("nvrtcGetSupportedArchs")[-1]
        if int(architecture.removeprefix("sm_")) not in supported:
            raise CudaMissingError(
                f"this version of NVRTC ({self.version()}) has no support for {architecture}, the "
                "architecture of the GPU."
            )
        headers = {**_STANDARD_HEADERS, **source.headers}
        program = self._call(
            "nvrtcCreateProgram",
            source.text.encode(),
            f"{source.name}.cu".encode(),
            len(headers),
            [text.encode() for text in headers.values()],
            [name.encode() for name in headers],
        )[0]
        try:
            return self._built(program, source, architecture)
        finally:
            self._call("nvrtcDestroyProgram", program)

    def _built(self, program: Any, source: Source, architecture: str) -> tuple[bytes, str]:
        report = "--ptxas-options=-v"  # registers and spills, in the log
        options = [o.encode() for o in (*OPTIONS, f"--gpu-architecture={architecture}", report)]
        failed = self._nvrtc.nvrtcCompileProgram(program, len(options), options)[0]
        log = bytearray(self._call("nvrtcGetProgramLogSize", program)[0])
        self._call("nvrtcGetProgramLog", program, log)
        text = log.rstrip(b"\0").decode(errors="replace")
        if failed:
            raise RuntimeError(f"NVRTC cannot compile {source.name}.cu ({failed.name}):\n{text}")
        image = bytearray(self._call("nvrtcGetCUBINSize", program)[0])
        self._call("nvrtcGetCUBIN", program, image)
        return bytes(image), text

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        return _checked(name, getattr(self._nvrtc, name)(*arguments))


class BindingsDriver:
    """See Driver."""

    def __init__(self) -> None:
        self._driver = _binding("driver", "the CUDA driver")
        self._call("cuInit", 0)

    def version(self) -> str:
        """The CUDA version that the driver supports."""
        version = int(self._call("cuDriverGetVersion")[0])
        return f"CUDA {version // 1000}.{version % 1000 // 10}"

    def architecture(self, device: int) -> str:
        """See Driver."""
        return "sm_{}{}".format(*torch.cuda.get_device_capability(device))

    def stream(self, device: int) -> int:
        """See Driver."""
        return torch.cuda.current_stream(device).cuda_stream

    def load(self, image: bytes, device: int) -> Any:
        """See Driver."""
        with torch.cuda.device(device):
            self._enter(device)
            return self._call("cuModuleLoadData", image)[0]

    def function(self, module: Any, name: str) -> Any:
        """See Driver."""
        return self._call("cuModuleGetFunction", module, name.encode())[0]

    def launch(
        self,
        function: Any,
        blocks: int,
        threads: int,
        where: tuple[int, int],
        arguments: Arguments,
    ) -> None:
        """See Driver."""
        device, stream = where
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with torch.cuda.device(device):
            self._enter(device)
            shape = (blocks, 1, 1, threads, 1, 1)
            no_shared_memory, address = 0, ctypes.addressof(parameters)
            self._call("cuLaunchKernel", function, *shape, no_shared_memory, stream, address, 0)

    def _enter(self, device: int) -> None:
        """Make PyTorch's context of the device the thread's, if the thread has none."""
        if int(self._call("cuCtxGetCurrent")[0]) == 0:
            context = self._call("cuDevicePrimaryCtxRetain", self._call("cuDeviceGet", device)[0])
            self._call("cuCtxSetCurrent", context[0])

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        return _checked(name, getattr(self._driver, name)(*arguments))


def _binding(name: str, what: str) -> ModuleType:
    """A module of `cuda-bindings`; CudaMissingError without it or the library behind it."""
    try:
        if name == "nvrtc":
            from cuda.bindings import nvrtc as module
        else:
            from cuda.bindings import driver as module
        getattr(module, "nvrtcVersion" if name == "nvrtc" else "cuDriverGetVersion")()
    except ImportError as error:
        raise CudaMissingError(
            f"{what} cannot be used, because cuda-bindings cannot be imported ({error}): "
            "pip install cuda-bindings, of the CUDA version of PyTorch."
        ) from error
    except Exception as error:  # the loader of the library raises errors of several types
        raise CudaMissingError(f"{what} was not found ({error}).") from error
    return module


def _checked(name: str, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values after the status; RuntimeError if that is not success."""
    status, *values = result
    if int(status) != 0:
        raise RuntimeError(f"{name} failed: {getattr(status, 'name', status)}.")
    return tuple(values)


def cache_folder() -> Path:
    """Where compiled kernels are kept: $FAST3DGS_CACHE, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fast3dgs"


@cache
def kernels_for(name: str, device: int) -> KernelRunner:
    """The kernels of NAME.cu of this package on a CUDA device; CudaMissingError if it has none."""
    return Kernels(Source.read(name), device, _compiler(), _driver(), cache_folder())


@cache
def _compiler() -> NvrtcCompiler:
    return NvrtcCompiler()


@cache
def _driver() -> BindingsDriver:
    return BindingsDriver()
