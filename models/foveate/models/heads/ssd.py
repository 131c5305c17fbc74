"""SSD, RetinaNet and FCOS in the manner of torchvision: one box and a score for every class per anchor."""

from __future__ import annotations

from foveate.models.graph import GraphBuilder
from foveate.models.heads.candidates import (
    best_rows,
    chosen_rows,
    class_ids,
    corner_boxes,
    detections,
    squashed,
)
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs, Tensor

__all__ = ["HEAD", "append_best_class"]


def append_ssd(graph: GraphBuilder, head: HeadInputs) -> HeadOutputs:
    """`boxes` (batch, A, 4), decoded from their anchors already, and `scores` (batch, A, C) by class.

    Anchors belong to the exporter, which applies them in the model's own graph. Class 0 means nothing
    where the manifest says `background`, and class ids count from the class after it. One class
    an anchor: the best.
    """
    scores = head.tensor("scores", None, None)
    boxes = head.tensor("boxes", scores.shape[0], 4)
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
    return detections(corner_boxes(graph, head, box_rows), top_scores, class_ids(graph, class_rows))


HEAD = Head(append_ssd, frozenset({"boxes", "scores"}))
