"""A result as plain data, for JSON lines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from foveate.client import Attribute, Detections, Result

__all__ = ["record_from_result"]


def record_from_result(result: Result) -> dict[str, Any]:
    """What a result says, in JSON's types. Boxes are x1, y1, x2, y2 in pixels of the frame; times are in ms."""
    return {
        "sequence": result.sequence,
        "verdict": result.verdict.value,
        "message": result.message,
        "on_time": result.on_time,
        "budget_ms": result.budget_ms,
        "age_ms": round(result.age_ms, 3),
        "round_trip_ms": None if result.round_trip_ms is None else round(result.round_trip_ms, 3),
        "frame_width": result.frame_width,
        "frame_height": result.frame_height,
        "detections": [_detection(result.detections, index) for index in range(len(result.detections))],
        "classes": [
            {"class_id": seen.id, "label": seen.label, "score": round(seen.score, 4)} for seen in result.classes
        ],
        "embedding": None if result.embedding is None else result.embedding.tolist(),
        "attributes_missing": result.attributes_missing,
        "times": asdict(result.times),
        "batch_size": result.batch_size,
        "engine": result.engine,
    }


def _detection(detections: Detections, index: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "box": [round(float(edge), 2) for edge in detections.boxes[index]],
        "class_id": int(detections.class_ids[index]),
        "label": detections.labels[index],
        "score": round(float(detections.scores[index]), 4),
    }
    if detections.track_ids[index]:
        record["track_id"] = int(detections.track_ids[index])
    if detections.keypoints is not None:
        points = detections.keypoints[index]
        there = points[~np.isnan(points).any(axis=1)]  # NaN marks points that this detection does not have
        record["keypoints"] = [[round(float(value), 3) for value in point] for point in there]
    if detections.attributes[index]:
        record["attributes"] = [_attribute(attribute) for attribute in detections.attributes[index]]
    return record


def _attribute(attribute: Attribute) -> dict[str, Any]:
    """Its class or, from a stage that has no classes, its feature vector."""
    record = asdict(attribute)
    if attribute.embedding:
        return {"name": attribute.name, "embedding": record["embedding"]}
    del record["embedding"]
    return record
