# SPDX-License-Identifier: Apache-2.0
"""Near neighbours that look alike, and one Gaussian in place of two."""

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from scene.raw_parameters import RawParameters
from utils.general_utils import build_scaling_rotation
from utils.sh_utils import C0

NEIGHBOURS = 4
COLOUR_SCALE = 0.1
"""Colours (0..1) that differ by this have a likeness of exp(-1/2)."""
MOST_OPACITY = 0.99


def merged(raw: RawParameters, scores: Tensor, count: int) -> tuple[RawParameters, Tensor]:
    """The model with at most `count` fewer Gaussians, each merged with one alike, and its scores.

    Merged are the pairs with the least (1 - likeness squared) x the lower of their scores: about
    what is lost if the one with the lower score is replaced by a multiple of the other.
    """
    pairs = near_pairs(raw)
    lower = torch.minimum(scores[pairs[:, 0]], scores[pairs[:, 1]])
    costs = (1 - likeness(raw, pairs).square()) * lower
    pairs = pairs[torch.argsort(costs)]
    chosen = pairs[disjoint(pairs, count)]
    raw, scores = raw.map(torch.clone), scores.clone()
    put_merged(raw, chosen)
    scores[chosen[:, 0]] += scores[chosen[:, 1]]
    kept = torch.ones(raw.gaussian_count, dtype=torch.bool)
    kept[chosen[:, 1]] = False
    return raw.rows(kept), scores[kept]


def near_pairs(raw: RawParameters) -> Tensor:
    """(P, 2): each Gaussian with its nearest neighbours, every pair once."""
    centres = raw.xyz.numpy()
    if not len(centres):
        return torch.zeros(0, 2, dtype=torch.long)
    most = min(NEIGHBOURS + 1, len(centres))
    _, near = cKDTree(centres).query(centres, most)
    near = near.reshape(len(centres), most)
    first = np.repeat(np.arange(len(centres)), most)
    pairs = np.sort(np.stack([first, near.reshape(-1)], axis=1), axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return torch.from_numpy(np.unique(pairs, axis=0))


def disjoint(pairs: Tensor, count: int) -> Tensor:
    """(P,): a mask of the first `count` pairs of which no two have a Gaussian in common."""
    used, chosen = set[int](), torch.zeros(len(pairs), dtype=torch.bool)
    for place, (one, other) in enumerate(pairs.tolist()):
        if len(used) >= 2 * count:
            break
        if one not in used and other not in used:
            used.update((one, other))
            chosen[place] = True
    return chosen


def likeness(raw: RawParameters, pairs: Tensor) -> Tensor:
    """(P,) from 0 to 1: the overlap of the shapes (Bhattacharyya) times that of the colours."""
    one, other = _covariances(raw, pairs[:, 0]), _covariances(raw, pairs[:, 1])
    middle = (one + other) / 2
    offset = (raw.xyz[pairs[:, 0]] - raw.xyz[pairs[:, 1]]).double()
    distance = (offset * torch.linalg.solve(middle, offset)).sum(dim=1)
    volumes = (torch.logdet(one) + torch.logdet(other)) / 4 - torch.logdet(middle) / 2
    shapes = torch.exp(volumes - distance / 8)
    colours = C0 * (raw.features_dc[pairs[:, 0], 0] - raw.features_dc[pairs[:, 1], 0]).double()
    return (shapes * torch.exp(-colours.square().sum(dim=1) / (2 * COLOUR_SCALE**2))).float()


def put_merged(raw: RawParameters, pairs: Tensor) -> None:
    """Replaces the first Gaussian of each pair by one with the mean and covariance of both.

    Weights are opacity x surface, which the opacity of the new one keeps (Kerbl et al. 2024,
    A Hierarchical 3D Gaussian Representation).
    """
    opacity = torch.sigmoid(raw.opacity[pairs, 0]).double()
    mass = opacity * _surfaces(raw.scaling[pairs].double().exp())
    parts = mass / mass.sum(dim=1, keepdim=True)

    def mean(values: Tensor) -> Tensor:
        weights = parts.reshape(*parts.shape, *[1] * (values.dim() - 1))
        return (weights * values[pairs].double()).sum(dim=1)

    centre = mean(raw.xyz)
    offsets = raw.xyz[pairs].double() - centre[:, None]
    spread = offsets[..., :, None] * offsets[..., None, :]
    both = torch.stack([_covariances(raw, pairs[:, side]) for side in (0, 1)], dim=1)
    variances, axes = torch.linalg.eigh((parts[..., None, None] * (both + spread)).sum(dim=1))
    axes[:, :, 0] *= torch.linalg.det(axes)[:, None].sign()
    scales = variances.clamp(min=1e-20).sqrt()
    rows = pairs[:, 0]
    for name in ("features_dc", "features_rest"):
        getattr(raw, name)[rows] = mean(getattr(raw, name)).float()
    raw.opacity[rows, 0] = torch.logit(
        (mass.sum(dim=1) / _surfaces(scales)).clamp(max=MOST_OPACITY)
    ).float()
    raw.scaling[rows] = scales.log().float()
    x, y, z, w = torch.from_numpy(Rotation.from_matrix(axes.numpy()).as_quat()).unbind(1)
    raw.rotation[rows] = torch.stack([w, x, y, z], dim=1).float()
    raw.xyz[rows] = centre.float()


def _covariances(raw: RawParameters, rows: Tensor) -> Tensor:
    root = build_scaling_rotation(raw.scaling[rows].double().exp(), raw.rotation[rows].double())
    return root @ root.transpose(1, 2)


def _surfaces(scales: Tensor) -> Tensor:
    """Up to a factor, those of boxes of these sides."""
    x, y, z = scales.unbind(-1)
    return x * y + y * z + z * x
