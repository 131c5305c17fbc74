"""What the service saw and how long it took, drawn onto a picture."""

from __future__ import annotations

import math
from collections import deque

import cv2
import numpy as np

from foveate.client import Detections, Result, Verdict
from foveate.tools.stages import STAGES, VERDICT_COLOURS
from foveate.tools.video_source import Image

__all__ = ["Annotator", "picture_from_bytes"]

Colour = tuple[int, int, int]
"""Blue, green, red; 0..255."""

_SMALLEST_WIDTH_PX = 640
"""Smaller pictures are enlarged by a whole factor, so that text on them can be read."""
_FADED = 0.35
"""Opacity of boxes that are older than the picture."""
_TRAIL_POINTS = 24
"""Answers that a trail goes back."""
_FONT = cv2.FONT_HERSHEY_DUPLEX
_INK: Colour = (255, 255, 255)
_MUTED: Colour = (170, 160, 150)
_GROUND: Colour = (28, 22, 17)
_BAR_GROUND: Colour = (62, 52, 44)
_PALETTE = (
    "#3b82f6",
    "#f97316",
    "#22c55e",
    "#e11d48",
    "#a855f7",
    "#14b8a6",
    "#eab308",
    "#ec4899",
    "#84cc16",
    "#06b6d4",
    "#f43f5e",
    "#8b5cf6",
)


def picture_from_bytes(data: bytes) -> Image | None:
    """The picture of an encoded frame, upright; None if OpenCV cannot read it."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[return-value]


class Annotator:
    """Draws results onto the pictures of one stream; boxes last until newer ones are there.

    What is tracked has a colour of its own, which stays with it, and trails the way that it came; what is not, beside
    it, is grey.
    """

    def __init__(self) -> None:
        self._last: Result | None = None
        self._trails = _Trails()

    def draw(self, image: Image, result: Result) -> Image:
        """A new picture with boxes, labels and keypoints, and under it where the budget went.

        A frame that was not answered OK carries the last known boxes, faded, and the word for its verdict.
        """
        factor = max(1, math.ceil(_SMALLEST_WIDTH_PX / image.shape[1]))
        canvas = _enlarged(image, factor)
        if result.verdict is Verdict.OK:
            self._last = result
            self._trails.follow(result.detections)
            self._draw(canvas, result, factor)
        else:
            self._draw_faded(canvas, factor)
            _draw_verdict(canvas, result.verdict)
        return np.vstack([canvas, _budget_bar(canvas.shape[1], result)])

    def _draw_faded(self, canvas: Image, factor: int) -> None:
        if self._last is not None:
            over = canvas.copy()
            self._draw(over, self._last, factor)
            cv2.addWeighted(over, _FADED, canvas, 1.0 - _FADED, 0.0, dst=canvas)

    def _draw(self, canvas: Image, result: Result, factor: int) -> None:
        self._trails.draw(canvas, factor)
        _draw_seen(canvas, result, factor)


class _Trails:
    """Where the objects that are tracked stood lately: the middle of their boxes' lower edges."""

    def __init__(self) -> None:
        self._points: dict[int, deque[tuple[float, float]]] = {}
        self._seen: set[int] = set()

    def follow(self, detections: Detections) -> None:
        """Go on with what is seen, and shorten the trails of what is not."""
        self._seen = {int(track_id) for track_id in detections.track_ids if track_id}
        for track_id, (left, top, right, bottom) in zip(detections.track_ids, detections.boxes, strict=True):
            if track_id:
                trail = self._points.setdefault(int(track_id), deque(maxlen=_TRAIL_POINTS))
                point = float(left + right) / 2, float(bottom)
                if trail and math.dist(trail[-1], point) > max(right - left, bottom - top):
                    trail.clear()  # nobody saw it go there
                trail.append(point)
        for track_id in self._points.keys() - self._seen:
            self._points[track_id].popleft()
            if not self._points[track_id]:
                del self._points[track_id]

    def draw(self, canvas: Image, factor: int) -> None:
        """The trails of what is in the picture now; the others would point to nothing."""
        unit = _unit(canvas)
        for track_id in self._seen:
            points = np.rint(np.array(self._points[track_id]) * factor).astype(np.int32)
            for age, (start, end) in enumerate(zip(points[:-1][::-1], points[1:][::-1], strict=True)):
                thickness = max(1, round(4 * unit * (1.0 - age / _TRAIL_POINTS)))
                cv2.line(canvas, start.tolist(), end.tolist(), _colour_of(track_id), thickness, cv2.LINE_AA)


def _enlarged(image: Image, factor: int) -> Image:
    """A copy of the picture, so many times as large."""
    size_px = (image.shape[1] * factor, image.shape[0] * factor)
    return np.asarray(cv2.resize(image, size_px, interpolation=cv2.INTER_CUBIC), np.uint8)


def _draw_seen(canvas: Image, result: Result, factor: int) -> None:
    unit = _unit(canvas)
    _draw_detections(canvas, result.detections, factor, unit)
    for row, seen in enumerate(result.classes[:5]):
        colour = _colour_of(seen.id)
        height = _text_height(unit)
        _tag(canvas, f"{seen.label} {seen.score:.2f}", (height, height + row * (2 * height)), colour, unit)


