"""A service of several processes: whichever of them dies, every frame is accounted for and the others serve on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from foveate.engines.errors import ConfigError, ModelError
from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service import supervisor
from foveate.service.config import load_config
from foveate.service.embedded import embedded_server
from support.poisoned_ingest_process import POISON_WIDTH
from support.processes import POISONED_INGEST, ServiceOfProcesses, gone, service_of_processes, shared_memory_names
from support.raw_stream import RawStream, verdicts
from support.service import GREYS, grey_config, grey_jpeg, grey_of
from support.waiting import until

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])))
    before = shared_memory_names()
    yield
    assert shared_memory_names() <= before


@pytest.fixture
def slow_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough that a process can be killed while frames are in the engine."""
    monkeypatch.setenv("FAKE_LATENCY_S", "0.4")


def balanced(ledger: pb.Ledger) -> bool:
    names = "ok superseded infeasible expired bad_frame rejected failed draining cancelled"
    return bool(ledger.received == sum(getattr(ledger, name) for name in names.split()) + ledger.in_flight)


def states(service: ServiceOfProcesses) -> dict[str, int]:
    """Of the pipelines, as some ingest has them."""
    reply = service.stub.ListPipelines(pb.ListPipelinesRequest())
    return {each.name: each.state for each in reply.pipelines}


def answered_in_the_end(stream: RawStream, first: int) -> None:
    """Send frames, numbered from `first` on, until one is answered OK."""
    for sequence in range(first, first + 400):
        stream.frame(sequence, grey_jpeg(25))
        result = stream.result()
        if verdicts([result]) == ["OK"]:
            assert grey_of(result) == 25
            return
        assert verdicts([result]) == ["FAILED"]
        threading.Event().wait(0.02)
    raise AssertionError("no frame was answered OK")


def test_streams_of_all_ingests_share_names_limits_and_status() -> None:
    with service_of_processes(limits={"max_streams": 8}) as service:
        streams = [RawStream(service.new_stub()) for _ in range(8)]
        for index, stream in enumerate(streams):
            stream.open(stream_id=f"camera {index}".replace(" ", "-"), budget_ms=20_000)
            stream.frame(1, grey_jpeg(GREYS[index]))
        assert [grey_of(stream.result()) for stream in streams] == list(GREYS[:8])
        with RawStream(service.new_stub()) as one_more:
            one_more.send(pb.StreamRequest(open=pb.OpenStream()))
            assert one_more.error().code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        streams.pop().cancel()
        service.settled(lambda status: len(status.streams) == 7)
        for _ in range(4):
            with RawStream(service.new_stub()) as same_name:
                same_name.send(pb.StreamRequest(open=pb.OpenStream(stream_id="camera-0")))
                assert same_name.error().code() == grpc.StatusCode.ALREADY_EXISTS
        status = service.settled(lambda status: status.ledger.ok == 8)
        assert {each.stream_id for each in status.streams} == {f"camera-{index}" for index in range(7)}
        assert balanced(status.ledger)
        for stream in streams:
            stream.cancel()


def test_a_token_takes_a_stream_over_whichever_ingest_has_it() -> None:
    with service_of_processes() as service, RawStream(service.new_stub()) as first:
        opened = first.open(stream_id="dock", budget_ms=20_000)
        first.frame(4, grey_jpeg(15))
        first.result()
        for sequence in range(5, 11):  # with a connection of its own each, some of them change the process
            with RawStream(service.new_stub()) as again:
                assert again.open(resume_token=opened.resume_token, budget_ms=20_000).stream_id == "dock"
                again.frame(sequence - 1, grey_jpeg(15))
                again.frame(sequence, grey_jpeg(25))
                assert verdicts(again.results(2)) == ["REJECTED", "OK"], "its numbers go on"
        assert first.error().code() == grpc.StatusCode.ALREADY_EXISTS


