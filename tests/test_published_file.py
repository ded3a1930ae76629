# SPDX-License-Identifier: Apache-2.0
"""Files of the published code: read as data, never executed."""

import lzma
import os
import pickle
import pickletools
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splat_codec.errors import CorruptFile
from splat_formats.plain_pickle import MAX_OPCODES, RefusedPickle, read_plain_pickle
from splat_formats.ply import read_ply
from splat_formats.published_file import is_published_file, read_published_file
from splat_formats.splats import Splats
from tests.test_grid_codec import random_splats

ROOT = Path(__file__).parents[1]
STEP, ZERO = 0.0123, -7


def signed_bytes(values: np.ndarray) -> np.ndarray:
    """Eight-bit symbols on the grid of STEP about ZERO."""
    return np.clip(np.rint(values / STEP) + ZERO, -128, 127).astype(np.int8)


def layouts(splats: Splats) -> dict[str, dict[str, Any]]:
    """The model as the published code may have written it."""
    plain = {"xyz": splats.xyz, "opacity": splats.opacity.astype(np.float16),
             "scaling": splats.scaling.astype(np.float16),
             "rotation": splats.rotation.astype(np.float16)}  # fmt: skip
    sh = {name: signed_bytes(getattr(splats, name)) for name in ("features_dc", "features_rest")}
    step, zero = np.float32(STEP), np.array([ZERO], np.int64)
    beside = {f"{name}_scale": step for name in sh} | {f"{name}_zero_point": zero for name in sh}
    inside = {name: {"data": v, "scale": STEP, "zero_point": ZERO} for name, v in sh.items()}
    return {
        "numbers beside": plain | sh | beside,
        "numbers inside": plain | inside,
        "tuples": plain | {name: (v, STEP, zero) for name, v in sh.items()},
        "private names": {f"_{name}": value for name, value in (plain | sh | beside).items()},
        "ordered": OrderedDict(plain | inside),
    }


def published(content: Any, protocol: int = pickle.HIGHEST_PROTOCOL) -> bytes:
    return lzma.compress(pickle.dumps(content, protocol), preset=1)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("layout", layouts(random_splats(1, 0)))
def test_every_layout_is_decoded(layout: str, protocol: int) -> None:
    splats = random_splats(50, 2)
    data = published(layouts(splats)[layout], protocol)
    assert is_published_file(data)
    found = read_published_file(data)
    np.testing.assert_array_equal(found.xyz, splats.xyz)
    np.testing.assert_array_equal(found.rotation, splats.rotation.astype(np.float16))
    symbols = signed_bytes(splats.features_rest).astype(np.float32)
    np.testing.assert_array_equal(found.features_rest, (symbols - ZERO) * np.float32(STEP))


