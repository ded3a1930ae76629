# SPDX-License-Identifier: Apache-2.0
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splat_codec.errors import CorruptFile
from splat_formats.files import format_to_write as format_of
from splat_formats.files import read_splats, write_splats, written_by
from splat_formats.lossless_images import decoded, encoded
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.sog import read_sog
from splat_formats.sog_writer import palette_size, write_sog
from splat_formats.splats import Splats
from tests.other_programs import alphas, angles, convert, write_by_splat_transform
from tests.test_ply import SHARED, assert_equal, random_splats
from utils.errors import InputError

VECTORS = SHARED / "vectors"
# 255 steps over the range -sqrt(1/2)..sqrt(1/2) for three components: half a step each, and the
# fourth, at least 1/2, follows from them with at most twice the error.
DEGREES = np.degrees(4 * np.arcsin(np.sqrt(3) * np.sqrt(2) / 510))

needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="needs ../shared/data/vectors")


def written(path: Path, scene: SplatScene) -> Splats:
    """Writes the scene; its Gaussians in the order of the file."""
    found = written_by(format_of(path), path, scene)
    assert found.rows is not None
    return scene.splats.rows(found.rows)


def meta_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("meta.json"))


def unpacked(bundle: Path, folder: Path) -> Path:
    """The bundle as a folder."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 40 Gaussians of degree 1 as a folder."""
    write_splats(tmp_path / "model.sog", SplatScene(random_splats(40, 1)))
    return unpacked(tmp_path / "model.sog", tmp_path / "model")


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    edit(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("count", [1, 5, 700])
def test_round_trip_within_the_bounds_of_the_bits(tmp_path: Path, count: int, degree: int) -> None:
    """The bounds of docs/formats.md."""
    scene = SplatScene(random_splats(count, degree, seed=count))
    given = written(tmp_path / "a.sog", scene)
    found = read_splats(tmp_path / "a.sog").splats
    logged = np.sign(given.xyz) * np.log1p(np.abs(given.xyz))
    half_steps = (logged.max(axis=0) - logged.min(axis=0)) / 65535 / 2
    bounds = np.expm1(np.log1p(np.abs(given.xyz)) + half_steps) - np.abs(given.xyz)
    assert (np.abs(found.xyz - given.xyz) <= bounds * 1.001 + 1e-6).all()
    meta = meta_of(tmp_path / "a.sog")
    for name, key in (("scaling", "scales"), ("features_dc", "sh0")):
        gap = np.diff(meta[key]["codebook"]).max()
        assert np.abs(getattr(found, name) - getattr(given, name)).max() <= gap / 2 * 1.001 + 1e-6
    assert np.abs(alphas(found) - alphas(given)).max() <= 0.5 / 255 + 1e-6
    assert angles(found, given).max() <= DEGREES
    assert found.sh_degree == degree
    if degree and count <= 5:  # the palette has all rows; its numbers are in the codebook
        gap = np.diff(meta["shN"]["codebook"]).max()
        assert np.abs(found.features_rest - given.features_rest).max() <= gap / 2 + 1e-6


def test_a_palette_stands_for_many_rows(tmp_path: Path) -> None:
    given = written(tmp_path / "a.sog", SplatScene(random_splats(2100, 3)))
    found = read_splats(tmp_path / "a.sog").splats
    meta = meta_of(tmp_path / "a.sog")
    assert meta["shN"]["count"] <= palette_size(2100) == 2048
    error = np.sqrt(np.mean((found.features_rest - given.features_rest) ** 2))
    assert error < 0.75  # of numbers with a standard deviation of 1, in 45 dimensions


def test_a_smaller_palette(tmp_path: Path) -> None:
    write_sog(tmp_path / "a.sog", SplatScene(random_splats(300, 1)), palette_entries=16)
    assert meta_of(tmp_path / "a.sog")["shN"]["count"] == 16


def test_colours_beyond_all_bounds(tmp_path: Path) -> None:
    splats = random_splats(1500, 1)
    splats.features_rest[7] = [[3e38, -3e38, 0], [1e5, 0, 0], [0, 0, 0]]
    splats.features_dc[8] = [[3e38, -3e38, 0]]
    (notice,) = write_splats(tmp_path / "a.sog", SplatScene(splats))
    assert notice == "clipped: higher SH coefficients to ±10000 of 1 Gaussian"
    found = read_splats(tmp_path / "a.sog").splats
    assert np.abs(found.features_rest).max() == pytest.approx(1e4)
    assert np.abs(found.features_dc).max() == pytest.approx(3e38, rel=1e-5)
    usual = np.abs(found.features_dc).max(axis=(1, 2)) < 100
    assert usual.sum() == 1499


@pytest.mark.parametrize(
    ("count", "size"),
    [(0, 1024), (2047, 1024), (2048, 2048), (65536, 65536), (10**6, 65536), (2**24, 65536)],
)
def test_the_size_of_the_palette(count: int, size: int) -> None:
    assert palette_size(count) == size


@pytest.mark.parametrize("degree", [0, 3])
def test_no_gaussians(tmp_path: Path, degree: int) -> None:
    write_splats(tmp_path / "a.sog", SplatScene(random_splats(0, degree)))
    assert read_splats(tmp_path / "a.sog").splats.count == 0


def test_transparent_gaussians_keep_their_colour(tmp_path: Path) -> None:
    """Encoders of WebP replace the colours of texels whose alpha is 0 unless told otherwise."""
    splats = replace(random_splats(200, 0), opacity=np.full((200, 1), -20, np.float32))
    given = written(tmp_path / "a.sog", SplatScene(splats))
    found = read_splats(tmp_path / "a.sog").splats
    assert np.abs(found.features_dc - given.features_dc).max() < 0.5
    assert alphas(found).max() < 1 / 255


def test_extreme_values(tmp_path: Path) -> None:
    splats = random_splats(60, 1)
    splats.xyz[:4] = [[1e30, -1e30, 0], [-3e38, 3e38, 1e-30], [0, 0, 0], [np.nan, 0, 0]]
    splats.opacity[:3] = [[1e30], [-1e30], [np.inf]]
    splats.scaling[:2] = [[-80, -90, 80], [-np.inf, 0, 0]]
    splats.rotation[:2] = [[0, 0, 0, 0], [1e-30, 0, 0, -1e30]]
    splats.features_rest[2] = np.inf
    found = written_by(format_of(tmp_path / "a.sog"), tmp_path / "a.sog", SplatScene(splats))
    assert any("position that is not finite" in notice for notice in found.notices)
    read = read_splats(tmp_path / "a.sog").splats
    assert read.count == 59
    for name, values in read.columns().items():
        assert np.isfinite(values).all(), name


def test_antialiasing_travels_and_an_origin_is_named(tmp_path: Path) -> None:
    scene = SplatScene(random_splats(9, 0), SplatMetadata(antialiasing=True, origin=(1e6, 0, 0)))
    (notice,) = write_splats(tmp_path / "a.sog", scene)
    assert "origin" in notice
    assert read_splats(tmp_path / "a.sog").metadata == SplatMetadata(antialiasing=True)


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.sog", "b.sog"):
        write_splats(tmp_path / name, SplatScene(random_splats(1300, 1)))
    assert (tmp_path / "a.sog").read_bytes() == (tmp_path / "b.sog").read_bytes()


def test_folder_meta_bundle_and_a_folder_in_the_bundle(tmp_path: Path, folder: Path) -> None:
    expected = read_splats(tmp_path / "model.sog").splats
    assert_equal(expected, read_splats(folder).splats)
    assert_equal(expected, read_splats(folder / "meta.json").splats)
    (folder / "meta.json").rename(folder / "meta")
    with pytest.raises(InputError, match="this is a folder"):
        read_splats(folder)
    (folder / "meta").rename(folder / "meta.json")
    with zipfile.ZipFile(tmp_path / "deep.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, f"some/model/{path.name}")
    assert_equal(expected, read_splats(tmp_path / "deep.zip").splats)


def test_png_images(folder: Path) -> None:
    expected = read_splats(folder).splats
    Image.open(folder / "scales.webp").save(folder / "scales.png")
    change(folder, lambda meta: meta["scales"].update(files=["scales.png"]))
    assert_equal(expected, read_splats(folder).splats)


def test_model_kinds_and_a_null_in_a_codebook(folder: Path) -> None:
    for kind, text in (("2dgs", "flat"), ("other", "unknown")):
        change(folder, lambda meta, kind=kind: meta.update(model=kind))
        (notice,) = read_splats(folder).metadata.notices
        assert text in notice
    change(folder, lambda meta: meta["scales"]["codebook"].__setitem__(0, None))
    assert np.isfinite(read_splats(folder).splats.scaling).all()


def write_version_1(folder: Path) -> None:
    """Two Gaussians of version 1, whose values are worked out by hand in the test."""
    folder.mkdir()

    def image(name: str, *texels: list[int]) -> list[str]:
        content = np.zeros((4, 4, len(texels[0])), np.uint8)
        content[0, : len(texels)] = texels
        (folder / name).write_bytes(encoded(content))
        return [name]

    centroids = np.zeros((1, 64 * 3, 3), np.uint8)
    centroids[0, 3:6] = [[0, 51, 102], [153, 204, 255], [255, 0, 0]]  # entry 1
    (folder / "c.webp").write_bytes(encoded(centroids))
    image("l.webp", [0, 255, 255], [255, 0, 0])
    image("u.webp", [0, 255, 127], [255, 0, 0])
    ends = {"mins": [-1, -1, -1], "maxs": [1, 1, 1]}
    meta = {
        "means": {"shape": [2, 3], **ends, "files": ["l.webp", "u.webp"]},
        "scales": {"mins": [-5, -6, -7], "maxs": [5, 4, 3],
                   "files": image("s.webp", [0, 255, 51], [255, 0, 0])},
        "quats": {"encoding": "quaternion_packed",
                  "files": image("q.webp", [0, 255, 255, 253], [255, 255, 255, 252])},
        "sh0": {"mins": [0, 0, 0, -4], "maxs": [1, 2, 3, 6],
                "files": image("0.webp", [0, 255, 51, 0], [0, 0, 0, 255])},
        "shN": {"mins": -1, "maxs": 4, "quantization": 8,
                "files": ["c.webp", *image("n.webp", [1, 0, 0], [0, 0, 0])]},
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))


def test_version_1_by_hand(tmp_path: Path) -> None:
    write_version_1(tmp_path / "old")
    splats = read_splats(tmp_path / "old").splats
    e1, half = np.e - 1, 1 / 65535
    np.testing.assert_allclose(splats.xyz, [[-e1, e1, -np.expm1(half)], [e1, -e1, -e1]], rtol=1e-3)
    np.testing.assert_allclose(splats.scaling, [[-5, 4, -5], [5, -6, -7]])
    np.testing.assert_allclose(splats.features_dc[:, 0], [[0, 2, 0.6], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(splats.opacity, [[-4], [6]])
    root = np.sqrt(0.5)
    # Only the ends of the range: the components left out are then 0.
    np.testing.assert_allclose(splats.rotation, [[-root, 0, root, root], [0, root, root, root]])
    np.testing.assert_allclose(
        splats.features_rest[0], [[-1, 0, 1], [2, 3, 4], [4, -1, -1]], atol=1e-6
    )


def renamed(part: str, name: str) -> Callable[[dict[str, Any]], object]:
    return lambda meta: meta[part].update(files=[name])


WRONG_META: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda m: m.update(version=3), "version: 1 or 2 expected, got 3"),
    "true": (lambda m: m.update(version=True), "version: 1 or 2 expected, got True"),
    "count": (lambda m: m.update(count=-1), "count: an integer"),
    "many": (lambda m: m.update(count=2**26), r"67,108,864 Gaussians, .* are plausible"),
    "more": (lambda m: m.update(count=2**200), "count: an integer"),
    "over": (lambda m: m.update(count=65), "texels for 65 Gaussians are expected, got 8 x 8"),
    "text": (lambda m: m.update(count="9"), "count: an integer"),
    "means": (lambda m: m.pop("means"), "means: an object expected, got None"),
    "mins": (lambda m: m["means"].update(mins=[1, 2]), "mins: 3 numbers expected, got 2 values"),
    "nan": (lambda m: m["means"].update(maxs=[1, 2, float("nan")]), "3 finite numbers expected"),
    "huge": (lambda m: m["means"].update(maxs=[1, 2, 10**400]), "3 finite numbers expected"),
    "codebook": (lambda m: m["sh0"].update(codebook=[0] * 255), "256 numbers expected, got 255"),
    "files": (lambda m: m["means"].update(files=["a"]), "files: 2 texts expected, got 1 values"),
    "file": (lambda m: m["scales"].update(files=[7]), "files: 1 texts expected"),
    "bands": (lambda m: m["shN"].update(bands=4), "bands: an integer from 0 to 3"),
    "wider": (lambda m: m["shN"].update(bands=2), "512 x 1 to 1024 texels are expected, got 192"),
    "entries": (lambda m: m["shN"].update(count=500), "192 x 8 to 1024 texels are expected"),
    "label": (lambda m: m["shN"].update(count=3), r"shN_labels.webp: 3 entries, Gaussian"),
    "absent": (renamed("scales", "no.webp"), "no file of this name"),
    "parent": (renamed("scales", "../model.sog"), "a plain file name is expected"),
    "deeper": (renamed("scales", "a/b.webp"), "a plain file name is expected"),
    "root": (renamed("scales", "/etc/passwd"), "a plain file name is expected"),
    "drive": (renamed("scales", "C:\\x.webp"), "a plain file name is expected"),
    "dots": (renamed("scales", ".."), "a plain file name is expected"),
    "json": (renamed("scales", "meta.json"), "a WebP or PNG image is expected"),
}


@pytest.mark.parametrize("name", WRONG_META)
def test_wrong_descriptions(folder: Path, name: str) -> None:
    edit, message = WRONG_META[name]
    change(folder, edit)
    with pytest.raises(InputError, match=message):
        read_splats(folder)


def test_tags_of_quaternions(folder: Path) -> None:
    (folder / "quats.webp").write_bytes(encoded(np.full((8, 8, 4), 251, np.uint8)))
    with pytest.raises(InputError, match=r"alpha 252 to 255 is expected, Gaussian 0 has 251"):
        read_splats(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"a": NaN}', "\xff"])
def test_no_description(folder: Path, text: str) -> None:
    (folder / "meta.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"meta\.json"):
        read_splats(folder)


def image_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_wrong_images(folder: Path) -> None:
    rgb = Image.new("RGB", (8, 8))
    frames = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "red")]}
    wrong = {
        "lossless WebP image is expected, this one is lossy": image_file(rgb, "WEBP", quality=50),
        "still image": image_file(rgb, "WEBP", lossless=True, **frames),
        "8-bit RGB or RGBA": image_file(rgb.convert("L"), "PNG"),
        "got 100 x 100000": image_file(Image.new("RGB", (100, 100_000)), "PNG"),
        "WebP or PNG image is expected": image_file(rgb, "JPEG"),
        "got 4 x 8": image_file(Image.new("RGB", (4, 8)), "PNG"),
        "VP8L": b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0",
    }
    for message, data in wrong.items():
        (folder / "scales.webp").write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_splats(folder)