def test_an_ingest_that_is_killed_takes_its_own_streams_alone(slow_engine: None) -> None:
    with service_of_processes(ingests=2) as service:
        streams = [RawStream(service.new_stub()) for _ in range(10)]
        tokens = [stream.open(budget_ms=20_000).resume_token for stream in streams]
        for stream in streams:
            stream.frame(1, grey_jpeg(15))
        service.settled(lambda status: status.ledger.received == 10)
        dead = service.kill("ingest 0")
        until(lambda: gone(dead))
        survivors = []
        for stream, token in zip(streams, tokens, strict=True):
            try:
                survivors.append(verdicts([stream.result()])[0])
            except grpc.RpcError:
                with RawStream(service.new_stub()) as again:
                    again.open(resume_token=token, budget_ms=20_000)
                    again.frame(1, grey_jpeg(25))
                    assert grey_of(again.result()) == 25
        assert set(survivors) <= {"OK"}
        status = service.settled(lambda status: status.ledger.in_flight == 0)
        assert balanced(status.ledger)
        assert status.ledger.received == 10 + (10 - len(survivors))
        assert status.ledger.ok + status.ledger.cancelled == status.ledger.received
        until(lambda: service.supervisor.processes.get("ingest 0", dead) != dead)
        for stream in streams:
            stream.cancel()


def test_an_engine_that_is_killed_fails_what_was_in_flight_and_serves_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STUCK_AFTER", "1")  # which is the picture that it must know: it is killed at work
    with service_of_processes(hang_s=60.0) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=20)
        for sequence in range(1, 13):
            stream.frame(sequence, grey_jpeg(15))
        service.settled(lambda status: status.ledger.received == 12)
        monkeypatch.delenv("FAKE_STUCK_AFTER")
        dead = service.kill("engine cpu")
        before = Counter(verdicts(stream.results(12)))
        assert before["FAILED"] >= 1
        assert before["FAILED"] + before["OK"] == 12
        until(lambda: service.supervisor.processes.get("engine cpu", dead) != dead)
        service.settled(lambda status: len(status.engines) == 1)
        sequence, verdict = 13, ""
        while verdict != "OK":  # the same connection goes on once the engine is back
            stream.frame(sequence, grey_jpeg(25))
            result = stream.result()
            verdict, sequence = verdicts([result])[0], sequence + 1
            assert verdict in ("OK", "FAILED")
        assert grey_of(result) == 25
        status = service.settled(lambda status: status.ledger.in_flight == 0)
        assert balanced(status.ledger)
        assert status.ledger.received == sequence - 1 == status.ledger.ok + status.ledger.failed


def test_a_process_that_has_lost_its_device_is_started_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_LOST_AFTER", "2")  # one of which is the picture that it must know
    with service_of_processes(ingests=1) as service, RawStream(service.stub) as stream:
        before = service.pid("engine cpu")
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15))
        assert grey_of(stream.result()) == 15
        monkeypatch.delenv("FAKE_LOST_AFTER")
        stream.frame(2, grey_jpeg(15))
        result = stream.result()
        assert verdicts([result]) == ["FAILED"]
        assert "illegal address" in result.message
        until(lambda: service.supervisor.processes.get("engine cpu", before) != before)
        service.settled(lambda status: len(status.engines) == 1)
        answered_in_the_end(stream, 3)
        status = service.settled(lambda status: status.ledger.in_flight == 0)
        assert balanced(status.ledger)
        assert "grey can be run no more, the process ends to be started anew" in capfd.readouterr().err


def test_a_process_whose_scheduler_fails_answers_what_waits_and_is_started_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_PLANS", "1")
    with service_of_processes(ingests=1) as service, RawStream(service.stub) as stream:
        before = service.pid("engine cpu")
        stream.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=8)
        stream.frame(1, grey_jpeg(15))
        assert grey_of(stream.result()) == 15
        monkeypatch.delenv("FAKE_PLANS")
        for sequence in range(2, 6):
            stream.frame(sequence, grey_jpeg(15))
        results = stream.results(4)
        assert verdicts(results) == ["FAILED"] * 4
        assert "the lane failed: ZeroDivisionError" in results[0].message
        until(lambda: service.supervisor.processes.get("engine cpu", before) != before)
        service.settled(lambda status: len(status.engines) == 1)
        answered_in_the_end(stream, 6)
        assert balanced(service.settled(lambda status: status.ledger.in_flight == 0).ledger)
    said = capfd.readouterr().err
    assert said.count("ZeroDivisionError: a fault of the scheduler") == 1
    assert "grey can be run no more, the process ends to be started anew: the lane failed" in said


def test_a_run_that_does_not_come_back_is_ended_with_its_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_PING_EVERY_S", 0.05)
    monkeypatch.setenv("FAKE_STUCK_AFTER", "2")  # one of which is the picture that it must know
    with service_of_processes(ingests=1, hang_s=3.0) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15))
        assert grey_of(stream.result()) == 15
        monkeypatch.delenv("FAKE_STUCK_AFTER")
        stream.frame(2, grey_jpeg(15))
        assert verdicts([stream.result()]) == ["FAILED"]
        assert "the engine cpu process has given no sign of life" in caplog.text
        service.settled(lambda status: len(status.engines) == 1)
        answered_in_the_end(stream, 3)
        assert balanced(service.settled(lambda status: status.ledger.in_flight == 0).ledger)


