# SPDX-License-Identifier: Apache-2.0
"""view.py: what is served, and what its server refuses; without a browser."""

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splat_formats.files import read_splats, write_splats
from splat_formats.web_page import joined, web_files
from tests.reference.viewer_models import VIEWS, random_scene, write_model_folder
from tests.test_ply import assert_equal
from utils.errors import InputError
from viewer_server import server as server_module
from viewer_server.served_scenes import (
    DatasetChoice,
    find_photographs,
    read_cameras,
    scenes_to_serve,
)
from viewer_server.server import PageServer

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("view")
    write_model_folder(path, random_scene(50, 1))
    (path / "secret.txt").write_text("secret")
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[PageServer]:
    scenes = scenes_to_serve([folder / "model", GOLDEN / "good_v1_sh3.f3dgs"], DatasetChoice())
    with PageServer(scenes, 0) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def ask(
    server: PageServer,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    **headers: str | None,
) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer to a request as a browser sends it; a header of None is left out."""
    port = server.server_address[1]
    host = f"127.0.0.1:{port}"
    sent = {"Host": host, "Origin": f"http://{host}", **headers}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if body is not None and "Content_Length" not in headers:
            sent["Content-Length"] = str(len(body))
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def session(server: PageServer) -> Any:
    return json.loads(ask(server, "/session.json")[1])


def test_the_session_lists_models_cameras_and_photographs(server: PageServer) -> None:
    model, golden = session(server)["scenes"]
    assert model["name"] == "model"
    assert model["background"] == [0, 0, 0]
    assert [entry["name"] for entry in model["models"]] == ["original", "compressed"]
    assert [camera["name"] for camera in model["cameras"]] == list(VIEWS)
    assert [bool(camera["photograph"]) for camera in model["cameras"]] == [True, True, False]
    assert golden["cameras"] == []
    assert golden["models"][0]["bytes"] == (GOLDEN / "good_v1_sh3.f3dgs").stat().st_size


def test_models_are_sent_as_f3dgs_or_plain_ply(
    server: PageServer, folder: Path, tmp_path: Path
) -> None:
    original, compressed = session(server)["scenes"][0]["models"]
    answer, content = ask(server, f"/{compressed['url']}")
    assert content == (folder / "model" / "compressed" / "model.f3dgs").read_bytes()
    assert answer.getheader("Content-Length") == str(len(content))
    ply = tmp_path / "a.ply"
    ply.write_bytes(ask(server, f"/{original['url']}")[1])
    trained = folder / "model" / "point_cloud" / "iteration_7" / "point_cloud.ply"
    assert_equal(read_splats(ply).splats, read_splats(trained).splats)


def test_a_photograph(server: PageServer, folder: Path) -> None:
    camera = session(server)["scenes"][0]["cameras"][1]
    answer, content = ask(server, f"/{camera['photograph']}")
    assert content == (folder / "data" / "images" / "side.png").read_bytes()
    assert answer.getheader("Content-Type") == "image/png"


def test_the_page_and_its_policy(server: PageServer) -> None:
    answer, _ = ask(server, "/")
    assert (answer.status, answer.getheader("Location")) == (302, "/viewer/index.html")
    answer, page = ask(server, "/viewer/index.html?x=1")
    assert b"<canvas" in page
    policy = answer.getheader("Content-Security-Policy") or ""
    assert policy.startswith("default-src 'self'; ")
    assert "unsafe" not in policy
    assert answer.getheader("Cache-Control") == "no-store"
    for path in web_files():
        assert ask(server, f"/{path.relative_to(ROOT / 'web').as_posix()}")[0].status == 200


def test_head_sends_no_body(server: PageServer) -> None:
    for path in ("/viewer/main.js", "/models/0/0", "/session.json"):
        answer, content = ask(server, path, "HEAD")
        assert (answer.status, content) == (200, b"")
        assert int(answer.getheader("Content-Length") or 0) > 0


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/viewer/../../secret.txt", "/viewer/%2e%2e/view.py", "/models/0/9",
     "//etc", "/models/../models/0/0", "/viewer", "/viewer/", "/photographs/0/2", "/decode.mjs",
     "/x\\..\\y"],
)  # fmt: skip
def test_other_paths_are_not_found(server: PageServer, path: str) -> None:
    assert ask(server, path)[0].status == 404


@pytest.mark.parametrize(
    "host", ["example.com", "example.com:80", "127.0.0.1.example.com", "", None]
)
def test_other_hosts_are_refused(server: PageServer, host: str | None) -> None:
    for method, path in (("GET", "/session.json"), ("POST", "/convert")):
        assert ask(server, path, method, Host=host)[0].status == 403


@pytest.mark.parametrize("host", ["localhost:9999", "[::1]:80", "127.0.0.1"])
def test_tunnels_may_change_the_port(server: PageServer, host: str) -> None:
    assert ask(server, "/session.json", Host=host)[0].status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(server: PageServer, method: str) -> None:
    assert ask(server, "/session.json", method)[0].status == 501


def convert(server: PageServer, data: bytes, name: str, **headers: str | None) -> tuple[int, bytes]:
    answer, content = ask(server, "/convert", "POST", data, X_File_Name=name, **headers)
    return answer.status, content


def test_a_dropped_file_is_converted(server: PageServer, tmp_path: Path) -> None:
    scene = random_scene(9, 2)
    write_splats(tmp_path / "a.ply", scene)
    status, content = convert(server, (tmp_path / "a.ply").read_bytes(), "..%2Fmy%20model.ply")
    assert status == 200
    (tmp_path / "b.ply").write_bytes(content)
    assert_equal(read_splats(tmp_path / "b.ply").splats, scene.splats)


def test_a_broken_dropped_file_gets_a_message_with_its_name(server: PageServer) -> None:
    status, content = convert(server, b"ply\nformat ascii 1.0\n", "my%20model.ply")
    assert status == 422
    assert content.startswith(b"my model.ply: ")
    leftovers = [path.name for path in Path(server._folder.name).iterdir()]
    assert all(name.removesuffix(".ply").isdecimal() for name in leftovers)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://example.com"}, 403),
        ({"Origin": None}, 403),
        ({"Content_Length": None}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": str(1 << 40)}, 413),
    ],
)
def test_conversions_are_for_the_page_and_bounded(
    server: PageServer, headers: dict[str, str | None], status: int
) -> None:
    assert convert(server, b"", "a.ply", **headers)[0] == status
    assert ask(server, "/session.json", "POST", b"")[0].status == 405


def test_it_listens_on_loopback_only(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url.startswith("http://127.0.0.1:")


def test_a_taken_port_is_an_error(server: PageServer) -> None:
    with pytest.raises(InputError, match="is taken: give another one with --port"):
        PageServer([], server.server_address[1])
    with pytest.raises(InputError, match="port 99999 is no port"):
        PageServer([], 99999)


def test_a_model_that_cannot_be_read_gets_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.ply").write_bytes(b"ply\n")
    scenes = scenes_to_serve([tmp_path / "a.ply"], DatasetChoice())
    with pytest.raises(InputError, match=r"a\.ply"):
        server_module.Converted(tmp_path).of(scenes[0].models[0].path)


def test_missing_and_empty_models_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        scenes_to_serve([tmp_path / "none"], DatasetChoice())
    (tmp_path / "point_cloud").mkdir()
    with pytest.raises(InputError, match="no model: expected point_cloud"):
        scenes_to_serve([tmp_path], DatasetChoice())


def test_a_model_that_was_replaced_is_converted_again(tmp_path: Path) -> None:
    converted = server_module.Converted(tmp_path / "converted")
    (tmp_path / "converted").mkdir()
    for count in (3, 4):
        write_splats(tmp_path / "a.ply", random_scene(count, 1))
        assert read_splats(converted.of(tmp_path / "a.ply")).splats.count == count


def test_a_missing_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder of photographs"):
        scenes_to_serve([tmp_path], DatasetChoice(tmp_path / "none"))


def test_files_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    files = [tmp_path / name / "a.ply" for name in "xy"]
    for file in files:
        write_splats(file, random_scene(1, 0))
    (scene,) = scenes_to_serve(files, DatasetChoice())
    assert [model.name for model in scene.models] == [str(file) for file in files]


def test_folders_of_the_same_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "xy":
        write_model_folder(tmp_path / name, random_scene(2, 0))
    folders = [tmp_path / name / "model" for name in "xy"]
    assert [scene.name for scene in scenes_to_serve(folders, DatasetChoice())] == [
        *map(str, folders)
    ]
    monkeypatch.chdir(folders[0])
    assert scenes_to_serve([Path()], DatasetChoice())[0].name == "model"


def test_what_is_no_model_is_refused_before_the_page_is_served(tmp_path: Path) -> None:
    (tmp_path / "empty.ply").write_bytes(b"")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    for path in (tmp_path, tmp_path / "empty.ply", tmp_path / "photo.jpg", Path("/dev/null")):
        with pytest.raises(InputError, match=re.escape(f"{path}: ")):
            scenes_to_serve([path], DatasetChoice())


_VALUES = {
    "img_name": ("a", (None, [], {})),
    "width": (4, (0, -1, "4", True, None, float("inf"), float("nan"), 10**400, [4])),
    "fy": (1.5, (0, "x", [[]])),
    "position": ([0, 0, 0], ([0, 0], [0, 0, None], "000", [[0, 0, 0]], {"x": 0})),
    "rotation": (
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        (
            None,
            [1, 2, 3],
            [[1], [1, 2], []],
            [[]] * 3,
            [[0] * 3] * 3,
            [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[1e300] * 3] * 3,
        ),
    ),
}


@pytest.mark.parametrize("key", _VALUES)
def test_wrong_values_of_cameras_are_named(tmp_path: Path, key: str) -> None:
    right = {name: value for name, (value, _) in _VALUES.items()} | {"height": 3, "fx": 2}
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps([right]))
    assert read_cameras(path)[0]["name"] == "a"
    for wrong in _VALUES[key][1]:
        path.write_text(json.dumps([right, right | {key: wrong}]))
        with pytest.raises(InputError, match=rf"cameras\.json: camera 1: {key}: expected "):
            read_cameras(path)


@pytest.mark.parametrize(
    "text",
    ["{", "{}", "[1]", '[{"img_name": "a"}]', "[" * 100_000,
     '[{"img_name": "a", "width": 1, "height": 1, "fx": NaN, "fy": 1, "position": [0, 0, 0], '
     '"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}]',
     '[{"img_name": "a", "width": 1, "height": 1, "fx": 1, "fy": 1, "position": [0, 0], '
     '"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}]',
     '[{"img_name": "a", "width": 0, "height": 1, "fx": 1, "fy": 1, "position": [0, 0, 0], '
     '"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}]'],
)  # fmt: skip
def test_damaged_cameras_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(InputError, match=r"cameras\.json"):
        read_cameras(tmp_path / "cameras.json")


def test_only_photographs_inside_the_data_set_are_found(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for path in (tmp_path / "secret.png", tmp_path / "images" / "a.png"):
        path.write_bytes(b"")
    names = ["../secret.png", str(tmp_path / "secret.png"), "a.png", "a", "", "x\0y"]
    cameras = [{"name": name} for name in names]
    found = find_photographs(tmp_path, "images", cameras)
    assert set(found.values()) <= {tmp_path / "images" / "a.png"}
    assert 2 in found


def test_photographs_of_a_blender_data_set(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "r_0.png").write_bytes(b"")
    (tmp_path / "transforms_test.json").write_text('{"frames": [{}]}')
    found = find_photographs(tmp_path, "images", [{"name": "r_0"}, {"name": "r_0"}])
    assert found == {0: tmp_path / "test" / "r_0.png", 1: tmp_path / "train" / "r_0.png"}


def test_the_script_imports_no_torch() -> None:
    code = "import view, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_ctrl_c_ends_it(folder: Path) -> None:
    command = [sys.executable, "view.py", str(folder / "model"), "--port", "0", "--no_browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()  # which `with` would wait for


@pytest.mark.parametrize(
    "source",
    ['import a from "./b.js";\n', 'export { a };\n', "export default 1;\n", "import './b.js';\n",
     'const x = "</script>";\n'],
)  # fmt: skip
def test_modules_that_cannot_be_joined_are_an_error(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.js").write_text(source)
    with pytest.raises(InputError):
        joined(tmp_path / "a.js")


def test_modules_that_import_each_other_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\nexport const a = 1;\n')
    (tmp_path / "b.js").write_text('import { a } from "./a.js";\nexport const b = 1;\n')
    with pytest.raises(InputError, match="imports itself"):
        joined(tmp_path / "a.js")
