"""Counts in memory: each in its place, added up over processes and their lives, never lost and never going back."""

from __future__ import annotations

import itertools
import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.service.frame import Answer, Frame, Ran, StageTimes, StreamOptions, Verdict
from foveate.service.ledger import Ledger
from foveate.service.metrics import IngestStanding, LaneTotals, ServiceCounts, ServiceMetrics
from foveate.service.metrics_tables import (
    BATCH_SIZES,
    ERROR_NS,
    FRAME_NS,
    STAGE_NS,
    STAGES,
    IngestLayout,
    IngestTable,
    LaneTable,
    lane_counts,
)
from foveate.service.shared_counts import Histogram, SharedCounts
from foveate.service.stream import Books, CameraStream, StreamRecord

PIPELINES = ("faces", "objects", "imagenet")
times_ns = st.integers(0, 20_000_000_000) | st.sampled_from(FRAME_NS + STAGE_NS)


def snapshot(counts: ServiceCounts) -> ServiceMetrics:
    return counts.metrics(LaneTotals(), [], IngestStanding(), [])


def new_counts(most: int = 2, opened: set[str] | None = None) -> tuple[ServiceCounts, IngestTable]:
    names = opened if opened is not None else set()
    counts = ServiceCounts(PIPELINES, most, names.__contains__)
    table = IngestTable(counts.layout)
    counts.add(table)
    return counts, table


def camera(table: IngestTable, pipeline: str, series: int = 0) -> CameraStream:
    return CameraStream(StreamRecord("name", "token"), StreamOptions(pipeline, 10**9), 64, Books(table), series)


def ran_answer(stages: dict[str, int], size: int = 1, received_ns: int = 0) -> Answer:
    total = sum(stages.values())
    before = stages["receive_queue"] + stages["decode"] + stages["wait"]
    took = stages["copy_in"] + stages["infer"] + stages["copy_out"]
    started = received_ns + before
    ran = Ran(size, started, started + took, 0, took, 0, started + took, 1, 0, 1)
    return Answer(Verdict.OK, times=StageTimes(**stages, total=total), run=ran)


def expected(bounds: tuple[int, ...], numbers: list[int]) -> Histogram:
    """As Prometheus has it: a bucket holds the numbers up to its bound, that one included."""
    edges = [float("-inf"), *bounds, float("inf")]
    counts = tuple(sum(low < n <= high for n in numbers) for low, high in itertools.pairwise(edges))
    return Histogram(bounds, counts, sum(numbers))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(PIPELINES),
            st.integers(0, 2),
            st.fixed_dictionaries(dict.fromkeys(STAGES, times_ns)),
            st.integers(1, 8),
        ),
        max_size=12,
    )
)
def test_every_time_is_counted_once_where_it_belongs(frames: list[tuple[str, int, dict[str, int], int]]) -> None:
    layout = IngestLayout(PIPELINES, 2)
    table = IngestTable(layout)
    for pipeline, series, stages, size in frames:
        table.answered(camera(table, pipeline, series), Frame(1, 0, 0, b""), ran_answer(stages, size))
    values = table.read()
    for index, pipeline in enumerate(PIPELINES):
        mine = [(stages, size) for name, _, stages, size in frames if name == pipeline]
        counted = layout.pipeline_counts(values, index)
        assert counted.frame == expected(FRAME_NS, [sum(stages.values()) for stages, _ in mine])
        waits = [stages["receive_queue"] + stages["decode"] + stages["wait"] for stages, _ in mine]
        assert counted.queue == expected(FRAME_NS, waits)
        for stage in STAGES:
            assert counted.stages[stage] == expected(STAGE_NS, [stages[stage] for stages, _ in mine])
        assert counted.ledger == Ledger()
    for series in (0, 1, 2):
        for index, pipeline in enumerate(PIPELINES):
            theirs = [
                (stages, size)
                for name, number, stages, size in frames
                if number == series and (series or name == pipeline)
            ]
            stream = layout.stream_counts(values, index, series)
            assert stream.frame == expected(FRAME_NS, [sum(stages.values()) for stages, _ in theirs])
            shares = [(s["copy_in"] + s["infer"] + s["copy_out"]) // size for s, size in theirs]
            assert stream.engine_ns == sum(shares)
            assert stream.stages_ns == {stage: sum(s[stage] for s, _ in theirs) for stage in STAGES}


def test_what_a_cascade_took_and_left_out_counts_too() -> None:
    counts, table = new_counts()
    answer = ran_answer(dict.fromkeys(STAGES, 1_000_000), size=2)
    table.answered(camera(table, "faces"), Frame(1, 0, 0, b""), replace(answer, crops_ns=500, attributes_missing=3))
    found = snapshot(counts)
    assert found.pipelines["faces"].attributes_missing == 3
    assert found.streams["", "faces"].engine_ns == 3_000_000 // 2 + 500
    assert found.pipelines["objects"].attributes_missing == found.streams["", "objects"].engine_ns == 0


def test_a_frame_that_did_not_run_has_no_times_and_a_verdict() -> None:
    counts, table = new_counts()
    stream = camera(table, "faces")
    stream.settle(stream.receive(Frame(1, 0, 10**18, b"")), Answer(Verdict.BAD_FRAME))
    taken = stream.next_answer()
    assert taken is not None
    table.answered(stream, *taken)
    found = snapshot(counts).pipelines["faces"]
    assert asdict(found.ledger) == asdict(Ledger(received=1, bad_frame=1))
    assert found.frame.count == found.queue.count == sum(each.count for each in found.stages.values()) == 0


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 10**10), st.integers(-(10**9), 10**9)), max_size=20))
def test_the_runs_of_a_lane(runs: list[tuple[int, int, int]]) -> None:
    table = LaneTable(["faces", "objects"])
    meter = table.meter("objects")
    for size, took_ns, late_ns in runs:
        meter.ran(size, took_ns, late_ns)
    rows = table.rows()
    counted = lane_counts(rows["objects"])
    assert counted.sizes == expected(BATCH_SIZES, [size for size, _, _ in runs])
    assert counted.runs == expected(STAGE_NS, [took for _, took, _ in runs])
    assert counted.errors == expected(ERROR_NS, [late for _, _, late in runs])
    assert counted.over_ns == sum(max(0, late) for _, _, late in runs)
    assert counted.under_ns == sum(max(0, -late) for _, _, late in runs)
    assert not rows["faces"].any()


