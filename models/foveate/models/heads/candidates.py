"""Parts that heads have in common: scores, the choice of the best candidates, boxes."""

from __future__ import annotations

from onnx import TensorProto

from foveate.models.graph import GraphBuilder
from foveate.models.heads.contract import HeadInputs, HeadOutputs, Tensor

__all__ = [
    "best_class_scores",
    "best_rows",
    "boxes_around",
    "chosen_rows",
    "class_ids",
    "corner_boxes",
    "detections",
    "input_points",
    "squashed",
    "times_objectness",
]


def squashed(graph: GraphBuilder, head: HeadInputs, scores: str) -> str:
    """Scores after the manifest's sigmoid, if that is its activation.

    A sigmoid keeps the order, so heads choose first and take it of the chosen only.
    """
    return graph.add("Sigmoid", scores, name="probabilities") if head.spec.activation == "sigmoid" else scores


def best_class_scores(graph: GraphBuilder, head: HeadInputs, classes: str, axis: int) -> str:
    """Each candidate's activated score for its best class, from the model's own class scores."""
    if head.spec.activation == "softmax":
        classes = graph.add("Softmax", classes, name="class_probabilities", axis=axis)
    return squashed(graph, head, graph.reduce_max(classes, axis, "best_class_score"))


def times_objectness(
    graph: GraphBuilder, head: HeadInputs, scores: str, predictions: Tensor, axis: int, candidates: int
) -> str:
    """Candidates' scores times column 4 of `predictions`, (batch, candidates)."""
    column = graph.columns(predictions.name, 4, 5, axis, "objectness_column")
    objectness = squashed(graph, head, graph.reshape(column, [candidates], "objectness"))
    return graph.add("Mul", scores, objectness, name="candidate_scores")


def best_rows(graph: GraphBuilder, head: HeadInputs, scores: str, candidates: int) -> tuple[str, str, int]:
    """The best K of (batch, candidates) scores: their scores and indices, (batch, K) each, and K.

    K is the manifest's top_k, or the number of candidates if that is less. Equal scores keep their order.
    """
    count = min(head.spec.top_k, candidates)
    top_scores, indices = graph.add_many(
        "TopK", scores, graph.ints([count], "top_k"), names=("top_scores", "top_indices"), axis=-1
    )
    return top_scores, indices, count


def chosen_rows(
    graph: GraphBuilder, tensor: str, indices: str, width: int, name: str, *, channels_first: bool = False
) -> str:
    """The rows of the chosen candidates, (batch, K, width).

    Shapes: tensor (batch, candidates, width), or (batch, width, candidates) with channels_first; indices
    (batch, K).
    """
    # GatherElements wants an index for every element; GatherND would not, but fewer compilers take it.
    axis, repeats = (2, [1, width, 1]) if channels_first else (1, [1, 1, width])
    spread = graph.unsqueeze(indices, 3 - axis, f"{name}_indices")
    if width > 1:
        spread = graph.add("Tile", spread, graph.ints(repeats, f"{name}_repeats"), name=f"{name}_spread")
    rows = graph.add("GatherElements", tensor, spread, name=name, axis=axis)
    return graph.add("Transpose", rows, name=f"{name}_rows", perm=[0, 2, 1]) if channels_first else rows


def class_ids(graph: GraphBuilder, class_rows: str) -> str:
    """Best class of each row of (batch, K, C), the first of equals: (batch, K) int32."""
    best = graph.add("ArgMax", class_rows, name="best_class", axis=2, keepdims=0)
    return graph.cast(best, TensorProto.INT32, "class_ids")


def corner_boxes(graph: GraphBuilder, head: HeadInputs, boxes: str) -> str:
    """Boxes (batch, K, 4) of the manifest's format and unit as x1, y1, x2, y2 in pixels of the input."""
    if head.spec.box_format == "cxcywh":
        centre = graph.columns(boxes, 0, 2, 2, "box_centre")
        size = graph.columns(boxes, 2, 4, 2, "box_size")
        boxes = boxes_around(graph, centre, size)
    return input_points(graph, head, boxes, 2)


def boxes_around(graph: GraphBuilder, centre: str, size: str) -> str:
    """Centres and sizes, (batch, K, 2) each, as corners (batch, K, 4)."""
    half = graph.add("Mul", size, graph.floats(0.5, "one_half"), name="box_half_size")
    near = graph.add("Sub", centre, half, name="box_near_corner")
    far = graph.add("Add", centre, half, name="box_far_corner")
    return graph.add("Concat", near, far, name="box_corners", axis=2)


def input_points(graph: GraphBuilder, head: HeadInputs, points: str, pairs: int) -> str:
    """Rows that end in `pairs` times x, y in the manifest's unit, as pixels of the input."""
    if head.spec.box_unit == "input_px":
        return points
    sides = graph.floats([head.input.width_px, head.input.height_px] * pairs, "input_sides")
    return graph.add("Mul", points, sides, name="points_in_pixels")


def detections(boxes: str, scores: str, class_ids: str, keypoints: str | None = None) -> HeadOutputs:
    """The outputs of every head that detects."""
    outputs = {"boxes": boxes, "scores": scores, "class_ids": class_ids}
    return outputs if keypoints is None else {**outputs, "keypoints": keypoints}
