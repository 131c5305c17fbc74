"""In a trace of single frames the cascade is a stage between post-processing and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foveate.service.frame import Answer, Frame, Ran, StageTimes, Verdict
from foveate.service.frame_trace import FrameTrace, begin_trace, end_trace
from support.frames import MS, camera_stream

RAN = Ran(2, 20 * MS, 30 * MS, 0, 10 * MS, 0, 30 * MS, 1, 0, 1)


def spans(path: Path, cascade_ns: int) -> dict[str, Any]:
    """A frame whose stages follow each other without a gap."""
    ready_ns = 32 * MS + cascade_ns
    times = StageTimes(5 * MS, 5 * MS, 10 * MS, 0, 10 * MS, 0, 2 * MS, cascade_ns, 1 * MS, ready_ns + MS)
    answer = Answer(Verdict.OK, times=times, ready_ns=ready_ns, run=RAN, attributes_missing=3)
    begin_trace(path)
    trace = FrameTrace(path, 1)
    trace.answered(camera_stream(), Frame(1, 0, 100 * MS, b""), answer)
    trace.close()
    end_trace(path)
    return {event["name"]: event for event in json.loads(path.read_text()) if event["ph"] == "X"}


def test_it_begins_where_post_processing_ends_and_ends_where_the_way_out_begins(tmp_path: Path) -> None:
    found = spans(tmp_path / "trace.json", 15 * MS)
    begin, length = found["cascade"]["ts"], found["cascade"]["dur"]
    assert (begin, length) == (32_000, 15_000)
    assert found["postprocess"]["ts"] + found["postprocess"]["dur"] == begin
    assert found["reply queue"]["ts"] == begin + length
    assert found["cascade"]["args"] == {"missing": 3}


def test_a_frame_without_one_has_none(tmp_path: Path) -> None:
    assert "cascade" not in spans(tmp_path / "trace.json", 0)
