"""CenterFace: an object is a peak of a heatmap, with its size, offset and landmarks at that cell.

Source: Star-Clouds/CenterFace, prj-python/centerface.py, decode(). Both axes come with y before x.
"""

from __future__ import annotations

from onnx import TensorProto

from foveate.engines.errors import ModelError
from foveate.models.graph import GraphBuilder
from foveate.models.heads.candidates import best_rows, chosen_rows, detections, squashed
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs

__all__ = ["HEAD"]


def append_centernet(graph: GraphBuilder, head: HeadInputs) -> HeadOutputs:
    """Peaks of `heatmap` (batch, 1, h, w), a face each; the class is always 0.

    `scale` is log(size / stride) and `offset` is in cells, (batch, 2, h, w) each; `landmarks` (batch, 2 P, h,
    w) are in sizes of the box from its near corner. The stride follows from the shapes.
    """
    _, rows, columns = head.tensor("heatmap", 1, None, None).shape
    stride = _stride(head, rows, columns)
    scores, cells, count = best_rows(graph, head, _peaks(graph, head, rows * columns), rows * columns)
    centre = _centres(graph, head, cells, columns, stride)
    size = graph.add("Exp", _at(graph, head, "scale", 2, cells), name="size_in_cells")
    size = graph.add("Mul", size, graph.floats(stride, "stride"), name="size")
    near, far = _corners(graph, head, centre, size)
    boxes = graph.add("Concat", near, far, name="corners_y_first", axis=2)
    class_ids = graph.cast(
        graph.add("Mul", cells, graph.ints(0, "no_cell"), name="class_zero"), TensorProto.INT32, "class_ids"
    )
    keypoints = _keypoints(graph, head, cells, near, size, count) if head.spec.keypoints else None
    return detections(graph.pick(boxes, [1, 0, 3, 2], 2, "corners"), scores, class_ids, keypoints)


def _stride(head: HeadInputs, rows: int, columns: int) -> int:
    stride = head.input.width_px // columns
    if (rows * stride, columns * stride) != (head.input.height_px, head.input.width_px):
        raise ModelError(
            f"head 'centernet' expects a heatmap with the input's sides over one whole number, but a "
            f"{columns} x {rows} heatmap came with a {head.input.width_px} x {head.input.height_px} input: "
            "give the manifest sides that are multiples of 32"
        )
    return stride


def _peaks(graph: GraphBuilder, head: HeadInputs, cells: int) -> str:
    """The heatmap where a cell is the largest of its 3 x 3 neighbours and 0 elsewhere, (batch, cells)."""
    heatmap = squashed(graph, head, head.tensors["heatmap"].name)
    pooled = graph.add("MaxPool", heatmap, name="neighbourhood", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    is_peak = graph.cast(graph.add("GreaterOrEqual", heatmap, pooled, name="is_peak"), TensorProto.FLOAT, "peak_mask")
    return graph.reshape(graph.add("Mul", heatmap, is_peak, name="peaks"), [cells], "peaks_flat")


def _at(graph: GraphBuilder, head: HeadInputs, role: str, channels: int, cells: str) -> str:
    """A map's values at the chosen cells, (batch, K, channels)."""
    _, rows, columns = head.tensors["heatmap"].shape
    tensor = head.tensor(role, channels, rows, columns)
    flat = graph.reshape(tensor.name, [channels, rows * columns], f"{role}_flat")
    return chosen_rows(graph, flat, cells, channels, role, channels_first=True)


def _centres(graph: GraphBuilder, head: HeadInputs, cells: str, columns: int, stride: int) -> str:
    """Centres in pixels of the input, y first, (batch, K, 2)."""
    width = graph.ints(columns, "columns")
    row = graph.add("Div", cells, width, name="cell_row")
    column = graph.add("Sub", cells, graph.add("Mul", row, width, name="row_start"), name="cell_column")
    pairs = [graph.unsqueeze(each, 2, "cell_part") for each in (row, column)]
    cell = graph.cast(graph.add("Concat", *pairs, name="cell", axis=2), TensorProto.FLOAT, "cell_float")
    centre = graph.add("Add", cell, _at(graph, head, "offset", 2, cells), name="cell_with_offset")
    centre = graph.add("Add", centre, graph.floats(0.5, "half_cell"), name="cell_centre")
    return graph.add("Mul", centre, graph.floats(stride, "stride"), name="centre")


def _corners(graph: GraphBuilder, head: HeadInputs, centre: str, size: str) -> tuple[str, str]:
    """Near and far corners, y first; as in the source, a box whose near corner is clipped keeps its size."""
    half = graph.add("Mul", size, graph.floats(0.5, "one_half"), name="half_size")
    near = graph.add("Sub", centre, half, name="near_unclipped")
    zero, sides = (
        graph.floats(0.0, "zero"),
        graph.floats([head.input.height_px, head.input.width_px], "sides"),
    )
    near = graph.add("Min", graph.add("Max", near, zero, name="near_positive"), sides, name="near")
    far = graph.add("Min", graph.add("Add", near, size, name="far_unclipped"), sides, name="far")
    return near, far


def _keypoints(graph: GraphBuilder, head: HeadInputs, cells: str, near: str, size: str, count: int) -> str:
    """Landmarks as x, y in pixels of the input, (batch, K, P, 2)."""
    points = head.spec.keypoints
    if "landmarks" not in head.tensors:
        raise ModelError("the manifest promises keypoints: name the model's output of role 'landmarks'")
    values = _at(graph, head, "landmarks", 2 * points, cells)
    values = graph.reshape(values, [count, points, 2], "landmarks_in_sizes")
    spread = graph.add("Mul", values, graph.unsqueeze(size, 2, "size_each"), name="landmarks_from_corner")
    placed = graph.add("Add", spread, graph.unsqueeze(near, 2, "near_each"), name="landmarks_y_first")
    return graph.pick(placed, [1, 0], 3, "keypoints")


HEAD = Head(append_centernet, frozenset({"heatmap", "scale", "offset"}), frozenset({"landmarks"}))
