"""DETR and its descendants (RT-DETR, D-FINE, RF-DETR): a set of queries, each with classes and a box.

Source: lyuwenyu/RT-DETR, rtdetrv2_pytorch/src/zoo/rtdetr/rtdetr_postprocessor.py, for sigmoid;
facebookresearch/detr, models/detr.py, PostProcess, for softmax.
"""

from __future__ import annotations

from onnx import TensorProto

from foveate.engines.errors import ModelError
from foveate.models.graph import GraphBuilder
from foveate.models.heads.candidates import best_rows, chosen_rows, corner_boxes, detections, squashed
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs
from foveate.models.heads.ssd import append_best_class

__all__ = ["HEAD"]


def append_detr(graph: GraphBuilder, head: HeadInputs) -> HeadOutputs:
    """`logits` (batch, Q, C) and `boxes` (batch, Q, 4) in the manifest's format and unit.

    With softmax each query has its best class, and the last column means nothing where the manifest says
    `background`. Otherwise the K best of all Q * C pairs are taken, as the authors do: a query may come
    twice, with two classes.
    """
    logits = head.tensor("logits", None, None)
    queries, classes = logits.shape
    boxes = head.tensor("boxes", queries, 4)
    if head.spec.activation == "softmax":
        return append_best_class(graph, head, logits, boxes, (0, classes - int(head.spec.background)))
    if head.spec.background:
        raise ModelError("head 'detr' has a background class with activation 'softmax' only: check the manifest")
    flat = graph.reshape(logits.name, [queries * classes], "pair_scores")
    scores, pairs, _ = best_rows(graph, head, flat, queries * classes)
    scores = squashed(graph, head, scores)
    width = graph.ints(classes, "classes")
    query = graph.add("Div", pairs, width, name="query")
    class_id = graph.add("Sub", pairs, graph.add("Mul", query, width, name="query_start"), name="class_of_pair")
    rows = chosen_rows(graph, boxes.name, query, 4, "box")
    return detections(corner_boxes(graph, head, rows), scores, graph.cast(class_id, TensorProto.INT32, "class_ids"))


HEAD = Head(append_detr, frozenset({"logits", "boxes"}))
