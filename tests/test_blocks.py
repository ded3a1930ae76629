# SPDX-License-Identifier: Apache-2.0
"""Models in spatial blocks: the file of version 3, compressing, decoding, one region, damage."""

import contextlib
import io
import json
import subprocess
import sys
import unittest.mock
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import convert_splats
import decompress
from gaussian_compression import training_free, training_free_blocks
from gaussian_compression.free_settings import FreeSettings
from gaussian_compression.model_folder import iteration_folder
from gaussian_compression.report import read_report
from gaussian_compression.training_free_blocks import (
    BlockedStart,
    compress_in_blocks,
    memory_needed,
    require_memory,
)
from gaussian_compression.visible_errors import visible_errors
from splat_codec.block_file import (
    Block,
    decode_block,
    read_block,
)
from splat_codec.errors import CorruptFile
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import ModelFile, decode, encode
from splat_formats.block_coding import box_of, decoded_blocks, in_order, index_of
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, quantize_splats, surroundings
from splat_formats.edits import Box, Edits, edited
from splat_formats.f3dgs_file import blocks_in, read_blocks
from splat_formats.file_description import to_entries
from splat_formats.files import read_splats, write_splats
from splat_formats.ply import read_ply, write_ply
from splat_formats.row_source import SceneRows
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.spatial_blocks import (
    BLOCK_GAUSSIANS,
    LEAST_WITH_BLOCKS,
    number_of_blocks,
    spatial_blocks,
)
from splat_formats.splats import Splats, joined
from tests.test_grid_codec import random_splats
from tests.test_training_free import run, visible_splats
from utils import cli
from utils.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


def blocked(folder: Path, splats: Splats, blocks: int = 3, **settings: object) -> Path:
    """A model folder with the compressed model in blocks."""
    rows = SceneRows(SplatScene(splats))
    start = BlockedStart(Path("start.ply"), 0, rows, 10_000)
    compress_in_blocks(folder, start, 1, FreeSettings(blocks=blocks, **settings))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Splats]:
    """A file of three blocks, and its model."""
    splats = visible_splats(600, 1)
    folder = blocked(tmp_path_factory.mktemp("blocks"), splats)
    return folder / "compressed" / "model.f3dgs", splats


