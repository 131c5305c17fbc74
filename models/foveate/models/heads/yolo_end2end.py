"""YOLO v10 and v26 as exported: the model has chosen its candidates itself."""

from __future__ import annotations

from onnx import TensorProto

from foveate.models.graph import GraphBuilder
from foveate.models.heads.candidates import best_rows, chosen_rows, detections, input_points
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs
from foveate.models.heads.yolo import pose_keypoints

__all__ = ["HEAD"]


def append_yolo_end2end(graph: GraphBuilder, head: HeadInputs) -> HeadOutputs:
    """`predictions` (batch, A, 6 + 3 P): x1, y1, x2, y2, score, class, then P times x, y, score.

    Boxes are corners always, whatever the manifest's box_format; their unit is the manifest's.
    """
    width = 6 + 3 * head.spec.keypoints
    predictions = head.tensor("predictions", None, width)
    candidates = predictions.shape[0]
    scores = graph.reshape(graph.columns(predictions.name, 4, 5, 2, "score_column"), [candidates], "candidate_scores")
    top_scores, indices, count = best_rows(graph, head, scores, candidates)
    rows = chosen_rows(graph, predictions.name, indices, width, "row")
    boxes = input_points(graph, head, graph.columns(rows, 0, 4, 2, "box"), 2)
    classes = graph.reshape(graph.columns(rows, 5, 6, 2, "class_column"), [count], "class_numbers")
    ids = graph.cast(classes, TensorProto.INT32, "class_ids")
    return detections(boxes, top_scores, ids, pose_keypoints(graph, head, rows, 6, count))


HEAD = Head(append_yolo_end2end, frozenset({"predictions"}))
