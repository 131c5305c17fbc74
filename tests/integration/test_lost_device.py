"""A service in one process whose device is lost: it says so, instead of failing frames as if they were to blame."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from foveate.engines.errors import DeviceLost
from foveate.proto import vision_pb2 as pb
from foveate.service.scheduler import Scheduler
from support.raw_stream import RawStream, verdicts
from support.service import fake_engine, grey_jpeg, grey_of, running_service

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_pipeline_whose_device_is_lost_is_not_served_any_more(capfd: pytest.CaptureFixture[str]) -> None:
    engine = fake_engine()
    with running_service(engine, unavailable={"faces": "no model"}) as service, RawStream(service.stub) as stream:
        health: Any = health_pb2_grpc.HealthStub(service.channel)

        def state(name: str) -> int:
            return int(health.Check(health_pb2.HealthCheckRequest(service=name)).status)

        assert {name: state(name) for name in ("", "grey", "faces")} == {
            "": SERVING,
            "grey": SERVING,
            "faces": NOT_SERVING,
        }
        watching = health.Watch(health_pb2.HealthCheckRequest(service="grey"))
        assert next(watching).status == SERVING
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15))
        assert grey_of(stream.result()) == 15
        engine.fail_when = lambda slot, batch: DeviceLost("an illegal address")
        for sequence in (2, 3):
            stream.frame(sequence, grey_jpeg(15))
            result = stream.result()
            assert verdicts([result]) == ["FAILED"]
            assert "an illegal address" in result.message
        assert next(watching).status == NOT_SERVING
        watching.cancel()
        assert [state(name) for name in ("grey", "")] == [NOT_SERVING] * 2
        with RawStream(service.stub) as another:
            another.send(pb.StreamRequest(open=pb.OpenStream()))
            error = another.error()
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "until the service is started anew: an illegal address" in str(error.details())
        ledger = service.settled(lambda status: status.ledger.in_flight == 0).ledger
        assert (ledger.received, ledger.ok, ledger.failed) == (3, 1, 2)


def test_a_pipeline_whose_planning_fails_answers_what_waits_and_says_that_it_is_not_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("a fault of the scheduler")

    with running_service() as service, RawStream(service.stub) as stream:
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        watching = health.Watch(health_pb2.HealthCheckRequest(service="grey"))
        assert next(watching).status == SERVING
        stream.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=8)
        stream.frame(1, grey_jpeg(15))
        assert grey_of(stream.result()) == 15
        monkeypatch.setattr(Scheduler, "plan", fail)
        for sequence in range(2, 6):
            stream.frame(sequence, grey_jpeg(15))
        results = stream.results(4)
        assert verdicts(results) == ["FAILED"] * 4
        assert {result.message for result in results} == {"the lane failed: ZeroDivisionError"}
        assert next(watching).status == NOT_SERVING
        watching.cancel()
        (pipeline,) = service.stub.ListPipelines(pb.ListPipelinesRequest()).pipelines
        assert pipeline.state == pb.Pipeline.STATE_UNAVAILABLE
        assert "nothing more can be run until the service is started anew: the lane failed" in pipeline.message
        ledger = service.settled(lambda status: status.ledger.in_flight == 0).ledger
        assert (ledger.received, ledger.ok, ledger.failed) == (5, 1, 4)
    assert caplog.text.count("ZeroDivisionError: a fault of the scheduler") == 1
