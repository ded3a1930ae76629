# SPDX-License-Identifier: Apache-2.0
"""The launch layer against a fake driver and a fake compiler."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from emulated_kernels import launch_layer

layer = launch_layer()

TEXT = """
#include "cuda_kernel.h"
KERNEL(one, 128, Pair) {
}
KERNEL(other, 64, Pair) {
}
"""


class Pair(layer.Arguments):
    _fields_ = (("values", layer.pointer), ("count", ctypes.c_int64))


class Nested(layer.Arguments):
    _fields_ = (("pair", Pair), ("more", layer.pointer))


class FakeCompiler:
    def __init__(self, version: str = "fake 1") -> None:
        self._version, self.compiled = version, []

    def version(self) -> str:
        return self._version

    def compile(self, source: Any, architecture: str) -> tuple[bytes, str]:
        self.compiled.append((source.name, architecture))
        return f"{source.name} for {architecture}".encode(), ""


class FakeDriver:
    """Records all calls."""

    def __init__(self, architecture: str = "sm_90") -> None:
        self._architecture = architecture
        self.loaded, self.launched = [], []
        self.current_stream = 11

    def architecture(self, device: int) -> str:
        return self._architecture

    def stream(self, device: int) -> int:
        return self.current_stream + device

    def load(self, image: bytes, device: int) -> tuple[bytes, int]:
        self.loaded.append((image, device))
        return image, device

    def function(self, module: Any, name: str) -> str:
        return name

    def launch(self, function, blocks, threads, where, arguments) -> None:
        self.launched.append((function, blocks, threads, where, bytes(arguments)))


def source(text: str = TEXT, headers: dict[str, str] | None = None) -> Any:
    return layer.Source("sample", text, headers or {"cuda_kernel.h": "x"})


def made(folder: Path, device: int = 0, **parts: Any) -> Any:
    use = {"source": source(), "compiler": FakeCompiler(), "driver": FakeDriver(), **parts}
    return layer.Kernels(use["source"], device, use["compiler"], use["driver"], folder)


def arguments(count: int = 3) -> Any:
    return Pair(values=torch.zeros(count), count=count)


def test_a_launch_has_the_sizes_the_stream_and_the_arguments(tmp_path: Path) -> None:
    driver = FakeDriver()
    kernels = made(tmp_path, device=2, driver=driver)
    pair = arguments(300)
    kernels.launch_over("one", 300, pair)
    driver.current_stream = 20
    kernels.launch("other", 7, pair)
    assert driver.loaded == [(b"sample for sm_90", 2)]
    assert driver.launched == [
        ("one", 3, 128, (2, 13), bytes(pair)),
        ("other", 7, 64, (2, 22), bytes(pair)),
    ]
    address, count = pair.tensors[0].data_ptr(), 300
    assert bytes(pair) == bytes((ctypes.c_int64 * 2)(address, count))


def test_nothing_is_launched_over_nothing(tmp_path: Path) -> None:
    driver, compiler = FakeDriver(), FakeCompiler()
    made(tmp_path, driver=driver, compiler=compiler).launch_over("one", 0, arguments())
    assert not driver.launched
    assert not compiler.compiled


def test_arguments_keep_their_tensors_and_those_of_their_parts() -> None:
    values, more = torch.zeros(2), torch.zeros(3)
    gone = weakref.ref(values)
    nested = Nested(pair=Pair(values=values, count=2), more=more)
    assert [t.numel() for t in nested.tensors] == [2, 3]
    assert nested.pair.values == values.data_ptr()
    del values
    gc.collect()
    assert gone() is not None
    assert Pair(values=None, count=0).values is None


def test_arguments_are_complete_and_contiguous() -> None:
    with pytest.raises(ValueError, match="Pair has the fields"):
        Pair(values=None)
    with pytest.raises(ValueError, match="values must be contiguous"):
        Pair(values=torch.zeros(4, 4)[:, 0], count=4)


def launched_with(folder: Path, **parts: Any) -> int:
    """How many times a launch compiles."""
    compiler = parts.setdefault("compiler", FakeCompiler())
    before = len(compiler.compiled)
    made(folder, **parts).launch("one", 1, arguments())
    return len(compiler.compiled) - before


def test_compiled_code_is_kept_on_disk(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert launched_with(folder) == 1
    assert launched_with(folder) == 0
    assert [path.suffix for path in folder.iterdir()] == [".cubin"]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_damaged_code_on_disk_is_compiled_again(tmp_path: Path, damage: str) -> None:
    assert launched_with(tmp_path) == 1
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"empty": b"", "cut": content[:-1], "flipped": flipped}[damage])
    driver = FakeDriver()
    assert launched_with(tmp_path, driver=driver) == 1
    assert driver.loaded == [(b"sample for sm_90", 0)]
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"source": source(TEXT + "// changed")},
        {"source": source(headers={"cuda_kernel.h": "y"})},
        {"driver": FakeDriver("sm_86")},
        {"compiler": FakeCompiler("fake 2")},
    ],
    ids=["source", "header", "architecture", "compiler"],
)
def test_whatever_changes_the_code_compiles_again(tmp_path: Path, change: dict[str, Any]) -> None:
    assert launched_with(tmp_path) == 1
    assert launched_with(tmp_path, **change) == 1


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert launched_with(blocked / "cache") == 1
    assert launched_with(blocked / "cache") == 1


def test_a_source_is_read_with_all_headers_that_it_includes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "a.cu").write_text('#include "b.h"\n#include <cmath>\n')
    (first / "b.h").write_text('#include "c.h"\n#include "only_elsewhere.h"\n')
    (second / "c.h").write_text('#include "b.h"\nlast')
    (second / "unused.h").write_text("")
    found = layer.Source.read("a", (first, second))
    assert set(found.headers) == {"b.h", "c.h"}
    assert found.headers["c.h"].endswith("last")


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("FAST3DGS_CACHE", raising=False)
    assert layer.cache_folder() == Path("/x/fast3dgs")
    monkeypatch.setenv("FAST3DGS_CACHE", "/y")
    assert layer.cache_folder() == Path("/y")


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, f"cuda.bindings.{name}", None)


def test_missing_bindings_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, made_by, what in (
        ("nvrtc", layer.NvrtcCompiler, "NVRTC, CUDA's run-time compiler"),
        ("driver", layer.BindingsDriver, "the CUDA driver"),
    ):
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
        without(monkeypatch, name)
        with pytest.raises(layer.CudaMissingError, match=f"^{what}.*pip install cuda-bindings"):
            made_by()


def test_a_missing_driver_is_one_sentence() -> None:
    pytest.importorskip("cuda.bindings.driver")
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    with pytest.raises(layer.CudaMissingError, match=r"^the CUDA driver was not found \(.*\)\.$"):
        layer.BindingsDriver()


class FakeBindings(ModuleType):
    """`cuda.bindings.driver` without a driver: every call succeeds and is recorded."""

    def __init__(self) -> None:
        super().__init__("cuda.bindings.driver")
        self.calls: list[tuple[str, tuple]] = []
        self.current_context = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        results = {
            "cuCtxGetCurrent": self.current_context,
            "cuModuleGetFunction": "function",
            "cuDriverGetVersion": 12090,
        }

        def call(*arguments: Any) -> tuple:
            if name == "cuLaunchKernel":  # the bytes that the driver would read
                address = ctypes.c_void_p.from_address(arguments[9]).value
                arguments = (*arguments[:9], ctypes.string_at(address, ctypes.sizeof(Pair)))
            self.calls.append((name, arguments))
            return 0, results.get(name, name)

        return call


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch) -> FakeBindings:
    fake, package = FakeBindings(), ModuleType("cuda.bindings")
    package.driver = fake
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return fake


@pytest.mark.parametrize("context", [0, 77])
def test_the_driver_gets_a_launch(bindings: FakeBindings, context: int) -> None:
    """A thread without a context gets PyTorch's; the argument is passed by its address."""
    bindings.current_context = context
    driver, pair = layer.BindingsDriver(), arguments(5)
    module = driver.load(b"image", 1)
    assert driver.function(module, "one") == "function"
    bindings.calls.clear()
    driver.launch("function", 9, 128, (1, 42), pair)
    *entered, (name, given) = bindings.calls
    assert name == "cuLaunchKernel"
    assert given == ("function", 9, 1, 1, 128, 1, 1, 0, 42, bytes(pair))
    expected = ["cuCtxGetCurrent"]
    if not context:
        expected += ["cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"]
    assert [call for call, _ in entered] == expected


def test_the_version_of_the_driver_is_that_of_cuda(bindings: FakeBindings) -> None:
    assert layer.BindingsDriver().version() == "CUDA 12.9"


def test_an_error_of_the_driver_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"cuThing failed: 7\."):
        layer._checked("cuThing", (7,))
    assert layer._checked("cuThing", (0, "a", "b")) == ("a", "b")


def test_the_packages_import_nothing_of_cuda() -> None:
    """PyTorch may import cuda-bindings on its own."""
    program = (
        "import sys, torch, fused_ssim, simple_knn._C, diff_gaussian_rasterization.raw;"
        "from diff_gaussian_rasterization.adam import AdamState, adam_step;"
        "adam_step([AdamState(*(torch.zeros(3) for _ in range(4)), 0.1)], 1);"
        "fused_ssim.fused_l1_ssim(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4));"
        "simple_knn._C.distCUDA2(torch.zeros(4, 3));"
        "ours = ('fused_ssim', 'simple_knn', 'diff_gaussian_rasterization');"
        "print([m for m in sys.modules if m.startswith(ours) and 'cuda' in m.rpartition('.')[2]])"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