def test_the_command_reads_both_kinds(tmp_path: Path) -> None:
    file, ply = tmp_path / "model.xz", tmp_path / "model.ply"
    command = [sys.executable, ROOT / "decompress.py", file, ply]
    file.write_bytes(published(layouts(random_splats(20, 1))["numbers beside"]))
    subprocess.run(command, check=True)
    assert read_ply(ply).count == 20
    page = [*command[:-1], tmp_path / "model.html"]
    done = subprocess.run(page, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "make a .f3dgs file of it first" in done.stderr
    file.write_bytes(published(layouts(random_splats(20, 1))["numbers beside"] | {"x": Attack()}))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "system" in done.stderr
    assert done.stderr.startswith("error: ")


class Attack:
    def __reduce__(self) -> tuple:
        return os.system, ("echo attacked",)


class NewObject:
    def __reduce__(self) -> tuple:
        return object.__new__, (Attack,)


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def deep_key(depth: int) -> bytes:
    return opcodes(b"}", b")", b"\x85" * depth, b"K\x01s")


ENCODE = b"c_codecs\nencode\n"
DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
REFUSED = {
    "a command": (pickle.dumps(Attack()), "system"),
    "eval": (b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.", "builtins.eval"),
    "a name from the stack": (opcodes(b"\x8c\x02os\x8c\x06system\x93"), "os.system"),
    "code within numpy": (b"cnumpy.testing._private.utils\nrunstring\n.", "runstring"),
    "numpy.load": (b"cnumpy\nload\n.", "numpy.load"),
    "an attribute of an admitted name": (opcodes(b"\x8c\x05numpy\x8c\x0cndarray.dump\x93"), "dump"),
    "objects": (pickle.dumps(np.array([Attack()], object)), "O8|system"),
    "text arrays": (pickle.dumps(np.array(["a"])), "U1"),
    "records": (pickle.dumps(np.zeros(2, [("a", "f4")])), "V4"),
    "persistent ids": (b"P1\n.", "PERSID"),
    "persistent ids from the stack": (opcodes(b"K\x01Q"), "BINPERSID"),
    "new objects": (opcodes(b"cnumpy\nndarray\n)\x81"), "NEWOBJ"),
    "instances": (b"(ios\nsystem\n.", "INST"),
    "extensions": (opcodes(b"\x82\x01"), "EXT1"),
    "buffers from elsewhere": (opcodes(b"\x97"), "NEXT_BUFFER"),
    "another codec": (ENCODE + b"(X\x02\x00\x00\x00zzX\x03\x00\x00\x00hextR.", "malformed"),
    "calls of text": (opcodes(b"\x8c\x02os)R"), "malformed"),
    "calls of arrays": (opcodes(EMPTY + b")R"), "malformed"),
    "a state for a name": (opcodes(ENCODE + b"}b"), "malformed"),
    "a state for a dictionary": (opcodes(b"}}b"), "malformed"),
    "big-endian numbers": (pickle.dumps(np.zeros(2, ">f4")), "malformed"),
    "an array without content": (opcodes(EMPTY), "malformed"),
    "an array beyond its bytes": (
        opcodes(EMPTY + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE + b"\x89C\x00tb"),
        "2147483647",
    ),
    "a negative shape": (
        opcodes(EMPTY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89C\x00tb"),
        "malformed",
    ),
    "a shape beyond any machine": (
        opcodes(EMPTY + b"(K\x01\x8a\x20" + b"\x7f" * 32 + b"K\x00\x86" + DTYPE + b"\x89C\x00tb"),
        "malformed",
    ),
    "keys too deep to hash": (deep_key(50_000), "key"),
    "an endless program": (opcodes(b"N" * MAX_OPCODES), "opcodes"),
    "one text encoded again and again": (
        opcodes(
            b"\x8c\xf0" + b"a" * 240 + b"q\x00\x8c\x06latin1q\x01",
            (ENCODE + b"h\x00h\x01\x86R") * 100,
        ),
        "own length",
    ),
    "nothing": (b"", "malformed|STOP"),
    "no end": (b"\x80\x04N", "STOP|malformed"),
    "something behind the end": (opcodes(b"N") + b"x", "left over"),
    "an empty stack": (b"a.", "malformed"),
    "two results": (opcodes(b"NN"), "malformed"),
    "a mark as result": (opcodes(b"("), "malformed"),
    "an unknown memo entry": (opcodes(b"h\x09"), "malformed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_plain_data_is_refused(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, reason = REFUSED[what]
    with pytest.raises(RefusedPickle, match=reason):
        read_plain_pickle(data)
    with pytest.raises(CorruptFile):
        read_published_file(lzma.compress(data))
    assert "attacked" not in capfd.readouterr().out


def test_an_attack_would_work_on_python_itself(capfd: pytest.CaptureFixture[str]) -> None:
    pickle.loads(REFUSED["a command"][0])
    assert "attacked" in capfd.readouterr().out


def test_plain_containers_are_read() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3))
    content = {"a": array, "again": array, "list": [1, 2.5, None, True, [], ()], 3: (b"", b"x"),
               "long": 10**30, "scalar": np.float32(0.5),
               "empty": np.zeros((0, 3), np.float16)}  # fmt: skip
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = read_plain_pickle(pickle.dumps(content, protocol))
        assert found["again"] is found["a"]
        np.testing.assert_array_equal(found["a"], array)
        assert found["empty"].shape == (0, 3)
        assert found["scalar"] == 0.5
        same = ("list", 3, "long")
        assert {key: found[key] for key in same} == {key: content[key] for key in same}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (data, data + b"."):
        try:
            read_plain_pickle(candidate)
        except RefusedPickle:
            continue


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 5), st.data())
def test_any_change_of_a_pickle_is_read_or_refused(protocol: int, data: st.DataObject) -> None:
    good = pickle.dumps(layouts(random_splats(2, 1))["tuples"], protocol)
    place = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[place] = data.draw(st.integers(0, 255))
    try:
        read_published_file(lzma.compress(bytes(changed), preset=0))
    except CorruptFile:
        return


def test_truncations_and_bit_flips_of_the_file_are_refused() -> None:
    good = published(layouts(random_splats(30, 1))["numbers inside"])
    for end in range(0, len(good), 7):
        with pytest.raises(CorruptFile):
            read_published_file(good[:end])
    for place in range(6, len(good), 7):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        with pytest.raises(CorruptFile):
            read_published_file(bytes(changed))
    with pytest.raises(CorruptFile, match="left over"):
        read_published_file(good + b"x")


def test_decompression_bombs_are_refused() -> None:
    bomb = lzma.compress(bytes(2**26), preset=1)
    assert len(bomb) < 2**15
    with pytest.raises(CorruptFile, match="more than"):
        read_published_file(bomb)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**28}]
    with pytest.raises(CorruptFile, match=r"[Mm]emory"):
        read_published_file(lzma.compress(b"x", filters=filters))