def in_process(main: Callable[[], None], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script's `main` in this process, which is faster than a new one."""
    words, out, err, status = ["script.py", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with (
        unittest.mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.run(main)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def test_blocks_are_compact_and_equally_large() -> None:
    generator = np.random.default_rng(1)
    xyz = generator.uniform(-1, 1, (4000, 3)).astype(np.float32)
    xyz[7], xyz[8] = np.nan, np.inf
    blocks = spatial_blocks(xyz, 8)
    assert [len(rows) for rows in blocks] == [500] * 8
    assert (np.sort(np.concatenate(blocks)) == np.arange(4000)).all()
    for rows in blocks:
        assert (np.diff(rows.astype(int)) > 0).all()
        inside = xyz[rows][np.isfinite(xyz[rows]).all(axis=1)]
        spread = np.abs(inside - np.median(inside, axis=0)).mean(axis=0)
        assert (spread < 0.35).all()  # of an octant of the cube: 0.25, of the whole: 0.5


def test_only_big_models_have_blocks_unless_asked_for() -> None:
    assert number_of_blocks(LEAST_WITH_BLOCKS - 1, None) == 1
    assert number_of_blocks(LEAST_WITH_BLOCKS, None) == LEAST_WITH_BLOCKS // BLOCK_GAUSSIANS
    assert number_of_blocks(10_000_000, None) == 20
    assert number_of_blocks(10_000_000, 1) == 1
    assert number_of_blocks(5, 9) == 5


def test_the_commands_compress_and_decode_in_blocks(tmp_path: Path) -> None:
    splats = visible_splats(900, 2)
    splats.opacity[5], splats.scaling[6] = np.nan, np.inf
    ply, out, back = (tmp_path / name for name in ("a.ply", "out", "back.ply"))
    write_ply(ply, splats)
    flags = ("--training_free", "--start_ply", ply, "-m", out)
    done = run("compress.py", *flags, "--blocks", "3", "--sh_degree", "1")
    assert done.returncode == 0, done.stderr
    assert "900 Gaussians in 3 blocks need about" in done.stdout
    assert "dropped 2 Gaussians that no image can show: 1 with an infinite size, 1" in done.stderr
    file = out / "compressed" / "model.f3dgs"
    report = read_report(out / "compressed" / "report.json")
    assert report.settings["blocks"] == 3
    assert report.start.dropped == 2
    assert report.compressed.bytes == file.stat().st_size
    assert (report.compressed.gaussians, report.compressed.sh_degree) == (898, 1)
    done = run("decompress.py", file, back, "--info")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    assert [block["gaussians"] for block in facts["blocks"]] == [299, 299, 300]
    assert facts["metadata"]["source"] == {"gaussians": 900, "sh_degree": 2}
    # 900 has as many digits as 898: the header that compress.py wrote first had no other length.
    written = iteration_folder(out, 1) / "point_cloud.ply"
    assert back.read_bytes() == written.read_bytes()
    low, high = facts["blocks"][0]["low"], facts["blocks"][0]["high"]
    done = in_process(decompress.main, file, back, "--box", *map(str, (*low, *high)))
    assert done.returncode == 0, done.stderr
    assert 299 <= read_ply(back).count < 898
    # The same command again replaces what it wrote, and --blocks 1 the format of a whole model.
    done = in_process(training_free.main, *flags, "--blocks", "1", "--sh_degree", "1")
    assert done.returncode == 0, done.stderr
    assert decode(file.read_bytes()).splats.count == 898
    done = in_process(decompress.main, file, back, "--box", "0", "0", "0", "1", "1", "1")
    assert done.returncode == 1
    assert "has no blocks" in done.stderr


def test_decoded_blocks_are_the_model_with_the_errors_of_the_report(
    model: tuple[Path, Splats],
) -> None:
    file, splats = model
    report = read_report(file.parent / "report.json")
    index = index_of(file)
    parts = list(decoded_blocks(file, index))
    whole = read_splats(file).splats
    assert whole.count == index.count == splats.count == 600
    np.testing.assert_array_equal(whole.xyz, joined(parts).xyz)
    for block, part in zip(index.blocks, parts, strict=True):
        assert box_of(part.xyz) == (block.low, block.high)
    # Each Gaussian is near one of the start.
    distance = np.linalg.norm(whole.xyz[:, None] - splats.xyz[None], axis=2)
    nearest = distance.argmin(axis=1)
    assert len(np.unique(nearest)) > 590
    found = visible_errors(splats, whole, nearest)
    for name in ("opacity", "scaling", "features_dc"):
        assert report.errors[name].rms == pytest.approx(found[name].rms, rel=0.3)
        assert report.errors[name].max >= report.errors[name].percentile_99 > 0


def test_blocks_are_about_as_large_as_the_whole_and_have_its_steps() -> None:
    """Far Gaussians get coarse steps although their block has none near the middle."""
    splats = visible_splats(8000, 0)
    splats.xyz[:4000] = splats.xyz[:4000] / 10
    splats.xyz[4000:, 0] += 60
    steps = QUALITIES["high"]
    near, far = (splats.rows(np.arange(*part)) for part in ((0, 4000), (4000, 8000)))
    around = surroundings(splats, steps)
    whole = quantize_splats(splats, steps)
    both = [quantize_splats(part, steps, around=around) for part in (near, far)]
    alone = [quantize_splats(part, steps) for part in (near, far)]

    def classes(found: list, order: slice) -> float:
        return float(np.mean(np.concatenate([q.splats.precision for q in found[order]])))

    by_row = np.empty(8000)
    by_row[whole.order] = whole.splats.precision
    for part, rows in ((slice(0, 1), slice(0, 4000)), (slice(1, 2), slice(4000, 8000))):
        expected = by_row[rows].mean()
        assert classes(both, part) == pytest.approx(expected, abs=0.7)
        assert abs(classes(alone, part) - expected) > 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_surroundings_of_any_size_fit_into_the_file(scale: float) -> None:
    splats = visible_splats(300, 0)
    sampled = replace(splats, xyz=splats.xyz * np.float32(scale))
    around = surroundings(sampled, QUALITIES["high"])
    quantized = quantize_splats(splats, QUALITIES["high"], around=around)
    back = decode(encode(ModelFile(quantized.splats))).splats
    assert back.count == 300


def test_each_block_is_a_file_of_its_own(model: tuple[Path, Splats]) -> None:
    file, _ = model
    index = index_of(file)
    with file.open("rb") as opened:
        for number, block in enumerate(index.blocks):
            found = decode(read_block(opened, index, number)).splats
            assert isinstance(found, GridSplats)
            assert found.count == block.count
            # The bytes are where the index states, for a reader that fetches them.
            data = file.read_bytes()[index.start + block.offset :][: block.bytes]
            assert zlib.crc32(data) == block.crc


def test_a_region_is_read_without_the_other_blocks(
    model: tuple[Path, Splats], tmp_path: Path
) -> None:
    file, _ = model
    index, data = index_of(file), bytearray(file.read_bytes())
    whole = read_splats(file).splats
    last = index.blocks[-1]
    data[index.start + last.offset + 20] ^= 1
    damaged = tmp_path / "damaged.f3dgs"
    damaged.write_bytes(data)
    with pytest.raises(InputError, match="number 2: checksum"):
        read_splats(damaged)
    first = index.blocks[0]
    corner = (first.low, first.low)
    found = read_blocks(damaged, *corner).splats
    assert 0 < found.count < whole.count
    far = (1e6, 1e6, 1e6)
    assert read_blocks(damaged, far, far).splats.count == 0
    with pytest.raises(CorruptFile, match="number 2: checksum"):
        read_blocks(damaged, (-1e6,) * 3, far)


def test_a_region_is_given_in_world_coordinates(model: tuple[Path, Splats]) -> None:
    index, origin = index_of(model[0]), (500_000.0, 4_000_000.0, 100.0)
    far = replace(index, metadata={**index.metadata, **to_entries(SplatMetadata(origin=origin))})
    block = index.blocks[0]
    there = Box(*(tuple(np.add(corner, origin).tolist()) for corner in (block.low, block.high)))
    assert blocks_in(far, there) == blocks_in(index, Box(block.low, block.high))
    assert 0 in blocks_in(far, there)
    assert blocks_in(far, Box(block.low, block.high)) == []


def test_blocks_are_converted_one_by_one(
    model: tuple[Path, Splats], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out, expected = model[0], tmp_path / "ä.ply", tmp_path / "expected.ply"
    scene, block = read_splats(file), index_of(file).blocks[0]
    monkeypatch.setattr(convert_splats, "read_with_notices", None)  # would read all blocks at once
    box = list(map(str, (*block.low, *block.high)))
    edits = Edits(0, Box(block.low, block.high), 0.5)
    for flags, kept in (
        ((), scene),
        (("--sh_degree", "0", "--crop_box", *box, "--min_opacity", "0.5"), edited(scene, edits)),
    ):
        done = in_process(convert_splats.main, file, out, *flags)
        assert done.returncode == 0, done.stderr
        assert f"Gaussians: 600 -> {kept.splats.count:,}\n" in done.stdout
        write_ply(expected, kept.splats)
        assert out.read_bytes() == expected.read_bytes()
    assert 0 < kept.splats.count < 200
    out.unlink()
    for flags, message in (
        (("--crop_box", *["1e6"] * 6), "none of the 600 Gaussians is left"),
        (("--sh_degree", "2"), "expected at most 1"),
        (("--quality", "low"), "--quality belongs to"),
    ):
        done = in_process(convert_splats.main, file, out, *flags)
        assert done.returncode == 1 and message in done.stderr
    assert list(tmp_path.iterdir()) == [expected]


def test_a_page_of_blocks_is_one_of_the_whole_model(
    model: tuple[Path, Splats], tmp_path: Path
) -> None:
    out = tmp_path / "a.html"
    done = in_process(decompress.main, model[0], out)
    assert done.returncode == 1 and "convert_splats.py makes a page" in done.stderr
    done = in_process(convert_splats.main, model[0], out)
    assert done.returncode == 0 and "Gaussians: 600 -> 600\n" in done.stdout
    assert out.stat().st_size > 100_000


@pytest.mark.parametrize("box", [("nan",) * 6, (1, 1, 1, -1, -1, -1)])
def test_a_box_that_is_none_is_refused(tmp_path: Path, command_line, box: tuple) -> None:
    command_line(GOLDEN / "blocks_good.f3dgs", tmp_path / "out.ply", "--box", *box)
    with pytest.raises(InputError, match="box: expected finite numbers, the lower one first"):
        decompress.main()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_block_has_no_bytes(tmp_path: Path) -> None:
    splats = visible_splats(300, 0)
    splats.xyz[:] %= 1
    splats.xyz[:150] -= 1000
    splats.opacity[:150] = -20  # no image can show them
    folder = blocked(tmp_path / "a", splats, 2)
    index = index_of(folder / "compressed" / "model.f3dgs")
    assert [block.count for block in index.blocks] == [0, 150]
    assert index.blocks[0] == Block((0, 0, 0), (0, 0, 0), 0, 0, 0, 0)
    assert read_splats(folder / "compressed" / "model.f3dgs").splats.count == 150
    splats.opacity[:] = -20
    with pytest.raises(InputError, match="found none"):
        blocked(tmp_path / "b", splats, 2)
    assert not (tmp_path / "b").exists()


def test_the_decoded_ply_has_the_usual_header_though_rows_are_dropped(tmp_path: Path) -> None:
    splats = visible_splats(120, 0)
    splats.opacity[:30] = -20
    folder = blocked(tmp_path, splats, 2)
    ply = iteration_folder(folder, 1) / "point_cloud.ply"
    file = folder / "compressed" / "model.f3dgs"
    assert in_process(decompress.main, file, tmp_path / "b.ply").returncode == 0
    assert ply.read_bytes() == (tmp_path / "b.ply").read_bytes()
    write_ply(tmp_path / "c.ply", read_splats(file).splats)
    assert ply.read_bytes() == (tmp_path / "c.ply").read_bytes()


def test_other_formats_get_blocks_too(tmp_path: Path) -> None:
    spz = tmp_path / "a.spz"
    write_splats(spz, SplatScene(visible_splats(200, 0)))
    flags = ("--training_free", "--start_ply", spz, "--blocks", "2")
    done = in_process(training_free.main, *flags, "-m", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    assert len(index_of(tmp_path / "o" / "compressed" / "model.f3dgs").blocks) == 2
    done = in_process(training_free.main, *flags, "-m", tmp_path / "p", "--export", "spz")
    assert done.returncode == 1
    assert "is compressed in blocks, and not exported" in done.stderr


def test_memory_that_is_not_there_is_asked_for_before(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SceneRows(SplatScene(random_splats(5000, 3)))
    few, many = memory_needed(rows, 5), memory_needed(rows, 50)
    assert few > many > 0
    monkeypatch.setattr(training_free_blocks, "available_memory", lambda: many)
    with pytest.raises(InputError, match=r"5,000 Gaussians in 5 blocks need about .* --blocks"):
        require_memory(rows, 5)
    assert "50 blocks" in require_memory(rows, 50)
    monkeypatch.setattr(training_free_blocks, "available_memory", lambda: None)
    require_memory(rows, 5)


def test_errors_of_big_models_are_those_of_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_free_blocks, "_ERROR_SAMPLE", 100)
    folder = blocked(tmp_path, visible_splats(600, 0))
    report = read_report(folder / "compressed" / "report.json")
    assert "the errors are those of one in 6 Gaussians" in report.notices
    assert 0 < report.errors["opacity"].max < 2
    assert sum(report.histograms["opacity"].start) == 600


def test_results_come_in_order_and_errors_end_the_work() -> None:
    assert list(in_order(lambda x: x * x, range(20))) == [x * x for x in range(20)]
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda x: 1 / (x - 1), items()))
    assert len(taken) < 8


def test_first_layers_of_blocks(model: tuple[Path, Splats]) -> None:
    index = index_of(model[0])
    coarse = list(decoded_blocks(model[0], index, layers=1))
    assert [part.count for part in coarse] == [int(0.12 * 200)] * 3
    with model[0].open("rb") as file:
        data = read_block(file, index, 0)
    assert to_splats(decode_block(data, index, 0, 1)).count == 24
