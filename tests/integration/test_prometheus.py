"""A real Prometheus reads a service's metrics: its counts are the ledger's, and all that ships is accepted by it."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from foveate.engines.errors import DeviceLost
from foveate.engines.fake import Gate
from foveate.proto import vision_pb2 as pb
from foveate.service.http_server import HttpServer
from foveate.service.live.source import LiveService
from foveate.service.metrics_text import metrics_text
from foveate.tools import monitoring_command
from support.processes import ServiceOfProcesses, gone, service_of_processes
from support.prometheus import Prometheus, prometheus
from support.raw_stream import RawStream, verdicts
from support.service import RunningService, fake_engine, grey_jpeg, running_service
from support.system_programs import require_program
from support.waiting import until

TESTS = Path(__file__).resolve().parents[1]
MONITORING = Path(monitoring_command.__file__).parent / "monitoring"
RULES = MONITORING / "alert_rules.yml"
VERDICTS = ("ok", "superseded", "infeasible", "expired", "bad_frame", "rejected", "failed", "draining")


Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine in the event loop of a service."""


@contextmanager
def scraped(folder: Path, service: LiveService, run: Run) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a service over its own HTTP port."""

    async def start() -> HttpServer:
        http = HttpServer("127.0.0.1:0", service)
        await http.start()
        return http

    http = run(start())
    try:
        with prometheus(folder, urlsplit(http.url).netloc, RULES) as server:
            until(lambda: any(target["health"] == "up" for target in server.targets()))
            yield server
    finally:
        run(http.stop())


def mixed_traffic(service: RunningService, gate: Gate, opened: Callable[[], None]) -> None:
    """Frames of several streams with most of the verdicts there are, some of whose clients go away.

    `opened` is called before the first of them.
    """
    with RawStream(service.stub) as gate_cam, RawStream(service.stub) as dock, RawStream(service.stub) as unnamed:
        gate_cam.open(stream_id="gate", budget_ms=20_000, fps=10)
        dock.open(stream_id="dock", budget_ms=20_000)
        unnamed.open(budget_ms=20_000)
        opened()
        for sequence in range(1, 21):
            gate_cam.frame(sequence, grey_jpeg(15))
            assert verdicts([gate_cam.result()]) == ["OK"]
        dock.frame(1, b"no picture")
        dock.frame(1, grey_jpeg(25))
        unnamed.frame(1, grey_jpeg(35))
        assert verdicts(dock.results(2)) == ["BAD_FRAME", "REJECTED"]
        unnamed.result()
        gate.clear()
        for sequence in range(21, 31):
            gate_cam.frame(sequence, grey_jpeg(15))
        gate.wait_for_held()
        service.settled(lambda status: status.ledger.superseded > 0)
        gate.set()
        assert set(verdicts(gate_cam.results(10))) == {"OK", "SUPERSEDED"}
        unnamed.frame(2, grey_jpeg(35), budget_ms=1, age_us=2000)
        assert verdicts([unnamed.result()]) == ["INFEASIBLE"]
        gate.clear()
        dock.frame(2, grey_jpeg(25))
        gate.wait_for_held()
        dock.cancel()
        service.settled(lambda status: len(status.streams) == 2)
        gate.set()
    service.stub.Infer(pb.InferRequest(frame=pb.Frame(data=grey_jpeg(45), budget_ms=20_000)))


def same_as_ledger(server: Prometheus, ledger: pb.Ledger) -> None:
    """What Prometheus has now is the service's ledger to the frame, by pipelines and by streams."""
    for family in ("foveate_frames", "foveate_stream_frames"):
        counted = server.by("verdict", f"sum by (verdict) ({family}_total)")
        assert counted == {verdict: getattr(ledger, verdict) for verdict in VERDICTS}
        for name in ("received", "cancelled", "late", "undelivered"):
            assert server.number(f"sum({family}_{name}_total)") == getattr(ledger, name), name
    books = "sum(foveate_frames_received_total) - sum(foveate_frames_total) - sum(foveate_frames_cancelled_total)"
    assert server.number(books) == ledger.in_flight
    assert server.number("sum(foveate_frames_in_flight)") == ledger.in_flight
    for ever in ("max", "min"):  # at every scrape, in the midst of traffic too
        assert server.number(f"{ever}({ever}_over_time(foveate_ledger_imbalance_frames[5m]))") == 0


