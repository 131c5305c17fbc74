"""A whole streaming session at the command line: progress while it runs, files as it goes, a summary at its end."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from rich.console import Console

from foveate.client import Client, Result
from foveate.engines.errors import FoveateError
from foveate.tools.drawing import Annotator, picture_from_bytes
from foveate.tools.progress import StreamProgress
from foveate.tools.result_record import record_from_result
from foveate.tools.streaming import StreamPlan, StreamRun, connected, interrupts_set
from foveate.tools.summary import Summary, Tally, summary_table
from foveate.tools.video_sink import VideoWriter
from foveate.tools.video_source import VideoSource
from foveate.tools.written_output import STANDARD_OUTPUT, writing

__all__ = ["Sink", "json_lines", "run_session", "video_file"]

Sink = Callable[[Result, bytes], None]
"""Takes each result with the bytes of its frame, in frame order."""

_PICTURES_FPS = 1.0


def run_session(
    source: VideoSource,
    plan: StreamPlan,
    server: str | None,
    sinks: Sequence[Sink],
    *,
    config: Path | None = None,
    stdout_taken: bool = False,
) -> Summary:
    """Stream a source until it ends, or Ctrl-C does: progress goes to stderr, the summary to stdout.

    `server` is HOST:PORT, or None for a server of its own with the settings of `config`. With `stdout_taken` the
    summary goes to stderr too.
    Raises: FoveateError if the stream could not go on, or no frame was answered OK; the summary comes first.
    KeyboardInterrupt if Ctrl-C came before the first of them.
    """
    tally = Tally()
    try:
        interrupted = _run(source, plan, connected(server, plan.pipeline, config), sinks, tally)
    finally:
        summary = tally.summary()
        if summary.offered:
            _print_summary(summary, stdout_taken)
    if not summary.ok:
        raise KeyboardInterrupt if interrupted else FoveateError("no frame was answered OK")
    return summary


def _run(
    source: VideoSource,
    plan: StreamPlan,
    connection: AbstractContextManager[Client],
    sinks: Sequence[Sink],
    tally: Tally,
) -> bool:
    """Whether Ctrl-C ended it; one that comes before the stream is open is raised as ever."""
    console, stop = Console(stderr=True, highlight=False), threading.Event()
    with connection as client, StreamRun(client, source, plan, stop) as run:
        console.print(f"{source.name} -> {run.opened_on()}", soft_wrap=True)
        with (
            StreamProgress(tally, _expected_frames(source, plan), console) as progress,
            suppress(KeyboardInterrupt),  # a second Ctrl-C: do not wait for the last answers
            interrupts_set(stop),
        ):
            for result, data in run:
                tally.add(result)
                for sink in sinks:
                    sink(result, data)
                progress.update()
        return stop.is_set()


def _print_summary(summary: Summary, stdout_taken: bool) -> None:
    console = Console(stderr=stdout_taken, highlight=False)
    with nullcontext() if stdout_taken else writing(STANDARD_OUTPUT):
        with console.capture() as drawn:  # rich would end the command in its own way where the reader is gone
            console.print(summary_table(summary))
        print(drawn.get(), end="", file=console.file, flush=True)


def _expected_frames(source: VideoSource, plan: StreamPlan) -> int | None:
    limits = [plan.max_frames] if plan.loop else [source.count, plan.max_frames]
    return min((limit for limit in limits if limit is not None), default=None)


@contextmanager
def json_lines(path: Path) -> Iterator[Sink]:
    """A file with one JSON object per frame, each written at once; `-` is standard output.

    Raises: ConfigError if it cannot be written, here and in the sink.
    """
    with writing(path):
        file = sys.stdout if path == STANDARD_OUTPUT else path.open("w", encoding="utf-8")

    def write(result: Result, _data: bytes) -> None:
        with writing(path):
            print(json.dumps(record_from_result(result)), file=file, flush=True)

    try:
        yield write
    finally:
        if path != STANDARD_OUTPUT:
            with writing(path):
                file.close()


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
