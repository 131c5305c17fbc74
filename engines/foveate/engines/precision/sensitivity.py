"""Which nodes lose the most in int8, so that they can be left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from foveate.engines.precision.conversion import Pixels, calibrate, feeds_for
from foveate.engines.precision.int8 import product_names, quantized_alone
from foveate.engines.precision.session import run_each

__all__ = ["NodeLoss", "propose_exclude", "sensitivity"]

_Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class NodeLoss:
    """What int8 in one node alone does to the network's outputs."""

    node: str
    loss: float
    """The mean square error over the outputs' mean square; the mean of that where there are several outputs."""


def sensitivity(
    model: onnx.ModelProto,
    calibration: Sequence[Pixels],
    evaluation: Sequence[Pixels],
    *,
    target: str = "tensorrt",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[NodeLoss]:
    """The loss of each node of a fused graph that can be quantised, the greatest first.

    Each is quantised alone, with ranges and biases as `convert` takes them for that target, and run on the evaluation
    pictures; 8 to 16 rank the nodes well enough. Losses of several nodes nearly add up.
    Shapes: pictures are (H, W, 3) uint8 in the size of the graph's input.
    Raises: BuildFailed for no pictures, or ones that do not fit.
    """
    source = calibrate(model, target, calibration)
    feeds = feeds_for(model, evaluation, "the sensitivity report")
    batch = [{name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}]
    (expected,) = run_each(source.network, batch)
    names, losses = product_names(source.network), []
    for done, name in enumerate(names, 1):
        (given,) = run_each(quantized_alone(source, name), batch)
        losses.append(NodeLoss(name, _loss(expected, given)))
        if on_progress is not None:
            on_progress(done, len(names))
    return sorted(losses, key=lambda each: -each.loss)


def propose_exclude(losses: Sequence[NodeLoss], *, budget: float = 0.001, most: float = 0.35) -> tuple[str, ...]:
    """The nodes to leave out so that the losses of the others sum up to no more than the budget.

    `most` is the largest share of all nodes to leave out, whatever is left then.
    """
    ranked = sorted(losses, key=lambda each: -each.loss)
    remaining = sum(each.loss for each in ranked)
    excluded: list[str] = []
    for each in ranked[: int(most * len(ranked))]:
        if remaining <= budget:
            break
        excluded.append(each.node)
        remaining -= each.loss
    return tuple(excluded)


def _loss(expected: _Outputs, given: _Outputs) -> float:
    return float(np.mean([_error_share(value, given[name]) for name, value in expected.items()]))


def _error_share(expected: NDArray[Any], given: NDArray[Any]) -> float:
    expected, given = expected.astype(np.float64), given.astype(np.float64)
    power = float(np.mean(expected**2))
    return float(np.mean((expected - given) ** 2)) / power if power > 0 else 0.0
