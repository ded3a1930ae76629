# SPDX-License-Identifier: Apache-2.0
"""The viewer's page and the self-contained page in headless Chromium."""

import base64
import io
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from arguments import PipelineOptions
from gaussian_renderer import render
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from splat_formats.files import write_splats
from splat_formats.ply import rows
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.web_page import page_of, write_page
from tests.reference.viewer_models import (
    FOCAL,
    HEIGHT,
    VIEWS,
    WIDTH,
    camera_entries,
    random_scene,
    write_model_folder,
)
from utils.graphics_utils import focal2fov
from viewer_server.served_scenes import DatasetChoice, scenes_to_serve
from viewer_server.server import PageServer

GOLDEN = Path(__file__).parent / "golden"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader"),
    *("--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
]
LEAST_PSNR = 40.0
CLOSE_MESSAGE = "document.querySelector('#message button').click()"
PATIENCE = 30_000  # milliseconds, on a busy machine

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages")
    write_model_folder(path, random_scene(400, 3))
    return path


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(folder / "model") as url:
        yield url


class served:
    """Serves these models in a thread."""

    def __init__(self, *paths: Path) -> None:
        self.server = PageServer(scenes_to_serve(paths, DatasetChoice()), 0)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self) -> str:
        self.thread.start()
        return self.server.url

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def faults() -> Iterator[list[str]]:
    """Errors, warnings and requests to other hosts that pages report; at the end there are none."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture
def open_page(browser: Any, faults: list[str]) -> Iterator[Callable[..., Any]]:
    """Opens pages that are closed at the end of the test."""
    contexts = []

    def opened(url: str) -> Any:
        contexts.append(browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}))
        page = contexts[-1].new_page()
        report_faults(page, faults)
        page.goto(url)
        return settled(page)

    yield opened
    for context in contexts:
        context.close()


def report_faults(page: Any, faults: list[str]) -> None:
    def check_request(request: Any) -> None:
        if not re.match(r"http://127\.0\.0\.1:|file:///|blob:|data:", request.url):
            faults.append(f"request: {request.url}")

    def check_message(message: Any) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"{message.type}: {message.text}")

    page.on("console", check_message)
    page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
    page.on("request", check_request)


class SharedPage:
    """The page of the model folder, loaded once."""

    def __init__(self, browser: Any, address: str) -> None:
        self.faults: list[str] = []
        self.page = browser.new_page()
        report_faults(self.page, self.faults)
        self.page.goto(address)


@pytest.fixture(scope="module")
def shared(browser: Any, address: str) -> SharedPage:
    return SharedPage(browser, address)


@pytest.fixture
def page(shared: SharedPage) -> Iterator[Any]:
    """The shared page at the first camera, with the original model alone."""
    page = shared.page
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    for side, value in (("left", "0"), ("right", "2")):
        page.select_option(f"#{side}", value)
    page.keyboard.press("1")
    page.evaluate("viewer.photographs.setMode('off'); document.activeElement.blur()")
    choose_camera(page, 0)
    yield page
    assert shared.faults == []


def settled(page: Any) -> Any:
    """The page once everything is loaded and drawn."""
    page.wait_for_selector("html[data-settled=true]", state="attached", timeout=PATIENCE)
    return page


def pixels(page: Any) -> Pixels:
    """(H, W, 3) of the window without the panels."""
    page.evaluate("document.body.classList.add('bare')")
    png = page.screenshot()
    page.evaluate("document.body.classList.remove('bare')")
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"))


def drawn_by_rasterizer(ply: Path, view: int, antialiasing: bool = False) -> Pixels:
    entry: Any = camera_entries()[view]
    rotation = np.array(entry["rotation"])
    camera = Camera(
        resolution=(WIDTH, HEIGHT), colmap_id=0, R=rotation, T=-rotation.T @ entry["position"],
        FoVx=focal2fov(FOCAL, WIDTH), FoVy=focal2fov(FOCAL, HEIGHT), depth_params=None,
        image=Image.new("RGB", (WIDTH, HEIGHT)), invdepthmap=None, image_name="", uid=0,
        data_device="cpu",
    )  # fmt: skip
    options = PipelineOptions(antialiasing=antialiasing)
    with torch.no_grad():
        image = render(camera, GaussianModel.from_ply(ply), options, torch.zeros(3))["render"]
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()


def psnr(a: Pixels, b: Pixels) -> float:
    assert a.shape == b.shape
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * np.log10(255**2 / max(error, 1e-9))


def choose_camera(page: Any, index: int) -> None:
    page.select_option("#camera", str(index + 1))
    settled(page)


def trained(folder: Path) -> Path:
    return folder / "model" / "point_cloud" / "iteration_7" / "point_cloud.ply"


def test_pixels_agree_with_the_rasterizer(page: Any, folder: Path) -> None:
    for view in (0, 1):
        choose_camera(page, view)
        assert psnr(pixels(page), drawn_by_rasterizer(trained(folder), view)) > LEAST_PSNR


@pytest.mark.parametrize(("degree", "antialiasing"), [(0, False), (1, True)])
def test_pixels_agree_for_other_degrees_and_antialiasing(
    open_page: Callable[..., Any], tmp_path: Path, degree: int, antialiasing: bool
) -> None:
    write_model_folder(tmp_path, random_scene(200, degree, antialiasing))
    with served(tmp_path / "model") as url:
        page = open_page(url)
        page.keyboard.press("1")
        expected = drawn_by_rasterizer(trained(tmp_path), 0, antialiasing)
        assert psnr(pixels(settled(page)), expected) > LEAST_PSNR


def press(page: Any, keys: str) -> npt.NDArray[np.int64]:
    """The pixels after these keys."""
    for key in keys:
        page.keyboard.press(key)
    return pixels(settled(page)).astype(np.int64)


def test_slider_and_difference(page: Any) -> None:
    width = 600
    page.set_viewport_size({"width": width, "height": 400})
    left = press(page, "1")
    right = press(page, "x1")
    press(page, "x2")
    page.mouse.move(width / 2, 190)
    page.mouse.down()
    page.mouse.move(width / 4, 200)
    page.mouse.up()
    both = press(page, "")
    border = width // 4
    assert np.array_equal(both[:, : border - 2], left[:, : border - 2])
    assert np.array_equal(both[:, border + 2 :], right[:, border + 2 :])
    difference = press(page, "3")
    expected = np.clip(8 * np.abs(left - right), 0, 255)
    assert expected.max() > 40
    assert np.abs(difference - expected).max() <= 8  # both pictures were rounded to 8 bits


def test_cameras_and_photographs(page: Any) -> None:
    page.set_viewport_size({"width": 600, "height": 400})
    assert page.locator("#camera option").all_inner_texts() == ["free view", *VIEWS]
    page.keyboard.press("f")
    page.locator("#photo-beside img").wait_for(timeout=PATIENCE)
    page.keyboard.press(".")
    assert page.input_value("#camera") == "2"
    page.keyboard.press("f")
    page.locator("#photo-over").wait_for(timeout=PATIENCE)
    page.fill("#fade", "100")
    assert tuple(pixels(settled(page))[200, 300]) == (200, 40, 30)
    page.keyboard.press(".")  # a camera without a photograph
    assert page.locator("#photo-over").is_hidden()
    page.keyboard.press("f")


def test_controls_change_the_view(page: Any) -> None:
    page.set_viewport_size({"width": 600, "height": 400})
    actions = {
        "turn": lambda: drag(page, "left"),
        "pan": lambda: drag(page, "right"),
        "zoom": lambda: page.mouse.wheel(0, 100),
        "pinch": lambda: pinch(page),
        "fly": lambda: fly(page),
    }
    for name, act in actions.items():
        choose_camera(page, 0)
        before = page.evaluate("viewer.stage.view")
        page.mouse.move(200, 200)
        act()
        settled(page)
        after = page.evaluate("viewer.stage.view")
        assert after["position"] != before["position"], name
        assert (after["axes"] == before["axes"]) == (name != "turn")
        assert page.input_value("#camera") == "0"
        axes = np.array(after["axes"])
        assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9)


def fly(page: Any) -> None:
    """A key that is held until the view has moved: a busy machine draws few frames."""
    moved = "start => viewer.stage.view.position.some((x, axis) => x !== start[axis])"
    start = page.evaluate("viewer.stage.view.position")
    page.keyboard.down("w")
    page.wait_for_function(moved, arg=start)
    page.keyboard.up("w")


def pinch(page: Any) -> None:
    """Two fingers that move apart."""
    client = page.context.new_cdp_session(page)
    for kind, gap in (("touchStart", 20), ("touchMove", 40), ("touchMove", 60)):
        points = [{"x": x, "y": 200, "id": int(x > 300)} for x in (300 - gap, 300 + gap)]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    client.detach()


def drag(page: Any, button: str) -> None:
    page.mouse.down(button=button)
    page.mouse.move(230, 215)
    page.mouse.up(button=button)


def drop(page: Any, name: str, content: bytes) -> None:
    """Drops a file on the page's middle."""
    page.evaluate(
        """([name, content]) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name));
          for (const kind of ["dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(kind,
              { dataTransfer: transfer, bubbles: true, cancelable: true, clientX: 10 }));
        }""",
        [name, base64.b64encode(content).decode("ascii")],
    )


