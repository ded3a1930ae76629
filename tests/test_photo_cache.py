# SPDX-License-Identifier: Apache-2.0
"""Photographs decoded when they are used: the same results with any memory for them."""

import json
import random
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from made_datasets import make_blender, make_colmap, options
from PIL import Image
from reference.random_splats import random_raw

import train
from gaussian_compression.finetune import _endless_epochs
from gaussian_compression.fingerprint import views_digest
from scene import GaussianModel, Scene
from scene.camera_loading import cameraList_from_camInfos
from scene.cameras import Camera
from scene.dataset_readers import readSceneInfo
from scene.photo_cache import AHEAD, PhotoCache, Pixels, expect_photos
from scene.run_memory import memory_needs, require_memory
from scene.view_queue import ViewQueue
from utils.errors import InputError
from utils.memory import available_memory

SIDE = 10
BYTES = 3 * SIDE * SIDE
ROOM = 4 * SIDE * SIDE  # what one photograph may take


class Loads:
    """A cache of `count` photographs, which remembers the order in which they were decoded."""

    def __init__(self, capacity: int, count: int = 6) -> None:
        self.order: list[int] = []
        self.cache = PhotoCache(capacity)
        self.photos = [
            self.cache.add(lambda i=i: self._load(i), (SIDE, SIDE)) for i in range(count)
        ]

    def _load(self, index: int) -> Pixels:
        self.order.append(index)
        return Pixels(torch.full((3, SIDE, SIDE), index, dtype=torch.uint8))

    def use(self, *indices: int) -> None:
        for index in indices:
            assert int(self.photos[index].pixels().image[0, 0, 0]) == index

    def wait(self) -> None:
        """Until no photograph is being decoded."""
        finish(self.cache)


class TestCache:
    def test_the_least_recently_used_leaves_first(self) -> None:
        loads = Loads(3 * BYTES)
        loads.use(0, 3, 5, 0, 4)  # 3 leaves for 4
        assert loads.order == [0, 3, 5, 4]
        loads.use(0, 5, 3)
        assert loads.order == [0, 3, 5, 4, 3]

    def test_one_photograph_is_kept_even_if_it_is_larger(self) -> None:
        loads = Loads(1)
        loads.use(2, 2, 4, 4, 2)
        assert loads.order == [2, 4, 2]
        assert len(loads.cache._kept) == 1

    @pytest.mark.parametrize("capacity", [1, BYTES, 2 * ROOM, 4 * ROOM, 100 * ROOM])
    def test_the_memory_is_never_exceeded(self, capacity: int) -> None:
        loads, order = Loads(capacity, 20), random.Random(3)
        for index in order.choices(range(20), k=100):
            loads.use(index)
            loads.cache.expect([(index + 7) % 20, (index + 9) % 20])
            kept = [pixels.bytes for pixels in list(loads.cache._kept.values())]
            assert sum(kept) <= max(capacity, BYTES)
        loads.wait()

    def test_photographs_that_are_announced_are_decoded_meanwhile(self) -> None:
        loads = Loads(4 * ROOM)
        loads.use(0)
        expect_photos([loads.photos[4]])
        loads.wait()
        assert loads.order == [0, 4]
        loads.use(4)
        assert loads.order == [0, 4]

    def test_nothing_is_decoded_ahead_without_room_for_it(self) -> None:
        loads = Loads(2 * BYTES)  # less than one decoded and one that may be transparent
        loads.use(0, 1, 2)
        expect_photos([loads.photos[4]])
        loads.wait()
        assert loads.order == [0, 1, 2]

    def test_the_one_in_use_has_its_memory_even_if_it_is_expected_again(self) -> None:
        loads = Loads(BYTES)
        loads.use(0, 1, 2, 3)  # each size is exact from here on
        loads.order.clear()
        expect_photos([loads.photos[k] for k in (0, 1, 3)])
        loads.wait()
        loads.use(0, 1, 3)
        assert loads.order == [0, 1, 3]

    def test_photographs_in_order_are_expected(self) -> None:
        loads = Loads(5 * ROOM)
        loads.use(1, 1, 2, 2, 3)
        loads.wait()
        assert sorted(loads.order) == [1, 2, 3, 4, 5]

    def test_an_error_reaches_the_user_each_time_and_not_the_thread(self) -> None:
        cache = PhotoCache(10 * ROOM)
        tries = []

        def broken() -> Pixels:
            tries.append(1)
            raise InputError("a.png cannot be read")

        photo = cache.add(broken, (SIDE, SIDE))
        expect_photos([photo])
        for _ in range(2):
            with pytest.raises(InputError, match=r"a\.png"):
                photo.pixels()
        assert len(tries) >= 2 and not cache._pending

    def test_several_threads(self) -> None:
        loads, faults = Loads(2 * ROOM, 8), []

        def use(seed: int) -> None:
            try:
                loads.use(*random.Random(seed).choices(range(8), k=200))
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults


