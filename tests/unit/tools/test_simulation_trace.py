"""The simulator runs the real scheduler: its trace replays to the same decisions, and the plain rules agree."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.engines.profile import LatencyProfile
from foveate.service.arbiter import Beside
from foveate.service.prediction import LatencyModel
from foveate.service.scheduler import Scheduler
from foveate.service.scheduler_trace import RecordedLatency, RecordedScheduler, replay
from foveate.tools.simulation import Arrival, Camera, FairShares, Scenario
from support.reference_scheduler import ReferenceFrame, ReferenceScheduler, ReferenceStream

cameras = st.builds(
    Camera,
    fps=st.floats(5, 60),
    budget_ms=st.sampled_from([25.0, 60.0, 200.0]),
    priority=st.integers(0, 1),
    weight=st.sampled_from([1.0, 3.0]),
    queue_depth=st.none() | st.integers(1, 4),
    guaranteed_fps=st.sampled_from([0.0, 10.0]),
    excess=st.sampled_from([1.0, 4.0]),
    stalls_per_minute=st.just(30.0),
)


def recorded(scenario: Scenario, others: Beside | None = None) -> list[str]:
    """The trace of the scheduler in a simulated second; `others` are lanes beside it on its device."""
    lines: list[str] = []

    def recorder(profile: LatencyProfile) -> Scheduler[Arrival]:
        made = RecordedScheduler[Arrival](RecordedLatency(profile, lines.append), scenario.max_batch, lines.append)
        made.share(others or Beside())
        return made

    outcome = scenario.run(lambda profile, cameras: FairShares(profile, cameras, recorder))
    assert outcome.batches == sum(json.loads(line).get("do") == "run" for line in lines)
    return lines


small = Scenario([Camera(), Camera(excess=4.0), Camera(queue_depth=3, weight=2.0)], 8.0, 4.0, 8, seconds=0.3)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(cameras, min_size=1, max_size=10),
    st.integers(0, 100),
    st.none() | st.builds(Beside, st.integers(1, 60_000_000), st.none() | st.integers(0, 60_000_000)),
)
def test_a_recorded_trace_is_decided_the_same_by_the_scheduler_and_by_the_plain_rules(
    cameras: list[Camera], seed: int, others: Beside | None
) -> None:
    lines = recorded(replace(small, cameras=cameras, seed=seed), others)
    assert (json.loads(lines[1])["do"] == "share") == (others is not None)
    replayed = list(replay(lines))
    assert len(replayed) == len(lines) - 1
    assert all(event.same for event in replayed)
    decided_by_reference(lines)


def decided_by_reference(lines: list[str]) -> None:
    """Check every decision of a trace against the plain rules."""
    head, *events = map(json.loads, lines)
    latency = LatencyModel(LatencyProfile.from_json(head["profile"]))
    reference = ReferenceScheduler(latency, head["max_batch"], head["decoders"])
    streams: list[ReferenceStream] = []
    for event in events:
        match event["do"]:
            case "stream":
                names = ("priority", "weight", "queue_depth", "guaranteed_fps")
                streams.append(ReferenceStream(**{name: event[name] for name in names}))
            case "arrive":
                frame = ReferenceFrame(event["frame"], streams[event["stream"]], event["deadline"], event["prepare"])
                refused = reference.arrive(frame, event["at"], event["free"])
                assert [[number, verdict.value] for number, verdict in refused] == event["refused"]
            case "plan":
                batch, expired, wake_at = reference.plan(event["at"], event["free"])
                assert batch == event["batch"]
                assert [[number, "expired"] for number in expired] == event["refused"]
                assert wake_at == event["wake_at"]
            case "share":
                reference.longest_beside_ns, reference.patience_ns = event["longest_run"], event["patience"]
            case "run":
                latency.observe_run(event["batch"], event["took"], event["at"])


def test_a_replay_finds_the_decision_that_was_tampered_with() -> None:
    lines = recorded(small)
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    index = next(i for i, event in enumerate(events) if event.get("batch") and event["do"] == "plan")
    events[index]["batch"] = [*events[index]["batch"][::-1], 9999]
    different = [event.event for event in replay(map(json.dumps, events)) if not event.same]
    assert different == [events[index]]


def test_what_is_no_trace_is_refused() -> None:
    with pytest.raises(ValueError, match="version 1"):
        list(replay(['{"version": 99}']))
    with pytest.raises(ValueError, match="version 1"):
        list(replay([]))
    with pytest.raises(ValueError, match="no event 'dance'"):
        list(replay([recorded(small)[0], '{"do": "dance"}']))