def test_bytes_shared_by_many_arrays_are_refused_before_allocation() -> None:
    """A small file: two hundred arrays of the same 16 MB."""
    size = 2**24
    content = b"\x96" + size.to_bytes(8, "little") + bytes(size) + b"q\x00"
    array = EMPTY + b"(K\x01J" + size.to_bytes(4, "little") + b"\x85"
    array += DTYPE.replace(b"f4", b"u1") + b"\x89h\x00tb"
    pickled = b"\x80\x05](" + content + array * 200 + b"e"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1}]
    bomb = lzma.compress(pickled + b".", check=lzma.CHECK_NONE, filters=filters)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFile, match="own length"):
            read_published_file(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["xyz", "features_dc"])
def test_one_array_for_several_attributes_is_refused(name: str) -> None:
    alike = np.zeros((5000, 3), np.int8)
    content = dict.fromkeys(("xyz", "opacity", "scaling", "rotation"), (alike, 1.0, 0))
    content |= dict.fromkeys(("features_dc", "features_rest"), (alike, 1.0, 0))
    with pytest.raises(CorruptFile, match="more numbers than bytes"):
        read_published_file(published(content))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e300])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    content = layouts(random_splats(20, 1))["numbers beside"]
    scaling = np.zeros((20, 3))
    scaling[3, 1] = value
    with pytest.raises(CorruptFile, match="scaling holds numbers that are not finite"):
        read_published_file(published(content | {"scaling": scaling}))
    steps = {"features_rest_scale": np.float64(2e9)}
    symbols = {"features_rest": np.full(content["features_rest"].shape, 2**62, np.int64)}
    read_published_file(published(content | symbols | steps))


def _without(name: str) -> Callable[[dict], dict]:
    return lambda content: {key: value for key, value in content.items() if key != name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without("opacity"), "opacity"),
        (_without("features_dc_scale"), "step of features_dc"),
        (_without("features_rest_zero_point"), "zero of features_rest"),
        (lambda c: c | {"means": c["xyz"]}, "xyz"),
        (lambda c: c | {"rotation": c["rotation"][:5]}, "fit together"),
        (lambda c: c | {"features_rest": c["features_rest"][:, :2]}, "fit together"),
        (lambda c: c | {"scaling": "text"}, "no array"),
        (lambda c: c | {"features_dc_scale": np.float32("nan")}, "finite"),
        (lambda c: [c], "dictionary"),
    ],
)
def test_a_layout_that_is_not_understood_is_refused(change: Callable, reason: str) -> None:
    content = layouts(random_splats(20, 1))["numbers beside"]
    read_published_file(published(content))
    with pytest.raises(CorruptFile, match=reason):
        read_published_file(published(change(content)))


def test_the_opcodes_of_the_tests_are_well_formed() -> None:
    """They are refused for their meaning, not because they cannot be parsed."""
    for what in ("keys too deep to hash", "an array beyond its bytes", "new objects"):
        assert [op.name for op, _, _ in pickletools.genops(REFUSED[what][0])][-1] == "STOP"
