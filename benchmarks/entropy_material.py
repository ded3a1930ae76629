# SPDX-License-Identifier: Apache-2.0
"""The tokens of a model as the codec codes them, for comparing entropy coders. NumPy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_codec.grid_file import record_layers
from splat_codec.grid_splats import GridSplats
from splat_codec.histograms import design_tables


@dataclass(frozen=True)
class Plane:
    """One plane's tokens in coding order."""

    tokens: npt.NDArray[np.uint8]
    histograms: npt.NDArray[np.uint8]
    """(n,) the number of the one that codes each token."""

    def steps(self, lanes: int) -> list["Plane"]:
        """The plane cut into as many tokens as there are lanes, the last step shorter."""
        parts = [slice(low, low + lanes) for low in range(0, len(self.tokens), lanes)]
        return [Plane(self.tokens[part], self.histograms[part]) for part in parts]


@dataclass(frozen=True)
class Layer:
    """What one stream of the file holds."""

    lanes: int
    planes: list[Plane]


@dataclass(frozen=True)
class Material:
    """All tokens of a model, and their histograms."""

    layers: list[Layer]
    frequencies: npt.NDArray[np.uint32]
    """(H, 256), each row with sum 2^12, as the file has them."""

    @property
    def planes(self) -> list[Plane]:
        """Those of all layers, in coding order."""
        return [plane for layer in self.layers for plane in layer.planes]

    @property
    def tokens(self) -> int:
        """How many there are."""
        return sum(len(plane.tokens) for plane in self.planes)

    def counts(self) -> npt.NDArray[np.int64]:
        """(H, 256) how often each token in fact comes under each histogram."""
        counts = np.zeros(self.frequencies.size, np.int64)
        for plane in self.planes:
            index = plane.histograms.astype(np.intp) * 256 + plane.tokens
            counts += np.bincount(index, minlength=len(counts))
        return counts.reshape(self.frequencies.shape)


def material_of(model: GridSplats) -> Material:
    """The tokens as the codec's writers record them; no empty planes."""
    recording = record_layers(model)
    tables = design_tables(recording.families.counts())
    layers = []
    for writer in recording.writers:
        planes = [
            Plane(tokens, tables.context_map[first:].take(contexts))
            for first, contexts, tokens in writer._blocks
            if len(tokens)
        ]
        layers.append(Layer(writer._lanes, planes))
    return Material(layers, tables.frequencies)


def middle_steps(material: Material) -> Material:
    """Of each plane the step in the middle, which is less special than the first and the last."""
    layers = []
    for layer in material.layers:
        steps = [plane.steps(layer.lanes) for plane in layer.planes]
        layers.append(Layer(layer.lanes, [found[len(found) // 2] for found in steps]))
    return Material(layers, material.frequencies)
