"""The few candidates that an engine gives for a frame, as the answer in that frame's own pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.models.geometry import Placement
from foveate.models.manifest import Task
from foveate.models.nms import nms
from foveate.models.outputs import Classes, DecodeOptions, Detections, Embedding, Output

__all__ = ["decode"]


def decode(
    outputs: Mapping[str, NDArray[Any]],
    task: Task,
    placement: Placement,
    options: DecodeOptions,
    nms_iou: float,
) -> Output:
    """What a model said about one frame. The result owns its memory: outputs may be overwritten at once.

    Shapes: outputs are one frame's rows of a fused graph's outputs, without the batch dimension (see fusion).
    An `nms_iou` of 1 keeps overlapping boxes.
    """
    if task == "embed":
        return Embedding(outputs["embedding"].astype(np.float32))
    wanted = _wanted(outputs["scores"], outputs["class_ids"], options)
    if task == "classify":
        best = wanted[_best_first(outputs["scores"][wanted])][: options.max_detections]
        return Classes(outputs["class_ids"][best].astype(np.int64), outputs["scores"][best])
    return _detections(outputs, wanted, placement, options.max_detections, nms_iou)


def _wanted(scores: NDArray[np.float32], class_ids: NDArray[np.int32], options: DecodeOptions) -> NDArray[np.intp]:
    mask = scores >= options.min_score
    if options.class_ids is not None:
        mask &= np.isin(class_ids, list(options.class_ids))
    return np.flatnonzero(mask)


def _best_first(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argsort(-scores, kind="stable")


def _detections(
    outputs: Mapping[str, NDArray[Any]],
    wanted: NDArray[np.intp],
    placement: Placement,
    max_detections: int,
    nms_iou: float,
) -> Detections:
    boxes, scores, class_ids = (outputs[name][wanted] for name in ("boxes", "scores", "class_ids"))
    if nms_iou < 1:
        kept = nms(boxes, scores, class_ids, nms_iou, max_detections)
    else:
        kept = _best_first(scores)[:max_detections]
    in_frame = placement.boxes_to_frame(boxes[kept])
    # False also for what is not a number: an overflow in a low precision must not leave the server as a box.
    visible = (in_frame[:, 2:] > in_frame[:, :2]).all(axis=1)
    kept = kept[visible]
    keypoints = outputs.get("keypoints")
    return Detections(
        in_frame[visible],
        scores[kept],
        class_ids[kept].astype(np.int64),
        None if keypoints is None else _keypoints(keypoints[wanted[kept]], placement),
    )


def _keypoints(points: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Points in the frame, (N, P, 3), with a score of 0 where the model gives none. They may lie outside."""
    scored = np.zeros((*points.shape[:2], 3), np.float32)
    scored[..., :2] = placement.to_frame(points[..., :2])
    scored[..., 2 : points.shape[2]] = points[..., 2:]
    return scored
