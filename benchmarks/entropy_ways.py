# SPDX-License-Identifier: Apache-2.0
"""Ways of coding the same tokens: by the project's coder, by constriction's. Needs constriction."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from benchmarks.entropy_material import Material, Plane
from splat_codec.kernels import Kernels
from splat_codec.rans import DecodeTable

Histograms = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]


class Coder(ABC):
    """One way of coding. What `encode` gives, `decode` turns into `expected` again."""

    def __init__(self, material: Material) -> None:
        self._material = material

    @abstractmethod
    def encode(self) -> list[Any]:
        """The streams."""

    @abstractmethod
    def decode(self, streams: list[Any]) -> list[npt.NDArray]:
        """The tokens of each plane."""

    def expected(self) -> list[npt.NDArray]:
        """What has to come out."""
        return [plane.tokens for plane in self._material.planes]


class OwnCoder(Coder):
    """The project's, by steps; `lanes` coders in step."""

    def __init__(self, material: Material, code: Kernels) -> None:
        super().__init__(material)
        self._code, self._table = code, DecodeTable.of(material.frequencies)
        # What the coder takes for a context is the histogram itself here.
        self._same = np.arange(len(material.frequencies), dtype=np.uint8)

    def encode(self) -> list[bytes]:
        """See Coder."""
        streams = []
        for layer in self._material.layers:
            encoder = self._code.encoder(layer.lanes, self._material.frequencies)
            for plane in reversed(layer.planes):
                contexts = plane.histograms.astype(np.uint16)
                encoder.plane_before(self._same, contexts, plane.tokens)
            streams.append(encoder.finish())
        return streams

    def decode(self, streams: list[bytes]) -> list[npt.NDArray]:
        """See Coder."""
        found: list[npt.NDArray] = []
        for layer, stream in zip(self._material.layers, streams, strict=True):
            decoder = self._code.decoder(stream, layer.lanes, self._table, "rans")
            for plane in layer.planes:
                found.append(decoder.plane(self._same, plane.histograms.astype(np.int32)))
            decoder.finish()
        return found


def lengths_of(rows: npt.NDArray) -> npt.NDArray[np.intp]:
    """The number of tokens that each histogram (H, 256) tells apart, at least constriction's 2."""
    return np.maximum(2, 256 - np.argmax(rows[:, ::-1] > 0, axis=1))


def models_of(rows: npt.NDArray, kind: type[np.floating] = np.float64) -> list[Any]:
    """constriction's model of each histogram; it gives every token up to the last some chance."""
    models = []
    for row, length in zip(rows.astype(kind), lengths_of(rows), strict=True):
        row[0] += not row.any()  # a histogram that no token came under
        models.append(constriction.stream.model.Categorical(row[:length], perfect=False))
    return models


@dataclass(frozen=True)
class Library:
    """One of constriction's coders. A stack gives back last what it was given first."""

    encoder: Callable[[], Any]
    decoder: Callable[[Words], Any]
    is_stack: bool

    def in_order(self, parts: list[Any]) -> Iterable[Any]:
        """The parts in the order in which they have to be encoded."""
        return reversed(parts) if self.is_stack else parts

    def give(self, encoder: Any, tokens: npt.NDArray[np.int32] | int, *model: Any) -> None:
        """Encodes the tokens, or the one, under the model, or a family's rows."""
        (encoder.encode_reverse if self.is_stack else encoder.encode)(tokens, *model)


ANS = Library(constriction.stream.stack.AnsCoder, constriction.stream.stack.AnsCoder, is_stack=True)
RANGE = Library(
    constriction.stream.queue.RangeEncoder, constriction.stream.queue.RangeDecoder, is_stack=False
)


class AllAtOnce(Coder):
    """Tokens sorted by histogram beforehand, which is not timed, nor their way back."""

    def __init__(self, material: Material, library: Library, rows: npt.NDArray) -> None:
        super().__init__(material)
        self._library, self._models = library, models_of(rows)
        tokens = np.concatenate([plane.tokens for plane in material.planes]).astype(np.int32)
        histograms = np.concatenate([plane.histograms for plane in material.planes])
        ends = np.cumsum(np.bincount(histograms, minlength=len(rows)))
        ordered = tokens[np.argsort(histograms, kind="stable")]
        self._groups = np.split(ordered, ends[:-1])

    def encode(self) -> list[Words]:
        """See Coder."""
        encoder = self._library.encoder()
        for model, group in self._library.in_order(self._pairs()):
            self._library.give(encoder, group, model)
        return [encoder.get_compressed()]

    def decode(self, streams: list[Words]) -> list[npt.NDArray]:
        """See Coder."""
        decoder = self._library.decoder(streams[0])
        return [decoder.decode(model, len(group)) for model, group in self._pairs()]

    def expected(self) -> list[npt.NDArray]:
        """See Coder."""
        return [group for _, group in self._pairs()]

    def alike_in_float32(self, rows: npt.NDArray) -> list[bool]:
        """Whether each histogram's tokens give the same bytes when it comes in float32."""

        def stream(model: Any, group: npt.NDArray) -> Words:
            encoder = self._library.encoder()
            self._library.give(encoder, group, model)
            return encoder.get_compressed()

        return [
            np.array_equal(stream(model, group), stream(other, group))
            for model, other, group in zip(
                self._models, models_of(rows, np.float32), self._groups, strict=True
            )
        ]

    def _pairs(self) -> list[tuple[Any, npt.NDArray]]:
        return [pair for pair in zip(self._models, self._groups, strict=True) if len(pair[1])]


