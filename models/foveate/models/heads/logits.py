"""Classifiers: one score per class for the whole picture."""

from __future__ import annotations

import math

from onnx import TensorProto

from foveate.models.graph import GraphBuilder
from foveate.models.heads.candidates import best_rows, squashed
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs

__all__ = ["HEAD"]


def append_logits(graph: GraphBuilder, head: HeadInputs) -> HeadOutputs:
    """The best classes of `logits` (batch, C), or (batch, C, 1, 1), as `scores` and `class_ids`."""
    logits = head.tensors["logits"]
    classes = math.prod(logits.shape)
    values = logits.name if len(logits.shape) == 1 else graph.reshape(logits.name, [classes], "logits_flat")
    if head.spec.activation == "softmax":
        values = graph.add("Softmax", values, name="probabilities", axis=1)
    scores, indices, _ = best_rows(graph, head, values, classes)
    return {
        "scores": squashed(graph, head, scores),
        "class_ids": graph.cast(indices, TensorProto.INT32, "class_ids"),
    }


HEAD = Head(append_logits, frozenset({"logits"}))
