"""What Prometheus is told: well formed in both formats, complete, and never more series than the bound says."""

from __future__ import annotations

import builtins
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from foveate.engines.errors import ConfigError
from foveate.service.boundary import LaneStatus
from foveate.service.frame import Frame, Grant
from foveate.service.metrics import IngestStanding, LaneTotals, ProcessLife, ServiceCounts, ServiceMetrics
from foveate.service.metrics_tables import IngestTable, LaneTable
from foveate.service.metrics_text import metrics_text, series_bound
from foveate.service.stream import Books, CameraStream, StreamRecord
from support.frames import stream_options
from support.service import fake_engine

PIPELINES = ("faces", "objects", 'odd \\ "name"\n')
DEVICES = ("cuda:0", "cuda:1")
BUCKETS = (1, 2, 4, 8)
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def busy_service(streams: int = 5, offered: int = 50) -> ServiceMetrics:
    """A service with all series that it can have; far more streams come than have some of their own."""
    counts = ServiceCounts(PIPELINES, streams, lambda name: True)
    counts.add(table := IngestTable(counts.layout))
    for number in range(offered):
        pipeline = PIPELINES[number % len(PIPELINES)]
        series = counts.series(f"camera-{number}", pipeline, named=True)
        options = replace(stream_options(), pipeline=pipeline)
        CameraStream(StreamRecord("", ""), options, 8, Books(table), series).receive(Frame(1, 0, 0, b""))
    lanes, running = LaneTotals(), list[LaneStatus]()
    (loaded := fake_engine()).load()
    for device in DEVICES:
        lanes.add(device, LaneTable(PIPELINES))
        for pipeline in PIPELINES:
            engine = replace(loaded.info, device=device)
            profile = tuple((batch, 1_000_000 * batch) for batch in BUCKETS)
            running.append(LaneStatus(pipeline, engine, profile, 2_000_000, 500_000, 3, 10, 20, 0.5, 8))
    standing = IngestStanding(Counter({("faces", Grant.GUARANTEED): 2}), {"faces": 1_500_000_000}, Counter(), 1234)
    lives = [ProcessLife(name, os.getpid(), 1) for name in ("engine cuda:0", "engine cuda:1", "ingest 0", "supervisor")]
    return counts.metrics(lanes, running, standing, lives)


def samples(text: bytes) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in parse_text(text.decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def values(metrics: ServiceMetrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a name by the values of their labels, in the order of the labels' names."""
    text, _ = metrics_text(metrics)
    found = [(labels, value) for each, labels, value in samples(text) if each == name]
    return {tuple(labels[key] for key in sorted(labels)): value for labels, value in found}


def test_there_are_as_many_series_as_the_bound_says_and_no_more() -> None:
    text, _ = metrics_text(busy_service(streams=5, offered=50))
    found = [(name, *sorted(labels.items())) for name, labels, _ in samples(text)]
    assert len(found) == len(set(found)), "Prometheus refuses a whole scrape for a series that comes twice"
    bound = series_bound(pipelines=3, devices=2, buckets=4, streams=5, processes=4)
    assert len(found) == bound
    named = {labels["stream"] for _, labels, _ in samples(text) if "stream" in labels}
    assert len(named) == 5 + 1


def test_a_bound_that_operators_can_count_on() -> None:
    """The figure that the documentation gives for a service as it is configured by default."""
    assert series_bound(pipelines=3, devices=1, buckets=9, streams=100, processes=1) < 6500


def test_streams_without_series_are_counted_together() -> None:
    metrics = busy_service(streams=5, offered=50)
    received = values(metrics, "foveate_stream_frames_received_total")
    others = [value for (_, stream), value in received.items() if not stream]
    assert sum(others) == 45
    assert sum(received.values()) == 50
    assert sum(values(metrics, "foveate_frames_received_total").values()) == 50


@pytest.mark.parametrize(
    "accept", ["", "text/plain", "*/*", OPENMETRICS, "nonsense;;;q=,", "application/openmetrics-text; version=x"]
)
def test_it_is_well_formed_in_the_format_that_was_asked_for(accept: str) -> None:
    text, content_type = metrics_text(busy_service(), accept)
    if accept == OPENMETRICS:
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        families = list(parse_openmetrics(text.decode()))  # type: ignore[no-untyped-call]
    else:
        assert content_type.startswith("text/plain; version=0.0.4")
        families = list(parse_text(text.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(family.documentation.endswith((".", ":")) for family in families if family.name.startswith("foveate"))


def test_histograms_rise_to_their_count() -> None:
    buckets: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    counted: dict[tuple[Any, ...], float] = {}
    for name, labels, value in samples(metrics_text(busy_service())[0]):
        others = sorted((label, value) for label, value in labels.items() if label != "le")
        key = (name.removesuffix("_bucket").removesuffix("_count"), *others)
        if name.endswith("_bucket"):
            buckets.setdefault(key, []).append((float(labels["le"]), value))
        elif name.endswith("_count"):
            counted[key] = value
    assert buckets
    for key, found in buckets.items():
        bounds, numbers = zip(*found, strict=True)
        assert list(bounds) == sorted(set(bounds)), key
        assert list(numbers) == sorted(numbers), key
        assert bounds[-1] == float("inf")
        assert counted.get(key, numbers[-1]) == numbers[-1], key


def test_times_are_seconds_and_names_are_kept_as_they_are() -> None:
    metrics = busy_service()
    assert values(metrics, "foveate_oldest_frame_seconds")["faces",] == pytest.approx(1.5)
    assert values(metrics, "foveate_smallest_budget_seconds")["cuda:0", PIPELINES[2]] == pytest.approx(0.002)
    assert values(metrics, "foveate_engine_latency_seconds")["8", "cuda:1", "faces"] == pytest.approx(0.008)
    assert values(metrics, "foveate_streams_open")["guaranteed", "faces"] == 2
    bounds = {key[0] for key in values(metrics, "foveate_frame_seconds_bucket")}
    assert {"0.001", "0.033", "0.1", "10", "+Inf"} <= bounds


def test_a_device_that_is_down_is_shown_as_down() -> None:
    metrics = busy_service()
    down = replace(metrics, running=[lane for lane in metrics.running if lane.engine.device != "cuda:1"])
    up = values(down, "foveate_engine_up")
    assert {device: value for (device, _), value in up.items()} == {"cuda:0": 1, "cuda:1": 0}
    assert ("cuda:1", "faces") in values(down, "foveate_batch_size_count"), "its counters go on"


def test_a_process_that_is_down_has_starts_and_no_memory() -> None:
    metrics = replace(busy_service(), processes=[ProcessLife("ingest 0", None, 3), ProcessLife("x", os.getpid(), 1)])
    assert values(metrics, "foveate_process_starts_total") == {("ingest 0",): 3, ("x",): 1}
    assert set(values(metrics, "process_resident_memory_bytes")) == {("x",)}


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    metrics = busy_service()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'foveate\[http\]'"):
        metrics_text(metrics)
