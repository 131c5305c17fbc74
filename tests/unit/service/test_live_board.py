"""What the live page says beside the pictures: rates, stages, headroom, and what has gone."""

from __future__ import annotations

import json
from typing import Any

from foveate.engines.contract import EngineInfo
from foveate.service.boundary import LaneStatus
from foveate.service.frame import Grant
from foveate.service.ledger import Ledger
from foveate.service.live.board import Board
from foveate.service.live.picture import STAGES, AnsweredFrame
from foveate.service.pipeline import PipelineSet, Unavailable
from foveate.service.whole_service import ServiceStatus, StreamStatus

S = 1_000_000_000
MS = 1_000_000


def stream(name: str = "dock", pipeline: str = "faces", **counts: int) -> StreamStatus:
    return StreamStatus(name, pipeline, Grant.BEST_EFFORT, 100 * MS, 0, float("inf"), 1.0, Ledger(**counts))


def lane(pipeline: str = "faces", device: str = "cpu", frames: int = 0, cap: int = 4) -> LaneStatus:
    """Runs of 10 ms for one frame, 20 ms for four."""
    info = EngineInfo(pipeline, "fake", "1", "fp32", device, (), (), max_batch=8)
    return LaneStatus(pipeline, info, ((1, 10 * MS), (4, 20 * MS)), 20 * MS, MS, 2, 5, frames, 0.4, cap)


def shown(board: Board, now_s: float, *streams: StreamStatus, lanes: tuple[LaneStatus, ...] = ()) -> dict[str, Any]:
    total = Ledger()
    for each in streams:
        total.add(each.ledger)
    snapshot = board.snapshot(ServiceStatus(lanes, streams, total), None, int(now_s * S))
    return dict(json.loads(json.dumps(snapshot, allow_nan=False)))


def test_rates_are_of_the_last_seconds() -> None:
    board = Board()
    first = shown(board, 10, stream(received=100, ok=50))
    assert first["streams"][0]["received_fps"] is None, "one look tells no rate"
    for tick in range(1, 21):
        snapshot = shown(board, 10 + tick / 2, stream(received=100 + 10 * tick, ok=50 + 5 * tick))
    assert (snapshot["streams"][0]["received_fps"], snapshot["streams"][0]["ok_fps"]) == (20.0, 10.0)
    assert snapshot["totals"]["received_fps"] == 20.0
    for tick in range(21, 29):
        snapshot = shown(board, 10 + tick / 2, stream(received=300, ok=150))
    assert snapshot["streams"][0]["received_fps"] == 0.0


def test_counts_that_start_again_give_no_negative_rate() -> None:
    board = Board()
    shown(board, 1, stream(received=1000, ok=1000))
    snapshot = shown(board, 2, stream(received=3, ok=3))
    assert snapshot["streams"][0]["received_fps"] is None
    assert shown(board, 3, stream(received=8, ok=3))["streams"][0]["received_fps"] == 5.0


def test_a_stream_that_ends_is_gone_for_a_minute_and_may_come_back() -> None:
    board = Board()
    shown(board, 1, stream("dock"), stream("gate"))
    assert [each["gone_s"] for each in shown(board, 2, stream("dock"))["streams"]] == [None, 0.0]
    assert [each["gone_s"] for each in shown(board, 61, stream("dock"))["streams"]] == [None, 59.0]
    assert [each["gone_s"] for each in shown(board, 61.5, stream("dock"), stream("gate"))["streams"]] == [None, None]
    shown(board, 62, stream("dock"))
    assert [each["id"] for each in shown(board, 123, stream("dock"))["streams"]] == ["dock"]


def test_of_very_many_streams_that_have_gone_the_last_are_shown() -> None:
    board = Board()
    for second in range(1, 41):
        snapshot = shown(board, second, stream("dock"), *(stream(f"{second}-{number}") for number in range(10)))
    shown_now = [each["id"] for each in snapshot["streams"]]
    assert len(shown_now) <= 100
    assert {"dock", "40-9", "39-0"} <= set(shown_now)
    assert "1-0" not in shown_now


def test_a_stream_that_sends_nothing_is_quiet_after_five_seconds() -> None:
    board = Board()
    shown(board, 1, stream(received=5))
    assert shown(board, 5.5, stream(received=5))["streams"][0]["quiet_s"] is None
    assert shown(board, 7, stream(received=5))["streams"][0]["quiet_s"] == 6.0
    assert shown(board, 8, stream(received=6))["streams"][0]["quiet_s"] is None


def test_stages_are_medians_of_what_was_answered_ok() -> None:
    board = Board()
    shown(board, 1, stream())
    stages = [tuple(1000 * factor * (place + 1) for place in range(len(STAGES))) for factor in (1, 2, 9)]
    board.add_answers("dock", [AnsweredFrame("ok", each, sum(each)) for each in stages])
    board.add_answers("dock", [AnsweredFrame("expired", (0,) * len(STAGES), 110_000)])
    board.add_answers("unknown", [AnsweredFrame("ok", stages[0], 1)])
    (told,) = shown(board, 2, stream())["streams"]
    assert told["stage_ms"] == [2.0 * (place + 1) for place in range(len(STAGES))]
    assert (told["total_ms"], told["slowest_ms"]) == (72.0, 324.0)
    assert told["strip"] == [[0, 0.36], [0, 0.72], [0, 3.24], [3, 1.1]]


def test_headroom_counts_full_batches_and_all_lanes_of_the_device() -> None:
    """At batches of 4 in 20 ms an engine does 200 frames a second."""
    board = Board()
    others = lane("cars", frames=1000), lane("faces", "cuda:1", frames=10)
    shown(board, 1, stream(received=0), stream("gate"), lanes=(lane(frames=0), *others))
    later = lane("cars", frames=1050), lane("faces", "cuda:1", frames=10)
    snapshot = shown(board, 2, stream(received=30), stream("gate", received=10), lanes=(lane(frames=30), *later))
    faces, cars, idle = snapshot["engines"]
    assert (faces["fps"], faces["most_fps"], faces["load"], faces["device_load"]) == (30.0, 200.0, 0.15, 0.4)
    assert faces["free_fps"] == cars["free_fps"] == 120.0
    assert (faces["streams"], faces["mean_stream_fps"], faces["more_streams"]) == (2, 20.0, 6)
    assert (cars["streams"], cars["more_streams"]) == (0, None)
    assert (idle["device_load"], idle["free_fps"]) == (0.0, 200.0)
    assert (faces["one_ms"], faces["batch_cap_ms"]) == (10.0, 20.0)


def test_an_engine_beyond_its_rate_has_nothing_left() -> None:
    board = Board()
    shown(board, 1, stream(), lanes=(lane(),))
    snapshot = shown(board, 2, stream(received=500), lanes=(lane(frames=210),))
    assert (snapshot["engines"][0]["free_fps"], snapshot["engines"][0]["more_streams"]) == (0.0, 0)


def test_pipelines_that_are_not_served_are_told_with_the_reason() -> None:
    pipelines = PipelineSet({"faces": Unavailable("faces", "centerface", "fetch it")}, "faces")
    snapshot = Board().snapshot(ServiceStatus(), pipelines, S)
    assert snapshot["unserved"] == [{"name": "faces", "model": "centerface", "reason": "fetch it"}]