@pytest.mark.parametrize("name", ["engine cpu", "ingest 0"])
def test_a_process_that_hangs_is_started_again(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_PING_EVERY_S", 0.05)
    monkeypatch.setenv("FAKE_LATENCY_S", "1.0")  # so that it is stopped at work
    with service_of_processes(ingests=1, hang_s=3.0) as service, RawStream(service.stub) as stream:
        opened = stream.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=20)
        for sequence in range(1, 13):
            stream.frame(sequence, grey_jpeg(15))
        service.settled(lambda status: status.ledger.received == 12)
        hung = service.pid(name)
        os.kill(hung, signal.SIGSTOP)
        monkeypatch.setenv("FAKE_LATENCY_S", "0")
        if name == "engine cpu":
            before = Counter(verdicts(stream.results(12)))
            assert before["FAILED"] >= 1
            assert before["FAILED"] + before["OK"] == 12
        else:
            assert stream.error().code() == grpc.StatusCode.UNAVAILABLE
        until(lambda: service.supervisor.processes.get(name, hung) != hung)
        assert gone(hung)
        assert f"the {name} process has given no sign of life for 3 s" in caplog.text
        service.settled(lambda status: len(status.engines) == 1)
        with RawStream(service.new_stub()) as again:
            again.open(resume_token=opened.resume_token, budget_ms=20_000)
            answered_in_the_end(again, 13)
        assert balanced(service.settled(lambda status: status.ledger.in_flight == 0).ledger)


def test_an_engine_that_comes_back_wrong_does_not_serve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with service_of_processes(ingests=1) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        monkeypatch.setenv("FAKE_WRONG", "1")
        service.kill("engine cpu")
        until(lambda: caplog.text.count("answers a known picture otherwise than before") >= 2)
        assert not service.status().engines
        stream.frame(1, grey_jpeg(15))
        result = stream.result()
        assert verdicts([result]) == ["FAILED"]
        assert "started again" in result.message
        monkeypatch.delenv("FAKE_WRONG")
        service.settled(lambda status: len(status.engines) == 1)
        answered_in_the_end(stream, 2)


def test_it_says_why_it_cannot_start(tmp_path: Path) -> None:
    config = load_config(model_store=tmp_path, fetch=False, ingest_processes=2, devices=("cpu",))
    with pytest.raises(ModelError, match="foveate models fetch centerface"), embedded_server(config=config):
        pass


def test_a_picture_that_kills_its_decoder_kills_one_ingest() -> None:
    with service_of_processes(ingest=POISONED_INGEST) as service:
        before = service.supervisor.processes
        streams = [RawStream(service.new_stub()) for _ in range(8)]
        for stream in streams:
            stream.open(budget_ms=20_000)
            stream.frame(1, grey_jpeg(15))
            assert grey_of(stream.result()) == 15
        poison = RawStream(service.new_stub())
        poison.open(budget_ms=20_000)
        poison.frame(1, grey_jpeg(15, width=POISON_WIDTH))
        assert poison.error().code() == grpc.StatusCode.UNAVAILABLE
        until(lambda: any(gone(pid) for pid in before.values()))
        (dead,) = (name for name, pid in before.items() if gone(pid))
        assert dead.startswith("ingest")
        status = service.settled(lambda status: status.ledger.cancelled == 1 and status.ledger.in_flight == 0)
        assert balanced(status.ledger)
        until(lambda: len(service.supervisor.processes) == 3)
        with RawStream(service.new_stub()) as after:
            after.open(budget_ms=20_000)
            after.frame(1, grey_jpeg(35))
            assert grey_of(after.result()) == 35
        for stream in streams:
            stream.cancel()


