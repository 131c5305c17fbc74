"""The service's metrics as Prometheus reads them.

Names and labels are an interface: dashboards and alerts hold on to them. `series_bound` says how many series there can
be at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from foveate.engines.errors import ConfigError
from foveate.service.boundary import LaneStatus
from foveate.service.frame import Grant, Verdict
from foveate.service.ledger import Ledger
from foveate.service.metrics import ServiceMetrics
from foveate.service.metrics_tables import BATCH_SIZES, ERROR_NS, FRAME_NS, STAGE_NS, STAGES
from foveate.service.shared_counts import Histogram

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["metrics_text", "series_bound"]

_NS = 1e-9
Labels = tuple[str, ...]
Key = TypeVar("Key", bound=Labels)
"""The values of some labels."""


def metrics_text(metrics: ServiceMetrics, accept: str = "") -> tuple[bytes, str]:
    """The text, and its content type: OpenMetrics where an `Accept` header asks for it, else Prometheus' own format.

    It takes some milliseconds for each 1000 series: call it in a thread of its own where an event loop serves frames.
    Raises: ConfigError if the library that writes it is not installed.
    """
    try:
        from prometheus_client.exposition import choose_encoder
    except ImportError as error:
        raise ConfigError(
            "metrics need prometheus_client, which is not installed: pip install 'foveate[http]'"
        ) from error
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version in the header that is none
        encode, content_type = choose_encoder("")
    return encode(_Collected(list(_families(metrics)))), content_type


def series_bound(*, pipelines: int, devices: int, buckets: int, streams: int, processes: int) -> int:
    """The most series that there can be.

    `buckets` is how many batch sizes an engine's profile has, `streams` the setting `metrics_streams`, and `processes`
    how many the service consists of: one per device, the ingests, and the supervisor; or a single one.
    """
    ledger = len(Verdict) + 4
    frame, stage = len(FRAME_NS) + 3, len(STAGE_NS) + 3
    pipeline = ledger + 4 + 2 * frame + len(STAGES) * stage + len(Grant)
    stream = ledger + 1 + len(STAGES) + frame
    lane = (len(BATCH_SIZES) + 3) + stage + (len(ERROR_NS) + 1) + 2 + 6 + buckets
    single = pipelines * stream + streams * (stream + 1)
    return pipelines * pipeline + single + pipelines * devices * lane + 7 * processes + 2


@dataclass(frozen=True, slots=True)
class _Collected:
    """What `prometheus_client` calls a registry."""

    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _families(metrics: ServiceMetrics) -> Iterator[Metric]:
    from prometheus_client.metrics_core import InfoMetricFamily

    yield InfoMetricFamily("foveate_build", "The version that runs.", value={"version": version("foveate")})
    yield from _pipeline_families(metrics)
    yield from _stream_families(metrics)
    yield from _lane_families(metrics)
    yield from _process_families(metrics)


def _pipeline_families(metrics: ServiceMetrics) -> Iterator[Metric]:
    by_pipeline = {(name,): counts for name, counts in metrics.pipelines.items()}
    ledgers = {labels: counts.ledger for labels, counts in by_pipeline.items()}
    yield from _ledger_families("foveate_frames", "of a pipeline", ("pipeline",), ledgers)
    in_flight = {labels: ledger.in_flight for labels, ledger in ledgers.items()}
    yield _gauge(
        "foveate_frames_in_flight", "Frames that are neither answered nor cancelled.", ("pipeline",), in_flight
    )
    standing = metrics.standing
    oldest = {labels: standing.oldest_ns.get(labels[0], 0) * _NS for labels in by_pipeline}
    about = "How long ago the oldest frame without an answer was received; 0: there is none."
    yield _gauge("foveate_oldest_frame_seconds", about, ("pipeline",), oldest)
    about = "Frames in flight by the ledger less those that are there. Anything but 0 is a fault of the service."
    imbalance = {labels: standing.imbalance[labels[0]] for labels in by_pipeline}
    yield _gauge("foveate_ledger_imbalance_frames", about, ("pipeline",), imbalance)
    yield _gauge("foveate_held_bytes", "Bytes of the frames without an answer.", (), {(): standing.held_bytes})
    opened = {(name, grant.value): standing.open[name, grant] for name in metrics.pipelines for grant in Grant}
    yield _gauge("foveate_streams_open", "Streams that are connected.", ("pipeline", "grant"), opened)
    about = "From receipt until gRPC had the answer, of the frames that ran."
    frames = {labels: counts.frame for labels, counts in by_pipeline.items()}
    yield _histogram("foveate_frame_seconds", about, ("pipeline",), frames)
    queues = {labels: counts.queue for labels, counts in by_pipeline.items()}
    about = "Age of a frame, from its receipt, when its batch starts."
    yield _histogram("foveate_queue_age_seconds", about, ("pipeline",), queues)
    missing = {labels: counts.attributes_missing for labels, counts in by_pipeline.items()}
    about = "Detections that the cascade was to look at and, for lack of time, did not."
    yield _counter("foveate_attributes_missing", about, ("pipeline",), missing)
    stages = {(name, stage): found for name, each in metrics.pipelines.items() for stage, found in each.stages.items()}
    about = "Time in each stage of the frames that ran; together they are its whole way."
    yield _histogram("foveate_stage_seconds", about, ("pipeline", "stage"), stages)


def _stream_families(metrics: ServiceMetrics) -> Iterator[Metric]:
    names, streams = ("stream", "pipeline"), metrics.streams
    about = 'of a stream that its client named; of the stream "": of all that have no series of their own'
    ledgers = {labels: counts.ledger for labels, counts in streams.items()}
    yield from _ledger_families("foveate_stream_frames", about, names, ledgers)
    connected = {labels: int(labels in metrics.connected) for labels in streams if labels[0]}
    about = "Whether a stream that has series of its own is connected: 1 or 0, until it is forgotten."
    yield _gauge("foveate_stream_connected", about, names, connected)
    engine = {labels: counts.engine_ns * _NS for labels, counts in streams.items()}
    about = "Engine time that a stream's answered frames took, and their crops: each its part of its batch's run."
    yield _counter("foveate_stream_engine_seconds", about, names, engine)
    stages = {(*key, stage): took * _NS for key, counts in streams.items() for stage, took in counts.stages_ns.items()}
    about = "The sum of the times that a stream's frames were in each stage."
    yield _counter("foveate_stream_stage_seconds", about, (*names, "stage"), stages)
    frames = {labels: counts.frame for labels, counts in streams.items()}
    yield _histogram("foveate_stream_frame_seconds", "As foveate_frame_seconds, by stream.", names, frames)


def _ledger_families(name: str, of: str, names: Labels, ledgers: Mapping[Key, Ledger]) -> Iterator[Metric]:
    """Received = the sum over all verdicts + cancelled + in flight."""

    def each(value: Callable[[Ledger], int]) -> dict[Key, float]:
        return {labels: value(ledger) for labels, ledger in ledgers.items()}

    verdicts = {
        (*labels, verdict.value): float(getattr(ledger, verdict.value))
        for labels, ledger in ledgers.items()
        for verdict in Verdict
    }
    yield _counter(name, f"Frames {of}, by their verdict.", (*names, "verdict"), verdicts)
    yield _counter(f"{name}_received", f"Frames {of} that came in.", names, each(lambda ledger: ledger.received))
    about = f"Frames {of} that were withdrawn unanswered, because the client or an ingest process was gone."
    yield _counter(f"{name}_cancelled", about, names, each(lambda ledger: ledger.cancelled))
    about = f"Frames {of} that were answered OK after their deadline."
    yield _counter(f"{name}_late", about, names, each(lambda ledger: ledger.late))
    about = f"Frames {of} that have a verdict, of which no client was left to be told."
    yield _counter(f"{name}_undelivered", about, names, each(lambda ledger: ledger.undelivered))


def _lane_families(metrics: ServiceMetrics) -> Iterator[Metric]:
    names, lanes = ("pipeline", "device"), metrics.lanes
    sizes = {labels: counts.sizes for labels, counts in lanes.items()}
    yield _histogram("foveate_batch_size", "Frames in a run of the engine.", names, sizes, unit=1)
    runs = {labels: counts.runs for labels, counts in lanes.items()}
    about = "Time of a run of the engine, with copies. The rate of its sum is the share in which the engine is busy."
    yield _histogram("foveate_engine_run_seconds", about, names, runs)
    errors = {labels: counts.errors for labels, counts in lanes.items()}
    about = "How much later a run ended than was foreseen when it was planned; earlier is negative."
    yield _histogram("foveate_prediction_error_seconds", about, names, errors)
    over = {labels: counts.over_ns * _NS for labels, counts in lanes.items()}
    about = "The sum of the errors of predictions that runs ended {} than."
    yield _counter("foveate_prediction_late_seconds", about.format("later"), names, over)
    under = {labels: counts.under_ns * _NS for labels, counts in lanes.items()}
    yield _counter("foveate_prediction_early_seconds", about.format("earlier"), names, under)
    running = {(lane.pipeline, lane.engine.device): lane for lane in metrics.running}
    up = {labels: int(labels in running) for labels in (*lanes, *running)}
    yield _gauge("foveate_engine_up", "Whether the engine serves now: 1 or 0.", names, up)
    for name, about, value in _NOW:
        yield _gauge(name, about, names, {labels: value(lane) for labels, lane in running.items()})
    latency = {
        (*labels, str(batch)): took_ns * _NS for labels, lane in running.items() for batch, took_ns in lane.profile
    }
    about = "What the scheduler expects of a run of this batch size."
    yield _gauge("foveate_engine_latency_seconds", about, (*names, "batch"), latency)


_NOW: tuple[tuple[str, str, Callable[[LaneStatus], float]], ...] = (
    (
        "foveate_engine_busy_ratio",
        "Share of the last five seconds in which the engine ran.",
        lambda lane: lane.busy_share,
    ),
    ("foveate_frames_waiting", "Frames that wait to be planned.", lambda lane: lane.waiting),
    ("foveate_batch_cap", "The largest batch that the scheduler forms now.", lambda lane: lane.batch_cap),
    (
        "foveate_margin_seconds",
        "What the scheduler keeps free before each deadline.",
        lambda lane: lane.margin_ns * _NS,
    ),
    (
        "foveate_smallest_budget_seconds",
        "The least budget that a stream can be opened with.",
        lambda lane: lane.smallest_budget_ns * _NS,
    ),
)


def _process_families(metrics: ServiceMetrics) -> Iterator[Metric]:
    """Prometheus' usual figures of a process, with the process's name in the service beside them."""
    starts = {(life.name,): life.starts for life in metrics.processes}
    yield _counter("foveate_process_starts", "How often a process of the service was started.", ("process",), starts)
    families: dict[str, Metric] = {}
    for life in metrics.processes:
        if life.pid is None:
            continue
        for found in _process(life.pid):
            found.samples = [sample._replace(labels={"process": life.name}) for sample in found.samples]
            if found.name in families:
                families[found.name].samples += found.samples
            else:
                families[found.name] = found
    yield from families.values()


def _process(pid: int) -> Iterable[Metric]:
    from prometheus_client import ProcessCollector

    return ProcessCollector(pid=lambda: pid, registry=None).collect()


def _counter(name: str, about: str, names: Labels, values: Mapping[Key, float]) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(name, about, labels=names)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _gauge(name: str, about: str, names: Labels, values: Mapping[Key, float]) -> Metric:
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(name, about, labels=names)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(name: str, about: str, names: Labels, found: Mapping[Key, Histogram], *, unit: float = 1e9) -> Metric:
    """`unit` is what a histogram's numbers are to be divided by."""
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(name, about, labels=names)
    for labels, each in found.items():
        bounds = [f"{bound / unit:.12g}" for bound in each.bounds] + ["+Inf"]
        buckets = list(zip(bounds, accumulate(map(float, each.counts)), strict=True))
        family.add_metric(labels, buckets, each.total / unit)
    return family