def test_a_small_image_file_that_declares_a_huge_one(folder: Path) -> None:
    data = bytearray((folder / "scales.webp").read_bytes())
    data[21:25] = (16382 | 16382 << 14).to_bytes(4, "little")
    (folder / "scales.webp").write_bytes(data)
    with pytest.raises(InputError, match="got 16383 x 16383"):
        read_splats(folder)


def test_a_pillow_without_webp(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    with pytest.raises(InputError, match="SOG needs Pillow with WebP"):
        read_splats(folder)
    with pytest.raises(InputError, match="SOG needs Pillow with WebP"):
        write_splats(folder / "a.sog", SplatScene(random_splats(3, 0)))


def test_a_link_out_of_the_folder(tmp_path: Path, folder: Path) -> None:
    (folder / "scales.webp").rename(tmp_path / "scales.webp")
    (folder / "scales.webp").symlink_to(tmp_path / "scales.webp")
    with pytest.raises(InputError, match="a link that leaves the folder"):
        read_splats(folder)
    (folder / "scales.webp").unlink()
    (folder / "scales.webp").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="no file of this name"):
        read_splats(folder)


def repacked(folder: Path, path: Path, name: str, entry: zipfile.ZipInfo, data: bytes) -> None:
    """The folder as a bundle in which one entry is another."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            if file.name != name:
                archive.write(file, file.name)
        archive.writestr(entry, data)


def test_tricks_of_bundles(tmp_path: Path, folder: Path) -> None:
    name, path = "scales.webp", tmp_path / "bad.sog"
    link = zipfile.ZipInfo(name)
    link.external_attr = 0o120777 << 16
    repacked(folder, path, name, link, b"/etc/passwd")
    with pytest.raises(InputError, match="the entry of the bundle is a link"):
        read_splats(path)
    bomb = zipfile.ZipInfo(name)
    bomb.compress_type = zipfile.ZIP_DEFLATED
    repacked(folder, path, name, bomb, bytes(1 << 24))
    with pytest.raises(InputError, match="is plausible"):
        read_splats(path)
    slow = zipfile.ZipInfo(name)
    slow.compress_type = zipfile.ZIP_LZMA
    repacked(folder, path, name, slow, (folder / name).read_bytes())
    with pytest.raises(InputError, match="stored or deflated"):
        read_splats(path)
    repacked(folder, path, name, zipfile.ZipInfo("other.webp"), b"")
    with pytest.raises(InputError, match="no entry of this name"):
        read_splats(path)
    repacked(folder, path, "meta.json", zipfile.ZipInfo("meta.json"), b" " * (1 << 23))
    with pytest.raises(InputError, match="8,388,608 bytes, at most 4,194,304"):
        read_splats(path)


def test_an_entry_that_declares_more_bytes_than_the_bundle_has(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.sog", SplatScene(random_splats(3, 0)))
    data = bytearray((tmp_path / "a.sog").read_bytes())
    place = data.index(b"PK\1\2")  # meta.json in the directory
    data[place + 20 : place + 28] = (4_000_000).to_bytes(4, "little") * 2
    (tmp_path / "a.sog").write_bytes(data)
    with pytest.raises(InputError, match="the entry ends beyond the bundle"):
        read_splats(tmp_path / "a.sog")


def test_a_bundle_cut_short(tmp_path: Path) -> None:
    """Everywhere in the directory at its end, and at every 29th byte of the rest."""
    write_splats(tmp_path / "a.sog", SplatScene(random_splats(3, 0)))
    data = (tmp_path / "a.sog").read_bytes()
    for length in [*range(0, len(data) - 600, 29), *range(len(data) - 600, len(data))]:
        (tmp_path / "cut.sog").write_bytes(data[:length])
        with pytest.raises(CorruptFile):
            read_sog(tmp_path / "cut.sog")
    with pytest.raises(InputError, match="a damaged ZIP archive"):
        read_splats(tmp_path / "cut.sog")


@pytest.mark.parametrize("name", ["means_l.webp", "shN_centroids.webp", "shN_labels.webp"])
def test_an_image_cut_at_every_byte(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in range(len(whole)):
        with pytest.raises(CorruptFile, match=name):
            decoded(whole[:length], name)
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(InputError, match=name):
        read_splats(folder)


def test_changed_bytes_are_an_error_or_other_numbers(folder: Path) -> None:
    generator = np.random.default_rng(0)
    read = 0
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for _ in range(60):
            changed = bytearray(whole)
            changed[int(generator.integers(len(whole)))] ^= 1 << int(generator.integers(8))
            path.write_bytes(changed)
            try:
                splats = read_splats(folder).splats
            except InputError:
                continue
            read += 1
            assert all(np.isfinite(values).all() for values in splats.columns().values())
        path.write_bytes(whole)
    assert read > 20


@needs_vectors
@pytest.mark.parametrize(
    ("name", "count", "degree"),
    [
        ("sog_v1_playcanvas-logo", 307128, 0),
        ("sog_v2_playbot_3_0", 31000, 2),
        ("sog_v2_playbot_5_0/meta.json", 3000, 2),
        ("wave_0001.sog", 4225, 0),
    ],
)
def test_files_of_others(name: str, count: int, degree: int) -> None:
    scene = read_splats(VECTORS / name)
    assert (scene.splats.count, scene.splats.sh_degree) == (count, degree)
    assert scene.metadata == SplatMetadata()
    assert all(np.isfinite(values).all() for values in scene.splats.columns().values())


@needs_vectors
def test_levels_of_detail_fill_the_space_of_the_whole_model() -> None:
    """31,000 and 3,000 Gaussians of the model whose 125,000 are in playbot_model."""
    whole = read_splats(next((SHARED / "playbot_model").glob("*/*/point_cloud.ply"))).splats
    for name in ("sog_v2_playbot_3_0", "sog_v2_playbot_5_0"):
        part = read_splats(VECTORS / name).splats
        for end in (np.min, np.max):
            np.testing.assert_allclose(end(part.xyz, axis=0), end(whole.xyz, axis=0), atol=0.012)
        shades = [0.5 + 0.282 * splats.features_dc[:, 0].mean(axis=0) for splats in (part, whole)]
        np.testing.assert_allclose(*shades, atol=0.06)


def test_splat_transform_reads_ours(tmp_path: Path) -> None:
    splats = random_splats(600, 1)
    write_splats(tmp_path / "a.sog", SplatScene(splats))
    convert(tmp_path / "a.sog", tmp_path / "a.ply")
    theirs, ours = read_splats(tmp_path / "a.ply").splats, read_splats(tmp_path / "a.sog").splats
    for name, bound in (("xyz", 1e-5), ("scaling", 1e-6), ("features_dc", 1e-6)):
        difference = np.abs(getattr(theirs, name) - getattr(ours, name))
        assert difference.max() <= bound, name
    np.testing.assert_allclose(theirs.features_rest, ours.features_rest, atol=1e-6)
    assert np.abs(alphas(theirs) - alphas(ours)).max() <= 1 / 255
    assert angles(theirs, ours).max() < 0.01


def test_ours_reads_splat_transforms(tmp_path: Path) -> None:
    splats = replace(random_splats(500, 0), opacity=np.ones((500, 1), np.float32))
    write_by_splat_transform(splats, tmp_path / "a.sog")
    convert(tmp_path / "a.sog", tmp_path / "a.ply")
    theirs, ours = read_splats(tmp_path / "a.ply").splats, read_splats(tmp_path / "a.sog").splats
    for name, bound in (("xyz", 1e-5), ("scaling", 1e-6), ("features_dc", 1e-6)):
        difference = np.abs(getattr(theirs, name) - getattr(ours, name))
        assert difference.max() <= bound, name
    assert np.abs(alphas(theirs) - alphas(ours)).max() <= 1 / 255
    assert angles(theirs, ours).max() < 0.01


@needs_vectors
def test_version_1_as_splat_transform_reads_it(tmp_path: Path) -> None:
    source = tmp_path / "old"
    write_version_1(source)
    convert(source / "meta.json", tmp_path / "a.ply")
    theirs, ours = read_splats(tmp_path / "a.ply").splats, read_splats(source).splats
    np.testing.assert_allclose(theirs.xyz, ours.xyz, atol=1e-6)
    np.testing.assert_allclose(theirs.scaling, ours.scaling, atol=1e-6)
    np.testing.assert_allclose(theirs.opacity, ours.opacity, atol=1e-5)
    np.testing.assert_allclose(theirs.features_rest, ours.features_rest, atol=1e-5)
    assert angles(theirs, ours).max() < 0.01
    shutil.rmtree(source)
