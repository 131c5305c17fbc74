"""A cascade in a service of several processes: an engine that dies takes its crops along, and no frame's answer."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from foveate.client import Client
from support.processes import service_of_processes
from support.raw_stream import RawStream, verdicts
from support.service import grey_config, grey_jpeg, grey_of

TESTS = Path(__file__).resolve().parents[1]
ENGINE = "support.cascading_engine_process"
PIPELINES = {**grey_config(), "shades": grey_config()["grey"]}


def test_crops_in_a_dead_engine_are_missing_and_its_successor_looks_at_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("FAKE_CLASSIFIER_LATENCY_S", "20")
    with (
        service_of_processes(ingests=1, engine=ENGINE, pipelines=PIPELINES) as service,
        RawStream(service.stub, timeout_s=60) as stream,
    ):
        with Client(service.address) as client:
            listed = {each.name: each for each in client.list_pipelines()}
        (stage,) = listed["grey"].cascade
        assert (stage.name, stage.pipeline, stage.model) == ("shade", "shades", "tiny_classify")
        assert (stage.labels[:2], listed["shades"].cascade) == (("shade0", "shade1"), ())
        stream.open(budget_ms=30_000)
        stream.frame(1, grey_jpeg(15))
        service.settled(lambda status: sum(lane.frames for lane in status.engines if lane.pipeline == "grey") == 1)
        monkeypatch.setenv("FAKE_CLASSIFIER_LATENCY_S", "0")
        service.kill("engine cpu")
        result = stream.result()
        assert (verdicts([result]), grey_of(result), result.attributes_missing) == (["OK"], 15, 1)
        assert "1 of 1 detections has no `shade`: the engine process has died" in result.message
        for sequence in range(2, 402):
            stream.frame(sequence, grey_jpeg(25))
            result = stream.result()
            if verdicts([result]) == ["OK"]:
                break
            assert verdicts([result]) == ["FAILED"]
            threading.Event().wait(0.02)
        ((attribute,),) = (detection.attributes for detection in result.detections)
        assert (attribute.name, attribute.label) == ("shade", "shade2")
        status = service.settled(lambda status: status.ledger.in_flight == 0)
        assert status.ledger.received == status.ledger.ok + status.ledger.failed == sequence
