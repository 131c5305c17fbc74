"""Feature vectors, for comparing pictures."""

from __future__ import annotations

import math

from foveate.models.graph import GraphBuilder
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs

__all__ = ["HEAD"]

_SMALLEST_LENGTH = 1e-12


def append_embedding(graph: GraphBuilder, head: HeadInputs) -> HeadOutputs:
    """`embedding` (batch, ...) as a vector, of length 1 where the manifest says so; zeros stay zeros."""
    tensor = head.tensors["embedding"]
    vector = tensor.name
    if len(tensor.shape) != 1:
        vector = graph.reshape(vector, [math.prod(tensor.shape)], "vector")
    if head.spec.normalize:
        length = graph.add("ReduceL2", vector, graph.ints([1], "vector_axis"), name="length", keepdims=1)
        length = graph.add("Max", length, graph.floats(_SMALLEST_LENGTH, "smallest_length"), name="divisor")
        vector = graph.add("Div", vector, length, name="unit_vector")
    return {"embedding": vector}


HEAD = Head(append_embedding, frozenset({"embedding"}))
