"""Lines of JSON: what is in them, and files that are full, moved away or half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.client import Attribute
from foveate.tools.outputs import CameraResult, open_outputs, record_from_camera_result, spec_from_text
from foveate.tools.outputs.destination import Unavailable
from foveate.tools.outputs.json_lines import JsonLines
from foveate.tools.outputs.output import OutputCounts
from foveate.tools.outputs.record import json_bytes
from support.camera_results import camera_result
from support.full_disk import at_most
from support.results import made_result, one_detection
from support.waiting import until


def sequences(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_record_says_who_when_and_what() -> None:
    detections = one_detection(track_id=7)
    object.__setattr__(detections, "attributes", ((Attribute("colour", 3, "blau – ü", 0.5),),))
    record = record_from_camera_result(
        CameraResult("hall", made_result(4, detections=detections), b"jpeg", 1_767_225_600.25)
    )
    read = json.loads(json_bytes(record))
    assert (read["camera"], read["captured_at"], read["sequence"]) == ("hall", "2026-01-01T00:00:00.250Z", 4)
    (seen,) = read["detections"]
    assert (seen["track_id"], seen["label"], seen["box"]) == (7, "face", [20.0, 30.0, 60.0, 80.0])
    assert seen["attributes"][0]["label"] == "blau – ü"
    assert b"\n" not in json_bytes(record)


def test_numbers_that_json_cannot_say_are_null() -> None:
    result = made_result(1, embedding=np.array([1.0, np.nan, np.inf], np.float32))
    line = json_bytes(record_from_camera_result(CameraResult("hall", result, None, 0.0)))
    assert json.loads(line, parse_constant=pytest.fail)["embedding"] == [1.0, None, None]


def test_results_are_appended_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for start in (0, 50):
        with open_outputs([spec_from_text(f"{path} when=detections")]) as outputs:
            for sequence in range(start, start + 50):
                outputs.put(camera_result(sequence, seen=sequence % 2 == 0))
        assert outputs.counts == {"jsonl": OutputCounts(sent=25, filtered=25)}
    assert sequences(path) == list(range(0, 100, 2))


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    lines = JsonLines(path)
    lines.deliver([camera_result(1)])
    path.rename(tmp_path / "results.1")
    lines.deliver([camera_result(2)])
    path.write_bytes(b"")  # copied and emptied
    lines.deliver([camera_result(3)])
    path.unlink()
    lines.deliver([camera_result(4)])
    lines.close()
    assert (sequences(tmp_path / "results.1"), sequences(path)) == ([1], [4])


def test_the_half_line_of_one_who_was_killed_spoils_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"sequence": 1}\n{"sequ')
    lines = JsonLines(path)
    lines.deliver([camera_result(2)])
    lines.close()
    first, half, ours = path.read_text(encoding="utf-8").splitlines()
    assert (first, half, json.loads(ours)["sequence"]) == ('{"sequence": 1}', '{"sequ', 2)


def test_a_batch_that_fits_only_in_part_is_taken_back_and_written_once_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    lines = JsonLines(path)
    lines.deliver([camera_result(0)])
    one_line = path.stat().st_size
    batch = [camera_result(sequence) for sequence in range(1, 10)]
    for _ in range(3):
        with at_most(one_line * 4), pytest.raises(Unavailable, match="File too large"):
            lines.deliver(batch)
        assert sequences(path) == [0], "no half line"
    lines.deliver(batch)
    lines.close()
    assert sequences(path) == list(range(10))


def test_a_full_disk_is_said_and_stops_no_other_output(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    outputs = open_outputs([spec_from_text("jsonl:/dev/full queue=10 name=full"), spec_from_text(str(path))])
    for sequence in range(100):
        outputs.put(camera_result(sequence))
    until(lambda: outputs.counts["jsonl"].sent == 100)
    until(lambda: outputs.troubles)
    assert outputs.troubles == {"full": "cannot write /dev/full: No space left on device"}
    outputs.close(0.05)
    counts = outputs.counts["full"]
    assert (counts.given, counts.sent, counts.waiting) == (100, 0, 0)
    assert sequences(path) == list(range(100))


_TO_STANDARD_OUTPUT = """
import sys
from foveate.tools.outputs import open_outputs, spec_from_text
from support.camera_results import camera_result
from support.waiting import until
outputs = open_outputs([spec_from_text("-")])
for sequence in range(int(sys.argv[1])):
    outputs.put(camera_result(sequence))
if sys.argv[2] == "troubled":
    until(lambda: outputs.troubles)
outputs.close(30.0 if sys.argv[2] == "patient" else 0.1)
print(outputs.counts["jsonl"], outputs.troubles, file=sys.stderr)
"""


def run_to(target: Any, patience: str, count: int = 20) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _TO_STANDARD_OUTPUT, str(count), patience]
    return subprocess.run(
        command, env=environment, stdout=target, stderr=subprocess.PIPE, encoding="utf-8", check=True, timeout=40
    )


def test_standard_output(tmp_path: Path) -> None:
    done = run_to(subprocess.PIPE, "patient")
    assert [json.loads(line)["sequence"] for line in done.stdout.splitlines()] == list(range(20))
    assert "sent=20" in done.stderr


def test_standard_output_on_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        done = run_to(full, "troubled")
    assert "sent=0" in done.stderr
    assert "waiting=0" in done.stderr
    assert "cannot write standard output: No space left on device" in done.stderr


def test_a_reader_of_standard_output_who_has_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run_to(writing, "patient")
    finally:
        os.close(writing)
    assert "failed=20" in done.stderr
    assert "nobody reads" in done.stderr


def test_a_reader_who_has_stopped_reading_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    try:
        done = run_to(writing, "hasty", 5000)
    finally:
        os.close(writing)
        os.close(reading)
    assert "waiting=0" in done.stderr
    assert "dropped=0" not in done.stderr
