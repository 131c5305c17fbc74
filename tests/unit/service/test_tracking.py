"""Ids stay with their objects: through crossings, hidden spells and lost frames, whatever a detector comes up with."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.engines.errors import ConfigError, EngineUnavailable
from foveate.models.outputs import Detections
from foveate.service.config import TrackConfig, load_config
from foveate.service.tracking import StreamTracker, Tracks, first_id_after_loss, require_tracking
from support.tracking_scenes import SCENES, SECOND_NS, Seen, as_detections, score_ids

AT_ONCE = TrackConfig(confirm_frames=1)
FRAME_NS = 40_000_000


def ids_of(scene: Iterable[Seen], tracker: StreamTracker) -> list[tuple[int, ...]]:
    return [tracker.update(seen.detections, n, seen.now_ns).track_ids for n, seen in enumerate(scene)]


def box_at(x: float, y: float = 300.0, width: float = 60.0, height: float = 120.0) -> list[float]:
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def feed(
    tracker: StreamTracker, frames: Sequence[Detections], *, start: int = 0, step_ns: int = FRAME_NS
) -> list[Tracks]:
    return [tracker.update(each, start + n, SECOND_NS + (start + n) * step_ns) for n, each in enumerate(frames)]


# --- who is who -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [25.0, 0.0], ids=["declared", "measured"])
@pytest.mark.parametrize("name", SCENES)
def test_ids_stay_with_their_objects(name: str, fps: float) -> None:
    scene = SCENES[name]()
    score = score_ids(scene, ids_of(scene, StreamTracker(TrackConfig(), fps)))
    objects = len({who for seen in scene for who in seen.truth if who})
    assert score.idf1 >= 0.985, score
    assert score.switches == 0, score
    assert score.ids == objects, score


@pytest.mark.parametrize("name", SCENES)
def test_the_scenes_tell_a_tracker_from_numbering_detections(name: str) -> None:
    scene = SCENES[name]()
    score = score_ids(scene, [range(1, len(seen.truth) + 1) for seen in scene])
    assert score.idf1 < 0.5
    assert score.switches > 100


def test_the_time_between_frames_counts_and_not_their_number() -> None:
    """The control is told that frames came one interval apart; it loses what moved on meanwhile."""
    scene = SCENES["dropped_frames"]()
    told = [Seen(SECOND_NS + n * FRAME_NS, seen.detections, seen.truth) for n, seen in enumerate(scene)]
    assert score_ids(told, ids_of(told, StreamTracker(TrackConfig(), 25.0))).switches > 0
    assert score_ids(scene, ids_of(scene, StreamTracker(TrackConfig(), 25.0))).switches == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_each_id_belongs_to_the_detection_whose_box_it_is(data: st.DataObject) -> None:
    """Objects that stand still, far apart, in a new order each frame, with some away and others among them."""
    tracker, owner = StreamTracker(AT_ONCE, 25.0), dict[int, int]()
    count = data.draw(st.integers(1, 12))
    for sequence in range(data.draw(st.integers(2, 8))):
        order = data.draw(st.permutations(range(count)))[: data.draw(st.integers(0, count))]
        nothing = data.draw(st.lists(st.integers(0, len(order)), max_size=3))
        rows: list[tuple[list[float], int]] = [(box_at(100.0 + 150.0 * who), who) for who in order]
        for place in nothing:
            rows.insert(place, ([40.0, 40.0, 40.0, 90.0], -1))
        scores = np.linspace(0.95, 0.6, len(rows))
        tracks = tracker.update(
            as_detections([row[0] for row in rows], scores), sequence, SECOND_NS + sequence * FRAME_NS
        )
        assert len(tracks.track_ids) == len(rows)
        for (_, who), track in zip(rows, tracks.track_ids, strict=True):
            assert bool(track) == (who >= 0)
            assert not track or owner.setdefault(track, who) == who
    assert len(owner) == len(set(owner.values()))


# --- when ids begin, and how long they last ---------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [5.0, 25.0, 60.0])
def test_an_object_gets_its_id_back_for_so_many_seconds(fps: float) -> None:
    step_ns, there, away = round(1e9 / fps), as_detections([box_at(400)]), as_detections([])
    for hidden_s, same in ((1.2, True), (1.9, False)):
        for sent in (True, False):  # frames without it, or no frames at all
            tracker = StreamTracker(TrackConfig(lost_s=1.5), fps)
            before = feed(tracker, [there] * 5, step_ns=step_ns)[-1].track_ids
            gap = round(hidden_s * fps)
            if sent:
                feed(tracker, [away] * gap, start=5, step_ns=step_ns)
            after = feed(tracker, [there] * 3, start=5 + gap, step_ns=step_ns)[-1].track_ids
            assert before == (1,)
            assert after == ((1,) if same else (2,))


def test_an_object_that_goes_on_moving_is_found_where_it_comes_out() -> None:
    tracker = StreamTracker(AT_ONCE, 25.0)
    ids = [
        tracker.update(as_detections([box_at(100 + 10 * n)]), n, SECOND_NS + n * FRAME_NS).track_ids
        for n in [*range(20), *range(40, 45)]
    ]
    assert set(ids) == {(1,)}, "it came 200 px further than it was last seen, more than three times its width"


def test_what_is_seen_once_gets_no_id() -> None:
    tracker = StreamTracker(TrackConfig(confirm_frames=3), 25.0)
    tracks = feed(tracker, [as_detections([box_at(400)])] * 4)
    assert [each.track_ids for each in tracks] == [(0,), (0,), (1,), (1,)]


def test_a_faint_detection_goes_on_with_a_track_and_begins_none() -> None:
    tracker = StreamTracker(AT_ONCE, 25.0)
    sure, faint = as_detections([box_at(400)]), as_detections([box_at(400), box_at(800)], [0.2, 0.2])
    tracks = feed(tracker, [sure, sure, faint, faint, sure])
    assert [each.track_ids for each in tracks] == [(1,), (1,), (1, 0), (1, 0), (1,)]


@pytest.mark.parametrize("across", [False, True])
def test_a_track_has_one_class_unless_told_otherwise(across: bool) -> None:
    tracker = StreamTracker(TrackConfig(confirm_frames=1, across_classes=across), 25.0)
    frames = [as_detections([box_at(400)], class_ids=[class_id]) for class_id in (2, 2, 7, 2)]
    assert [each.track_ids[0] for each in feed(tracker, frames)] == ([1, 1, 1, 1] if across else [1, 1, 2, 1])


def test_classes_never_meet_however_many_there_are() -> None:
    tracker = StreamTracker(AT_ONCE, 25.0)
    frames = [as_detections([box_at(400)] * 90, class_ids=order) for order in (range(90), range(89, -1, -1))]
    first, second = (each.track_ids for each in feed(tracker, frames))
    assert first == second[::-1]
    assert len(set(first)) == 90


def test_ended_tracks_are_told_once_and_never_come_back() -> None:
    scene = SCENES["crowd"]()
    tracker, ended = StreamTracker(TrackConfig(lost_s=0.2), 25.0), list[int]()
    for sequence, seen in enumerate(scene):
        tracks = tracker.update(seen.detections, sequence, seen.now_ns)
        ended += tracks.ended
        assert not set(ended) & set(tracks.track_ids)
    nobody = tracker.update(as_detections([]), len(scene), scene[-1].now_ns + 10 * SECOND_NS)
    ended += nobody.ended
    assert sorted(ended) == list(range(1, tracker.next_id))
    assert len(tracker) == 0


def test_a_stream_that_goes_on_elsewhere_gives_no_id_twice() -> None:
    first = StreamTracker(AT_ONCE, 25.0)
    given_before = feed(first, [as_detections([box_at(200), box_at(600)])])[0].track_ids
    second = StreamTracker(AT_ONCE, 25.0, first.next_id)
    given_after = feed(second, [as_detections([box_at(200), box_at(600)])], start=9)[0].track_ids
    assert (given_before, given_after) == ((1, 2), (3, 4))
    assert first_id_after_loss(90 * SECOND_NS) == 90_000


def test_a_frame_that_comes_late_changes_nothing() -> None:
    tracker, there = StreamTracker(AT_ONCE, 25.0), as_detections([box_at(400)])
    feed(tracker, [there] * 3)
    assert tracker.update(as_detections([box_at(900)] * 2), 1, SECOND_NS) == Tracks((0, 0))
    assert feed(tracker, [there], start=3)[0].track_ids == (1,)


def test_a_clock_that_stands_still_or_goes_back_is_no_fault() -> None:
    tracker, there = StreamTracker(AT_ONCE, 0.0), as_detections([box_at(400)])
    ids = [
        tracker.update(there, n, now).track_ids for n, now in enumerate((SECOND_NS, SECOND_NS, 5, -3, SECOND_NS + 7))
    ]
    assert set(ids) == {(1,)}


@pytest.mark.parametrize("fps", [2.0, 10.0, 60.0])
def test_an_undeclared_pace_is_measured(fps: float) -> None:
    """Walking speed at any frame rate: without the right pace a slow camera's objects would be lost between frames."""
    tracker, ids = StreamTracker(TrackConfig(lost_s=2.0), 0.0), set[tuple[int, ...]]()
    for n in range(round(6 * fps)):
        t = n / fps
        ids.add(tracker.update(as_detections([box_at(100 + 60 * t)]), n, SECOND_NS + round(t * SECOND_NS)).track_ids)
    assert ids == {(0,), (1,)}


