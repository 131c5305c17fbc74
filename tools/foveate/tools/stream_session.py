"""A whole streaming session at the command line: progress while it runs, files as it goes, a summary at its end."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console

from foveate.client import Result
from foveate.engines.errors import ConfigError, FoveateError
from foveate.tools.drawing import Annotator, picture_from_bytes
from foveate.tools.progress import StreamProgress
from foveate.tools.result_record import record_from_result
from foveate.tools.streaming import StreamPlan, StreamRun, connected, interrupts_set
from foveate.tools.summary import Summary, Tally, summary_table
from foveate.tools.video_sink import VideoWriter
from foveate.tools.video_source import VideoSource

__all__ = ["STANDARD_OUTPUT", "Sink", "json_lines", "run_session", "video_file"]

Sink = Callable[[Result, bytes], None]
"""Takes each result with the bytes of its frame, in frame order."""

STANDARD_OUTPUT = Path("-")
_PICTURES_FPS = 1.0


def run_session(
    source: VideoSource, plan: StreamPlan, server: str | None, sinks: Sequence[Sink], *, stdout_taken: bool = False
) -> Summary:
    """Stream a source until it ends, or Ctrl-C does: progress goes to stderr, the summary to stdout.

    `server` is HOST:PORT, or None for a server of its own. With `stdout_taken` the summary goes to stderr too.
    Raises: FoveateError if the stream could not go on, or no frame was answered OK; the summary comes first.
    """
    tally = Tally()
    try:
        with suppress(KeyboardInterrupt):  # a second Ctrl-C: do not wait for the last answers
            _run(source, plan, server, sinks, tally)
    finally:
        summary = tally.summary()
        if summary.offered:
            Console(stderr=stdout_taken, highlight=False).print(summary_table(summary))
    if not summary.ok:
        raise FoveateError("no frame was answered OK")
    return summary


def _run(source: VideoSource, plan: StreamPlan, server: str | None, sinks: Sequence[Sink], tally: Tally) -> None:
    console, stop = Console(stderr=True, highlight=False), threading.Event()
    with ExitStack() as stack:
        stack.enter_context(interrupts_set(stop))
        client = stack.enter_context(connected(server, plan.pipeline))
        run = StreamRun(client, source, plan, stop)
        console.print(f"{source.name} -> {run.opened_on()}", soft_wrap=True)
        progress = stack.enter_context(StreamProgress(tally, _expected_frames(source, plan), console))
        for result, data in run:
            tally.add(result)
            for sink in sinks:
                sink(result, data)
            progress.update()


def _expected_frames(source: VideoSource, plan: StreamPlan) -> int | None:
    limits = [plan.max_frames] if plan.loop else [source.count, plan.max_frames]
    return min((limit for limit in limits if limit is not None), default=None)


@contextmanager
def json_lines(path: Path) -> Iterator[Sink]:
    """A file with one JSON object per frame; `-` is standard output. Raises: ConfigError if it cannot be written."""
    try:
        opening: AbstractContextManager[TextIO] = (
            nullcontext(sys.stdout) if path == STANDARD_OUTPUT else path.open("w", encoding="utf-8")
        )
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    with opening as file:

        def write(result: Result, _data: bytes) -> None:
            print(json.dumps(record_from_result(result)), file=file, flush=file is sys.stdout)

        yield write


@contextmanager
def video_file(path: Path, fps: float | None) -> Iterator[Sink]:
    """A video of the annotated frames, at one a second where they have no rhythm of their own.

    Raises: ConfigError if it cannot be written.
    """
    annotator = Annotator()
    with VideoWriter(path, fps or _PICTURES_FPS) as writer:

        def write(result: Result, data: bytes) -> None:
            image = picture_from_bytes(data)
            if image is not None:  # the service has said BAD_FRAME of the others
                writer.write(annotator.draw(image, result))

        yield write