def test_streams_spread_over_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    with service_of_processes(ingests=1, devices=("fake:0", "fake:1")) as service:
        streams = [RawStream(service.new_stub()) for _ in range(4)]
        engines = Counter(stream.open(budget_ms=20_000).engine.device for stream in streams)
        for stream in streams:
            stream.frame(1, grey_jpeg(45))
        assert [grey_of(stream.result()) for stream in streams] == [45] * 4
        status = service.settled(lambda status: sum(each.frames for each in status.engines) == 4)
        assert {each.engine.device: each.frames for each in status.engines} == {"fake:0": 2, "fake:1": 2}
        monkeypatch.setenv("FAKE_WRONG", "1")  # so that it does not come back
        service.kill("engine fake:0")
        with RawStream(service.stub) as stream:
            service.settled(lambda status: len(status.engines) == 1)
            stream.open(budget_ms=20_000)
            stream.frame(1, grey_jpeg(55))
            assert grey_of(stream.result()) == 55
        for stream in streams:
            stream.cancel()
    assert sum(engines.values()) == 4


def test_a_pipeline_of_one_device_is_offered_and_its_streams_go_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FIRST", str(tmp_path / "first"))
    settings: dict[str, Any] = {
        "pipelines": grey_config() | {"extra": grey_config()["grey"]},
        "devices": ("fake:0", "fake:1"),
    }
    with service_of_processes(ingests=1, engine="support.uneven_engine_process", **settings) as service:
        streams = [RawStream(service.new_stub()) for _ in range(6)]
        for stream in streams:
            stream.open(pipeline="extra", budget_ms=20_000)
            stream.frame(1, grey_jpeg(45))
        assert [grey_of(stream.result()) for stream in streams] == [45] * 6
        single = pb.InferRequest(pipeline="extra", frame=pb.Frame(data=grey_jpeg(55), budget_ms=20_000))
        assert grey_of(service.stub.Infer(single)) == 55
        lanes = [(each.pipeline, each.frames) for each in service.status().engines]
        assert sorted(lanes) == [("extra", 7), ("grey", 0), ("grey", 0)]
        with RawStream(service.stub) as stream:
            chosen = stream.open(pipeline="grey", budget_ms=20_000).engine.device
        (extra,) = [each.engine.device for each in service.status().engines if each.pipeline == "extra"]
        assert chosen != extra, "where the fewest are"
        assert states(service) == {"grey": pb.Pipeline.STATE_READY, "extra": pb.Pipeline.STATE_READY}
        service.kill(f"engine {extra}")  # when it is back, it is not the first any more
        service.settled(lambda status: [each.pipeline for each in status.engines] == ["grey", "grey"])
        until(lambda: states(service) == {"grey": pb.Pipeline.STATE_READY, "extra": pb.Pipeline.STATE_UNAVAILABLE})
        with pytest.raises(grpc.RpcError, match="it does not fit on this device"):
            service.stub.Infer(single)
        streams[0].frame(2, grey_jpeg(45))
        left = streams[0].result()
        assert (verdicts([left]), "does not serve the stream's pipeline" in left.message) == (["FAILED"], True)
        for stream in streams:
            stream.cancel()
        assert balanced(service.settled(lambda status: not status.ledger.in_flight).ledger)


def test_a_taken_port_is_an_error_at_once() -> None:
    with (
        service_of_processes(ingests=1) as service,
        pytest.raises(ConfigError, match="cannot listen"),
        service_of_processes(ingests=1, listen=service.address),
    ):
        pass


_SCRIPT = """
import asyncio
from foveate.service.config import load_config
from foveate.service.serve import serve
from foveate.service.supervisor import Programs, Supervisor
from support.service import grey_config
made = []
def new(config):
    made.append(Supervisor(config, 2, Programs(engine="support.fake_engine_process")))
    return made[0]
config = load_config(listen="127.0.0.1:0", devices=("cpu",), pipelines=grey_config())
asyncio.run(serve(config, lambda address, _: print(address, *made[0].processes.values(), flush=True), new))
"""


def _serving() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_processes_end_cleanly_on_a_signal(number: signal.Signals) -> None:
    with _serving() as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stderr is not None
        address, *pids = supervisor.stdout.readline().split()
        with grpc.insecure_channel(address) as channel:
            stub: Any = pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]
            with RawStream(stub) as stream:
                stream.open(budget_ms=20_000)
                supervisor.send_signal(number)
                assert stream.reply().notice.kind == pb.Notice.KIND_DRAIN
                assert stream.rest() == []
        assert supervisor.wait(40) == 0
        assert supervisor.stderr.read() == ""
        assert all(gone(int(pid)) for pid in pids)
        assert len(pids) == 3


def test_no_process_outlives_a_supervisor_that_is_killed() -> None:
    with _serving() as supervisor:
        assert supervisor.stdout is not None
        _, *pids = supervisor.stdout.readline().split()
        supervisor.kill()
        until(lambda: all(gone(int(pid)) for pid in pids))
