"""Which layer of a converted graph breaks it: every layer's error, and a proof of the one that is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from foveate.engines.layer_graphs import Layer, LayerGraphs
from foveate.engines.precision.conversion import calibrate
from foveate.engines.precision.network import with_network
from foveate.engines.precision.opset import with_opset
from foveate.engines.precision.session import run_each

__all__ = ["Bisection", "LayerError", "LayerProof", "bisect_layers", "comparable_reference"]

_AT_ONCE = 48
"""Layers looked at in one run: their tensors are all in memory together."""
_JUMP = 8.0
"""Times the median layer's own error that make a jump."""
_LEAST_JUMP = 0.02
_MOST_PROVEN = 5
_EXPLAINS = 0.5
"""The share of the error at the outputs that a layer must bring about alone, or take away, to be named."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far a layer is off. Errors are relative: the root mean square of the difference over that of the value."""

    layer: Layer
    error: float
    """With all before it converted too; inf where a value is no number any more."""
    cosine: float
    """Of the same tensors; nan where one is no number."""
    own_error: float
    """Of this layer alone, given what the layers before it should have given."""


@dataclass(frozen=True, slots=True)
class LayerProof:
    """What a layer does to the network's outputs."""

    layer: Layer
    own_error: float
    alone: float
    """The error at the outputs with this layer converted and every other in fp32."""
    without: float
    """The error at the outputs with every layer converted but this one, and `kept_with`."""
    kept_with: tuple[str, ...] = ()
    """Nodes that had to stay in fp32 as well: their values are beyond the precision too."""

    def explains(self, error: float) -> bool:
        """Whether the layer accounts for an error at the outputs: it makes one like it, or none is left without it.

        One that makes a much larger error is undone by a later layer: it is no fault.
        """
        likewise = self.alone == error or _EXPLAINS * error <= self.alone <= error / _EXPLAINS
        return likewise or self.without <= _EXPLAINS * error


@dataclass(frozen=True, slots=True)
class Bisection:
    """Where a converted graph goes wrong."""

    layers: tuple[LayerError, ...]
    """In the order in which they run."""
    error: float
    """At the network's outputs; the greatest where there are several."""
    suspects: tuple[LayerProof, ...]
    """Layers whose own error stands out, in order."""

    @property
    def culprit(self) -> LayerProof | None:
        """The first layer where the error jumps and that accounts for it; None where no single one does."""
        return next((each for each in self.suspects if each.explains(self.error)), None)


def comparable_reference(
    model: onnx.ModelProto, converted: onnx.ModelProto, *, target: str, calibration: Sequence[Pixels] = ()
) -> onnx.ModelProto:
    """The fp32 graph whose layers are those of a converted one.

    With the pictures that found its ranges, an int8 graph is compared with what was quantised: folded, and its
    channels rescaled. Without them a rescaled channel looks like an error that the next layer takes back.
    Raises: BuildFailed as `convert` does.
    """
    (opset,) = (each.version for each in converted.opset_import if each.domain in ("", "ai.onnx"))
    reference = with_opset(model, opset)
    return with_network(reference, calibrate(reference, target, calibration).network) if calibration else reference


