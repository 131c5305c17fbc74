"""The objects of a stream, followed from frame to frame: each gets an id that stays with it.

A tracker belongs to one stream and to its ingest's event loop: an update takes some 30 us for ten objects and 0.1 ms
for fifty, so a thread would cost more than it saves (`tests/bench/tracking_cost.py`). What a cascade found out about
the objects is kept beside it, in `track_memory`.

The library is imported where a stream is first tracked: it belongs to an extra, and an engine process needs none of it.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import EngineUnavailable
from foveate.models.outputs import Detections
from foveate.service.config import TrackConfig

if TYPE_CHECKING:
    from edgefirst.tracker import ByteTrack

__all__ = ["StreamTracker", "Tracks", "first_id_after_loss", "require_tracking"]

_SMALLEST_OVERLAP = 0.05
"""Intersection over union of a box and where its track is expected; little, since new objects' speeds are not known."""
_GAIN = 0.6
"""How far a track's filter follows a measurement: less loses what is fast, more what trembles as the camera shakes."""
_MOST_DETECTIONS = 200
"""The best of a frame that are followed: matching takes the third power of their number."""
_MOST_TRACKS = 256
"""While so many are alive no new one begins, so that a detector gone wild does not hold up the event loop."""
_MOST_STEPS = 30
"""Beyond so many frames without news, going on straight ahead is no better than standing still."""
_MOST_MOVES = 3000
"""Steps times tracks: a gap must not cost a crowded stream's neighbours theirs."""
_CLASS_STRIDE_PX = 16384.0
"""Wider and higher than any camera's picture."""
_CLASS_COLUMNS = 32
_USUAL_TICK_NS = 40_000_000
_FASTEST_TICK_NS, _SLOWEST_TICK_NS = 4_000_000, 2_000_000_000
_PACE_GAPS = 16
"""Intervals between frames that a camera's pace is told from."""


def require_tracking() -> None:
    """Fail unless the library is installed; it is not imported for that, so an engine process may ask too.

    Raises: EngineUnavailable naming the extra.
    """
    try:
        found = importlib.util.find_spec("edgefirst.tracker")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise EngineUnavailable(
            "tracking is not usable here (No module named 'edgefirst.tracker'): install it with "
            "`pip install 'foveate[track]'`, or leave out the pipeline's `track` section"
        )