# --- whatever comes ---------------------------------------------------------------------------------------------------

_edges = st.one_of(st.integers(-50, 4000).map(float), st.floats(-1e6, 1e6, width=32), st.just(0.0))
_odd_boxes = st.lists(st.tuples(_edges, _edges, _edges, _edges), max_size=25)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(_odd_boxes, st.integers(1, 4), st.integers(0, 3 * SECOND_NS)), max_size=12), st.booleans())
def test_odd_boxes_are_no_fault(frames: list[tuple[list[tuple[float, ...]], int, int]], across: bool) -> None:
    tracker, now_ns = StreamTracker(TrackConfig(confirm_frames=1, across_classes=across), 0.0), 0
    for sequence, (boxes, copies, gap_ns) in enumerate(frames):
        now_ns += gap_ns
        rows = boxes * copies
        scores = np.linspace(1.0, 0.01, len(rows))
        tracks = tracker.update(as_detections(rows, scores, [n % 3 for n in range(len(rows))]), sequence, now_ns)
        given_out = [track for track in tracks.track_ids if track]
        assert len(tracks.track_ids) == len(rows)
        assert len(set(given_out)) == len(given_out), "one id, one detection"
        assert len(tracker) == len(tracker._library.get_active_tracks()), "both know the same tracks"