def test_dropped_files(page: Any, tmp_path: Path) -> None:
    before = pixels(page)
    message = page.locator("#message")
    for name in ("bad_checksum.f3dgs", "bad_cut_short.f3dgs"):
        drop(page, name, (GOLDEN / name).read_bytes())
        message.wait_for(timeout=PATIENCE)
        assert name in message.inner_text()
        page.evaluate(CLOSE_MESSAGE)
    assert np.array_equal(pixels(settled(page)), before)
    write_splats(tmp_path / "new.ply", random_scene(33, 1))
    drop(page, "new.ply", (tmp_path / "new.ply").read_bytes())
    page.locator("#left-label", has_text="new.ply · 33 Gaussians").wait_for(timeout=PATIENCE)
    assert not np.array_equal(pixels(settled(page)), before)


def test_other_files_are_converted_by_the_server(page: Any) -> None:
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1",
             "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]  # fmt: skip
    lines = ["ply", "format ascii 1.0", "element vertex 1"]
    lines += [f"property float {name}" for name in names] + ["end_header"]
    values = "0 0 0 1 1 1 2 -1 -1 -1 1 0 0 0"
    drop(page, "text.ply", "\n".join([*lines, values, ""]).encode())
    page.locator("#left-label", has_text="text.ply · 1 Gaussian").wait_for(timeout=PATIENCE)


