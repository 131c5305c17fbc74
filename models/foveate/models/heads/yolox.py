"""YOLOX: anchor-free grid predictions that are not decoded yet.

Source: Megvii-BaseDetection/YOLOX, yolox/utils/demo_utils.py, demo_postprocess().
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foveate.models.graph import GraphBuilder
from foveate.models.heads.candidates import (
    best_class_scores,
    best_rows,
    boxes_around,
    chosen_rows,
    class_ids,
    detections,
    times_objectness,
)
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs
from foveate.models.manifest import InputSpec

__all__ = ["HEAD"]


def append_yolox(graph: GraphBuilder, head: HeadInputs) -> HeadOutputs:
    """`predictions` (batch, A, 5 + C): centre and log size in cells, objectness, classes.

    centre = (xy + cell) * stride, size = exp(wh) * stride, score = objectness * class; one class a candidate:
    the best. A is the number of cells of all levels, in the order of the manifest's strides.
    """
    grid = _grid(head.input, head.spec.strides)
    predictions = head.tensor("predictions", len(grid), None)
    width = predictions.shape[1]
    classes = graph.columns(predictions.name, 5, width, 2, "class_scores")
    scores = best_class_scores(graph, head, classes, 2)
    scores = times_objectness(graph, head, scores, predictions, 2, len(grid))
    top_scores, indices, _ = best_rows(graph, head, scores, len(grid))
    rows = chosen_rows(graph, predictions.name, indices, width, "row")
    cells = graph.add("Gather", graph.floats(grid, "grid"), indices, name="cell", axis=0)
    boxes = _boxes(graph, rows, cells)
    return detections(boxes, top_scores, class_ids(graph, graph.columns(rows, 5, width, 2, "row_classes")))


def _boxes(graph: GraphBuilder, rows: str, cells: str) -> str:
    stride = graph.columns(cells, 2, 3, 2, "stride")
    centre = graph.add(
        "Add",
        graph.columns(rows, 0, 2, 2, "centre_in_cell"),
        graph.columns(cells, 0, 2, 2, "cell_corner"),
        name="centre_in_cells",
    )
    size = graph.add("Exp", graph.columns(rows, 2, 4, 2, "log_size"), name="size_in_cells")
    return boxes_around(
        graph, graph.add("Mul", centre, stride, name="centre"), graph.add("Mul", size, stride, name="size")
    )


def _grid(spec: InputSpec, strides: tuple[int, ...]) -> NDArray[np.float32]:
    """Column, row and stride of every cell, (A, 3), level after level, row after row."""
    levels = []
    for stride in strides:
        rows, columns = np.mgrid[: spec.height_px // stride, : spec.width_px // stride]
        levels.append(np.stack([columns, rows, np.full_like(rows, stride)], axis=-1).reshape(-1, 3))
    return np.concatenate(levels).astype(np.float32)


HEAD = Head(append_yolox, frozenset({"predictions"}))