def test_what_is_no_number_is_not_followed() -> None:
    """One such box would match everything from then on."""
    tracker = StreamTracker(AT_ONCE, 25.0)
    odd = as_detections([[np.nan] * 4, box_at(400), [0, 0, np.inf, 50], box_at(800)], [0.9, 0.9, 0.9, np.nan])
    assert [each.track_ids for each in feed(tracker, [odd] * 3)] == [(0, 1, 0, 0)] * 3


def test_a_detector_gone_wild_is_bounded() -> None:
    """A thousand new places on every frame; when it has come to its senses, new objects are followed again."""
    rng = np.random.default_rng(11)
    tracker = StreamTracker(AT_ONCE, 25.0)
    for n in range(8):
        corners = rng.uniform(0, 3000, (1000, 2))
        wild = as_detections(np.hstack([corners, corners + 30]), np.linspace(0.99, 0.5, 1000))
        tracks = tracker.update(wild, n, SECOND_NS + n * FRAME_NS)
        assert not any(tracks.track_ids[200:])
        assert len(tracker) <= 256 + 200
    calm = feed(tracker, [as_detections([box_at(400)])] * 3, start=100)
    assert calm[0].track_ids[0] > 0
    assert len(tracker) == 1


def test_a_stream_of_days_keeps_nothing_but_its_tracks() -> None:
    """Somebody new every fourth frame; what is kept does not grow, and a box that trembles for hours keeps its id."""
    rng = np.random.default_rng(12)
    tracker = StreamTracker(TrackConfig(lost_s=0.5), 25.0)
    sizes = []
    for n in range(20_000):
        boxes = [box_at(200 + rng.normal(), 200 + rng.normal()), box_at(700 + 150 * (n // 4 % 3), 500)]
        tracks = tracker.update(as_detections(boxes), n, SECOND_NS + n * FRAME_NS)
        sizes.append(len(tracker))
        assert n == 0 or tracks.track_ids[0] == 1
    assert max(sizes) <= 6


# --- settings and the library -----------------------------------------------------------------------------------------


def test_an_empty_section_turns_tracking_on(tmp_path: Path) -> None:
    file = tmp_path / "foveate.toml"
    file.write_text('[pipelines.a]\nmodel = "m"\n[pipelines.b]\nmodel = "m"\n[pipelines.b.track]\n', encoding="utf-8")
    pipelines = load_config(file).pipelines
    assert pipelines["a"].track is None
    assert pipelines["b"].track == TrackConfig()
    file.write_text('[pipelines.b]\nmodel = "m"\n[pipelines.b.track]\nlost_s = 0.0\nlost = 3\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"pipelines\.b\.track\.lost_s.*pipelines\.b\.track\.lost:"):
        load_config(file)


def test_without_the_library_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> None:
        raise ModuleNotFoundError(name)

    for finder in (nowhere, lambda name: None):
        monkeypatch.setattr(importlib.util, "find_spec", finder)
        with pytest.raises(EngineUnavailable, match=r"foveate\[track\]"):
            StreamTracker(TrackConfig(), 25.0)
        with pytest.raises(EngineUnavailable, match=r"foveate\[track\]"):
            require_tracking()


SEEN = "; import sys; print('edgefirst.tracker' in sys.modules)"


@pytest.mark.parametrize(
    ("code", "imported"),
    [
        ("import foveate.service.engine_process", False),
        ("import foveate.service.ingest_process, foveate.service.server, foveate.service.supervisor", False),
        ("from foveate.service.tracking import require_tracking; require_tracking()", False),
        (
            "from foveate.service.tracking import StreamTracker; from foveate.service.config import TrackConfig; "
            "StreamTracker(TrackConfig(), 25.0)",
            True,
        ),
    ],
    ids=["engine process", "without tracking", "asking for it", "a stream that is tracked"],
)
def test_the_library_is_imported_only_for_a_tracked_stream(code: str, imported: bool) -> None:
    done = subprocess.run([sys.executable, "-c", code + SEEN], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.strip() == str(imported)