@pytest.mark.parametrize("bounds", [FRAME_NS, STAGE_NS, ERROR_NS, BATCH_SIZES])
def test_buckets_rise(bounds: tuple[int, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


@pytest.mark.parametrize("budget_ms", [5, 10, 20, 33, 50, 100, 150, 200, 250, 500, 1000, 5000, 10_000])
def test_a_bucket_ends_at_each_usual_budget(budget_ms: int) -> None:
    assert FRAME_NS[bisect_left(FRAME_NS, budget_ms * 1_000_000)] == budget_ms * 1_000_000


def test_an_ingest_that_dies_takes_no_count_along() -> None:
    counts, table = new_counts()
    stream = camera(table, "faces")
    for sequence in range(1, 5):
        stream.receive(Frame(sequence, 0, 10**18, b""))
    stages = dict.fromkeys(STAGES, 1_000_000)
    table.answered(stream, Frame(1, 0, 0, b""), ran_answer(stages))
    assert table.in_flight()["faces"] == 4
    counts.bury(table)
    after = camera(table, "faces")
    after.settle(after.receive(Frame(1, 0, 10**18, b"")), Answer(Verdict.OK))
    table.answered(after, Frame(1, 0, 0, b""), ran_answer(stages))
    found = snapshot(counts)
    assert found.pipelines["faces"].ledger == Ledger(received=5, ok=1, cancelled=4)
    assert found.streams["", "faces"].ledger == counts.ledger() == Ledger(received=5, ok=1, cancelled=4)
    assert found.pipelines["faces"].frame.count == 2


def test_a_series_that_is_given_to_another_stream_starts_at_0(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("foveate.service.metrics.time.monotonic", lambda: now_s[0])
    opened = {"first"}
    counts, table = new_counts(1, opened)
    first = counts.series("first", "faces", named=True)
    camera(table, "faces", first).receive(Frame(1, 0, 0, b""))
    counts.bury(table)  # what an earlier life counted is no part of the next stream's either
    camera(table, "faces", first).receive(Frame(1, 0, 0, b""))
    assert counts.series("second", "objects", named=True) == 0
    assert snapshot(counts).streams["first", "faces"].ledger.received == 2
    opened.clear()
    now_s[0] = 1e6
    assert counts.series("second", "objects", named=True) == first
    found = snapshot(counts)
    assert ("first", "faces") not in found.streams
    assert found.streams["second", "objects"].ledger == Ledger()
    camera(table, "objects", first).receive(Frame(1, 0, 0, b""))
    found = snapshot(counts)
    assert found.streams["second", "objects"].ledger.received == 1
    assert found.pipelines["faces"].ledger.received == 2, "the pipeline's own counts have nothing to do with it"


def test_lanes_add_up_over_devices_of_one_name_and_over_lives() -> None:
    totals = LaneTotals()
    tables = [LaneTable(["faces"]), LaneTable(["faces", "objects"]), LaneTable(["faces"])]
    for device, table in zip(("cpu", "cpu", "cuda:0"), tables, strict=True):
        totals.add(device, table)
        table.meter("faces").ran(2, 1_000_000, 0)
    totals.bury(tables[1])
    tables[1].meter("faces").ran(2, 1_000_000, 0)  # nobody reads it any more
    counted = totals.counts()
    assert {key: (each.sizes.count, each.sizes.total) for key, each in counted.items()} == {
        ("faces", "cpu"): (2, 4),
        ("objects", "cpu"): (0, 0),
        ("faces", "cuda:0"): (1, 2),
    }
    assert totals.counts() == counted, "looking changes nothing"


@contextmanager
def file_of(length: int) -> Iterator[int]:
    handle = SharedCounts.new_file(length)
    try:
        yield handle
    finally:
        os.close(handle)


def test_what_one_side_counts_the_other_reads() -> None:
    layout = IngestLayout(PIPELINES, 3)
    with file_of(layout.length) as handle:
        counting, reading = IngestTable(layout, handle), IngestTable(layout, handle)
    camera(counting, "objects", 3).receive(Frame(1, 0, 0, b""))
    assert layout.stream_counts(reading.read(), 1, 3).ledger == Ledger(received=1)
    assert layout.pipeline_counts(reading.read(), 1).ledger == Ledger(received=1)
    assert reading.in_flight() == {"faces": 0, "objects": 1, "imagenet": 0}
    assert int(np.sum(reading.read())) == 2


def test_standings_add_up() -> None:
    total, one = IngestStanding(), IngestStanding(held_bytes=3)
    one.oldest_ns["faces"] = 7
    one.imbalance["faces"] = 1
    other = IngestStanding(held_bytes=4)
    other.oldest_ns["faces"] = 5
    other.imbalance["faces"] = -1
    total.add(one)
    total.add(other)
    assert (total.held_bytes, total.oldest_ns, total.imbalance["faces"]) == (7, {"faces": 7}, 0)
