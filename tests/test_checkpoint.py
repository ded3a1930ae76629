# SPDX-License-Identifier: Apache-2.0
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments import OptimizationOptions
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.checkpoint import LoopState, load_checkpoint, save_checkpoint
from scene.gaussian_model import GaussianModel
from scene.optimizer import take_step
from splat_formats.splats import Splats
from utils.errors import InputError

OPTIONS = OptimizationOptions()
NO_LOOP = LoopState.capture(())


def a_model() -> GaussianModel:
    rng = np.random.default_rng(0)
    shapes = {
        "xyz": (3,), "features_dc": (1, 3), "features_rest": (3, 3), "opacity": (1,),
        "scaling": (3,), "rotation": (4,),
    }  # fmt: skip
    arrays = {k: rng.normal(size=(6, *v)).astype(np.float32) for k, v in shapes.items()}
    model = GaussianModel.from_splats(Splats(**arrays), "cpu")
    model.active_sh_degree = 0
    model.spatial_lr_scale = 2.5
    model.training_setup(OPTIONS)
    step(model)
    return model


def step(model: GaussianModel) -> None:
    sum((tensor**2).sum() for tensor in model.raw_parameters()).backward()
    model.trained_by.step()
    model.trained_by.zero_grad()


def same(one: GaussianModel, other: GaussianModel) -> bool:
    pairs = zip(one.raw_parameters(), other.raw_parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def restored(path: Path) -> GaussianModel:
    model = GaussianModel(1, device="cpu")
    model.restore(load_checkpoint(path).model, OPTIONS)
    return model


def test_training_continues_exactly(tmp_path: Path) -> None:
    model = a_model()
    path = tmp_path / "chkpnt7.pth"
    save_checkpoint(path, model, 7, NO_LOOP)
    copy = restored(path)
    assert load_checkpoint(path).iteration == 7
    assert same(model, copy)
    assert copy.active_sh_degree == 0
    for each in (model, copy):
        for _ in range(3):
            step(each)
    assert same(model, copy)
    assert [entry.name for entry in tmp_path.iterdir()] == ["chkpnt7.pth"]


def by_columns(tensor: torch.Tensor) -> torch.Tensor:
    """The same matrix in memory as its transpose, as the original has its first positions."""
    return tensor.detach().T.contiguous().T


@pytest.mark.parametrize("optimizer_type", ["default", "sparse_adam"])
def test_positions_stored_by_columns_are_trained_on(tmp_path: Path, optimizer_type: str) -> None:
    values = list(a_model().capture())
    plain, strided = tmp_path / "plain.pth", tmp_path / "strided.pth"
    torch.save((tuple(values), 7), plain)
    values[1] = torch.nn.Parameter(by_columns(values[1]))
    for name in ("exp_avg", "exp_avg_sq"):
        moments = values[10]["state"][0]
        moments[name] = by_columns(moments[name])
    torch.save((tuple(values), 7), strided)
    backend = backend_for(torch.device("cpu"), RenderOptions())
    models = []
    for path in (plain, strided):
        model = GaussianModel(1, optimizer_type, "cpu", backend)
        model.restore(load_checkpoint(path).model, OPTIONS)
        sum((tensor**2).sum() for tensor in model.raw_parameters()).backward()
        take_step(model.trained_by, optimizer_type, torch.ones(6))
        models.append(model)
    assert same(*models)
    assert not torch.equal(models[0]._xyz.detach(), a_model()._xyz.detach())


def test_random_states_and_views_left_are_restored(tmp_path: Path) -> None:
    path = tmp_path / "chkpnt7.pth"
    save_checkpoint(path, a_model(), 7, LoopState.capture([3, 1]))
    expected = random.random(), torch.rand(1).item()
    loop = load_checkpoint(path).loop
    assert loop is not None
    assert loop.views_left == (3, 1)
    loop.apply()
    assert (random.random(), torch.rand(1).item()) == expected


def test_forks_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "chkpnt7.pth"
    model = a_model()
    save_checkpoint(path, model, 7, LoopState.capture([1]))
    values, iteration = torch.load(path, weights_only=True)
    assert iteration == 7
    assert len(values) == 12
    assert type(values[11]) is float
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in model.raw_parameters()]
    optimizer = torch.optim.Adam([{"params": [p], "name": "n"} for p in parameters], lr=0.0)
    optimizer.load_state_dict(values[10])
    assert optimizer.state[parameters[0]]["step"] == 1


