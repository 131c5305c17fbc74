"""An ingest's pictures of those streams that somebody looks at; nobody looking, it costs and keeps nothing.

A stream has a hook that is asked once for each answer. While the stream is watched, the hook takes a frame now and
then, just before its pixels would be dropped. Belongs to the event loop's thread; only pictures that have to be made
smaller are made so elsewhere, on one thread that gets what the rest of the machine leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from foveate.engines.errors import EngineError, FrameError
from foveate.service.frame import Answer, Frame, PixelFormat, SharedMemoryRef, Verdict
from foveate.service.job import Job
from foveate.service.live.picture import (
    AnsweredFrame,
    LivePicture,
    LiveSink,
    PictureWishes,
    answered_frame,
    said,
)
from foveate.service.preview import preview_jpeg
from foveate.service.reception import OpenedStream, Reception
from foveate.service.shared_memory import shared_pixels
from foveate.service.stream import CameraStream

__all__ = ["AT_LEAST_NS", "EVERY_NS", "LEASE_S", "TELL_EVERY_S", "WITHOUT_ANSWER_AFTER_NS", "Gallery"]

_log = logging.getLogger(__name__)

LEASE_S = 3.0
"""Whoever looks says so every second."""
TELL_EVERY_S = 0.5
EVERY_NS = 200_000_000
"""Between two pictures of a stream, at least."""
_SHARE = 0.1
"""Of one core, the part that all pictures of an ingest may take; where they are dear there are fewer."""
AT_LEAST_NS = 500_000
"""What sending a picture takes, roughly."""
_WEIGHT = 0.3
_SMALL_BYTES = 200_000
_SMALL_PIXELS = 1920 * 1088
"""A JPEG of at most this many is shown as it came."""
_MOST_ANSWERS = 256
_SHOWN_WITHOUT_ANSWER = frozenset({Verdict.SUPERSEDED, Verdict.INFEASIBLE, Verdict.EXPIRED})
WITHOUT_ANSWER_AFTER_NS = 1_000_000_000
"""A stream of which nothing is answered OK for so long is shown as it came in."""
_NICENESS = 10


@dataclass(slots=True, eq=False)
class _Watched:
    """A stream that somebody looks at."""

    opened: OpenedStream
    longest_px: int
    answered_ns: int
    """When a frame was last answered OK, or the watching began."""
    due_ns: int = 0
    """When the next picture may be taken."""
    cost_ns: float = AT_LEAST_NS
    busy: bool = False
    """A picture of it is being made smaller."""
    answers: deque[tuple[Frame, Answer]] = field(default_factory=lambda: deque(maxlen=_MOST_ANSWERS))


class Gallery:
    """The pictures of an ingest's streams, for whoever looks."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._watched: dict[str, _Watched] = {}
        self._wishes: PictureWishes = {}
        self._until_s = 0.0
        self._sink: LiveSink | None = None
        self._telling: asyncio.Task[None] | None = None
        self._shrinking: Executor | None = None

    @property
    def watched(self) -> frozenset[str]:
        """The streams of which pictures are taken."""
        return frozenset(self._watched)

    def watch(self, wishes: PictureWishes, sink: LiveSink) -> None:
        """Show these streams to `sink` for the next three seconds, and no others."""
        self._wishes, self._sink = wishes, sink
        self._until_s = time.monotonic() + LEASE_S
        self._hook()
        if wishes and self._telling is None:
            self._reception.observers.append(self)
            self._telling = asyncio.create_task(self._tell())

    def close(self) -> None:
        """Nobody looks any more."""
        self._wishes = {}
        self._hook()
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
            self._reception.observers.remove(self)
        if self._shrinking is not None:
            self._shrinking.shutdown(wait=False)
            self._shrinking = None

    def answered(self, stream: CameraStream, frame: Frame, answer: Answer) -> None:
        """See `AnswerObserver`."""
        watched = self._watched.get(stream.stream_id)
        if watched is not None and watched.opened.stream is stream:
            watched.answers.append((frame, answer))

    def _hook(self) -> None:
        """Have the hooks of the streams as they are wished for now: streams come and go, and come back."""
        now_ns = time.monotonic_ns()
        for stream_id, watched in list(self._watched.items()):
            if stream_id not in self._wishes or self._reception.opened(stream_id) is not watched.opened:
                watched.opened.stream.before_drop = None
                del self._watched[stream_id]
        for stream_id, longest_px in self._wishes.items():
            if known := self._watched.get(stream_id):
                known.longest_px = longest_px
            elif opened := self._reception.opened(stream_id):
                self._watched[stream_id] = watched = _Watched(opened, longest_px, now_ns)
                opened.stream.before_drop = partial(self._settled, watched)

    async def _tell(self) -> None:
        """Pass on how frames fared, until nobody has looked for a while."""
        while time.monotonic() < self._until_s and self._wishes:
            await asyncio.sleep(TELL_EVERY_S)
            self._hook()
            for stream_id, watched in self._watched.items():
                if watched.answers and self._sink:
                    self._sink.answers(stream_id, _fared(watched))
        self.close()

    def _settled(self, watched: _Watched, job: Job, answer: Answer) -> None:
        """A frame of a watched stream has its answer, and still its pixels."""
        try:
            self._consider(watched, job, answer)
        except Exception:  # noqa: BLE001 - on every answer's way: whatever is wrong here must not hold one up
            _log.exception("stream %s cannot be shown", watched.opened.stream.stream_id)
            watched.opened.stream.before_drop = None

    def _consider(self, watched: _Watched, job: Job, answer: Answer) -> None:
        now_ns = time.monotonic_ns()
        if answer.verdict is Verdict.OK:
            watched.answered_ns = now_ns
        elif answer.verdict not in _SHOWN_WITHOUT_ANSWER or now_ns - watched.answered_ns < WITHOUT_ANSWER_AFTER_NS:
            return
        if watched.busy or now_ns < watched.due_ns:
            return
        caption = said(job.frame.sequence, answer, watched.opened.pipeline.model.labels)
        data, picture = job.frame.data, job.picture
        if picture is None and isinstance(data, bytes) and _is_small(job, data):
            self._show(watched, caption, data)
            self._paid(watched, time.monotonic_ns() - now_ns)
            return
        if isinstance(data, SharedMemoryRef):  # its client may write over it as soon as it has the answer
            with suppress(FrameError):
                data = shared_pixels(data)
        if isinstance(data, bytes) and (picture is not None or not job.format.video):
            watched.busy = True
            copied_ns = time.monotonic_ns() - now_ns
            size = (job.width, job.height)
            shrink = partial(preview_jpeg, data, job.format, size, picture, watched.longest_px)
            shown = partial(self._shrunk, watched, caption, copied_ns)
            post = asyncio.get_running_loop().call_soon_threadsafe
            self._shrinker.submit(_shrink, shrink, lambda *made: _post(post, partial(shown, *made)))

    @property
    def _shrinker(self) -> Executor:
        if self._shrinking is None:
            self._shrinking = ThreadPoolExecutor(1, "live", _be_nice)
        return self._shrinking

    def _shrunk(
        self, watched: _Watched, caption: Mapping[str, Any], copied_ns: int, jpeg: bytes | None, took_ns: int
    ) -> None:
        watched.busy = False
        if jpeg is not None and self._watched.get(watched.opened.stream.stream_id) is watched:
            self._show(watched, caption, jpeg)
        self._paid(watched, copied_ns + took_ns)

    def _show(self, watched: _Watched, caption: Mapping[str, Any], jpeg: bytes) -> None:
        if self._sink:
            self._sink.picture(LivePicture(watched.opened.stream.stream_id, caption, jpeg))

    def _paid(self, watched: _Watched, took_ns: int) -> None:
        """Put the next picture off for as long as keeps all of them within their share of the time."""
        watched.cost_ns += _WEIGHT * (max(took_ns, AT_LEAST_NS) - watched.cost_ns)
        wait_ns = max(EVERY_NS, int(len(self._watched) * watched.cost_ns / _SHARE))
        watched.due_ns = time.monotonic_ns() + wait_ns


def _fared(watched: _Watched) -> list[AnsweredFrame]:
    options = watched.opened.stream.options
    fared = [answered_frame(options, frame, answer) for frame, answer in watched.answers]
    watched.answers.clear()
    return fared


def _is_small(job: Job, data: bytes) -> bool:
    few = job.width * job.height <= _SMALL_PIXELS and len(data) <= _SMALL_BYTES
    return few and job.format is PixelFormat.JPEG


def _shrink(shrink: Callable[[], bytes], made: Callable[[bytes | None, int], None]) -> None:
    jpeg, began_ns = None, time.thread_time_ns()
    try:
        jpeg = shrink()
    except (EngineError, FrameError):
        pass  # a frame that was refused before anybody looked into it, or whose device has gone with its picture
    except Exception:  # noqa: BLE001 - the outer edge of the thread: a picture that nobody sees must not end the view
        _log.exception("a frame could not be made into a picture to be shown")
    made(jpeg, time.thread_time_ns() - began_ns)


def _post(post: Callable[[Callable[[], None]], object], call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended meanwhile
        post(call)


def _be_nice() -> None:
    """Let frames that are to be inferred go first; on Linux a thread has a niceness of its own."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
