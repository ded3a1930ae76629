# SPDX-License-Identifier: Apache-2.0
"""The compiled part of the codec: checks of arguments, equality with NumPy, memory safety."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plane_coder
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splat_codec import kernels
from splat_codec.contexts import Neighbour, first_energy_keys
from tests.both_kernels import BOTH

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "submodules" / "plane-coder"
SHARED = ROOT / "submodules" / "common"
PLAIN, COMPILED = BOTH
SIZES = st.integers(0, 400)


def numbers(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=50, deadline=None)
@given(SIZES, st.sampled_from([1, 3, 64]), st.integers(0, 10**6))
def test_neighbour_bins_agree(count: int, lanes: int, seed: int) -> None:
    generator = numbers(seed)
    bins = np.sort(generator.integers(0, 8, 40)).astype(np.uint8)
    tokens = generator.integers(0, 256, count).astype(np.uint8)
    shifts = generator.integers(0, 16, count).astype(np.int32)
    known = tokens, shifts, Neighbour(bins, 8, 5), lanes
    np.testing.assert_array_equal(PLAIN.neighbour_bins(*known), COMPILED.neighbour_bins(*known))


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(0, 10**6))
def test_energies_agree_and_stay_in_their_bits(count: int, seed: int) -> None:
    generator = numbers(seed)
    keys = first_energy_keys(generator.integers(0, 30, count).astype(np.int32))
    classes, other = keys >> 9, keys.copy()
    for _ in range(60):
        tokens = np.maximum(generator.integers(0, 256, count), 9).astype(np.uint8)
        PLAIN.add_energy(keys, tokens)
        COMPILED.add_energy(other, tokens)
        np.testing.assert_array_equal(keys, other)
        np.testing.assert_array_equal(keys >> 9, classes)


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(1, 48), st.integers(0, 10**6))
def test_rows_and_planes_agree(count: int, channels: int, seed: int) -> None:
    generator = numbers(seed)
    rows = generator.integers(-(2**15), 2**15, (count, channels)).astype(np.int16)
    order = generator.permutation(count)[: count // 2]
    planes = COMPILED.rows_to_planes(rows, order)
    np.testing.assert_array_equal(planes, PLAIN.rows_to_planes(rows, order))
    back = [np.zeros_like(rows), np.zeros_like(rows)]
    part = slice(len(order) // 3, None)  # as the blocks of rows that threads take
    for used, found in zip(BOTH, back, strict=True):
        used.planes_to_rows(planes[:, part], order[part], found)
    np.testing.assert_array_equal(*back)
    np.testing.assert_array_equal(back[0][order[part]], rows[order[part]])


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(0, 10**6))
def test_plain_bits_agree(count: int, seed: int) -> None:
    generator = numbers(seed)
    widths = generator.integers(0, 9, count).astype(np.int32)
    values = generator.integers(0, 2**9, count).astype(np.int32) & ((1 << widths) - 1)
    found = [np.zeros(count, np.int32), np.zeros(count, np.int32)]
    for bit in range(9):
        bits = COMPILED.give_bits(widths, bit, values)
        np.testing.assert_array_equal(bits, PLAIN.give_bits(widths, bit, values))
        for used, target in zip(BOTH, found, strict=True):
            used.take_bits(widths, bit, bits, target)
    for target in found:
        np.testing.assert_array_equal(target, values)

    signed = (generator.integers(0, 3, count) * generator.choice([-1, 1], count)).astype(np.int16)
    signs = np.packbits(signed[signed != 0] < 0)
    for used in BOTH:
        magnitudes = np.abs(signed)
        used.apply_signs(magnitudes, signs)
        np.testing.assert_array_equal(magnitudes, signed)


ONE = np.zeros(1, np.uint8)
CONTEXTS = np.zeros(4, np.int32)


def decoder() -> plane_coder.TokenDecoder:
    states = np.full(2, 1 << 16, np.uint32)
    return plane_coder.TokenDecoder(states, np.zeros(9, np.uint16), np.zeros(4096, np.uint32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoder().plane(ONE, CONTEXTS + 1, np.zeros(4, np.uint8)), "contexts: 0 to 0"),
        (lambda: decoder().plane(ONE, CONTEXTS - 1, np.zeros(4, np.uint8)), "contexts: 0 to 0"),
        (lambda: decoder().plane(ONE + 1, CONTEXTS, np.zeros(4, np.uint8)), "histograms: 0 to 0"),
        (lambda: decoder().plane(ONE, CONTEXTS, np.zeros(5, np.uint8)), "contexts: 5 contiguous"),
        (lambda: decoder().plane(ONE, CONTEXTS, np.zeros(8, np.uint8)[::2]), "tokens: 4 contig"),
        (lambda: decoder().plane(ONE, CONTEXTS.astype(np.int64), np.zeros(4, np.uint8)), "int32"),
        (
            lambda: decoder().neighbour_plane(
                ONE, CONTEXTS, CONTEXTS + 16, ONE, 1, CONTEXTS[:2].copy(), np.zeros(4, np.uint8)
            ),
            "shifts: 0 to 15",
        ),
        (
            lambda: decoder().neighbour_plane(
                ONE, CONTEXTS, CONTEXTS, ONE + 1, 1, CONTEXTS[:2].copy(), np.zeros(4, np.uint8)
            ),
            "bins: 0 to 0",
        ),
        (
            lambda: decoder().neighbour_plane(
                ONE, CONTEXTS, CONTEXTS, ONE, 1, CONTEXTS[:1].copy(), np.zeros(4, np.uint8)
            ),
            "averages: 2 contiguous",
        ),
        (
            lambda: decoder().energy_plane(
                np.zeros(512, np.uint8), np.full(1, 512, np.int16), ONE.copy()
            ),
            "keys: 0 to 511",
        ),
        (
            lambda: decoder().energy_plane(np.zeros(500, np.uint8), np.zeros(1, np.int16), ONE),
            "multiple of 512",
        ),
        (
            lambda: plane_coder.TokenDecoder(
                np.zeros(0, np.uint32), np.zeros(1, np.uint16), np.zeros(4096, np.uint32)
            ),
            "one lane",
        ),
        (
            lambda: plane_coder.planes_to_rows(
                np.zeros((2, 3), np.int16), np.arange(3) + 1, np.zeros((3, 2), np.int16)
            ),
            "order: 0 to 2",
        ),
        (
            lambda: plane_coder.planes_to_rows(
                np.zeros((3, 2), np.int16), np.arange(3), np.zeros((3, 2), np.int16)
            ),
            "planes",
        ),
        (
            lambda: plane_coder.planes_to_rows(
                np.zeros((3, 2), np.int16).T, np.arange(3), np.zeros((3, 2), np.int16)
            ),
            "planes: contiguous rows",
        ),
        (
            lambda: plane_coder.rows_to_planes(np.zeros((3, 65), np.int16), np.arange(3)),
            "1 to 64",
        ),
        (lambda: plane_coder.apply_signs(np.ones(9, np.int16), ONE), "bits: 9 expected"),
        (lambda: plane_coder.take_bits(CONTEXTS + 9, 0, ONE[:0], CONTEXTS.copy()), "bits: 4 exp"),
    ],
)
def test_arguments_that_would_leave_an_array_are_refused(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_missing_words_are_reported() -> None:
    table = np.zeros(4096, np.uint32)  # a frequency of 1: three tokens of four take a word
    states = np.full(2, 1 << 16, np.uint32)
    reader = plane_coder.TokenDecoder(states, np.full(9, 7, np.uint16), table)
    assert reader.plane(ONE, np.zeros(8, np.int32), np.zeros(8, np.uint8))
    assert reader.words_read == 6
    assert reader.plane(ONE, np.zeros(2, np.int32), np.zeros(2, np.uint8))
    assert not reader.plane(ONE, np.zeros(2, np.int32), np.zeros(2, np.uint8))


def test_the_kernels_are_chosen_by_name() -> None:
    program = "from splat_codec import kernels; print(kernels.best.name)"

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    assert run().stdout == "compiled\n"
    assert run(**{kernels.VARIABLE: "numpy"}).stdout == "numpy\n"
    assert "must be numpy or compiled" in run(**{kernels.VARIABLE: "fast"}).stderr


BROKEN = {
    "no library": "raise OSError('libgomp.so.1: cannot open shared object file')",
    "a foreign library": "import ctypes; ctypes.CDLL(__file__)",
    "a function is missing": "import ctypes; ctypes.CDLL(None).decode_plane_of_tomorrow",
    "no build": "raise ImportError('plane_coder has no compiled library')",
    "an older package": "",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_if_the_package_does_not_load_numpy_is_used_with_a_warning(
    fault: str, tmp_path: Path
) -> None:
    package = tmp_path / "plane_coder"
    package.mkdir()
    (package / "__init__.py").write_text(BROKEN[fault] + "\n")
    code = (
        "import logging; logging.basicConfig(format='%(levelname)s %(message)s')\n"
        "from splat_codec import kernels; print(kernels.best.name)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "numpy\n"), result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("WARNING The codec runs on NumPy")
    assert "plane_coder does not load" in result.stderr


def decode_files(**variables: str) -> list[str]:
    """What tests/damaged_files.py prints: instruction set, files decoded, their hash."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.damaged_files"],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout.split()