def test_a_message_names_the_file_once(page: Any) -> None:
    error = "{ message: 'folder/a.ply: truncated' }"
    shown = f"import('./panel.js').then(({{ showFault }}) => showFault('a.ply', {error}))"
    page.evaluate(shown)
    assert page.inner_text("#message").startswith("folder/a.ply: truncated")
    page.evaluate(shown.replace("folder/a.ply: ", ""))
    assert page.inner_text("#message").startswith("a.ply: truncated")
    page.evaluate(CLOSE_MESSAGE)


@pytest.mark.parametrize("way", [-1, 1])
def test_the_wheel_can_be_turned_back_from_any_distance(page: Any, way: int) -> None:
    for amount in (way * 1e7, way * 1e7, -way * 100):
        before = page.evaluate("viewer.stage.view.distance")
        page.evaluate(
            "(deltaY) => document.querySelector('canvas').dispatchEvent("
            "new WheelEvent('wheel', { deltaY, cancelable: true }))",
            amount,
        )
        settled(page)
    after = page.evaluate("viewer.stage.view.distance")
    assert (0 < after < before) if way > 0 else (0 < before < after)
    press(page, "r")


def test_the_self_contained_page(
    open_page: Callable[..., Any], page: Any, folder: Path, tmp_path: Path
) -> None:
    file = folder / "model" / "compressed" / "model.f3dgs"
    write_page(tmp_path / "page.html", file.read_bytes(), "a </script> & <b>")
    alone = open_page((tmp_path / "page.html").as_uri())
    assert alone.title().startswith("a </script> & <b>")
    assert " Gaussians" in alone.inner_text("#left-label")
    drop(alone, "bad.f3dgs", b"no model")
    alone.locator("#message").wait_for(timeout=PATIENCE)
    alone.evaluate(CLOSE_MESSAGE)
    view = alone.evaluate("viewer.stage.view")
    picture = pixels(settled(alone))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    press(page, "x1")  # the same file
    page.evaluate("(view) => viewer.stage.setView(view)", view)
    assert np.array_equal(pixels(settled(page)), picture)


def test_the_self_contained_page_is_small() -> None:
    empty, full = (len(page_of(bytes(n), "a")) for n in (0, 3_000_000))
    assert full - empty <= 1.34 * 3_000_000
    assert empty <= 250_000


def test_an_empty_model_shows_its_background(open_page: Callable[..., Any]) -> None:
    with served(GOLDEN / "good_v2_empty.f3dgs") as url:
        page = open_page(url)
        assert "0 Gaussians" in page.inner_text("#left-label")
        assert pixels(page).max() == 0


def test_a_narrow_window_has_room_for_the_picture(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    boxes = [page.locator(name).bounding_box() for name in ("#top", "#lower")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)
    assert sum(box["height"] for box in boxes) < 0.45 * 740


def test_positions_far_from_zero_and_unusual_properties(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    scene = random_scene(60, 2)
    far = replace(scene, metadata=SplatMetadata(origin=(3e6, -2e6, 1e5)))
    write_splats(tmp_path / "near.ply", scene)
    write_splats(tmp_path / "far.ply", far)
    unusual_ply(tmp_path / "unusual.ply", scene)
    with served(tmp_path / "near.ply", tmp_path / "far.ply") as url:
        page = open_page(url)
        near = press(page, "1")
        assert near.max() > 40
        distant = press(page, "x1")
        assert psnr(near.astype(np.uint8), distant.astype(np.uint8)) > 30
        drop(page, "unusual.ply", (tmp_path / "unusual.ply").read_bytes())
        page.locator("#left-label", has_text="unusual.ply").wait_for(timeout=PATIENCE)
        assert np.array_equal(press(page, ""), near)


def unusual_ply(path: Path, scene: SplatScene) -> None:
    """The same Gaussians in doubles, the properties in reverse order, with other ones between."""
    write_splats(path, scene)
    names = re.findall(rb"property float (\w+)", path.read_bytes().partition(b"end_header")[0])
    values = rows(scene.splats, 0, scene.splats.count)
    fields = [("mark", "u1")] + [(name.decode(), "<f8") for name in reversed(names)]
    table = np.zeros(len(values), fields)
    for index, name in enumerate(names):
        table[name.decode()] = values[:, index]
    lines = ["ply", "format binary_little_endian 1.0", "comment by hand",
             f"element vertex {len(values)}", "property uchar mark"]  # fmt: skip
    lines += [f"property double {name.decode()}" for name in reversed(names)]
    lines += ["element other 1", "property uchar n", "end_header", ""]
    path.write_bytes("\r\n".join(lines).encode() + table.tobytes() + b"x")
