"""Objects keep their ids along a stream, over lost connections and dead processes; engines know nothing of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from foveate.proto import vision_pb2 as pb
from foveate.service.config import PipelineConfig
from support.processes import ServiceOfProcesses, service_of_processes
from support.raw_stream import RawStream, verdicts
from support.service import grey_config, grey_jpeg, running_service

TESTS = Path(__file__).resolve().parents[1]
STREAM = {"budget_ms": 20_000, "fps": 20.0}


def tracked(**settings: object) -> dict[str, PipelineConfig]:
    """The fake detector's pipeline; it sees one box, whose class is the picture's grey."""
    grey = grey_config()["grey"].model_dump(exclude_unset=True)
    # So long that no stall of the machine ends a track.
    return {"grey": PipelineConfig.model_validate(grey | {"track": {"lost_s": 30.0} | settings})}


def ids(stream: RawStream, first: int, greys: Sequence[int]) -> list[int]:
    """What the object of each frame is called, sent one after the other from sequence `first` on."""
    given = []
    for sequence, grey in enumerate(greys, first):
        stream.frame(sequence, grey_jpeg(grey))
        result = stream.result()
        assert verdicts([result]) == ["OK"]
        (detection,) = result.detections
        given.append(detection.track_id)
    return given


@pytest.mark.usefixtures("boundary")
def test_answers_carry_ids_that_stay() -> None:
    with running_service(pipelines=tracked()) as service, RawStream(service.stub) as stream:
        stream.open(**STREAM)
        assert ids(stream, 1, [15, 15, 15, 85, 85, 15]) == [0, 1, 1, 0, 2, 1]


@pytest.mark.usefixtures("boundary")
def test_each_stream_counts_for_itself() -> None:
    with running_service(pipelines=tracked()) as service:
        for _ in range(2):
            with RawStream(service.stub) as stream:
                stream.open(**STREAM)
                assert ids(stream, 1, [15, 15]) == [0, 1]


@pytest.mark.usefixtures("boundary")
def test_a_single_picture_and_a_pipeline_without_tracking_have_no_ids() -> None:
    with running_service(pipelines=tracked(confirm_frames=1)) as service:
        for _ in range(2):
            frame = pb.Frame(sequence=1, data=grey_jpeg(15), budget_ms=20_000)
            reply = service.stub.Infer(pb.InferRequest(frame=frame))
            assert [detection.track_id for detection in reply.detections] == [0]
    with running_service() as service, RawStream(service.stub) as stream:
        stream.open(**STREAM)
        assert ids(stream, 1, [15, 15, 15]) == [0, 0, 0]


@pytest.mark.usefixtures("boundary")
def test_a_stream_that_is_taken_up_again_gives_no_id_twice() -> None:
    with running_service(pipelines=tracked(confirm_frames=1)) as service:
        with RawStream(service.stub) as first:
            token = first.open(stream_id="dock", **STREAM).resume_token
            assert ids(first, 1, [15, 85]) == [1, 2]
        with RawStream(service.stub) as second:
            second.open(resume_token=token, **STREAM)
            assert ids(second, 3, [15, 85, 15]) == [3, 4, 3]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])))


def has_the_library(service: ServiceOfProcesses, name: str) -> bool:
    """Whether a process has loaded the tracker's own code."""
    return "edgefirst/tracker/_tracker" in Path(f"/proc/{service.pid(name)}/maps").read_text(encoding="utf-8")


@pytest.mark.usefixtures("processes")
def test_only_an_ingest_with_a_tracked_stream_loads_the_tracker() -> None:
    with service_of_processes(ingests=1, pipelines=tracked()) as service:
        names = list(service.supervisor.processes)
        assert len(names) == 2
        assert not any(has_the_library(service, name) for name in names), "nobody streams yet"
        with RawStream(service.new_stub()) as stream:
            stream.open(**STREAM)
            assert ids(stream, 1, [15, 15]) == [0, 1]
        (having,) = [name for name in names if has_the_library(service, name)]
        assert "ingest" in having


@pytest.mark.usefixtures("processes")
def test_ids_go_on_in_another_ingest_and_after_one_that_died() -> None:
    with service_of_processes(pipelines=tracked(confirm_frames=1)) as service:
        given: list[int] = []
        token, sequence = "", 1
        for _ in range(6):  # with a connection of its own each, some of them change the process
            with RawStream(service.new_stub()) as stream:
                token = stream.open(resume_token=token, **STREAM).resume_token
                given += ids(stream, sequence, [15, 85])
                sequence += 2
        assert given == list(range(1, 13))
        with RawStream(service.new_stub()) as stream:
            stream.open(resume_token=token, **STREAM)
            given += ids(stream, sequence, [15])
            for name in service.supervisor.processes:
                if "ingest" in name:
                    service.kill(name)
            stream.error()
        service.settled(lambda status: not status.streams)
        with RawStream(service.new_stub()) as stream:
            stream.open(resume_token=token, **STREAM)
            (after,) = ids(stream, sequence + 1, [15])
        assert after > max(given)
