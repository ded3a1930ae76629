# SPDX-License-Identifier: Apache-2.0
"""The LPIPS distance as a module."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lpipsPyTorch.modules.networks import TRUNKS, layer_outputs
from lpipsPyTorch.modules.weights import find_weights, linear_weights, trunk_weights
from utils.errors import InputError

# Statistics of ImageNet, for inputs in -1..1.
_MEAN = (-0.030, -0.088, -0.188)
_STD = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


class LPIPS(nn.Module):
    """Perceptual distance of images, (N, 3, H, W) each, to (N, 1, 1, 1); 0 for equal images.

    Zhang et al. 2018 expect inputs in -1..1. Comparisons with 3DGS pass 0..1 as they are, which is
    the default here; `rescale` maps 0..1 to -1..1 first. The weight files are those in `weights`;
    without it they are searched, and fetched if `download`. Raises `WeightsNotFound` without
    them, `InputError` for an unknown network or damaged files.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net_type: str = "alex",
        version: str = "0.1",
        *,
        rescale: bool = False,
        weights: Path | None = None,
        download: bool = True,
    ):
        super().__init__()
        if net_type not in TRUNKS:
            raise InputError(f"LPIPS networks are {', '.join(TRUNKS)}, not {net_type!r}")
        if version != "0.1":
            raise InputError(f"LPIPS exists here in version 0.1, not {version!r}")
        trunk = TRUNKS[net_type]
        names = (trunk.file_name, f"{net_type}.pth")
        trunk_path, linear_path = find_weights(names, version, weights, download)
        linear = linear_weights(linear_path)
        shapes = [tuple(w.shape) for w in linear]
        if shapes != [(1, c, 1, 1) for c in trunk.channels]:
            raise InputError(
                f"{linear_path} does not hold LPIPS weights of {net_type}: expected weights of "
                f"{trunk.channels} channels, got the shapes {shapes}"
            )
        self.layers = trunk.build()
        self._load_trunk(trunk_path)
        self.outputs = trunk.outputs
        self.linear = nn.ParameterList(linear)
        self.rescale = rescale
        self.register_buffer("mean", torch.tensor(_MEAN)[None, :, None, None])
        self.register_buffer("std", torch.tensor(_STD)[None, :, None, None])
        self.eval().requires_grad_(False)

    def _load_trunk(self, path: Path) -> None:
        weights = trunk_weights(path)
        needed = self.layers.state_dict().keys()
        try:
            self.layers.load_state_dict({name: weights[name] for name in needed})
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{path} does not hold the expected network: {error}") from error

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, 1, 1, 1) distances between `x` and `y`."""
        distance = torch.zeros((), device=x.device)
        for weights, a, b in zip(self.linear, self._features(x), self._features(y), strict=True):
            difference = (_unit(a) - _unit(b)) ** 2
            distance = distance + (difference * weights).sum(1, True).mean((2, 3), True)
        return distance

    def _features(self, images: Tensor) -> list[Tensor]:
        if self.rescale:
            images = 2 * images - 1
        return layer_outputs(self.layers, self.outputs, (images - self.mean) / self.std)


def _unit(features: Tensor) -> Tensor:
    """`features` (N, C, h, w) with channel vectors of length 1."""
    return features / (features.norm(dim=1, keepdim=True) + _EPSILON)