def _draw_detections(canvas: Image, detections: Detections, factor: int, unit: float) -> None:
    thickness = max(1, round(2 * unit))
    colours = _colours(detections)
    for index in reversed(range(len(detections))):  # the best score last, on top
        colour = colours[index]
        left, top, right, bottom = (round(float(edge) * factor) for edge in detections.boxes[index])
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
        if detections.keypoints is not None:
            _draw_keypoints(canvas, detections.keypoints[index] * factor, colour, unit)
    for index in reversed(range(len(detections))):
        left, top = (round(float(edge) * factor) for edge in detections.boxes[index][:2])
        _tag(canvas, _caption(detections, index), (left - thickness // 2, top), colours[index], unit, above=True)


def _colours(detections: Detections) -> list[Colour]:
    """By detection: its track's, or where nothing is tracked its class's."""
    if not detections.track_ids.any():
        return [_colour_of(int(class_id)) for class_id in detections.class_ids]
    return [_colour_of(int(track_id)) if track_id else _MUTED for track_id in detections.track_ids]


def _caption(detections: Detections, index: int) -> str:
    track = f" #{detections.track_ids[index]}" if detections.track_ids[index] else ""
    said = "".join(f" {attribute.label}" for attribute in detections.attributes[index])
    name = detections.labels[index] or f"class {detections.class_ids[index]}"
    return f"{name}{track} {detections.scores[index]:.2f}{said}"


def _draw_keypoints(canvas: Image, points: np.ndarray, colour: Colour, unit: float) -> None:
    for x, y, _score in points:
        if math.isfinite(x) and math.isfinite(y):
            centre = (round(float(x)), round(float(y)))
            cv2.circle(canvas, centre, max(2, round(3.5 * unit)), _INK, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(canvas, centre, max(1, round(2.5 * unit)), colour, cv2.FILLED, cv2.LINE_AA)


def _draw_verdict(canvas: Image, verdict: Verdict) -> None:
    unit = _unit(canvas)
    edge = _text_height(unit)
    _tag(canvas, verdict.name.replace("_", " "), (edge, edge), _bgr(VERDICT_COLOURS[verdict]), unit)


def _budget_bar(width: int, result: Result) -> Image:
    """A strip: the whole width is the budget, each stage's part of it in its colour, and the times in words."""
    unit = max(1.0, width / 1280)
    bar, text = round(10 * unit), _text_height(unit)
    strip = np.full((bar + round(2.6 * text), width, 3), _GROUND, np.uint8)
    strip[:bar] = _BAR_GROUND
    spent_ms = result.age_ms + result.times.total_ms
    whole_ms = max(result.budget_ms, spent_ms) or 1.0
    left_ms = 0.0
    for stage in STAGES:
        right_ms = left_ms + stage.duration_ms(result)
        strip[:bar, round(left_ms / whole_ms * width) : round(right_ms / whole_ms * width)] = _bgr(stage.colour)
        left_ms = right_ms
    if spent_ms > result.budget_ms > 0:
        strip[:bar, round(result.budget_ms / whole_ms * width) :] = _bgr(VERDICT_COLOURS[Verdict.FAILED])
    _write_times(strip, result, spent_ms, bar + round(1.75 * text), unit)
    return strip


def _write_times(strip: Image, result: Result, spent_ms: float, baseline: int, unit: float) -> None:
    budget = f"{spent_ms:.1f} of {result.budget_ms:.0f} ms" if result.budget_ms else "not sent"
    right = strip.shape[1] - round(10 * unit) - _text_width(budget, unit)
    _write(strip, budget, (right, baseline), _INK, unit)
    x, size = round(10 * unit), round(9 * unit)
    for stage in STAGES:
        words = f"{stage.label} {stage.duration_ms(result):.1f}"
        needed = size + round(6 * unit) + _text_width(words, unit)
        if stage.duration_ms(result) < 0.05 or x + needed > right - round(16 * unit):
            continue
        strip[baseline - size : baseline, x : x + size] = _bgr(stage.colour)
        _write(strip, words, (x + size + round(6 * unit), baseline), _MUTED, unit)
        x += needed + round(16 * unit)


def _tag(
    canvas: Image, text: str, corner: tuple[int, int], colour: Colour, unit: float, *, above: bool = False
) -> None:
    """Text on a ground of its colour with its top left at `corner`, or on top of it, kept inside the picture."""
    height, pad = _text_height(unit), round(5 * unit)
    width = _text_width(text, unit) + 2 * pad
    tall = height + 2 * pad
    left = min(max(0, corner[0]), max(0, canvas.shape[1] - width))
    top = corner[1] - tall if above else corner[1]
    top = min(max(0, top), max(0, canvas.shape[0] - tall))
    cv2.rectangle(canvas, (left, top), (left + width, top + tall), colour, cv2.FILLED)
    _write(canvas, text, (left + pad, top + pad + height), _ink_on(colour), unit)


def _write(canvas: Image, text: str, origin: tuple[int, int], colour: Colour, unit: float) -> None:
    cv2.putText(canvas, text, origin, _FONT, 0.5 * unit, colour, max(1, round(unit)), cv2.LINE_AA)


def _text_width(text: str, unit: float) -> int:
    return cv2.getTextSize(text, _FONT, 0.5 * unit, max(1, round(unit)))[0][0]


def _text_height(unit: float) -> int:
    return round(12 * unit)


def _unit(canvas: Image) -> float:
    """The scale of lines and text: 1 for a picture of 720 lines, growing with larger ones."""
    height, width = canvas.shape[:2]
    return float(max(1.0, min(height / 720, width / 1280)))


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is legible. Source: ITU-R BT.601 luma."""
    blue, green, red = colour
    return (20, 16, 12) if 0.114 * blue + 0.587 * green + 0.299 * red > 150 else _INK


def _colour_of(number: int) -> Colour:
    """Of a track, or of a class."""
    return _bgr(_PALETTE[number % len(_PALETTE)])


def _bgr(colour: str) -> Colour:
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)
