"""What a live view gets to see of a stream: a picture now and then with what was said of it, and where time went."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from foveate.models.outputs import Classes, Detections, Embedding
from foveate.service.frame import Answer, Frame, StreamOptions

__all__ = [
    "STAGES",
    "AnsweredFrame",
    "LivePicture",
    "LiveSink",
    "PictureWishes",
    "answered_frame",
    "said",
]

PictureWishes = Mapping[str, int]
"""The streams that somebody looks at, and the pixels that the longer side of their pictures should have at most."""

STAGES = ("age", "queue", "decode", "wait", "infer", "finish", "cascade", "reply")
"""The parts of a frame's time in their order: its age when it came, and what this service did with it."""

_MOST_DETECTIONS = 100
_MOST_CLASSES = 5


@dataclass(frozen=True, slots=True)
class LivePicture:
    """A frame to be shown. It may be sent to another process."""

    stream_id: str
    caption: Mapping[str, Any]
    """What was said of it, as JSON has it: see `said`."""
    jpeg: bytes


class AnsweredFrame(NamedTuple):
    """How a frame fared."""

    verdict: str
    stages_us: tuple[int, ...]
    """As in `STAGES`; microseconds."""
    total_us: int
    """From capture to the answer: its age, and the time that it was here."""


class LiveSink(Protocol):
    """Whoever passes on what is to be seen. Nothing of it may block."""

    def picture(self, picture: LivePicture) -> None:
        """A stream's newest picture."""

    def answers(self, stream_id: str, frames: Collection[AnsweredFrame]) -> None:
        """The frames of a stream that were answered since the last time, the newest last."""


def answered_frame(options: StreamOptions, frame: Frame, answer: Answer) -> AnsweredFrame:
    """How a frame fared, its age being what its budget lacked when it came."""
    times = answer.times
    age_ns = max(0, options.budget_ns - (frame.deadline_ns - frame.received_ns))
    infer_ns = times.copy_in + times.infer + times.copy_out
    stages = (age_ns, times.receive_queue, times.decode, times.wait, infer_ns, times.postprocess, times.cascade)
    stages_us = tuple(max(0, stage) // 1000 for stage in (*stages, times.reply_queue))
    return AnsweredFrame(answer.verdict.value, stages_us, (age_ns + times.total) // 1000)


def said(sequence: int, answer: Answer, labels: Sequence[str]) -> dict[str, Any]:
    """An answer as a page draws it: boxes in pixels of the frame as it is to be seen, best score first."""
    caption: dict[str, Any] = {
        "sequence": sequence,
        "verdict": answer.verdict.value,
        "width": answer.frame_width,
        "height": answer.frame_height,
    }
    output = answer.output
    if isinstance(output, Detections):
        caption["boxes"] = _boxes(output, answer, labels)
        caption["found"] = len(output.scores)
    elif isinstance(output, Classes):
        best = zip(output.class_ids[:_MOST_CLASSES].tolist(), output.scores[:_MOST_CLASSES].tolist(), strict=True)
        caption["classes"] = [{"label": _label(labels, index), "score": _score(score)} for index, score in best]
    elif isinstance(output, Embedding):
        caption["embedding"] = len(output.vector)
    return caption


def _boxes(output: Detections, answer: Answer, labels: Sequence[str]) -> list[dict[str, Any]]:
    corners = np.nan_to_num(output.boxes[:_MOST_DETECTIONS].astype(np.float64)).round(1).tolist()
    boxes: list[dict[str, Any]] = []
    for row, box in enumerate(corners):
        index = int(output.class_ids[row])
        shown: dict[str, Any] = {
            "box": box,
            "class": index,
            "label": _label(labels, index),
            "score": _score(output.scores[row]),
        }
        if row < len(answer.track_ids) and answer.track_ids[row]:
            shown["track"] = answer.track_ids[row]
        if row < len(answer.attributes) and answer.attributes[row]:
            shown["attributes"] = [
                {"name": each.name, "label": each.label, "score": _score(each.score)}
                for each in answer.attributes[row]
                if each.label
            ]
        if output.keypoints is not None:
            points = output.keypoints[row].astype(np.float64)
            shown["points"] = points[np.isfinite(points).all(axis=1)].round(2).tolist()  # JSON has no other numbers
        boxes.append(shown)
    return boxes


def _score(score: float) -> float:
    """JSON has no NaN, and a page that cannot read one caption would show no picture at all."""
    return round(float(np.nan_to_num(score)), 3)


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else str(index)
