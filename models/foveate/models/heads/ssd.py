"""SSD, RetinaNet and FCOS in the manner of torchvision: one box and a score for every class per anchor.

Source: pytorch/vision, torchvision/models/detection/_utils.py, BoxCoder and BoxLinearCoder.
"""

from __future__ import annotations

import math

from foveate.engines.errors import ModelError
from foveate.models.graph import GraphBuilder
from foveate.models.heads.candidates import (
    best_rows,
    boxes_around,
    chosen_rows,
    class_ids,
    corner_boxes,
    detections,
    squashed,
)
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs, Tensor

__all__ = ["HEAD", "append_best_class"]


_LARGEST_LOG_SIZE = math.log(1000 / 16)
"""Of a box against its anchor: what is more is an accident of training, and its exponential would be infinite."""


def append_ssd(graph: GraphBuilder, head: HeadInputs) -> HeadOutputs:
    """`boxes` (batch, A, 4) in the manifest's coding, and `scores` (batch, A, C) by class.

    Where boxes are coded relative to `anchors`, a constant (A, 4) as x1, y1, x2, y2 in pixels of the input, only the
    chosen ones are decoded, and cut off at the input's sides. Class 0 means nothing where the manifest says
    `background`, and class ids count from the class after it. One class an anchor: the best.
    """
    scores = head.tensor("scores", None, None)
    boxes = head.tensor("boxes", scores.shape[0], 4)
    coded = head.spec.box_coding != "boxes"
    if coded != ("anchors" in head.tensors):
        raise ModelError(
            f"head 'ssd' with box_coding {head.spec.box_coding!r} {'needs' if coded else 'has no use for'} the role "
            "anchors: mend box_coding or outputs in the manifest"
        )
    return append_best_class(graph, head, scores, boxes, (int(head.spec.background), scores.shape[1]))


def append_best_class(
    graph: GraphBuilder, head: HeadInputs, scores: Tensor, boxes: Tensor, columns: tuple[int, int]
) -> HeadOutputs:
    """The best candidates, each with the best class of these columns; ids count from the first of them."""
    candidates, width = scores.shape
    values = scores.name
    if head.spec.activation == "softmax":  # over all of the columns, also those that are then left out
        values = graph.add("Softmax", values, name="class_probabilities", axis=2)
    if columns != (0, width):
        values = graph.columns(values, *columns, 2, "class_scores")
    best = squashed(graph, head, graph.reduce_max(values, 2, "best_class_score"))
    top_scores, indices, _ = best_rows(graph, head, best, candidates)
    class_rows = chosen_rows(graph, values, indices, columns[1] - columns[0], "row_classes")
    box_rows = chosen_rows(graph, boxes.name, indices, 4, "box")
    if "anchors" in head.tensors:
        corners = _inside(graph, head, _decoded(graph, head, box_rows, indices))
    else:
        corners = corner_boxes(graph, head, box_rows)
    return detections(corners, top_scores, class_ids(graph, class_rows))


def _decoded(graph: GraphBuilder, head: HeadInputs, codes: str, indices: str) -> str:
    """Corners (batch, K, 4) from the codes of the chosen anchors, in pixels of the input."""
    anchors = head.tensor("anchors", head.tensors["boxes"].shape[0], 4, constant=True)
    rows = graph.add("Gather", anchors.name, indices, name="anchor", axis=0)
    near, far = (graph.columns(rows, start, start + 2, 2, f"anchor_{end}") for start, end in ((0, "near"), (2, "far")))
    size = graph.add("Sub", far, near, name="anchor_size")
    half = graph.floats(0.5, "one_half_anchor")
    centre = graph.add("Add", near, graph.add("Mul", size, half, name="anchor_half_size"), name="anchor_centre")
    first, last = graph.columns(codes, 0, 2, 2, "first_codes"), graph.columns(codes, 2, 4, 2, "last_codes")
    if head.spec.box_coding == "anchor_edges":
        before = graph.add("Sub", centre, graph.add("Mul", first, size, name="near_distance"), name="near_corner")
        behind = graph.add("Add", centre, graph.add("Mul", last, size, name="far_distance"), name="far_corner")
        return graph.add("Concat", before, behind, name="box_corners", axis=2)
    moved = graph.add("Add", centre, graph.add("Mul", first, size, name="offset"), name="box_centre")
    growth = graph.add("Min", last, graph.floats(_LARGEST_LOG_SIZE, "largest_log_size"), name="log_size")
    grown = graph.add("Mul", graph.add("Exp", growth, name="growth"), size, name="box_size")
    return boxes_around(graph, moved, grown)


def _inside(graph: GraphBuilder, head: HeadInputs, corners: str) -> str:
    """Corners cut off at the input's sides, as torchvision does before it looks for overlaps."""
    sides = graph.floats([head.input.width_px, head.input.height_px] * 2, "clip_sides")
    above = graph.add("Max", corners, graph.floats(0.0, "clip_zero"), name="box_from_zero")
    return graph.add("Min", above, sides, name="box_inside")


HEAD = Head(append_ssd, frozenset({"boxes", "scores"}), frozenset({"anchors"}))