def cameras_of(folder: Path, cache: PhotoCache | None, **values: object) -> list[Camera]:
    args = options(folder, **values)
    return cameraList_from_camInfos(readSceneInfo(args).train_cameras, 1.0, args, cache=cache)


def with_maps(folder: Path, count: int) -> Path:
    """A data set of `make_colmap` with its maps of depths."""
    names = [f"{i:02d}" for i in range(count)]
    scales = {name: {"scale": 1.0, "offset": 0.0} for name in names}
    (folder / "sparse/0/depth_params.json").write_text(json.dumps(scales))
    (folder / "maps").mkdir()
    for name in names:
        Image.fromarray(np.full((8, 12), 9, np.uint16)).save(folder / "maps" / f"{name}.png")
    return folder


class TestCameras:
    def test_they_equal_cameras_with_all_photographs(self, tmp_path: Path) -> None:
        folder = make_blender(tmp_path)
        cached = cameras_of(folder, PhotoCache(1), resolution=2)
        whole = cameras_of(folder, None, resolution=2)
        assert views_digest(cached) == views_digest(whole)
        colour = torch.tensor([0.2, 0.9, 0.5])
        for mine, its in zip(cached, whole, strict=True):
            assert (mine.image_width, mine.image_height) == (its.image_width, its.image_height)
            assert mine.is_cached and not its.is_cached
            assert torch.equal(mine.original_image, its.original_image)
            assert mine.opacity_u8 is not None and torch.equal(mine.opacity_u8, its.opacity_u8)
            assert torch.equal(mine.over(colour).image_u8, its.over(colour).image_u8)

    def test_masks_are_decoded_with_their_photographs(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path, 2)
        (folder / "masks").mkdir()
        pixels = np.repeat(np.array([[0, 255]], np.uint8), 12, axis=1).repeat(16, axis=0)
        Image.fromarray(pixels).save(folder / "masks" / "00.png.png")
        cached = cameras_of(folder, PhotoCache(1), masks="masks")
        whole = cameras_of(folder, None, masks="masks")
        assert [camera.is_masked for camera in cached] == [True, False]
        assert whole[0].mask_u8 is not None and torch.equal(cached[0].mask_u8, whole[0].mask_u8)
        assert views_digest(cached) == views_digest(whole)

    def test_nothing_is_decoded_before_it_is_used(self, tmp_path: Path) -> None:
        folder = make_colmap(tmp_path, 3)
        cache = PhotoCache(10**6)
        cameras = cameras_of(folder, cache)
        (folder / "images" / "01.png").write_bytes(b"no image")
        assert cache.decoded == 0
        assert cameras[0].image_u8.shape == (3, 16, 24)
        with pytest.raises(InputError, match=r"image 01\.png .* cannot be read"):
            cameras[1].image_u8  # noqa: B018

    def test_maps_of_depths_need_no_photograph(self, tmp_path: Path) -> None:
        folder = with_maps(make_colmap(tmp_path, 3), 3)
        (folder / "masks").mkdir()
        for i in range(3):
            half = np.zeros((16, 24), np.uint8)
            half[:, 12:] = 255
            Image.fromarray(half).save(folder / "masks" / f"{i:02d}.png.png")
        cache = PhotoCache(10**6)
        cached = cameras_of(folder, cache, depths="maps", masks="masks")
        assert [camera.depth_reliable for camera in cached] == [True] * 3
        assert cache.decoded == 0
        for mine, its in zip(
            cached, cameras_of(folder, None, depths="maps", masks="masks"), strict=True
        ):
            assert mine.depth_mask is not None and its.depth_mask is not None
            assert torch.equal(mine.depth_mask, its.depth_mask)
            assert mine.depth_mask[..., 12:].all() and not mine.depth_mask[..., :12].any()

    def test_a_photograph_that_is_set_stays(self, tmp_path: Path) -> None:
        cameras = cameras_of(make_colmap(tmp_path, 2), PhotoCache(1))
        cameras[0].image_u8 = torch.zeros(3, 16, 24, dtype=torch.uint8)
        cameras[1].image_u8  # noqa: B018
        assert not cameras[0].image_u8.any()


