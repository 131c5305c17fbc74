"""What suppression, heads and normalising should give, in slow plain loops that are easy to believe.

Each works on one frame and returns its candidates best first, of equal scores the first one first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.models.manifest import HeadSpec, InputSpec

__all__ = [
    "Candidate",
    "centernet",
    "detr",
    "normalised",
    "sigmoid",
    "slow_nms",
    "softmax",
    "ssd",
    "yolo",
    "yolo_end2end",
    "yolox",
]

Array = NDArray[Any]


@dataclass
class Candidate:
    """One detection in pixels of the input."""

    score: float
    class_id: int
    box: tuple[float, ...]
    keypoints: list[tuple[float, ...]] = field(default_factory=list)


def slow_nms(boxes: Array, scores: Array, class_ids: Array, iou: float, max_detections: int) -> list[int]:
    """Indices of the boxes that greedy suppression keeps."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda index: -scores[index]):
        rivals = [j for j in kept if class_ids[j] == class_ids[i]]
        if all(_overlap(boxes[i], boxes[j]) <= iou for j in rivals):
            kept.append(i)
    return kept[:max_detections]


def _overlap(a: Array, b: Array) -> float:
    width = max(0.0, min(float(a[2]), float(b[2])) - max(float(a[0]), float(b[0])))
    height = max(0.0, min(float(a[3]), float(b[3])) - max(float(a[1]), float(b[1])))
    union = _area(a) + _area(b) - width * height
    return width * height / union if union > 0 else 0.0


def _area(box: Array) -> float:
    return (float(box[2]) - float(box[0])) * (float(box[3]) - float(box[1]))


def normalised(pixels: Array, spec: InputSpec) -> Array:
    """RGB bytes (H, W, 3) as the model's input (3, H, W)."""
    ordered = pixels[:, :, ::-1] if spec.colour == "bgr" else pixels
    values = (ordered.astype(np.float64) * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    return np.asarray(values.transpose(2, 0, 1), np.float32)


def softmax(values: Array) -> Array:
    """Of one vector."""
    powers = np.exp(values.astype(np.float64) - values.max())
    return np.asarray(powers / powers.sum())


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def yolox(predictions: Array, spec: InputSpec, head: HeadSpec) -> list[Candidate]:
    """Decode (A, 5 + C) cell by cell."""
    found, index = [], 0
    for stride in head.strides:
        for row in range(spec.height_px // stride):
            for column in range(spec.width_px // stride):
                x, y, w, h, objectness, *classes = (float(value) for value in predictions[index])
                centre = ((x + column) * stride, (y + row) * stride)
                box = _around(*centre, math.exp(w) * stride, math.exp(h) * stride)
                best = int(np.argmax(classes))
                found.append(Candidate(objectness * classes[best], best, box))
                index += 1
    return _best(found, head)


def yolo(predictions: Array, spec: InputSpec, head: HeadSpec) -> list[Candidate]:
    """Decode (A, columns) or, with channels_first, (columns, A)."""
    rows = predictions.T if head.layout == "channels_first" else predictions
    first, last = 5 if head.objectness else 4, rows.shape[1] - 3 * head.keypoints
    found = []
    for row in rows:
        classes = [sigmoid(value) if head.activation == "sigmoid" else float(value) for value in row[first:last]]
        objectness = float(row[4]) if head.objectness else 1.0
        if head.objectness and head.activation == "sigmoid":
            objectness = sigmoid(objectness)
        best = int(np.argmax(classes))
        box = _in_pixels(row[:4], spec, head, head.box_format)
        found.append(Candidate(objectness * classes[best], best, box, _points(row[last:], spec, head)))
    return _best(found, head)


def yolo_end2end(predictions: Array, spec: InputSpec, head: HeadSpec) -> list[Candidate]:
    """Decode (A, 6 + 3 P)."""
    found = [
        Candidate(float(row[4]), int(row[5]), _in_pixels(row[:4], spec, head, "xyxy"), _points(row[6:], spec, head))
        for row in predictions
    ]
    return _best(found, head)


def detr(logits: Array, boxes: Array, spec: InputSpec, head: HeadSpec) -> list[Candidate]:
    """Decode (Q, C) and (Q, 4): all pairs with a sigmoid, the best class of a query with a softmax."""
    found = []
    for row, box in zip(logits, boxes, strict=True):
        place = _in_pixels(box, spec, head, head.box_format)
        if head.activation == "softmax":
            shares = softmax(row)[: -1 if head.background else None]
            found.append(Candidate(float(shares.max()), int(shares.argmax()), place))
        else:
            found += [Candidate(sigmoid(value), index, place) for index, value in enumerate(row)]
    return _best(found, head)


def ssd(scores: Array, boxes: Array, spec: InputSpec, head: HeadSpec) -> list[Candidate]:
    """Decode (A, C) and (A, 4)."""
    found = []
    for row, box in zip(scores, boxes, strict=True):
        shares = softmax(row) if head.activation == "softmax" else row
        if head.activation == "sigmoid":
            shares = np.array([sigmoid(value) for value in row])
        shares = shares[1:] if head.background else shares
        place = _in_pixels(box, spec, head, head.box_format)
        found.append(Candidate(float(shares.max()), int(shares.argmax()), place))
    return _best(found, head)


def centernet(maps: Mapping[str, Array], spec: InputSpec, head: HeadSpec) -> list[Candidate]:
    """Decode CenterFace's maps at each cell that no neighbour passes, as its authors do."""
    heatmap = maps["heatmap"][0]
    rows, columns = heatmap.shape
    found = []
    for row in range(rows):
        for column in range(columns):
            around = heatmap[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            score = float(heatmap[row, column])
            found.append(_face(maps, row, column, score if score >= around.max() else 0.0, spec, head))
    return _best(found, head)


def _face(maps: Mapping[str, Array], row: int, column: int, score: float, spec: InputSpec, head: HeadSpec) -> Candidate:
    height, width = (math.exp(float(value)) * 4 for value in maps["scale"][:, row, column])
    offset_y, offset_x = (float(value) for value in maps["offset"][:, row, column])
    x1 = min(max(0.0, (column + offset_x + 0.5) * 4 - width / 2), spec.width_px)
    y1 = min(max(0.0, (row + offset_y + 0.5) * 4 - height / 2), spec.height_px)
    box = (x1, y1, min(x1 + width, spec.width_px), min(y1 + height, spec.height_px))
    points: list[tuple[float, ...]] = []
    for point in range(head.keypoints):
        part_y, part_x = (float(value) for value in maps["landmarks"][2 * point : 2 * point + 2, row, column])
        points.append((part_x * width + x1, part_y * height + y1))
    return Candidate(score, 0, box, points)


def _best(found: list[Candidate], head: HeadSpec) -> list[Candidate]:
    return sorted(found, key=lambda candidate: -candidate.score)[: head.top_k]


def _around(x: float, y: float, width: float, height: float) -> tuple[float, ...]:
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _in_pixels(box: Array, spec: InputSpec, head: HeadSpec, box_format: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in box)
    corners = _around(*values) if box_format == "cxcywh" else values
    scale = (spec.width_px, spec.height_px) if head.box_unit == "fraction" else (1, 1)
    return tuple(value * scale[index % 2] for index, value in enumerate(corners))


def _points(values: Array, spec: InputSpec, head: HeadSpec) -> list[tuple[float, ...]]:
    scale = (spec.width_px, spec.height_px, 1) if head.box_unit == "fraction" else (1, 1, 1)
    triples = values.reshape(-1, 3)
    return [tuple(float(value) * factor for value, factor in zip(triple, scale, strict=True)) for triple in triples]
