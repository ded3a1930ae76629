# SPDX-License-Identifier: Apache-2.0
"""Depth regularisation: maps and their scales, the loss, whole runs, make_depth_scale.py."""

import json
import logging
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_datasets import make_blender, make_colmap, options
from PIL import Image
from reference.random_splats import random_raw
from reference.random_views import camera
from scipy.interpolate import NearestNDInterpolator

import render as render_script
import train
from gaussian_renderer import render
from gaussian_renderer.autograd_backend import AutogradBackend
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from gaussian_renderer.view_loss import depth_loss
from scene import GaussianModel, Scene
from scene.camera_loading import loadCam
from scene.cameras import Camera
from scene.colmap_loader import read_extrinsics_binary, read_points3D
from scene.dataset_readers import readSceneInfo
from scene.depth_maps import read_depth_map, read_depth_params, scaled_depth_map
from scene.depth_scale import sampled
from utils.errors import InputError

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
WHITE = torch.ones(3)
BOTH = [AutogradBackend(RenderOptions()), backend_for(CPU, RenderOptions())]
PLAUSIBLE = {"scale": 1.0, "offset": 0.0}


def test_maps_are_grey_pngs_of_8_or_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "map ä.png"
    deep = np.array([[0, 65535], [300, 7]], np.uint16)
    Image.fromarray(deep).save(path)
    np.testing.assert_array_equal(read_depth_map(path, 65536), deep / np.float32(65536))
    grey = np.array([[0, 255], [30, 7]], np.uint8)
    for image in (Image.fromarray(grey), Image.fromarray(np.stack([grey] * 3, axis=-1)),
                  Image.fromarray(np.stack([grey] * 4, axis=-1))):  # fmt: skip
        image.save(path)
        np.testing.assert_array_equal(read_depth_map(path, 512), grey / np.float32(512))
    coloured = np.zeros((2, 2, 3), np.uint8)
    coloured[0, 0, 1] = 1
    Image.fromarray(coloured).save(path)
    with pytest.raises(InputError, match=r"map ä\.png: expected a grey image .* got colours"):
        read_depth_map(path, 512)
    Image.fromarray(grey).convert("P").save(path)
    with pytest.raises(InputError, match=r"expected a grey image .* mode P"):
        read_depth_map(path, 512)
    path.write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"map ä\.png .* cannot be read"):
        read_depth_map(path, 512)
    with pytest.raises(InputError, match=r"none\.png is missing"):
        read_depth_map(tmp_path / "none.png", 512)


def test_scales_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth_params.json"
    with pytest.raises(InputError, match=r"not found: python utils/make_depth_scale\.py"):
        read_depth_params(path)
    for text, message in {
        "x": "not a JSON file",
        "[]": "expected scales by image name, got list",
        "{}": "expected at least one image with a scale above 0",
        '{"a": {"scale": 0, "offset": 0}}': "expected at least one image with a scale above 0",
        '{"a": {"scale": 1}}': "a: expected a finite scale and offset",
        '{"a": {"scale": NaN, "offset": 0}}': "a: expected a finite scale and offset",
        '{"a": 3}': "a: expected a finite scale and offset",
    }.items():
        path.write_text(text)
        with pytest.raises(InputError, match=rf"depth_params\.json: {message}"):
            read_depth_params(path)
    entries = {str(i): {"scale": scale, "offset": 1} for i, scale in enumerate([-1, 2, 3, 50])}
    path.write_text(json.dumps(entries))
    assert read_depth_params(path)["0"] == {"scale": -1, "offset": 1, "med_scale": 3}


@pytest.mark.parametrize(
    ("scale", "reliable"),
    [(0.59, False), (0.61, True), (3, True), (14.9, True), (15.1, False), (0, False), (-3, False)],
)
def test_maps_with_an_unusual_scale_are_not_trusted(scale: float, reliable: bool) -> None:
    depths = np.array([[0.0, 1.0], [2.0, -5.0]], np.float32)
    params = {"scale": scale, "offset": 0.5, "med_scale": 3.0}
    found, trusted = scaled_depth_map(depths, (2, 2), params)
    assert trusted is reliable
    if scale > 0:
        expected = torch.tensor([[[0.5, scale + 0.5], [2 * scale + 0.5, 0.5]]])
        torch.testing.assert_close(found, expected)


def test_a_map_is_resized_bilinearly_to_its_view() -> None:
    depths = np.array([[0.0, 1.0]], np.float32)[..., None].repeat(3, axis=2)
    found, trusted = scaled_depth_map(depths, (4, 1), None)
    torch.testing.assert_close(found, torch.tensor([[[0, 0.25, 0.75, 1]]]))
    assert trusted
    view = make_camera(depths[..., 0], None)
    assert view.invdepthmap.shape == (1, 37, 45) and view.depth_reliable
    assert (view.depth_mask == 1).all()
    doubtful = make_camera(depths[..., 0], {"scale": 9.0, "offset": 0.0, "med_scale": 1.0})
    assert not doubtful.depth_reliable and not doubtful.depth_mask.any()