def test_counts_are_the_ledgers_and_all_that_ships_gives_data(tmp_path: Path) -> None:
    gate = Gate(is_open=True)
    with (
        running_service(fake_engine(gate=gate)) as service,
        scraped(tmp_path, service.server, lambda work: service.start(work).result(40)) as server,
    ):
        mixed_traffic(service, gate, server.scraped)  # which sees the counters at 0, from which rates are counted
        status = service.settled(lambda status: status.ledger.in_flight == 0 and not status.streams)
        ledger = status.ledger
        assert min(ledger.ok, ledger.superseded, ledger.infeasible, ledger.bad_frame, ledger.rejected) > 0
        assert ledger.undelivered + ledger.cancelled > 0
        server.scraped()
        same_as_ledger(server, ledger)
        assert server.number('foveate_stream_frames_total{stream="gate",verdict="ok"}') >= 21
        assert server.number('foveate_stream_frames_total{stream="dock",verdict="bad_frame"}') == 1
        assert server.by("stream", "foveate_stream_connected") == {"gate": 0, "dock": 0}
        assert server.by("stream", "max_over_time(foveate_stream_connected[5m])") == {"gate": 1, "dock": 1}
        assert server.number('foveate_stream_frames_total{stream="",verdict="infeasible"}') == 1
        engine = server.number("sum(foveate_engine_run_seconds_sum)")
        charged = server.number("sum(foveate_stream_engine_seconds_total)")
        assert 0 < charged <= engine + 1e-6
        assert server.number("sum(foveate_batch_size_sum)") == status.engines[0].frames
        assert server.number("sum(foveate_batch_size_count)") == status.engines[0].batches
        for name in ("frame_seconds", "queue_age_seconds", 'stage_seconds{stage="decode"}'):
            family, _, labels = name.partition("{")
            selected = f"{{{labels}" if labels else ""
            answered = ledger.ok - ledger.undelivered
            assert answered <= server.number(f"foveate_{family}_count{selected}") <= ledger.ok
        everything_shipped_gives_data(server)


def everything_shipped_gives_data(server: Prometheus) -> None:
    for rule in server.rules():
        assert rule["health"] == "ok", rule
        assert rule["type"] == "recording" or rule["state"] in ("inactive", "pending", "firing")
        if rule["type"] == "recording":
            assert server.query(rule["name"]), rule
    quiet = {rule["name"] for rule in server.rules() if rule["type"] == "alerting" and rule["state"] == "inactive"}
    assert {"FoveateDown", "FoveateLedgerImbalance", "FoveateEngineDown", "FoveateProcessRestarts"} <= quiet
    for title, expression in dashboard_expressions():
        found = server.query(expression)
        assert found, f"{title}: {expression} gives nothing"
        assert any(math.isfinite(value) for _, value in found), f"{title}: {expression} gives no number: {found}"
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert asked, variable["query"]
            assert server.by(asked[2], f"count by ({asked[2]}) ({asked[1]})"), variable


def dashboard() -> Any:
    return json.loads((MONITORING / "grafana_dashboard.json").read_text(encoding="utf-8"))


def dashboard_expressions() -> list[tuple[str, str]]:
    """Titles and queries of the panels, with Grafana's variables replaced as it replaces them."""
    found = [(panel["title"], target["expr"]) for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    replaced = [(title, expr.replace("$__rate_interval", "1m")) for title, expr in found]
    return [(title, re.sub(r"\$(instance|pipeline|stream)\b", ".*", expr)) for title, expr in replaced]


def test_an_engine_that_is_lost_is_down_and_its_frames_are_counted() -> None:
    engine = fake_engine()
    with running_service(engine) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        engine.fail_when = lambda slot, batch: DeviceLost("an illegal address")
        stream.frame(1, grey_jpeg(15))
        assert verdicts([stream.result()]) == ["FAILED"]
        service.settled(lambda status: bool(service.server.unready))  # it is told of the loss after the frame is
        text, _ = metrics_text(service.start(service.server.metrics()).result(40))
    lines = text.decode().splitlines()
    assert 'foveate_engine_up{device="cpu",pipeline="grey"} 0.0' in lines
    assert 'foveate_frames_total{pipeline="grey",verdict="failed"} 1.0' in lines


@pytest.fixture
def children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])))


