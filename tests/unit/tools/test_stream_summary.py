"""Counting results and showing the counts."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from foveate.client import Attribute, ClassScore, StageTimes, Verdict
from foveate.tools.progress import StreamProgress, progress_line
from foveate.tools.result_record import record_from_result
from foveate.tools.stages import STAGES, VERDICT_COLOURS
from foveate.tools.summary import Tally, summary_table
from support.results import made_result, one_detection


def tally_of(*results: object) -> Tally:
    tally = Tally()
    for result in results:
        tally.add(result)  # type: ignore[arg-type]
    return tally


def test_every_offered_frame_is_counted_once() -> None:
    verdicts = [Verdict.OK, Verdict.OK, Verdict.DROPPED, Verdict.EXPIRED, Verdict.LOST]
    summary = tally_of(*(made_result(n, verdict) for n, verdict in enumerate(verdicts, 1))).summary()
    assert (summary.offered, summary.answered, summary.ok, summary.on_time) == (5, 3, 2, 2)
    assert summary.on_time_share == pytest.approx(0.4)
    assert summary.verdicts == {Verdict.OK: 2, Verdict.EXPIRED: 1, Verdict.DROPPED: 1, Verdict.LOST: 1}


def test_on_time_counts_the_age_of_the_frame() -> None:
    summary = tally_of(
        made_result(1, age_ms=60.0, total_ms=40.0),
        made_result(2, age_ms=60.1, total_ms=40.0),
        made_result(3, Verdict.EXPIRED, total_ms=1.0),
    ).summary()
    assert summary.on_time == 1


def test_times_are_those_of_the_frames_answered_ok() -> None:
    results = [made_result(n, total_ms=float(n)) for n in range(1, 101)]
    summary = tally_of(*results, made_result(101, Verdict.FAILED, total_ms=9000.0)).summary()
    assert summary.total is not None
    assert summary.round_trip is not None
    assert summary.total.p50_ms == pytest.approx(50.5 + 2.0)
    assert summary.total.p99_ms == pytest.approx(99.01 + 2.0)
    assert summary.round_trip.p50_ms == pytest.approx(51.5)
    by_label = {stage.label: stage.times for stage in summary.stages}
    assert by_label["infer"].p50_ms == pytest.approx(50.5)
    assert by_label["age"].p99_ms == pytest.approx(2.0)


def test_the_stages_add_up_to_the_whole_time() -> None:
    """A stage of the wire that no row shows would be missing from every table."""
    result = made_result()
    shown = sum(stage.duration_ms(result) for stage in STAGES)
    assert shown == pytest.approx(result.age_ms + result.times.total_ms)
    names = [field.name for field in fields(StageTimes)][:9]
    powers = {name: float(2**power) for power, name in enumerate(names)}
    every = made_result(times=StageTimes(**powers, total_ms=511.0), age_ms=512.0)
    assert sum(stage.duration_ms(every) for stage in STAGES) == pytest.approx(1023.0)


def test_nothing_counted_is_no_error() -> None:
    summary = Tally().summary()
    assert (summary.offered, summary.on_time_share, summary.total, summary.stages) == (0, 0.0, None, ())
    assert rendered(summary_table(summary))


def test_the_table_says_it_all() -> None:
    text = rendered(summary_table(tally_of(made_result(), made_result(2, Verdict.BAD_FRAME)).summary()))
    for words in ("50.0%", "bad frame", "p99", "round trip", "infer", "20.0"):
        assert words in text


def test_every_verdict_has_a_colour() -> None:
    assert set(VERDICT_COLOURS) == set(Verdict)


def test_progress_is_plain_lines_where_there_is_no_terminal() -> None:
    printed = StringIO()
    now = 100.0
    with StreamProgress(tally_of(made_result()), 10, Console(file=printed, width=40), lambda: now) as progress:
        progress.update()
        assert printed.getvalue() == ""
        now += 6.0
        progress.update()
        progress.update()
    assert printed.getvalue().count("frames 1/10  on time 100.0%") == 1
    assert printed.getvalue().count("\n") == 1


def test_the_progress_line_names_the_verdicts_that_came_up() -> None:
    line = progress_line(tally_of(made_result(), made_result(2, Verdict.BAD_FRAME)).summary(), None).plain
    assert "frames 2  " in line
    assert "bad frame 1" in line
    assert "superseded" not in line


def test_a_record_is_json_with_all_that_was_seen() -> None:
    result = made_result(
        detections=one_detection(track_id=7),
        classes=(ClassScore(1, "cat", 0.5),),
        embedding=np.array([0.5, 1.5], np.float32),
    )
    record = json.loads(json.dumps(record_from_result(result)))
    assert record["detections"] == [
        {
            "box": [20.0, 30.0, 60.0, 80.0],
            "class_id": 2,
            "label": "face",
            "score": 0.875,
            "track_id": 7,
            "keypoints": [[30.0, 40.0, 0.5]],
        }
    ]
    assert record["classes"] == [{"class_id": 1, "label": "cat", "score": 0.5}]
    assert record["embedding"] == [0.5, 1.5]
    assert (record["verdict"], record["on_time"], record["times"]["infer_ms"]) == ("ok", True, 20.0)
    assert record_from_result(made_result(2, Verdict.LOST))["round_trip_ms"] is None


def rendered(content: object) -> str:
    console = Console(width=120, force_terminal=False)
    with console.capture() as captured:
        console.print(content)
    return captured.get()


def test_a_record_holds_what_a_cascade_said_of_a_detection() -> None:
    said = (Attribute("kind", 3, "tabby", 0.75), Attribute("looks", 0, "", 0.0, (0.5, -1.0)))
    detections = replace(one_detection(), attributes=(said,))
    record = json.loads(json.dumps(record_from_result(made_result(detections=detections, attributes_missing=2))))
    assert record["detections"][0]["attributes"] == [
        {"name": "kind", "id": 3, "label": "tabby", "score": 0.75},
        {"name": "looks", "embedding": [0.5, -1.0]},
    ]
    assert record["attributes_missing"] == 2


def test_the_cascade_is_shown_where_there_is_one() -> None:
    def stages(cascade_ms: float) -> list[str]:
        times = StageTimes(infer_ms=5.0, cascade_ms=cascade_ms, total_ms=5.0 + cascade_ms)
        return [stage.label for stage in tally_of(made_result(times=times)).summary().stages]

    assert "cascade" not in stages(0.0)
    assert stages(3.0)[-2:] == ["cascade", "reply"]