def make_camera(depths: np.ndarray | None, params: dict | None, **values: object) -> Camera:
    like = camera()
    return Camera(
        *((45, 37), 0, like.R, like.T, like.FoVx, like.FoVy, params, None, depths, "view.png", 0),
        image_u8=like.image_u8,
        **values,
    )


def test_depths_of_pixels_that_do_not_count_do_not_count() -> None:
    view = make_camera(np.ones((4, 4)), None, train_test_exp=True, is_test_view=True)
    assert view.depth_mask[..., :22].all() and not view.depth_mask[..., 22:].any()
    inverse = torch.zeros(1, 37, 45)
    assert float(depth_loss(inverse, view)) == pytest.approx(22 / 45)


def test_both_backends_agree_on_depths_and_their_gradients() -> None:
    raw = random_raw(150, 1)
    raw = raw._replace(xyz=0.6 * raw.xyz, scaling=0.4 * raw.scaling)
    depths = np.random.default_rng(0).uniform(0, 0.2, (37, 45))
    view, plain = make_camera(depths, None), camera()
    found = []
    for backend in BOTH:
        out = raw.map(torch.empty_like)
        found.append((backend.differentiate(view, raw, out, WHITE, 1, 0.2, 5.0), out))
    (slow, a), (fast, b) = found
    assert float(fast.loss) == pytest.approx(float(slow.loss), rel=1e-5)
    for one, other in zip(a, b, strict=True):
        assert (one - other).norm() <= 3e-4 * one.norm()
    without = raw.map(torch.empty_like)
    photometric = BOTH[1].differentiate(plain, raw, without, WHITE, 1, 0.2, 5.0)
    assert photometric.depth_loss is None
    model = GaussianModel.from_raw(raw)
    with torch.no_grad():
        inverse = render(view, model, SimpleNamespace(), WHITE)["depth"]
    expected = 5.0 * float((inverse - torch.from_numpy(depths)).abs().mean())
    assert float(fast.depth_loss) == pytest.approx(expected, rel=1e-5)
    assert float(fast.loss) == pytest.approx(float(photometric.loss) + expected, rel=1e-5)
    assert not torch.allclose(b.xyz, without.xyz)
    off = BOTH[1].differentiate(view, raw, out, WHITE, 1, 0.2)
    assert off.depth_loss is None and torch.equal(out.xyz, without.xyz)


def test_a_rasteriser_without_depths_is_named() -> None:
    view = make_camera(np.ones((4, 4)), None)
    with pytest.raises(InputError, match="-d/--depths: the installed rasteriser computes no"):
        depth_loss(None, view)


# --- Data sets ------------------------------------------------------------------------------------


def save_map(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 12), value, np.uint16)).save(path)


def with_scales(scene: Path, names: list[str]) -> Path:
    scales = dict.fromkeys(names, PLAUSIBLE)
    (scene / "sparse/0/depth_params.json").write_text(json.dumps(scales))
    return scene


def test_maps_of_a_colmap_scene_are_found_by_the_names_of_their_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = with_scales(make_colmap(tmp_path, count=4), ["00", "01", "02"])
    for name in ("00", "01"):
        save_map(scene / "maps" / f"{name}.png", 16384)
    (scene / "maps/01.png").rename(scene / "maps/01.PNG")
    loading = options(scene, depths="maps/")
    with pytest.raises(
        InputError, match=r"1 of 3 maps are missing in .*maps: 02; .*--skip_missing"
    ):
        readSceneInfo(loading)
    loading.skip_missing = True
    info = readSceneInfo(loading)
    assert [Path(c.depth_path).name for c in info.train_cameras] == ["00.png", "01.PNG", "", ""]
    assert "has no entry of 1 images, which train without depths: 03" in caplog.text
    view = loadCam(loading, 0, info.train_cameras[1], 1.0)
    assert (view.invdepthmap == 0.25).all() and view.invdepthmap.shape == (1, 16, 24)
    assert loadCam(loading, 0, info.train_cameras[3], 1.0).invdepthmap is None
    shutil.rmtree(scene / "maps")
    with pytest.raises(InputError, match="3 of 3 maps are missing"):
        readSceneInfo(loading)


def test_maps_of_other_scenes_are_in_world_units(tmp_path: Path) -> None:
    scene = make_blender(tmp_path)
    for i in range(3):
        save_map(scene / "maps" / f"r_{i}.png", 256)
    loading = options(scene, depths="maps", eval=True)
    view = loadCam(loading, 0, readSceneInfo(loading).train_cameras[0], 1.0)
    assert (view.invdepthmap == 0.5).all() and view.depth_reliable


# --- Whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene_with_maps(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scene, all of it at an inverse depth of 0.5, if one believes the maps."""
    folder = tmp_path_factory.mktemp("depths") / "scene"
    shutil.copytree(small_scene, folder)
    names = [f"view_{i:03d}" for i in range(10)]
    for name in names:
        save_map(folder / "maps" / f"{name}.png", 32768)
    return with_scales(folder, names)


