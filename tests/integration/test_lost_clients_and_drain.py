"""Clients that vanish, cancel or never read, and a server that goes away: nobody hangs, nothing leaks."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from foveate.engines.errors import ConfigError
from foveate.engines.fake import Gate
from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from support.raw_stream import RawStream, verdicts
from support.service import fake_engine, grey_jpeg, grey_of, running_service
from support.waiting import until

pytestmark = pytest.mark.usefixtures("boundary")


def test_a_cancelled_neighbour_does_not_hang_the_batch() -> None:
    gate = Gate()
    with running_service(fake_engine(gate=gate), slots=2) as service:
        keeps, leaves = RawStream(service.stub), RawStream(service.stub)
        for stream in (keeps, leaves):
            stream.open(budget_ms=20_000)
        leaves.frame(1, grey_jpeg(15))
        keeps.frame(1, grey_jpeg(25))
        leaves.frame(2, grey_jpeg(15))
        service.settled(lambda status: status.ledger.received == 3)
        gate.wait_for_held()
        leaves.cancel()
        service.settled(lambda status: len(status.streams) == 1)
        gate.set()
        assert grey_of(keeps.result()) == 25
        keeps.frame(2, grey_jpeg(35))
        assert grey_of(keeps.result()) == 35
        assert keeps.rest() == []
        ledger = service.settled(lambda status: not status.streams).ledger
    assert (ledger.received, ledger.in_flight) == (4, 0)
    assert ledger.ok + ledger.cancelled + ledger.superseded == 4
    assert ledger.cancelled >= 1


def test_a_client_that_vanishes_mid_frame_frees_its_stream() -> None:
    """The client process is killed, so that the connection breaks without a word of gRPC."""
    script = """
import sys, time, grpc
from foveate.proto import vision_pb2 as pb, vision_pb2_grpc as pb_grpc
def requests():
    yield pb.StreamRequest(open=pb.OpenStream(stream_id="lost", budget_ms=20000))
    yield pb.StreamRequest(frame=pb.Frame(sequence=1, data=sys.stdin.buffer.read()))
    time.sleep(60)
stub = pb_grpc.VisionStub(grpc.insecure_channel(sys.argv[1]))
for reply in stub.Stream(requests()):
    print(reply.WhichOneof("message"), flush=True)
