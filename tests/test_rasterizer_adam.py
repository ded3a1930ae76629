# SPDX-License-Identifier: Apache-2.0
"""Adam, dense and sparse, against PyTorch's and against the formula written out."""

from __future__ import annotations

import pytest
import torch
from diff_gaussian_rasterization import _C, SparseGaussianAdam
from diff_gaussian_rasterization.adam import AdamState, adam_step
from torch import Tensor

SHAPES = [(1000, 3), (1000, 15, 3), (1000, 1), (7,), (0, 3)]


def random_parameters(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def test_dense_adam_is_pytorchs() -> None:
    rates = [1e-2, 2.5e-3, 5e-2, 1e-3, 1.0]
    expected = [parameter.clone().requires_grad_() for parameter in random_parameters(0)]
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": rate} for p, rate in zip(expected, rates, strict=True)], eps=1e-15
    )
    found = random_parameters(0)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in found]
    for step in range(1, 30):
        gradients = [1e-3 * gradient for gradient in random_parameters(step)]
        for parameter, gradient in zip(expected, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        states = [
            AdamState(parameter, gradient, mean, variance, rate)
            for parameter, gradient, (mean, variance), rate in zip(
                found, gradients, moments, rates, strict=True
            )
        ]
        adam_step(states, step)
    for parameter, other in zip(found, expected, strict=True):
        torch.testing.assert_close(parameter, other.detach(), rtol=1e-5, atol=1e-6)


def test_sparse_adam_is_its_formula() -> None:
    parameter = random_parameters(1)[1].requires_grad_()
    optimizer = SparseGaussianAdam([{"params": [parameter], "lr": 0.01}], lr=0.0, eps=1e-15)
    expected = parameter.detach().double()
    mean, variance = torch.zeros_like(expected), torch.zeros_like(expected)
    for step in range(5):
        gradient = random_parameters(step + 2)[1]
        visible = torch.rand(1000, generator=torch.Generator().manual_seed(step)) < 0.6
        parameter.grad = gradient.clone()
        optimizer.step(visible, 1000)
        g = gradient.double()[visible]
        mean[visible] = 0.9 * mean[visible] + 0.1 * g
        variance[visible] = 0.999 * variance[visible] + 0.001 * g * g
        expected[visible] -= 0.01 * mean[visible] / (variance[visible].sqrt() + 1e-15)
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)
    state = optimizer.state[parameter]
    assert float(state["step"]) == 0
    torch.testing.assert_close(state["exp_avg"].double(), mean, rtol=1e-5, atol=1e-7)


def test_rows_out_of_view_keep_everything() -> None:
    parameter = random_parameters(3)[0].requires_grad_()
    before = parameter.detach().clone()
    optimizer = SparseGaussianAdam([{"params": [parameter]}], lr=0.1, eps=1e-15)
    parameter.grad = torch.ones_like(parameter)
    visible = torch.arange(1000) % 2 == 0
    optimizer.step(visible, 1000)
    assert torch.equal(parameter.detach()[~visible], before[~visible])
    assert not optimizer.state[parameter]["exp_avg"][~visible].any()
    assert (parameter.detach()[visible] != before[visible]).all()


def test_state_is_exchanged_with_pytorchs_adam() -> None:
    parameter = random_parameters(4)[0].requires_grad_()
    sparse = SparseGaussianAdam([{"params": [parameter]}], lr=0.1, eps=1e-15)
    parameter.grad = torch.ones_like(parameter)
    sparse.step(torch.ones(1000, dtype=torch.bool), 1000)
    dense = torch.optim.Adam([{"params": [parameter]}], lr=0.1, eps=1e-15)
    dense.load_state_dict(sparse.state_dict())
    assert torch.equal(dense.state[parameter]["exp_avg"], sparse.state[parameter]["exp_avg"])


def test_parameters_without_gradient_are_left_alone() -> None:
    parameter = torch.ones(4, 3, requires_grad=True)
    optimizer = SparseGaussianAdam([{"params": [parameter]}], lr=0.1, eps=1e-15)
    optimizer.step(torch.ones(4, dtype=torch.bool), 4)
    assert (parameter == 1).all()


def test_unusable_arguments_are_named() -> None:
    parameter = torch.ones(4, 3)
    state = AdamState(parameter, torch.ones(4, 2), parameter.clone(), parameter.clone(), 0.1)
    with pytest.raises(ValueError, match=r"gradient must have the shape \(4, 3\), not \(4, 2\)"):
        adam_step([state], 1)
    good = state._replace(gradient=torch.ones(4, 3))
    with pytest.raises(ValueError, match="step must be at least 1, not 0"):
        adam_step([good], 0)
    with pytest.raises(ValueError, match="parameter must be contiguous"):
        adam_step([AdamState(*(torch.ones(3, 4).T for _ in range(4)), 0.1)], 1)
    with pytest.raises(ValueError, match="visible has 3 rows, a parameter 4"):
        _C.adamUpdate([good], torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="visible must be a bool tensor"):
        _C.adamUpdate([good], torch.ones(4))
    optimizer = SparseGaussianAdam([{"params": [parameter.requires_grad_()]}], lr=0.1, eps=1e-15)
    with pytest.raises(ValueError, match=r"visibility must have the shape \(5,\), not \(4,\)"):
        optimizer.step(torch.ones(4, dtype=torch.bool), 5)


def test_sparse_adam_takes_any_strides() -> None:
    """The original's first positions are the transpose of an array of three rows."""
    plain = random_parameters(1)[0].requires_grad_()
    strided = plain.detach().T.contiguous().T.requires_grad_()
    assert not strided.is_contiguous()
    for step in range(3):
        gradient = random_parameters(step + 2)[0]
        visible = torch.rand(1000, generator=torch.Generator().manual_seed(step)) < 0.6
        for parameter in (plain, strided):
            parameter.grad = gradient.clone()
            if step == 0:
                parameter.optimizer = SparseGaussianAdam([{"params": [parameter]}], 0.01, 1e-15)
            parameter.optimizer.step(visible, 1000)
    assert torch.equal(plain, strided)
    assert (plain != random_parameters(1)[0]).any()
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(
            plain.optimizer.state[plain][name], strided.optimizer.state[strided][name]
        )