class TestOrders:
    @pytest.fixture
    def announced(self, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
        """The numbers of the photographs of each announcement."""
        found: list[list[int]] = []
        monkeypatch.setattr(PhotoCache, "expect", lambda self, indices: found.append(indices))
        return found

    def test_the_queue_announces_what_it_draws_next(
        self, tmp_path: Path, announced: list[list[int]]
    ) -> None:
        whole = cameras_of(make_colmap(tmp_path, 8), None)
        cached = cameras_of(tmp_path, PhotoCache(10**6))
        drawn = []
        for cameras in (whole, cached):
            random.seed(5)
            queue = ViewQueue(cameras)
            drawn.append([queue.draw().uid for _ in range(16)])
        assert drawn[0] == drawn[1]
        passes = drawn[1][:8], drawn[1][8:]
        assert announced == [views[i : i + 1 + AHEAD] for views in passes for i in range(8)]

    def test_fine_tuning_announces_them_too(
        self, tmp_path: Path, announced: list[list[int]]
    ) -> None:
        cached = cameras_of(make_colmap(tmp_path, 5), PhotoCache(10**6))
        views = _endless_epochs(cached, random.Random(1))
        used = [next(views).uid for _ in range(5)]
        assert announced == [used[i : i + 1 + AHEAD] for i in range(5)]

    def test_ranks_that_share_the_views_decode_nothing_ahead(
        self, tmp_path: Path, announced: list[list[int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = ViewQueue(cameras_of(make_colmap(tmp_path, 3), PhotoCache(10**6)))
        monkeypatch.setattr("scene.cameras.ranks.count", lambda: 2)
        queue.draw()
        assert not announced

    @pytest.mark.parametrize("room", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("patience", ["none", "after a draw", "after a use", "always"])
    def test_each_photograph_is_decoded_once_a_pass(
        self, tmp_path: Path, room: int, patience: str
    ) -> None:
        """Whether or not the threads are done when the next view is drawn."""
        cache = PhotoCache(room * 3 * 16 * 24)
        queue = ViewQueue(cameras_of(make_colmap(tmp_path, 7), cache))
        random.seed(room)
        for _ in range(6):
            before = cache.decoded
            for _ in range(7):
                view = queue.draw()
                if patience in ("after a draw", "always"):
                    finish(cache)
                for _ in range(3):  # a step reads the photograph, its mask and its opacity
                    assert view.image_u8.shape == (3, 16, 24)
                    if patience in ("after a use", "always"):
                        finish(cache)
            assert cache.decoded - before <= 7
        finish(cache)
        assert sum(pixels.bytes for pixels in cache._kept.values()) <= room * 3 * 16 * 24

    def test_a_pass_in_order_between_announcements_is_expected(self) -> None:
        loads = Loads(9 * ROOM, 9)
        expect_photos([loads.photos[k] for k in (7, 2, 8)])
        loads.use(7, 0, 1, 2, 3)
        loads.wait()
        assert sorted(loads.order) == [0, 1, 2, 3, 4, 5, 7, 8]


def finish(cache: PhotoCache) -> None:
    """Waits until no photograph is being decoded."""
    while futures := list(cache._pending.values()):
        for future in futures:
            future.result()


def test_training_gives_the_same_bytes_with_any_memory(
    tmp_path: Path, small_scene: Path, command_line
) -> None:
    results = []
    for name, memory in (("all", 0), ("one", 1e-9), ("three", 2.1e-5)):
        model = tmp_path / name
        command_line(
            *("-s", small_scene, "-m", model, "--eval", "--iterations", 14, "--quiet"),
            *("--test_iterations", 9, "--checkpoint_iterations", 7, "--densify_from_iter", 5),
            *("--densification_interval", 6, "--image_cache_gb", memory),
        )
        train.main()
        results.append((model / "point_cloud/iteration_14/point_cloud.ply").read_bytes())
    assert results[0] == results[1] == results[2]


# --- Memory ---------------------------------------------------------------------------------------


def test_a_run_that_needs_more_than_there_is_ends_before_it_starts(
    small_scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    args = options(small_scene, model_path=str(tmp_path / "model"))
    # 10 photographs of 5184 bytes and 300 points of 500.
    monkeypatch.setattr("scene.run_memory.available_memory", lambda: 190_000)
    with pytest.raises(InputError, match=r"0\.000202 GB of memory.*--image_cache_gb 2e-05"):
        Scene(args, GaussianModel(0))
    assert not (tmp_path / "model").exists()
    args.image_cache_gb = 2e-5
    scene = Scene(args, GaussianModel(0))
    assert all(camera.is_cached for camera in scene.getTrainCameras())
    assert "2e-05 GB for 10 decoded photographs (5.18e-05 GB in all)" in caplog.text
    assert "0.00019 GB are available" in caplog.text


CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("data_device", "model_on", "cache_gb", "expected", "stated"),
    [
        ("cuda", CPU, 0, "2.08e-05", "for depth maps and 1e-05 GB for 20 Gaussians;"),
        ("cuda", GPU, 0, None, "for depth maps on cuda and 1e-05 GB for 20 Gaussians on cuda:0;"),
        ("cpu", GPU, 0, "1.08e-05", "for depth maps and 1e-05 GB for 20 Gaussians on cuda:0;"),
        ("cuda", GPU, 1e-6, "7.14e-06", "for depth maps and 1e-05 GB for 20 Gaussians on cuda:0;"),
    ],
)
def test_only_what_is_in_main_memory_has_to_fit_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    data_device: str,
    model_on: torch.device,
    cache_gb: float,
    expected: str | None,
    stated: str,
) -> None:
    """4 photographs of 1152 bytes and maps of 1536, 20 Gaussians of 500; no memory at all."""
    caplog.set_level("INFO")
    gaussians = GaussianModel(0)
    gaussians.load_splats(random_raw(20, 0).to_splats())
    folder = with_maps(make_colmap(tmp_path / "data", 4), 4)
    args = options(folder, model_path=str(tmp_path / "model"), depths="maps")
    args.data_device, args.image_cache_gb = data_device, cache_gb
    monkeypatch.setattr("scene.device_of", lambda model: model_on)
    monkeypatch.setattr("scene.run_memory.available_memory", lambda: 0)
    monkeypatch.setattr(Scene, "_load_photos", lambda *arguments: None)
    refused = pytest.raises(InputError, match=rf"expected {expected} GB of memory, ")
    with nullcontext() if expected is None else refused:
        Scene(args, gaussians)
    assert stated in caplog.text


def test_too_many_gaussians() -> None:
    needs = memory_needs([], 0, 10**9, 2200)
    with pytest.raises(InputError, match=r"2\.2e\+03 GB of memory.*available$"):
        require_memory(needs)


class TestAvailableMemory:
    def write(self, root: Path, **files: str) -> Path:
        for name, text in {"proc/meminfo": "MemAvailable: 1000 kB\n", **files}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    def test_this_machine(self) -> None:
        found = available_memory()
        assert found is None or 0 < found < 1 << 50

    def test_another_operating_system(self, tmp_path: Path) -> None:
        assert available_memory(tmp_path) is None

    def test_the_machine_s_memory(self, tmp_path: Path) -> None:
        assert available_memory(self.write(tmp_path)) == 1_024_000

    @pytest.mark.parametrize("place", ["", "/a", "/a/b"])
    def test_a_limit_of_version_2(self, tmp_path: Path, place: str) -> None:
        root = self.write(
            tmp_path,
            **{
                "proc/self/cgroup": "0::/a/b\n",
                f"sys/fs/cgroup{place}/memory.max": "5000\n",
                f"sys/fs/cgroup{place}/memory.current": "4000\n",
                f"sys/fs/cgroup{place}/memory.stat": "anon 1\ninactive_file 300\n",
            },
        )
        assert available_memory(root) == 1300

    def test_a_limit_of_version_1(self, tmp_path: Path) -> None:
        root = self.write(
            tmp_path,
            **{
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/x/y\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
            },
        )
        assert available_memory(root) == 8000

    def test_no_limit(self, tmp_path: Path) -> None:
        root = self.write(
            tmp_path,
            **{
                "proc/self/cgroup": "4:memory:/\n0::/\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/memory.current": "1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{(1 << 63) - 4096}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
            },
        )
        assert available_memory(root) == 1_024_000
