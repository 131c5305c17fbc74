"""Where single frames spent their time, for a trace viewer: Chrome's JSON format, read by Perfetto too.

One frame in N is written when its answer leaves: by then its ingest knows all of its stages, those in the engine's
process too, so nothing has to be gathered. All ingests append to one file, a whole frame at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveate.engines.errors import ConfigError
from foveate.service.frame import Answer, Frame
from foveate.service.stream import CameraStream

__all__ = ["FrameTrace", "begin_trace", "end_trace"]

Event = dict[str, Any]


def begin_trace(path: Path) -> None:
    """Start an empty trace. Raises: ConfigError if the file cannot be written."""
    try:
        path.write_text("[\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"no trace can be written to {path}: {error.strerror}; choose another file") from error


def end_trace(path: Path) -> None:
    """Make the file whole JSON; viewers read it without that, too."""
    with path.open("a", encoding="utf-8") as file:
        file.write('{"name": "end of the trace", "ph": "i", "s": "g", "ts": 0, "pid": 0, "tid": 0}\n]\n')


class FrameTrace:
    """One ingest's part of a trace. Belongs to the event loop's thread."""

    def __init__(self, path: Path, sample: int) -> None:
        """Every `sample`-th answer is written."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._sample = sample
        self._seen = 0
        self._pid = os.getpid()

    def answered(self, stream: CameraStream, frame: Frame, answer: Answer) -> None:
        """Write it, if it is its turn."""
        self._seen += 1
        if self._seen % self._sample == 0:
            named = stream.stream_id or "of single pictures"
            events = _events(self._pid, self._seen, named, frame, answer)
            # In one write, so that what several processes append is never mixed.
            os.write(self._file, "".join(json.dumps(event) + ",\n" for event in events).encode())

    def close(self) -> None:
        os.close(self._file)


def _events(pid: int, number: int, stream_id: str, frame: Frame, answer: Answer) -> Iterator[Event]:
    """The frame's stages in its ingest, its batch's in the engine, and the arrows between them."""
    times, ran, received_ns = answer.times, answer.run, frame.received_ns
    what = {"stream": stream_id, "sequence": frame.sequence, "verdict": answer.verdict.value, "why": answer.message}
    thread = f"stream {stream_id}"
    yield _span("frame", pid, thread, received_ns, times.total, what)
    yield _span("receive queue", pid, thread, received_ns, times.receive_queue)
    decoded_ns = received_ns + times.receive_queue + times.decode
    if times.decode:
        yield _span("decode", pid, thread, received_ns + times.receive_queue, times.decode)
    if ran is not None:
        lane, flow = f"{answer.engine}, slot {ran.slot}", f"{pid}-{number}"
        batch = {"batch": ran.batch, "frames": ran.size, "late by ns": ran.ended_ns - ran.predicted_end_ns}
        yield _span("wait", pid, thread, decoded_ns, times.wait)
        yield _arrow("s", flow, pid, thread, decoded_ns)
        yield _span("batch", ran.pid, lane, ran.started_ns, ran.ended_ns - ran.started_ns, batch)
        yield _arrow("t", flow, ran.pid, lane, ran.started_ns)
        yield _span("copy in", ran.pid, lane, ran.started_ns, ran.copy_in_ns)
        yield _span("infer", ran.pid, lane, ran.started_ns + ran.copy_in_ns, ran.infer_ns)
        yield _span("copy out", ran.pid, lane, ran.started_ns + ran.copy_in_ns + ran.infer_ns, ran.copy_out_ns)
        seen_ns = answer.ready_ns - times.cascade
        yield _arrow("f", flow, pid, thread, seen_ns - times.postprocess)
        yield _span("postprocess", pid, thread, seen_ns - times.postprocess, times.postprocess)
        if times.cascade:
            yield _span("cascade", pid, thread, seen_ns, times.cascade, {"missing": answer.attributes_missing})
    yield _span("reply queue", pid, thread, answer.ready_ns, times.reply_queue)


def _span(name: str, pid: int, thread: str, began_ns: int, took_ns: int, about: Event | None = None) -> Event:
    """A stage; on the host's monotonic clock, which all processes share."""
    event = {"name": name, "ph": "X", "pid": pid, "tid": thread, "ts": began_ns / 1e3, "dur": took_ns / 1e3}
    return event | ({"args": about} if about else {})


def _arrow(step: str, flow: str, pid: int, thread: str, at_ns: int) -> Event:
    arrow = {"name": "frame", "cat": "frame", "ph": step, "id": flow, "pid": pid, "tid": thread, "ts": at_ns / 1e3}
    return arrow | ({"bp": "e"} if step == "f" else {})
