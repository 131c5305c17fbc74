"""Which detections a cascade's stage looks at, and what part of the frame it sees: arithmetic, no pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveate.models.geometry import Rect
from foveate.models.outputs import Detections
from foveate.models.package import PreparedModel
from foveate.service.pipeline import CascadeStage

__all__ = ["Size", "crop_rect", "enough_pixels", "looked_at"]


class Size(NamedTuple):
    """Of a picture, in pixels."""

    width: int
    height: int


def crop_rect(box: NDArray[np.float32], frame: Size, margin: float) -> Rect:
    """The whole pixels that a box touches, with so much around it on each side, as far as the frame goes.

    Shapes: box (4,) as x1, y1, x2, y2 in pixels of the frame, inside it. The margin is a share of the box's sides.
    At least one pixel comes back.
    """
    left, top, right, bottom = (float(edge) for edge in box)
    beside, above = margin * (right - left), margin * (bottom - top)
    x, width = _span(left - beside, right + beside, frame.width)
    y, height = _span(top - above, bottom + above, frame.height)
    return Rect(x, y, width, height)


def looked_at(
    detections: Detections, stage: CascadeStage, frame: Size, needed: Iterable[int] | None = None
) -> list[tuple[int, Rect]]:
    """The detections that a stage is to look at, by index, best score first, and their crops.

    `needed` are the detections of which something is still to be found out; None: all.
    """
    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
    wanted: NDArray[np.bool_] = np.all(sides >= stage.min_size_px, axis=1)
    if stage.class_ids is not None:
        wanted &= np.isin(detections.class_ids, list(stage.class_ids))
    if needed is not None:
        wanted &= np.isin(np.arange(len(wanted)), list(needed))
    found = np.flatnonzero(wanted)
    best = found[np.argsort(-detections.scores[found], kind="stable")][: stage.max_crops]
    return [(int(index), crop_rect(detections.boxes[index], frame, stage.margin)) for index in best]


def enough_pixels(frame: Size, crops: Iterable[tuple[Rect, PreparedModel]]) -> Size:
    """How large a picture of the frame must at least be, so that each crop has as many pixels as its model takes.

    The frame's own size, or a half, a quarter or an eighth of it: what decoders reduce to in next to no time, and
    nearer to a crop of the whole picture than sizes between them.
    """
    placements = [model.place(rect.width, rect.height) for rect, model in crops]
    spare = min((min(each.scale_x, each.scale_y) for each in placements), default=1.0)
    part = next((part for part in (8, 4, 2) if spare >= part), 1)
    return Size(math.ceil(frame.width / part), math.ceil(frame.height / part))


def _span(first: float, last: float, limit: int) -> tuple[int, int]:
    """The first pixel and the number of those between two edges, of `limit` pixels."""
    begin = min(max(0, math.floor(first)), limit - 1)
    end = min(max(begin + 1, math.ceil(last)), limit)
    return begin, end - begin