@pytest.fixture(scope="module")
def decoded_here() -> list[str]:
    instruction_set, *lines = decode_files()
    assert instruction_set == plane_coder.instruction_set
    return lines


@pytest.mark.parametrize("level", ["v2", "v3", "v4"])
def test_every_instruction_set_decodes_the_same(level: str, decoded_here: list[str]) -> None:
    own = plane_coder.instruction_set.removeprefix("x86-64-")
    if not own.startswith("v") or level > own:
        pytest.skip(f"this processor has no {level}")
    if level == own:
        pytest.skip(f"{level} is what decoded_here runs on")
    found = decode_files(FAST3DGS_ISA=level)
    assert found[0] == f"x86-64-{level}"
    assert found[1:] == decoded_here


def sanitizer() -> Path | None:
    """GCC's AddressSanitizer library, where there is one."""
    if shutil.which("g++") is None:
        return None
    command = ["g++", "-print-file-name=libasan.so"]
    path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return path if path.is_absolute() else None


@pytest.mark.parametrize("instructions", ["one lane at a time", "sixteen"])
def test_no_file_makes_the_compiled_code_leave_its_arrays(
    tmp_path: Path, instructions: str, decoded_here: list[str]
) -> None:
    """Golden, fuzzed and damaged files again, under AddressSanitizer and UBSanitizer."""
    library = sanitizer()
    if library is None:
        pytest.skip("no g++ with AddressSanitizer")
    march = []
    if instructions == "sixteen":
        if plane_coder.instruction_set != "x86-64-v4":
            pytest.skip("this processor has no AVX-512")
        march = ["-march=x86-64-v4"]
    copy = Path(shutil.copytree(PACKAGE / "plane_coder", tmp_path / "plane_coder"))
    for built in copy.glob("*.so"):
        built.unlink()
    shutil.copy(SHARED / "_native.py", copy)
    sources = sorted(str(path) for path in (PACKAGE / "native").glob("*.cpp"))
    flags = f"-std=c++17 -O1 -g -fPIC -shared -I{SHARED} -fsanitize=address,undefined"
    target = str(copy / "_native_generic.so")
    command = ["g++", *shlex.split(flags), *march, "-fno-sanitize-recover=all", *sources]
    subprocess.run([*command, "-o", target], check=True)
    found = decode_files(
        LD_PRELOAD=str(library),
        ASAN_OPTIONS="detect_leaks=0",
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
    )
    assert found[0] == "generic"
    assert found[1:] == decoded_here