def bisect_layers(
    reference: onnx.ModelProto,
    converted: onnx.ModelProto,
    pictures: Sequence[Pixels],
    *,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Bisection:
    """The error of every layer of a converted graph, and the first one that breaks it.

    Shapes: pictures are (H, W, 3) uint8 in the size of the graphs' input.
    Raises: BuildFailed where the graphs have no layers in common, or ONNX Runtime cannot run one.
    """
    graphs = LayerGraphs(reference, converted)
    feeds = [{reference.graph.input[0].name: picture[np.newaxis]} for picture in pictures]
    layers: list[LayerError] = []
    for start in range(0, len(graphs.layers), _AT_ONCE):
        layers += _errors(graphs, graphs.layers[start : start + _AT_ONCE], feeds)
        on_progress(len(layers), len(graphs.layers))
    outputs = _OutputError(graphs, feeds)
    suspects = tuple(_proof(graphs, each, layers, outputs) for each in _jumps(layers))
    return Bisection(tuple(layers), outputs.of(graphs.converted(graphs.outputs)), suspects)


class _Sums:
    """Two tensors compared over many pictures, without keeping them."""

    def __init__(self) -> None:
        self._power = self._other_power = self._difference = self._product = 0.0

    def add(self, expected: NDArray[Any], given: NDArray[Any]) -> None:
        with np.errstate(all="ignore"):  # what overflowed is what is looked for
            a, b = expected.astype(np.float64).ravel(), given.astype(np.float64).ravel()
            self._power += _product(a, a)
            self._other_power += _product(b, b)
            self._product += _product(a, b)
            np.subtract(b, a, out=b)
            self._difference += _product(b, b)

    @property
    def error(self) -> float:
        if not math.isfinite(self._difference):
            return math.inf
        if self._power == 0:
            return 0.0 if self._difference == 0 else math.inf
        return math.sqrt(self._difference / self._power)

    @property
    def cosine(self) -> float:
        lengths = math.sqrt(self._power) * math.sqrt(self._other_power) if math.isfinite(self._other_power) else 0.0
        return self._product / lengths if lengths > 0 else math.nan


def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Their inner product, by one thread: BLAS would fight for the cores with ONNX Runtime's, which spin."""
    return float(np.einsum("i,i->", a, b))


def _errors(graphs: LayerGraphs, layers: Sequence[Layer], feeds: Sequence[Any]) -> Iterator[LayerError]:
    tensors = [each.tensor for each in layers]
    models = (graphs.reference(tensors), graphs.converted(tensors), graphs.each_alone(tensors))
    together, alone = {name: _Sums() for name in tensors}, {name: _Sums() for name in tensors}
    for expected, given, own in zip(*(run_each(model, feeds, optimize=False) for model in models), strict=True):
        for name in tensors:
            together[name].add(expected[f"shown/{name}"], given[f"shown/{name}"])
            alone[name].add(expected[f"shown/{name}"], own[f"shown/{name}"])
    for layer in layers:
        sums = together[layer.tensor]
        yield LayerError(layer, sums.error, sums.cosine, alone[layer.tensor].error)


class _OutputError:
    """How far other graphs are off at the network's outputs."""

    def __init__(self, graphs: LayerGraphs, feeds: Sequence[Any]) -> None:
        self._feeds = feeds
        self._expected = list(run_each(graphs.reference(graphs.outputs), feeds, optimize=False))

    def of(self, model: onnx.ModelProto) -> float:
        sums = {name: _Sums() for name in self._expected[0]}
        for expected, given in zip(self._expected, run_each(model, self._feeds, optimize=False), strict=True):
            for name, value in expected.items():
                sums[name].add(value, given[name])
        return max(each.error for each in sums.values())


def _jumps(layers: Sequence[LayerError]) -> list[LayerError]:
    """Layers whose own error stands out from the others', the greatest few, in the order in which they run."""
    finite = [each.own_error for each in layers if 0 < each.own_error < math.inf]
    bar = max(_LEAST_JUMP, _JUMP * float(np.median(finite)) if finite else 0.0)
    ranked = sorted((each for each in layers if each.own_error >= bar), key=lambda each: -each.own_error)
    chosen = {each.layer.tensor for each in ranked[:_MOST_PROVEN]}  # of equals the first: sorting is stable
    return [each for each in layers if each.layer.tensor in chosen]


def _proof(graphs: LayerGraphs, suspect: LayerError, layers: Sequence[LayerError], outputs: _OutputError) -> LayerProof:
    tensor = suspect.layer.tensor
    kept = {tensor: suspect.layer}
    if math.isinf(suspect.own_error):  # values beyond the precision: kept float, its readers must be too
        kept |= {each.layer.tensor: each.layer for each in layers if math.isinf(each.own_error)}
    return LayerProof(
        suspect.layer,
        suspect.own_error,
        alone=outputs.of(graphs.only_converted([tensor])),
        without=outputs.of(graphs.all_but(kept)),
        kept_with=tuple(layer.node for name, layer in kept.items() if name != tensor),
    )