def trained(scene: Path, folder: Path, *words: object) -> Scene:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdout", sys.stdout)
        argv = ["-s", scene, "-m", folder, "--eval", "--test_iterations", -1, "--disable_viewer"]
        argv += ["--iterations", 30, *words]
        patched.setattr(sys, "argv", ["train.py", *map(str, argv)])
        train.main()
    loading = options(scene, model_path=str(folder), depths="maps", eval=True)
    return Scene(loading, GaussianModel(3, device="cpu"), load_iteration=-1, splits=["train"])


def distance(scene: Scene) -> float:
    view = scene.getTrainCameras()[0]
    with torch.no_grad():
        drawn = render(view, scene.gaussians, SimpleNamespace(), torch.zeros(3))
        return float(depth_loss(drawn["depth"], view))


def test_training_follows_the_maps(
    scene_with_maps: Path, tmp_path: Path, capsys, command_line
) -> None:
    free = trained(scene_with_maps, tmp_path / "free")
    assert "Depth Loss=0.0000000" in capsys.readouterr().err
    bound = trained(scene_with_maps, tmp_path / "bound", "-d", "maps", "--depth_l1_weight_final", 1)
    assert "Depth Loss=0.0000000" not in capsys.readouterr().err
    assert distance(bound) < 0.9 * distance(free)
    shutil.rmtree(scene_with_maps / "maps")  # rendering needs no maps
    command_line("-m", tmp_path / "bound", "--skip_train")
    render_script.main()


def test_weights_of_a_schedule_are_both_zero_or_neither(tmp_path: Path, small_scene: Path) -> None:
    with pytest.raises(InputError, match=r"--depth_l1_weight_init 0\.0 and --depth_l1_weight_f"):
        trained(small_scene, tmp_path / "model", "--depth_l1_weight_init", 0)


# --- make_depth_scale.py --------------------------------------------------------------------------


def run_make_depth_scale(scene: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
    script = ROOT / "utils" / "make_depth_scale.py"
    patch.setattr(sys, "path", [str(script.parent), *sys.path])
    patch.setattr(logging.getLogger(), "handlers", logging.getLogger().handlers[:])
    words = ["--base_dir", scene, "--depths_dir", folder, "--model_type", "bin"]
    patch.setattr(sys, "argv", [str(script), *map(str, words)])
    runpy.run_path(str(script), run_name="__main__")


def test_scales_are_found_by_the_triangulated_points(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, maps = tmp_path / "scene", tmp_path / "maps"
    shutil.copytree(small_scene, scene)
    maps.mkdir()
    points = read_points3D(scene / "sparse/0/points3D.bin")
    by_id = dict(zip(points.ids.tolist(), points.xyz, strict=True))
    images = list(read_extrinsics_binary(scene / "sparse/0/images.bin").values())
    rows, columns = np.mgrid[0:72, 0:96]  # twice as fine as the photographs
    for image in images[:-1]:
        seen = image.point3D_ids >= 0
        xyz = np.array([by_id[i] for i in image.point3D_ids[seen]])
        inverse = 1 / (xyz @ image.qvec2rotmat()[2] + image.tvec[2])
        nearest = NearestNDInterpolator(image.xys[seen] * 2, inverse)
        found = nearest(columns + 0.5, rows + 0.5)
        stored = ((found - 0.1) / 3 * 65536).round().clip(0, 65535).astype(np.uint16)
        Image.fromarray(stored).save(maps / image.name)
    Image.fromarray(np.zeros((72, 96), np.uint16)).save(maps / images[-1].name)
    run_make_depth_scale(scene, maps, monkeypatch)
    stored = json.loads((scene / "sparse/0/depth_params.json").read_text())
    assert stored.pop(images[-1].name[:-4]) == {"scale": 0.0, "offset": 0.0}
    assert len(stored) == 9
    scales = [entry["scale"] for entry in stored.values()]
    offsets = [entry["offset"] for entry in stored.values()]
    assert np.median(scales) == pytest.approx(3, rel=0.1)
    assert np.median(offsets) == pytest.approx(0.1, abs=0.03)


def test_samples_between_pixels() -> None:
    depths = np.array([[0, 1, 2], [10, 11, 12]], np.float32)
    at = np.array([[0.5, 0.5], [1.0, 0.5], [2.5, 1.0], [0.0, 2.0], [3.0, 2.0]])
    np.testing.assert_allclose(sampled(depths, at), [0, 0.5, 7, 10, 12])


def test_without_maps_or_points_there_are_no_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    scene = make_colmap(tmp_path / "scene", count=2)
    with pytest.raises(SystemExit):
        run_make_depth_scale(scene, tmp_path / "none", monkeypatch)
    assert (
        "none: expected maps of depths named as the images, found none" in capsys.readouterr().err
    )
    save_map(scene / "maps/00.png", 5)
    run_make_depth_scale(scene, scene / "maps", monkeypatch)
    with pytest.raises(InputError, match="at least one image with a scale above 0"):
        readSceneInfo(options(scene, depths="maps"))
    (scene / "sparse/0/points3D.bin").unlink()
    with pytest.raises(SystemExit):
        run_make_depth_scale(scene, scene / "maps", monkeypatch)
    assert "expected triangulated points" in capsys.readouterr().err