"""
    gate = Gate()
    with running_service(fake_engine(gate=gate)) as service:
        arguments = [sys.executable, "-c", script, service.address]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert client.stdin is not None
            client.stdin.write(grey_jpeg(15))
            client.stdin.close()
            gate.wait_for_held()
            client.kill()
        status = service.settled(lambda status: not status.streams)
        assert (status.ledger.cancelled, status.ledger.in_flight) == (1, 0)
        gate.set()
        with RawStream(service.stub) as stream:
            stream.open(stream_id="lost", budget_ms=20_000)
            stream.frame(1, grey_jpeg(45))
            assert grey_of(stream.result()) == 45


def test_a_client_that_never_reads_is_held_back_and_others_are_served() -> None:
    """It sends as fast as it can; the server stops reading from it, so what it holds stays bounded."""
    with running_service() as service, RawStream(service.stub) as other:
        greedy = RawStream(service.stub)
        opened = greedy.open(budget_ms=20_000)
        picture = grey_jpeg(15, 640, 480)
        for sequence in range(1, 20_001):  # these wait in the client's queue; gRPC takes them as flow control lets it
            greedy.frame(sequence, picture)
        other.open(budget_ms=20_000)
        for sequence in range(1, 21):
            other.frame(sequence, grey_jpeg(25))
            assert grey_of(other.result()) == 25
        (held,) = [each for each in service.status().streams if each.stream_id == opened.stream_id]
        assert held.ledger.in_flight <= 2 * opened.window
        greedy.cancel()
        service.settled(lambda status: len(status.streams) == 1)


def test_many_streams_come_and_go_without_a_trace() -> None:
    def one_round() -> None:
        with RawStream(service.stub) as stream:
            stream.open(budget_ms=20_000)
            stream.frame(1, grey_jpeg(25))
            assert grey_of(stream.result()) == 25

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    with running_service(resume_s=0.0) as service:
        for _ in range(10):
            one_round()
        service.settled(lambda status: not status.streams)
        gc.collect()
        threads, files, objects = threading.active_count(), open_files(), len(gc.get_objects())
        for _ in range(100):
            one_round()
        service.settled(lambda status: not status.streams)
        # The client's threads end a moment after their streams, and what they hold goes with them.
        until(lambda: threading.active_count() <= threads + 2, "the threads have ended")
        until(lambda: open_files() <= files + 2, "the files are closed")
        until(lambda: gc.collect() >= 0 and len(gc.get_objects()) <= objects + 2000, "the objects are gone")


def test_a_drain_tells_streams_answers_what_waits_and_ends_well() -> None:
    gate = Gate()
    with running_service(fake_engine(gate=gate)) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15))
        gate.wait_for_held()
        stopping = service.start(service.server.stop(30_000))
        notice = stream.reply().notice
        assert (notice.kind, notice.grace_ms) == (pb.Notice.KIND_DRAIN, 30_000)
        stream.frame(2, grey_jpeg(25))
        with pytest.raises(grpc.RpcError) as refused:
            service.stub.Infer(pb.InferRequest(frame=pb.Frame(data=grey_jpeg(15))))
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        gate.set()
        results = stream.rest()
        stopping.result(40)
    assert verdicts(results) == ["OK", "DRAINING"]


def test_a_drain_answers_single_pictures_that_wait() -> None:
    gate = Gate()
    with running_service(fake_engine(gate=gate, max_batch=1)) as service:
        frame = pb.Frame(data=grey_jpeg(35), budget_ms=20_000)
        waiting = [service.stub.Infer.future(pb.InferRequest(frame=frame)) for _ in range(5)]
        service.settled(lambda status: status.ledger.received == 5)
        gate.wait_for_held()
        stopping = service.start(service.server.stop(30_000))
        service.settled(lambda status: status.draining)
        gate.set()
        assert [grey_of(each.result(40)) for each in waiting] == [35] * 5
        stopping.result(40)


def test_a_stream_that_never_opens_does_not_hold_up_a_drain() -> None:
    with running_service() as service, RawStream(service.stub) as silent, RawStream(service.stub) as other:
        other.open()
        other.frame(1, grey_jpeg(15), budget_ms=20_000)
        assert grey_of(other.result()) == 15
        stopping = service.start(service.server.stop(600_000))
        assert other.reply().notice.kind == pb.Notice.KIND_DRAIN
        assert other.rest() == []
        assert silent.error().code() == grpc.StatusCode.UNAVAILABLE
        stopping.result(40)


def test_a_stream_that_ignores_a_drain_is_ended_when_its_grace_is_over() -> None:
    with running_service() as service, RawStream(service.stub) as stream:
        stream.open()
        stopping = service.start(service.server.stop(50))
        error = stream.error()
        stopping.result(40)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "elsewhere" in str(error.details())


def test_health_is_told_per_pipeline_and_changes_with_a_drain() -> None:
    with running_service() as service, RawStream(service.stub) as stream:
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        stream.open()
        for name in ("", "grey", "foveate.v1.Vision"):
            reply = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            health.Check(health_pb2.HealthCheckRequest(service="nonsense"))
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
        watching = health.Watch(health_pb2.HealthCheckRequest(service="grey"))
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        stopping = service.start(service.server.stop(30_000))
        assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watching.cancel()
        stream.rest()
        stopping.result(40)


def test_reflection_names_the_services() -> None:
    with running_service() as service:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([request]))
    names = {each.name for each in reply.list_services_response.service}
    assert {"foveate.v1.Vision", "grpc.health.v1.Health"} <= names


def test_a_taken_port_is_an_error_at_once() -> None:
    with (
        running_service() as service,
        pytest.raises(ConfigError, match="cannot listen"),
        running_service(listen=service.address),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    script = """
import asyncio
from support.service import serve_until_signal
asyncio.run(serve_until_signal())
"""
    environment = {**os.environ, "PYTHONPATH": "tests"}
    arguments = [sys.executable, "-W", "error", "-c", script]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        address = child.stdout.readline().strip()
        channel = grpc.insecure_channel(address)
        stub: Any = pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]
        with RawStream(stub) as stream:
            stream.open(budget_ms=20_000)
            child.send_signal(number)
            assert stream.reply().notice.kind == pb.Notice.KIND_DRAIN
            assert stream.rest() == []
        channel.close()
        assert child.wait(40) == 0
        assert child.stderr.read() == ""
