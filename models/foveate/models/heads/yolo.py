"""YOLO v5 to v12 as exported: boxes decoded in the model, no suppression yet."""

from __future__ import annotations

from foveate.engines.errors import ModelError
from foveate.models.graph import GraphBuilder
from foveate.models.heads.candidates import (
    best_class_scores,
    best_rows,
    chosen_rows,
    class_ids,
    corner_boxes,
    detections,
    input_points,
    times_objectness,
)
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs

__all__ = ["HEAD", "pose_keypoints"]


def append_yolo(graph: GraphBuilder, head: HeadInputs) -> HeadOutputs:
    """`predictions` (batch, A, columns), or (batch, columns, A) with layout channels_first.

    Columns: a box, an objectness where the manifest says so, C classes, P times x, y, score of a keypoint.
    One class a candidate: the best; with objectness the score is objectness * class.
    """
    predictions = head.tensor("predictions", None, None)
    channels_first = head.spec.layout == "channels_first"
    candidates, width = predictions.shape[::-1] if channels_first else predictions.shape
    first, last = _class_columns(head, width)
    axis = 1 if channels_first else 2
    classes = graph.columns(predictions.name, first, last, axis, "class_scores")
    scores = best_class_scores(graph, head, classes, axis)
    if head.spec.objectness:
        scores = times_objectness(graph, head, scores, predictions, axis, candidates)
    top_scores, indices, count = best_rows(graph, head, scores, candidates)
    rows = chosen_rows(graph, predictions.name, indices, width, "row", channels_first=channels_first)
    boxes = corner_boxes(graph, head, graph.columns(rows, 0, 4, 2, "box"))
    ids = class_ids(graph, graph.columns(rows, first, last, 2, "row_classes"))
    return detections(boxes, top_scores, ids, pose_keypoints(graph, head, rows, last, count))


def _class_columns(head: HeadInputs, width: int) -> tuple[int, int]:
    first = 5 if head.spec.objectness else 4
    last = width - 3 * head.spec.keypoints
    if last <= first:
        raise ModelError(
            f"head 'yolo' expects a box, {'an objectness, ' if head.spec.objectness else ''}classes and "
            f"{head.spec.keypoints} keypoints per candidate, but predictions are {head.tensors['predictions']}, "
            "which leaves no column for classes: check layout, objectness and keypoints in the manifest"
        )
    return first, last


def pose_keypoints(graph: GraphBuilder, head: HeadInputs, rows: str, start: int, count: int) -> str | None:
    """Points (batch, K, P, 3) as x, y in pixels of the input and score, from the columns at `start`."""
    points = head.spec.keypoints
    if not points:
        return None
    columns = graph.columns(rows, start, start + 3 * points, 2, "keypoint_columns")
    values = graph.reshape(columns, [count, points, 3], "keypoint_values")
    if head.spec.box_unit == "input_px":
        return values
    places = input_points(graph, head, graph.columns(values, 0, 2, 3, "keypoint_places"), 1)
    return graph.add("Concat", places, graph.columns(values, 2, 3, 3, "keypoint_scores"), name="keypoints", axis=3)


HEAD = Head(append_yolo, frozenset({"predictions"}))
