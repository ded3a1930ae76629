# SPDX-License-Identifier: Apache-2.0
"""The weight files of LPIPS from a server on the loopback interface: good, cut, wrong, silent."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import metrics
from lpipsPyTorch import LPIPS, WeightsNotFound
from lpipsPyTorch.modules import download
from lpipsPyTorch.modules.download import FILES, MIRROR_VARIABLE, OFF_VARIABLE, PublishedFile
from lpipsPyTorch.modules.networks import TRUNKS
from lpipsPyTorch.modules.weights import FOLDER_VARIABLE
from tests.test_lpips import small_trunk
from utils.image_utils import save_png


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, and counts the requests."""

    files: dict[str, bytes]
    asked: list[str]
    cut: int = 0
    """How many bytes at the end of every file are not sent."""
    may_answer: threading.Event

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        self.server.may_answer.wait(30)
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - self.server.cut])

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with the files of small networks of both kinds, and an empty cache of torch.hub."""
    with Server(("127.0.0.1", 0), Handler) as found:
        found.files, found.asked, found.may_answer = {}, [], threading.Event()
        found.may_answer.set()
        for kind in ("vgg", "alex"):
            trunk = {f"features.{k}": v for k, v in small_trunk("").build().state_dict().items()}
            content = saved(trunk, tmp_path)
            name = f"{kind}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
            linear = {
                f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((4, 5))
            }
            found.files |= {name: content, f"{kind}.pth": saved(linear, tmp_path)}
            monkeypatch.setitem(TRUNKS, kind, small_trunk(name))
        for name, content in found.files.items():
            digest = hashlib.sha256(content).hexdigest()
            monkeypatch.setitem(
                FILES, name, PublishedFile(f"{found.address}/{name}", len(content), digest)
            )
        monkeypatch.setattr(download, "_failures", {})
        monkeypatch.delenv(OFF_VARIABLE)
        monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def saved(value: object, folder: Path) -> bytes:
    torch.save(value, folder / "saved.pth")
    return (folder / "saved.pth").read_bytes()


def cached(tmp_path: Path) -> set[str]:
    """Everything in the cache of torch.hub, temporary files included."""
    return {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["vgg", "alex"])
def test_missing_weights_are_fetched_once(server: Server, tmp_path: Path, kind: str) -> None:
    image = torch.rand(1, 3, 8, 8)
    first = LPIPS(kind)(image, 1 - image)
    names = {TRUNKS[kind].file_name, f"{kind}.pth"}
    assert set(server.asked) == cached(tmp_path) == names
    assert torch.equal(LPIPS(kind)(image, 1 - image), first) and float(first) > 0
    assert len(server.asked) == 2


def test_only_what_is_missing_is_fetched(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "vgg.pth").write_bytes(server.files["vgg.pth"])
    LPIPS("vgg")
    assert server.asked == [TRUNKS["vgg"].file_name]


def fails(server: Server, tmp_path: Path, message: str) -> None:
    """LPIPS cannot be made, for this reason, and nothing is left in the cache."""
    with pytest.raises(WeightsNotFound, match=f"could not be fetched: {server.address}.*{message}"):
        LPIPS("vgg")
    assert not cached(tmp_path) and not (tmp_path / "cache").exists()


def test_a_file_that_is_cut_short(server: Server, tmp_path: Path) -> None:
    server.cut = 5
    size = len(server.files["vgg.pth"])
    fails(server, tmp_path, f"cut short: {size - 5:,} of {size:,} bytes")


@pytest.mark.parametrize("length", [0, 1])
def test_another_file_than_the_published_one(server: Server, tmp_path: Path, length: int) -> None:
    server.files["vgg.pth"] = server.files["vgg.pth"][:-1] + b"?" + b"?" * length
    fails(
        server, tmp_path, "the server sends more" if length else "another file than the published"
    )


def test_a_file_that_the_server_does_not_have(server: Server, tmp_path: Path) -> None:
    del server.files["vgg.pth"]
    fails(server, tmp_path, "the server answered 404")


def test_a_server_that_does_not_answer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.may_answer.clear()
    monkeypatch.setattr(download, "OPEN_SECONDS", 0.2)
    fails(server, tmp_path, r"no answer within 0\.2 seconds")
    # A training that measures every image must not wait for each.
    fails(server, tmp_path, r"no answer within 0\.2 seconds")
    assert len(server.asked) == 1
    server.may_answer.set()


def test_nobody_listens(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(WeightsNotFound, match=r"127\.0\.0\.1:9/vgg\.pth: .*refused"):
        LPIPS("vgg")


def test_a_mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vgg.pth", TRUNKS["vgg"].file_name):
        published = FILES[name]
        nowhere = PublishedFile("http://127.0.0.1:9/x", published.size, published.sha256)
        monkeypatch.setitem(FILES, name, nowhere)
    monkeypatch.setenv(MIRROR_VARIABLE, server.address + "/")
    LPIPS("vgg")
    assert len(server.asked) == 2
    monkeypatch.setenv(MIRROR_VARIABLE, "file:///etc")
    with pytest.raises(WeightsNotFound, match="begins with https://"):
        LPIPS("alex")


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(WeightsNotFound, match="could not be copied to"):
        LPIPS("vgg")


def test_fetching_can_be_switched_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsNotFound, match="not fetched, as --no_download says"):
        LPIPS("vgg", download=False)
    monkeypatch.setenv(OFF_VARIABLE, "1")
    with pytest.raises(WeightsNotFound, match=f"{OFF_VARIABLE} says"):
        LPIPS("alex")
    assert not server.asked


def test_a_folder_of_the_user(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "vgg.pth").write_bytes(server.files["vgg.pth"])
    with pytest.raises(WeightsNotFound, match=f"not found in {folder}: ") as caught:
        LPIPS("vgg", weights=folder)
    assert caught.value.names == (TRUNKS["vgg"].file_name,)
    (folder / TRUNKS["vgg"].file_name).write_bytes(server.files[TRUNKS["vgg"].file_name])
    LPIPS("vgg", weights=folder)
    assert not server.asked


def test_the_published_files_are_named_by_their_digests() -> None:
    assert {trunk.file_name for trunk in TRUNKS.values()} <= set(FILES)
    assert {f"{kind}.pth" for kind in TRUNKS} <= set(FILES)
    for name, published in FILES.items():
        assert published.address.startswith("https://") and published.address.endswith("/" + name)
        assert len(bytes.fromhex(published.sha256)) == 32
        digits = name.removesuffix(".pth").rpartition("-")[2]
        assert "-" not in name or published.sha256.startswith(digits)


def test_metrics_says_in_one_line_why_there_is_no_figure(
    server: Server, tmp_path: Path, command_line, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files.clear()
    (tmp_path / "model" / "test").mkdir(parents=True)
    command_line("-m", tmp_path / "model")
    with pytest.raises(SystemExit):  # there are no images either
        metrics.main()
    said = capsys.readouterr().out
    assert said.count("LPIPS is left out: ") == said.count("the server answered 404") == 1
    # A folder that the user names must have the files.
    command_line("-m", tmp_path / "model", "--lpips_weights", tmp_path)
    with pytest.raises(WeightsNotFound):
        metrics.main()


def test_metrics_can_use_alexnet(
    server: Server, tmp_path: Path, command_line, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("renders", "gt"):
        image = torch.full((3, 20, 24), float(kind == "gt"))
        save_png(tmp_path / "model" / "test" / "ours_1" / kind / "00000.png", image)
    command_line("-m", tmp_path / "model", "--lpips_net", "alex")
    metrics.main()
    found = json.loads((tmp_path / "model" / "results.json").read_text())["ours_1"]
    assert list(found) == ["SSIM", "PSNR", "LPIPS-alex"] and found["LPIPS-alex"] > 0
    assert server.asked[0] == "alex.pth"
