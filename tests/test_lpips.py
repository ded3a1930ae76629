# SPDX-License-Identifier: Apache-2.0
import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from lpipsPyTorch import LPIPS, WeightsNotFound, _network, lpips
from lpipsPyTorch.modules.networks import TRUNKS, Trunk, layer_outputs
from lpipsPyTorch.modules.weights import FOLDER_VARIABLE, trunk_weights
from utils.errors import InputError


def small_trunk(file_name: str) -> Trunk:
    def build() -> nn.Sequential:
        return nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 5, 3, padding=1), nn.ReLU()),
        )

    return Trunk(build, (1, 4), (4, 5), file_name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the weights of a small network under the name of VGG, as the files have it."""
    torch.manual_seed(0)
    state = {f"features.{k}": v for k, v in small_trunk("").build().state_dict().items()}
    torch.save(state | {"classifier.0.weight": torch.zeros(2)}, tmp_path / "small.pth")
    digest = hashlib.sha256((tmp_path / "small.pth").read_bytes()).hexdigest()[:8]
    name = f"small-{digest}.pth"
    (tmp_path / "small.pth").rename(tmp_path / name)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((4, 5))}
    torch.save(linear, tmp_path / "vgg.pth")
    monkeypatch.setitem(TRUNKS, "vgg", small_trunk(name))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    _network.cache_clear()
    return tmp_path


def by_hand(folder: Path, x: torch.Tensor, y: torch.Tensor) -> float:
    """The definition, in float64 and one pixel at a time."""
    layers = small_trunk("").build()
    layers.load_state_dict(trunk_weights(folder / TRUNKS["vgg"].file_name))
    linear = list(torch.load(folder / "vgg.pth", weights_only=True).values())
    mean = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    std = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    layers = layers.double()
    total = 0.0
    with torch.no_grad():
        a = layer_outputs(layers, (1, 4), ((x - mean) / std).double())
        b = layer_outputs(layers, (1, 4), ((y - mean) / std).double())
        for weights, fa, fb in zip(linear, a, b, strict=True):
            values = []
            for i in range(fa.shape[2]):
                for j in range(fa.shape[3]):
                    u, v = fa[0, :, i, j], fb[0, :, i, j]
                    difference = u / (u.norm() + 1e-10) - v / (v.norm() + 1e-10)
                    values.append((weights.flatten() * difference**2).sum().item())
            total += sum(values) / len(values)
    return total


def test_distance_is_the_definition(folder: Path) -> None:
    x, y = torch.rand(1, 3, 10, 12), torch.rand(1, 3, 10, 12)
    distance = lpips(x, y, net_type="vgg")
    assert distance.shape == (1, 1, 1, 1)
    assert float(distance) == pytest.approx(by_hand(folder, x, y), rel=1e-4)
    assert float(lpips(x, x, net_type="vgg")) == 0


def test_inputs_are_not_rescaled_by_default(folder: Path) -> None:
    x, y = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    plain, rescaled = LPIPS("vgg"), LPIPS("vgg", rescale=True)
    torch.testing.assert_close(rescaled(x, y), plain(2 * x - 1, 2 * y - 1))
    assert plain(x, y).shape == (2, 1, 1, 1)
    assert not torch.allclose(plain(x, y), rescaled(x, y))


def test_the_network_is_built_once(folder: Path) -> None:
    x = torch.rand(1, 3, 8, 8)
    lpips(x, x, net_type="vgg")
    for file in folder.iterdir():
        file.unlink()
    assert float(lpips(x, x, net_type="vgg")) == 0


def test_without_weights_the_function_warns_once_and_returns_nan(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "vgg.pth").unlink()
    monkeypatch.setenv("TORCH_HOME", str(folder / "cache"))
    x = torch.rand(2, 3, 8, 8)
    for images in (x, x, x[0]):
        distance = lpips(images, images, net_type="vgg")
        assert distance.shape == (images.dim() - 2 if images.dim() == 4 else 1, 1, 1, 1)
        assert distance.isnan().all()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith("LPIPS is not computed, its values are NaN: LPIPS weights vgg")
    with pytest.raises(InputError, match="not 'resnet'"):
        lpips(x, x, net_type="resnet")


def test_missing_weights_name_the_searched_folders(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "vgg.pth").unlink()
    (folder / TRUNKS["vgg"].file_name).unlink()
    monkeypatch.setenv("TORCH_HOME", str(folder / "cache"))
    with pytest.raises(WeightsNotFound, match="LPIPS_WEIGHTS") as caught:
        LPIPS("vgg")
    assert caught.value.names == (TRUNKS["vgg"].file_name, "vgg.pth")
    assert caught.value.folders[0] == folder
    assert folder / "cache" / "hub" / "checkpoints" in caught.value.folders


def test_the_download_cache_of_pytorch_is_searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = folder / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    for file in list(folder.glob("*.pth")):
        file.rename(cache / file.name)
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("TORCH_HOME", str(folder))
    assert len(LPIPS("vgg").linear) == 2


def test_a_trunk_of_another_network_is_refused(folder: Path) -> None:
    trunk = TRUNKS["vgg"]
    TRUNKS["vgg"] = Trunk(TRUNKS["alex"].build, trunk.outputs, trunk.channels, trunk.file_name)
    with pytest.raises(InputError, match="does not hold the expected network"):
        LPIPS("vgg")


def test_a_damaged_trunk_is_refused(folder: Path) -> None:
    path = folder / TRUNKS["vgg"].file_name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="SHA-256"):
        LPIPS("vgg")


def test_pickles_are_not_executed(folder: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (folder / "executed",))

    (folder / "vgg.pth").write_bytes(pickle.dumps({"lin0.model.1.weight": Payload()}, protocol=2))
    with pytest.raises(InputError, match="not a file of PyTorch weights"):
        LPIPS("vgg")
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "expected lin0"),
        ({"other": torch.zeros(1)}, "expected lin0"),
        ({"lin0.model.1.weight": torch.zeros(1, 4, 1, 1)}, "does not hold LPIPS weights"),
        ([torch.zeros(1)], "expected named weights"),
    ],
)
def test_files_that_hold_something_else(folder: Path, weights: object, message: str) -> None:
    torch.save(weights, folder / "vgg.pth")
    with pytest.raises(InputError, match=message):
        LPIPS("vgg")


def test_unknown_networks_and_versions() -> None:
    with pytest.raises(InputError, match="'resnet'"):
        LPIPS("resnet")
    with pytest.raises(InputError, match=r"0\.1"):
        LPIPS("vgg", "0.0")


@pytest.mark.parametrize(("name", "convolutions"), [("vgg", 13), ("alex", 5)])
def test_trunks_are_the_known_networks(name: str, convolutions: int) -> None:
    trunk = TRUNKS[name]
    with torch.device("meta"):
        layers = trunk.build()
        features = layer_outputs(layers, trunk.outputs, torch.zeros(1, 3, 64, 64))
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == convolutions
    assert tuple(feature.shape[1] for feature in features) == trunk.channels
    assert all(isinstance(layers[index], nn.ReLU) for index in trunk.outputs)
    assert trunk.outputs[-1] == len(layers) - 1
