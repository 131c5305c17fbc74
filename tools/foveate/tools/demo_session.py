"""The demo: one streaming session, kept whole, and what is written about it afterwards."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from foveate.client import Verdict
from foveate.engines.errors import ConfigError
from foveate.tools.demo_recording import Recording, spent_ms
from foveate.tools.demo_video import demo_video_path
from foveate.tools.drawing import Annotator, picture_from_bytes
from foveate.tools.report import ReportPicture, SessionReport, html_from_report
from foveate.tools.stream_session import json_lines, run_session, video_file
from foveate.tools.streaming import StreamPlan
from foveate.tools.summary import Summary
from foveate.tools.video_source import VideoFile, encoded, open_video
from foveate.tools.written_output import writing

__all__ = ["CASCADE_SETTINGS", "run_demo"]

CASCADE_SETTINGS = Path(__file__).with_name("demo_cascade.toml")
"""A detector, and a classifier that looks at what it finds."""

_PIPELINE = "faces"
_PICTURES = 6
_PICTURE_QUALITY = 85


def run_demo(output_dir: Path, video: Path | None, seconds: float | None, config: Path | None = None) -> Path:
    """Stream the video, write results.jsonl, annotated.webm and report.html, and give the path of the last.

    `config` is a file with the server's settings: its default pipeline answers then.
    Raises: FoveateError if the video cannot be had, read or streamed, or the folder cannot be written.
    """
    source = open_video(video, video.name) if video else open_video(demo_video_path(), "carphone, a talking face")
    _make_folder(output_dir)
    plan = StreamPlan(pipeline="" if config else _PIPELINE)
    if seconds is not None:
        plan = replace(plan, loop=True, max_frames=max(1, round(seconds * (source.fps or 1.0))))
    with Recording(output_dir) as recording:
        with json_lines(output_dir / "results.jsonl") as write_line:
            # Pictures are drawn afterwards: the cores belong to the engine while it is being measured.
            summary = run_session(source, plan, None, [write_line, recording.add], config=config)
        _write_video(output_dir / "annotated.webm", source, recording)
        html = html_from_report(_report(source, summary, recording))
    page = output_dir / "report.html"
    with writing(page):
        page.write_text(html, encoding="utf-8")
    return page


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from error


def _write_video(path: Path, source: VideoFile, recording: Recording) -> None:
    with video_file(path, source.fps) as write:
        for result, data in recording:
            write(result, data)


def _report(source: VideoFile, summary: Summary, recording: Recording) -> SessionReport:
    last = recording.last_ok
    assert last is not None  # a session without one is an error
    size = f"{last.frame_width}x{last.frame_height}"
    rate = f" at {source.fps:.4g} frames per second" if source.fps else ""
    return SessionReport(
        source=source.name,
        facts=[
            ("engine", last.engine),
            ("video", f"{size}{rate}, sent as JPEG"),
            ("machine", f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"),
            ("server", "on the same machine, in a process of its own"),
            ("on time", "answered OK, and the time from capture to the server's answer is within the budget"),
        ],
        budget_ms=last.budget_ms,
        summary=summary,
        frames=recording.points,
        pictures=list(_pictures(recording, summary.ok)),
    )


def _pictures(recording: Recording, ok: int) -> Iterator[ReportPicture]:
    """Annotated pictures from the whole length of the session, of frames that were answered OK; these are `ok`."""
    step = max(1, ok // _PICTURES)
    answered = ((result, data) for result, data in recording if result.verdict is Verdict.OK)
    for result, data in islice(answered, step // 2, step * _PICTURES, step):
        image = picture_from_bytes(data)
        if image is not None:
            drawn = encoded(Annotator().draw(image, result), _PICTURE_QUALITY)
            yield ReportPicture(drawn, f"frame {result.sequence}, {spent_ms(result):.1f} ms")


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"