@pytest.mark.parametrize("scalar", [np.float32, np.float64])
def test_files_with_a_numpy_scale_are_read_without_running_code(tmp_path: Path, scalar) -> None:
    path = tmp_path / "old.pth"
    torch.save(((*a_model().capture()[:11], scalar(2.5)), 30), path)
    assert restored(path).spatial_lr_scale == 2.5
    assert load_checkpoint(path).loop is None


def test_files_written_under_numpy_1_are_read(tmp_path: Path) -> None:
    new, path = tmp_path / "new.pth", tmp_path / "old.pth"
    torch.save(((*a_model().capture()[:11], np.float32(2.5)), 30), new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(path, "w") as target:
        pickled = [source.read(name) for name in source.namelist() if name.endswith("data.pkl")]
        assert b"cnumpy._core.multiarray\n" in pickled[0]
        for name in source.namelist():
            data = source.read(name).replace(b"cnumpy._core.multi", b"cnumpy.core.multi")
            target.writestr(name, data)
    assert restored(path).spatial_lr_scale == 2.5


class Payload:
    def __reduce__(self) -> tuple:
        return (sys.exit, (3,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((Payload(), 1), "not a readable checkpoint"),
        ((1, 2, 3), "expected a checkpoint"),
        ((tuple(range(11)), 1), "expected a checkpoint"),
        ((tuple(range(12)), 1), "not a usable checkpoint: expected 9 tensors"),
        ({"state_dict": 1}, "expected a checkpoint"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "bad.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=rf"bad\.pth: {message}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, "3", "expected an SH degree"),
        (1, torch.zeros(6, 4), "expected the tensors of a model"),
        (3, torch.zeros(6, 4, 3), "expected the tensors of a model"),
        (3, torch.zeros(6, 3), "expected the tensors of a model"),
        (6, torch.zeros(5, 1), "expected the tensors of a model"),
        (6, torch.tensor(1.0), "expected 9 tensors"),
        (8, torch.zeros(5, 1), "expected statistics of 6 Gaussians"),
        (10, None, "expected an optimiser of 6 groups"),
        (10, {"param_groups": []}, "expected an optimiser of 6 groups"),
        (11, "2.5", "a scale at the end"),
    ],
)
def test_values_of_no_model_are_refused(
    tmp_path: Path, place: int, value: object, message: str
) -> None:
    path = tmp_path / "bad.pth"
    values = list(a_model().capture())
    values[place] = value
    torch.save((tuple(values), 3), path)
    with pytest.raises(InputError, match=rf"bad\.pth: not a usable checkpoint: .*{message}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "loop",
    [
        {},
        {"python_random": (), "torch_random": torch.zeros(1), "views_left": ()},
        {"python_random": random.getstate(), "torch_random": None, "views_left": ()},
    ],
)
def test_invalid_random_states_are_refused(tmp_path: Path, loop: dict) -> None:
    path = tmp_path / "bad.pth"
    values = list(a_model().capture())
    values[10] = {**values[10], "training_loop": loop}
    torch.save((tuple(values), 3), path)
    with pytest.raises(InputError, match=r"bad\.pth: its random state cannot be restored"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02X\xff", b"PK\x03\x04 truncated"])
def test_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.pth: not a readable checkpoint"):
        load_checkpoint(path)


def test_moments_are_stepped_by_this_process_whatever_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.pth"
    values = list(a_model().capture())
    for group in values[10]["param_groups"]:
        group.update(fused=None, foreach=True)
    torch.save((tuple(values), 5), path)
    expected = [(group["fused"], group["foreach"]) for group in a_model().trained_by.param_groups]
    groups = restored(path).trained_by.param_groups
    assert [(group["fused"], group["foreach"]) for group in groups] == expected