def first_id_after_loss(now_ns: int) -> int:
    """Where ids go on in a stream of which nothing is known but its name: above any that it can have had.

    It would have had to begin a thousand tracks a second since this host was started. Units: now_ns on its monotonic
    clock.
    """
    return max(1, now_ns // 1_000_000)


class Tracks(NamedTuple):
    """What became of a frame's detections."""

    track_ids: tuple[int, ...]
    """By detection; 0 where one is not followed."""
    ended: tuple[int, ...] = ()
    """Ids that no later frame will have: for `TrackMemory.forget`."""


@dataclass(slots=True)
class _Track:
    frames: int
    seen_ns: int
    number: int = 0
    """0 until enough frames have seen it."""


class _Pace:
    """How far apart a camera's frames are, told from their arrival where nobody says."""

    def __init__(self, fps: float) -> None:
        self._declared = fps > 0
        self.tick_ns = round(_within(1e9 / fps)) if self._declared else _USUAL_TICK_NS
        self._gaps: deque[int] = deque(maxlen=_PACE_GAPS)

    def observe(self, gap_ns: int) -> None:
        if self._declared:
            return
        self._gaps.append(gap_ns)
        # Frames that were not answered make some gaps a multiple of the camera's own, so a short one is the measure.
        measured = round(_within(sorted(self._gaps)[len(self._gaps) // 4]))
        if not self.tick_ns / 1.5 < measured < self.tick_ns * 1.5:  # speeds are per tick: a new one spoils them
            self.tick_ns = measured


class StreamTracker:
    """Gives the detections of one stream ids that stay with their objects.

    ByteTrack (Zhang et al. 2022, "ByteTrack: multi-object tracking by associating every detection box"), by
    `edgefirst-tracker`. An id is never given twice: one that goes on where another stream's connection broke is made
    with that one's `next_id`.
    """

    def __init__(self, config: TrackConfig, fps: float, first_id: int = 1) -> None:
        """Units: fps as the stream declared it, 0 where it did not. Raises: EngineUnavailable naming the extra."""
        require_tracking()
        from edgefirst.tracker import ByteTrack

        self._config = config
        self._pace = _Pace(fps)
        self._lost_ns = max(round(config.lost_s * 1e9), 2 * self._pace.tick_ns)
        self._library: ByteTrack = ByteTrack(
            high_conf=config.new_score, iou=_SMALLEST_OVERLAP, update=_GAIN, lifespan_ns=self._lost_ns
        )
        self._no_more = float(np.nextafter(np.float32(config.new_score), np.float32(0)))
        self._tracks: dict[str, _Track] = {}
        self._columns: dict[int, int] = {}
        self._now_ns = -1
        self._sequence = -1
        self.next_id = first_id
        """The id that the next new object gets."""

    def __len__(self) -> int:
        """Objects that it follows, with those that are out of sight and those that have no id yet."""
        return len(self._tracks)

    def update(self, detections: Detections, sequence: int, now_ns: int) -> Tracks:
        """Follow the objects to the next frame.

        `now_ns` is when the frame was received, or better captured, on any clock that does not go backwards: the time
        between frames decides how far an object may have come, not their number. A frame older than the last one gets
        no ids and changes nothing. So do boxes smaller than a pixel, and all but the best 200.
        """
        track_ids = [0] * len(detections.boxes)
        if sequence <= self._sequence:
            return Tracks(tuple(track_ids))
        self._sequence, now_ns = sequence, max(now_ns, self._now_ns, 0)
        ended = self._pass_time(now_ns)
        rows = _followed(detections)
        scores = detections.scores[rows]
        if len(self._tracks) >= _MOST_TRACKS:
            scores = np.minimum(scores, np.float32(self._no_more))
        found = self._library.update(self._by_class(detections, rows), scores, np.zeros(len(rows), np.uintp), now_ns)
        for row, info in zip(rows.tolist(), found, strict=True):
            if info is not None:
                track_ids[row] = self._seen(info.uuid, now_ns)
        return Tracks(tuple(track_ids), ended + self._forget(now_ns))

    def _pass_time(self, now_ns: int) -> tuple[int, ...]:
        """The library moves its tracks on by one frame a call: have it do so for frames that did not come.

        Returns the ids that ended meanwhile.
        """
        then_ns, self._now_ns = self._now_ns, now_ns
        gap_ns = now_ns - then_ns
        if then_ns < 0:
            return ()
        if gap_ns > self._lost_ns:
            return self._step(now_ns)
        self._pace.observe(gap_ns)
        tick_ns = self._pace.tick_ns
        steps = range(1, min(round(gap_ns / tick_ns), _MOST_STEPS, _MOST_MOVES // (len(self._tracks) + 1)))
        return tuple(number for step in steps for number in self._step(then_ns + step * tick_ns))

    def _step(self, now_ns: int) -> tuple[int, ...]:
        self._library.update(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uintp), now_ns)
        return self._forget(now_ns)

    def _by_class(self, detections: Detections, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Their boxes, those of each class in a place of its own: the library matches whatever overlaps."""
        boxes = np.ascontiguousarray(detections.boxes[rows], np.float32)
        if self._config.across_classes:
            return boxes
        places = [
            divmod(self._columns.setdefault(class_id, len(self._columns)), _CLASS_COLUMNS)
            for class_id in detections.class_ids[rows].tolist()
        ]
        shift = np.asarray(places, np.float32).reshape(-1, 2) * np.float32(_CLASS_STRIDE_PX)
        return boxes + np.tile(shift, 2)

    def _seen(self, key: str, now_ns: int) -> int:
        """The id of a track that has this frame too; 0 while it is new."""
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = _Track(0, now_ns)
        track.frames, track.seen_ns = track.frames + 1, now_ns
        if not track.number and track.frames >= self._config.confirm_frames:
            track.number, self.next_id = self.next_id, self.next_id + 1
        return track.number

    def _forget(self, now_ns: int) -> tuple[int, ...]:
        """Let go of the tracks that the library has let go of in this update, by its own rule."""
        over = [key for key, track in self._tracks.items() if track.seen_ns + self._lost_ns < now_ns]
        numbers = [self._tracks.pop(key).number for key in over]
        return tuple(number for number in numbers if number)


def _followed(detections: Detections) -> NDArray[np.intp]:
    """Which detections take part: the library would give an object without an extent, or NaN, a track a frame."""
    boxes = detections.boxes
    with np.errstate(invalid="ignore"):
        sizes = boxes[:, 2:] - boxes[:, :2]
        whole = np.isfinite(boxes).all(axis=1) & np.isfinite(detections.scores) & (sizes >= 1.0).all(axis=1)
    return np.flatnonzero(whole)[:_MOST_DETECTIONS]


def _within(tick_ns: float) -> float:
    return min(max(tick_ns, _FASTEST_TICK_NS), _SLOWEST_TICK_NS)