@pytest.mark.usefixtures("children_find_the_tests")
def test_counters_outlive_the_processes_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LATENCY_S", "0.05")  # long enough to be killed at work
    with service_of_processes(ingests=2) as service, scraped(tmp_path, service.supervisor, service.run) as server:
        streams = opened_at_both_ingests(service)
        for stream in streams:
            stream.frame(1, grey_jpeg(15))
        assert all(verdicts([stream.result()]) == ["OK"] for stream in streams)
        server.scraped()
        assert server.number('sum(foveate_frames_total{verdict="ok"})') == len(streams)
        killed_at_work(service, "ingest 0", streams, first=2)
        server.scraped()
        killed_at_work(service, "engine cpu", streams, first=10_002)
        until(lambda: server.scraped() or server.number("min(foveate_engine_up)") == 1)  # type: ignore[func-returns-value]
        with RawStream(service.new_stub()) as again:
            again.open(stream_id="one-more", budget_ms=20_000)
            again.frame(1, grey_jpeg(15))
            assert verdicts([again.result()]) == ["OK"]
        for stream in streams:
            stream.cancel()
        status = service.settled(lambda status: status.ledger.in_flight == 0 and not status.streams)
        assert min(status.ledger.ok, status.ledger.cancelled, status.ledger.failed) > 0
        server.scraped()
        same_as_ledger(server, status.ledger)
        for counter in ("foveate_frames_total", "foveate_stream_frames_total", "foveate_frame_seconds_count"):
            assert server.number(f"max(resets({counter}[5m]))") == 0, counter
        assert server.number("max(resets(foveate_batch_size_sum[5m]))") == 0
        assert server.number("sum(foveate_batch_size_sum)") >= status.ledger.ok
        starts = server.by("process", "foveate_process_starts_total")
        assert starts == {"engine cpu": 2, "ingest 0": 2, "ingest 1": 1, "supervisor": 1}
        assert set(server.by("process", "process_resident_memory_bytes > 1e6")) == set(starts)


def opened_at_both_ingests(service: ServiceOfProcesses) -> list[RawStream]:
    """At least two at each: the kernel says which connection goes where."""
    streams: list[RawStream] = []
    held: Counter[str] = Counter()
    while len(held) < 2 or min(held.values()) < 2:
        name = f"camera-{len(streams)}"
        streams.append(RawStream(service.new_stub()))
        streams[-1].open(stream_id=name, budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=30)
        held[service.supervisor._directory._open[name].holder.name] += 1  # type: ignore[attr-defined]
    return streams


def killed_at_work(service: ServiceOfProcesses, name: str, streams: list[RawStream], first: int) -> None:
    """Send frames over those streams whose ingest lives, and kill a process while they are on their way."""
    answered = service.status().ledger.ok
    sequences = itertools.count(first)

    def at_work() -> bool:
        ledger = service.status().ledger
        if ledger.in_flight <= 4:
            for sequence in itertools.islice(sequences, 12):
                for stream in streams:
                    stream.frame(sequence, grey_jpeg(25))
        return ledger.ok > answered and ledger.in_flight > 10

    until(at_work)
    dead = service.kill(name)
    service.settled(lambda status: gone(dead) and len(status.engines) == 1 and status.ledger.in_flight == 0)


