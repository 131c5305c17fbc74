"""A session is kept on disk, whole and in order, and costs no memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from foveate.client import Verdict
from foveate.engines.errors import ConfigError
from foveate.tools.demo_recording import Recording
from foveate.tools.demo_session import run_demo
from foveate.tools.stream_session import Sink
from foveate.tools.summary import Summary, Tally
from support.results import made_result, one_detection
from support.videos import grey_video


def test_frames_come_back_whole_in_order_and_as_often_as_wanted(tmp_path: Path) -> None:
    with Recording(tmp_path) as recording:
        recording.add(made_result(1, detections=one_detection(track_id=7)), b"first")
        recording.add(made_result(2, Verdict.LOST), b"second")
        for _ in range(2):
            (first, first_data), (second, second_data) = recording
            assert (first_data, second_data) == (b"first", b"second")
            assert (first.sequence, second.sequence, second.verdict) == (1, 2, Verdict.LOST)
            np.testing.assert_array_equal(first.detections.boxes, one_detection().boxes)
            assert first.detections.track_ids.tolist() == [7]
        assert [(point.sequence, point.spent_ms) for point in recording.points] == [(1, 22.0), (2, 0.0)]
        assert recording.last_ok is not None
        assert recording.last_ok.sequence == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*nowhere: No such file"):
        Recording(tmp_path / "nowhere")


def test_a_long_demo_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame_bytes, frames, held = 1 << 18, 80, 0

    def long_session(_source: object, _plan: object, _server: None, sinks: Sequence[Sink], **_: object) -> Summary:
        nonlocal held
        tally = Tally()
        before, _peak = tracemalloc.get_traced_memory()
        for sequence in range(1, frames + 1):
            result = made_result(sequence)
            tally.add(result)
            for sink in sinks:
                sink(result, bytes(frame_bytes))
        held = tracemalloc.get_traced_memory()[0] - before
        return tally.summary()

    monkeypatch.setattr("foveate.tools.demo_session.run_session", long_session)
    tracemalloc.start()
    try:
        run_demo(tmp_path / "demo", grey_video(tmp_path / "six.avi"), seconds=None)
    finally:
        tracemalloc.stop()
    assert held < 8 * frame_bytes