class BySteps(Coder):
    """One step after the other; subclasses say how."""

    def __init__(self, material: Material, library: Library) -> None:
        super().__init__(material)
        self._library, self._models = library, models_of(material.frequencies)

    @abstractmethod
    def encode_step(self, encoder: Any, step: Plane) -> None:
        """Gives the encoder the step's tokens."""

    @abstractmethod
    def decode_step(self, decoder: Any, histograms: Histograms) -> npt.NDArray:
        """The step's tokens."""

    def encode(self) -> list[Words]:
        """See Coder."""
        streams = []
        for layer in self._material.layers:
            encoder = self._library.encoder()
            steps = [step for plane in layer.planes for step in plane.steps(layer.lanes)]
            for step in self._library.in_order(steps):
                self.encode_step(encoder, step)
            streams.append(encoder.get_compressed())
        return streams

    def decode(self, streams: list[Words]) -> list[npt.NDArray]:
        """See Coder."""
        found = []
        for layer, stream in zip(self._material.layers, streams, strict=True):
            decoder = self._library.decoder(stream)
            for plane in layer.planes:
                steps = plane.steps(layer.lanes)
                found.append(
                    np.concatenate([self.decode_step(decoder, step.histograms) for step in steps])
                )
        return found


class CallForEachHistogram(BySteps):
    """A step's tokens are sorted by histogram, coded with a call for each, and put back."""

    def encode_step(self, encoder: Any, step: Plane) -> None:
        """See BySteps."""
        order, groups = self._sorted(step.histograms)
        tokens = step.tokens.take(order).astype(np.int32)
        for histogram, low, high in self._library.in_order(groups):
            self._library.give(encoder, tokens[low:high], self._models[histogram])

    def decode_step(self, decoder: Any, histograms: Histograms) -> npt.NDArray:
        """See BySteps."""
        order, groups = self._sorted(histograms)
        found = np.empty(len(histograms), np.uint8)
        found[order] = np.concatenate(
            [decoder.decode(self._models[histogram], high - low) for histogram, low, high in groups]
        )
        return found

    @staticmethod
    def _sorted(
        histograms: Histograms,
    ) -> tuple[npt.NDArray[np.intp], list[tuple[int, int, int]]]:
        """The order by histogram; each that occurs, and where its tokens begin and end in it."""
        order = np.argsort(histograms, kind="stable")  # by radix, as these are bytes
        counts = np.bincount(histograms)
        (present,) = counts.nonzero()
        ends = counts[present].cumsum()
        starts = ends - counts[present]
        groups = zip(present.tolist(), starts.tolist(), ends.tolist(), strict=True)
        return order, list(groups)


class MatrixOfProbabilities(BySteps):
    """A step in one call, with a row of probabilities for each token."""

    def __init__(self, material: Material, library: Library) -> None:
        super().__init__(material, library)
        self._family = constriction.stream.model.Categorical(perfect=False)
        self._rows = material.frequencies.astype(np.float32)
        self._lengths = lengths_of(material.frequencies)

    def encode_step(self, encoder: Any, step: Plane) -> None:
        """See BySteps."""
        rows = self._matrix(step.histograms)
        self._library.give(encoder, step.tokens.astype(np.int32), self._family, rows)

    def decode_step(self, decoder: Any, histograms: Histograms) -> npt.NDArray:
        """See BySteps."""
        return decoder.decode(self._family, self._matrix(histograms)).astype(np.uint8)

    def _matrix(self, histograms: Histograms) -> npt.NDArray[np.float32]:
        longest = int(self._lengths[histograms].max())
        return self._rows[:, :longest].take(histograms, axis=0)


class CallForEachToken(BySteps):
    """As one would begin."""

    def encode_step(self, encoder: Any, step: Plane) -> None:
        """See BySteps."""
        pairs = list(zip(step.tokens.tolist(), step.histograms.tolist(), strict=True))
        for token, histogram in self._library.in_order(pairs):
            self._library.give(encoder, token, self._models[histogram])

    def decode_step(self, decoder: Any, histograms: Histograms) -> npt.NDArray:
        """See BySteps."""
        models, decode_one = self._models, decoder.decode
        return np.array([decode_one(models[h]) for h in histograms.tolist()], np.uint8)