def test_the_rules_are_well_formed() -> None:
    checked = subprocess.run([require_program("promtool"), "check", "rules", RULES], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    config = MONITORING / "prometheus.yml"
    checked = subprocess.run([require_program("promtool"), "check", "config", config], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


HEALTHY = {
    'up{job="foveate"}': "1x120",
    'foveate_frames_total{job="foveate",pipeline="p",verdict="ok"}': "0+6000x120",
    'foveate_frames_total{job="foveate",pipeline="p",verdict="superseded"}': "0+6x120",
    'foveate_frames_total{job="foveate",pipeline="p",verdict="rejected"}': "0+6000x120",
    'foveate_frames_late_total{job="foveate",pipeline="p"}': "0+3x120",
    'foveate_engine_run_seconds_sum{job="foveate",device="cpu",pipeline="p"}': "0+20x120",
    'foveate_engine_run_seconds_sum{job="foveate",device="cpu",pipeline="q"}': "0+20x120",
    'foveate_engine_up{job="foveate",device="cpu",pipeline="p"}': "1x120",
    'foveate_stream_connected{job="foveate",pipeline="p",stream="dock"}': "1x120",
    'foveate_ledger_imbalance_frames{job="foveate",pipeline="p"}': "0x120",
    'foveate_oldest_frame_seconds{job="foveate",pipeline="p"}': "0.1x120",
    'foveate_process_starts_total{job="foveate",process="ingest 0"}': "1x120",
    'foveate_prediction_error_seconds_bucket{job="foveate",device="cpu",pipeline="p",le="-0.001"}': "0+10x120",
    'foveate_prediction_error_seconds_bucket{job="foveate",device="cpu",pipeline="p",le="0"}': "0+1000x120",
    'foveate_prediction_error_seconds_bucket{job="foveate",device="cpu",pipeline="p",le="0.025"}': "0+1000x120",
    'foveate_prediction_error_seconds_bucket{job="foveate",device="cpu",pipeline="p",le="+Inf"}': "0+1000x120",
}
"""By minute, of two hours: the most that is still well."""
FAULTS: Mapping[str, Mapping[str, str]] = {
    "": {},
    "FoveateDown": {'up{job="foveate"}': "1x100 0x20"},
    "FoveateFewFramesOnTime": {
        'foveate_frames_total{job="foveate",pipeline="p",verdict="expired"}': "0+120x120",
    },
    "FoveateLateAnswers": {'foveate_frames_late_total{job="foveate",pipeline="p"}': "0+12x120"},
    "FoveateEngineSaturated": {
        'foveate_engine_run_seconds_sum{job="foveate",device="cpu",pipeline="q"}': "0+38x120",
    },
    "FoveateEngineDown": {'foveate_engine_up{job="foveate",device="cpu",pipeline="p"}': "1x110 0x10"},
    "FoveateStreamGone": {'foveate_stream_connected{job="foveate",pipeline="p",stream="dock"}': "1x110 0x10"},
    "FoveateLedgerImbalance": {'foveate_ledger_imbalance_frames{job="foveate",pipeline="p"}': "0x110 -1x10"},
    "FoveateFrameStuck": {'foveate_oldest_frame_seconds{job="foveate",pipeline="p"}': "0x60 0+5x60"},
    "FoveateProcessRestarts": {'foveate_process_starts_total{job="foveate",process="ingest 0"}': "1x110 2x10"},
    "FoveatePredictionErrorGrows": {
        'foveate_prediction_error_seconds_bucket{job="foveate",device="cpu",pipeline="p",le="0"}': (
            "0+1000x90 90900+900x29"
        ),
    },
}


def test_an_alert_fires_for_its_fault_alone(tmp_path: Path) -> None:
    tests = [_fault_test(alert, faults) for alert, faults in FAULTS.items()]
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    checked = subprocess.run([require_program("promtool"), "test", "rules", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def _fault_test(alert: str, faults: Mapping[str, str]) -> Mapping[str, Any]:
    """As promtool wants it: after two hours this alert fires, and no other."""
    firing = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "119m",
        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else [],
    }
    series = [{"series": name, "values": values} for name, values in ({**HEALTHY, **faults}).items()]
    return {"name": alert or "healthy", "interval": "1m", "input_series": series, "promql_expr_test": [firing]}


def test_every_alert_has_its_fault_here() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))
    assert sorted(alerts) == sorted(filter(None, FAULTS))
