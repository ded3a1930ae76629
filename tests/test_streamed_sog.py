# SPDX-License-Identifier: Apache-2.0
"""Streamed SOG: levels of detail written and read back, and index files that are damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat_formats import streamed_sog_writer
from splat_formats.files import bytes_of_model, kind_of_file, read_splats
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from splat_formats.streamed_sog import INDEX
from splat_formats.streamed_sog_writer import streamed_sog_files
from tests.test_ply import random_splats
from utils.errors import InputError


def put(folder: Path, levels: list[SplatScene]) -> dict[str, bytes]:
    files, _ = streamed_sog_files(levels)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return files


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_sog_writer, "_LEAF", 40)
    monkeypatch.setattr(streamed_sog_writer, "_CHUNK", 100)


def by_position(splats: Splats) -> Splats:
    return splats.rows(np.lexsort(splats.xyz.T))


def leaves_of(node: dict[str, Any]) -> list[dict[str, Any]]:
    if "children" not in node:
        return [node]
    return [leaf for child in node["children"] for leaf in leaves_of(child)]


def test_the_finest_level_is_read_back(tmp_path: Path, small_leaves: None) -> None:
    fine, coarse = random_splats(300, 1, 0), random_splats(90, 1, 1)
    metadata = SplatMetadata(antialiasing=True)
    files = put(tmp_path, [SplatScene(fine, metadata), SplatScene(coarse, metadata)])
    index = json.loads(files[INDEX])
    assert (index["version"], index["lodLevels"]) == (1, 2)
    assert (index["count"], index["counts"]) == (390, [300, 90])
    assert index["filenames"] == ["0_0/meta.json", "0_1/meta.json", "0_2/meta.json",
                                  "1_0/meta.json"]  # fmt: skip
    scene = read_splats(tmp_path)
    assert scene.metadata.antialiasing and "finest of 2 levels" in scene.metadata.notices[0]
    found, expected = by_position(scene.splats), by_position(fine)
    np.testing.assert_allclose(found.xyz, expected.xyz, atol=1e-3)
    np.testing.assert_allclose(found.opacity, expected.opacity, atol=0.5)
    assert scene.splats.sh_degree == 1
    assert kind_of_file(tmp_path / INDEX) == "a streamed SOG model"
    assert bytes_of_model(tmp_path / INDEX) == sum(map(len, files.values()))


def test_every_gaussian_is_in_one_leaf_and_inside_its_bound(
    tmp_path: Path, small_leaves: None
) -> None:
    levels = [random_splats(count, 0, count) for count in (200, 60, 1)]
    files = put(tmp_path, [SplatScene(level) for level in levels])
    index = json.loads(files[INDEX])
    runs: dict[int, list[tuple[int, int]]] = {}
    for leaf in leaves_of(index["tree"]):
        low, high = np.array(leaf["bound"]["min"]), np.array(leaf["bound"]["max"])
        assert sum(run["count"] for run in leaf["lods"].values()) <= 40
        for level, run in leaf["lods"].items():
            name = index["filenames"][run["file"]]
            assert name.startswith(f"{level}_")
            xyz = read_splats(tmp_path / name).splats.xyz[run["offset"] :][: run["count"]]
            assert (xyz >= low).all() and (xyz <= high).all()
            runs.setdefault(run["file"], []).append((run["offset"], run["count"]))
    for file, found in runs.items():
        ends = np.cumsum([0] + [count for _, count in sorted(found)])
        assert [first for first, _ in sorted(found)] == ends[:-1].tolist()
        assert read_splats(tmp_path / index["filenames"][file]).splats.count == ends[-1]


def test_gaussians_at_one_place_of_any_size(tmp_path: Path, small_leaves: None) -> None:
    splats = random_splats(100, 0)
    splats.xyz[:], splats.scaling[:] = 1.5, 88.0
    put(tmp_path, [SplatScene(splats)])
    scene = read_splats(tmp_path)
    assert scene.splats.count == 100 and not scene.metadata.notices


def test_a_level_without_gaussians_is_refused() -> None:
    full = random_splats(3, 0)
    with pytest.raises(ValueError, match="every level"):
        streamed_sog_files([SplatScene(full), SplatScene(full.rows(slice(0)))])


def test_leaves_without_the_finest_level_and_an_environment(tmp_path: Path) -> None:
    files = put(tmp_path, [SplatScene(random_splats(9, 1)), SplatScene(random_splats(4, 0))])
    index = json.loads(files[INDEX])
    del index["tree"]["lods"]["0"]
    index["environment"] = "0_0/meta.json"
    (tmp_path / INDEX).write_text(json.dumps(index))
    found = read_splats(tmp_path / INDEX).splats
    assert (found.count, found.sh_degree) == (13, 1)
    assert (found.features_rest[:4] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(version=2), "version: an integer from 0 to 1"),
        (lambda index: index.update(filenames=["../meta.json"]), "a path to a meta.json inside"),
        (lambda index: index.update(filenames=["/etc/meta.json"]), "a path to a meta.json inside"),
        (lambda index: index.update(filenames=["0_0/x"]), "a path to a meta.json inside"),
        (lambda index: index.update(filenames=["0_9/meta.json"]), "no file '0_9/meta.json'"),
        (lambda index: index.update(filenames=[]), "got none"),
        (lambda index: index.update(filenames=[3]), "filenames: texts"),
        (lambda index: index.update(tree=[]), "tree: an object"),
        (lambda index: index.update(tree={}), "the tree has none"),
        (lambda index: index["tree"]["lods"].update({"0": 5}), "0: an object"),
        (lambda index: index["tree"]["lods"]["0"].update(file=1), "file: an integer from 0 to 0"),
        (lambda index: index["tree"]["lods"]["0"].update(count=10), "leaves name more"),
        (lambda index: index["tree"]["lods"]["0"].update(offset=1), "leaves name more"),
        (lambda index: index["tree"]["lods"]["0"].update(count=-1), "count: an integer"),
        (
            lambda index: index.update(tree={"children": [dict(index["tree"])] * 2}),
            "leaves name more",
        ),
        (lambda index: index.update(lodLevels=10**9), "lodLevels: an integer"),
    ],
)
def test_damaged_index_files_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    files = put(tmp_path, [SplatScene(random_splats(9, 0))])
    index = json.loads(files[INDEX])
    change(index)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        read_splats(tmp_path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "a", [SplatScene(random_splats(9, 0))])
    (tmp_path / "a/0_0").rename(tmp_path / "elsewhere")
    (tmp_path / "a/0_0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a link that leaves the folder"):
        read_splats(tmp_path / "a")
