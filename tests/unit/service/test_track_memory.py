"""A cascade looks at a track only as often as there is something new to see, and its answers are put to the vote."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.service.config import TrackConfig
from foveate.service.track_memory import TrackMemory

SECOND_NS = 1_000_000_000
BOX = np.array([[100, 100, 200, 200]], np.float32)


def memory(refresh_s: float = 5.0) -> TrackMemory:
    return TrackMemory(TrackConfig(refresh_s=refresh_s))


def asks(kept: TrackMemory, at_s: float, box: object = BOX, track_id: int = 7, stage: str = "kind") -> bool:
    boxes = np.asarray(box, np.float32).reshape(1, 4)
    return kept.needs([track_id], boxes, stage, round(at_s * SECOND_NS)) == (0,)


def votes(kept: TrackMemory, at_s: float, label: str, score: float, track_id: int = 7, stage: str = "kind") -> None:
    kept.vote(track_id, stage, ord(label), label, score, round(at_s * SECOND_NS))


def settled(at_s: float = 0.0) -> TrackMemory:
    kept = memory()
    for _ in range(2):
        assert asks(kept, at_s)
        votes(kept, at_s, "A", 0.9)
        at_s += 0.5
    return kept


def test_what_is_not_tracked_is_always_looked_at_and_never_kept() -> None:
    kept = memory()
    for _ in range(3):
        assert kept.needs([0, 0], np.tile(BOX, (2, 1)), "kind", 0) == (0, 1)
        votes(kept, 0.0, "A", 0.9, track_id=0)
    assert kept.said(0, "kind") is None
    assert len(kept) == 0


def test_a_new_track_is_looked_at_until_its_answer_is_there() -> None:
    kept = memory()
    assert asks(kept, 0.0)
    assert asks(kept, 0.04), "the first answer is still on its way"
    assert kept.said(7, "kind") is None
    votes(kept, 0.0, "A", 0.9)
    assert not asks(kept, 0.08)
    assert kept.said(7, "kind") == ("kind", ord("A"), "A", 0.9, None)


def test_each_stage_and_track_has_votes_of_its_own() -> None:
    kept = memory()
    boxes = np.tile(BOX, (3, 1))
    assert kept.needs([7, 0, 8], boxes, "kind", 0) == (0, 1, 2)
    votes(kept, 0.0, "A", 0.9)
    assert kept.needs([7, 0, 8], boxes, "kind", 1) == (1, 2)
    assert kept.needs([7, 0, 8], boxes, "colour", 1) == (0, 1, 2)
    assert kept.said(8, "kind") is None
    assert kept.said(7, "colour") is None


def test_one_sure_look_is_followed_by_a_second_soon() -> None:
    kept = memory(refresh_s=5.0)
    asks(kept, 0.0)
    votes(kept, 0.0, "A", 0.9)
    assert not asks(kept, 0.4)
    assert asks(kept, 0.5)


def test_a_settled_class_is_looked_at_when_the_interval_has_passed() -> None:
    kept = settled()
    assert not asks(kept, 5.4)
    assert asks(kept, 5.5), "5 s after the last look"


@pytest.mark.parametrize(("labels", "score"), [("ABABAB", 0.9), ("AA", 0.3)], ids=["votes disagree", "votes are weak"])
def test_an_unsettled_class_is_looked_at_again_soon(labels: str, score: float) -> None:
    kept = memory()
    for n, label in enumerate(labels):
        assert asks(kept, n * 0.5)
        votes(kept, n * 0.5, label, score)
    last = (len(labels) - 1) * 0.5
    assert not asks(kept, last + 0.4)
    assert asks(kept, last + 0.5)


@pytest.mark.parametrize(
    ("box", "again"),
    [
        ([500, 400, 600, 500], False),
        ([100, 100, 240, 240], False),
        ([100, 100, 255, 255], True),
        ([100, 100, 160, 160], True),
        ([100, 100, 200, 160], True),
        ([100, 100, 100, 100], True),
    ],
    ids=["moved", "a little larger", "nearer", "farther", "half hidden", "nothing left"],
)
def test_a_box_of_another_size_is_looked_at_and_one_that_moved_is_not(box: list[float], again: bool) -> None:
    kept = settled()
    assert asks(kept, 0.6, box) == again
    if again:
        votes(kept, 0.6, "A", 0.9)
        assert not asks(kept, 0.7, box), "it has been looked at as it is now"


def test_scores_weigh_the_votes() -> None:
    kept = memory()
    for n, (label, score) in enumerate([("A", 0.3), ("B", 0.9), ("A", 0.3)]):
        asks(kept, float(n))
        votes(kept, float(n), label, score)
    said = kept.said(7, "kind")
    assert said is not None
    assert said.label == "B"
    assert said.score == pytest.approx(0.9 / 3, abs=0.05), "two of three votes were for another"


def test_old_votes_fade() -> None:
    """It was A for long; then it turns round, and is B."""
    kept = memory(refresh_s=1.0)
    for n in range(40):
        asks(kept, float(n))
        votes(kept, float(n), "A", 0.9)
    turned = 0
    while (said := kept.said(7, "kind")) is not None and said.label == "A":
        asks(kept, 40.0 + turned)
        votes(kept, 40.0 + turned, "B", 0.9)
        turned += 1
    assert 1 <= turned <= 4, "a majority of all votes would have taken 40"


def test_a_late_answer_to_an_older_frame_counts_and_turns_no_clock_back() -> None:
    kept = settled()
    votes(kept, 0.1, "A", 0.9)
    assert not asks(kept, 5.4)
    assert asks(kept, 5.5)


def test_embeddings_are_averaged_at_length_one() -> None:
    kept = memory()
    vectors = [np.array([10.0, 0.0], np.float32), np.array([0.0, 0.1], np.float32)]
    for vector in vectors:
        asks(kept, 0.0, stage="face")
        kept.vote(7, "face", 0, "", 0.0, 0, vector)
    said = kept.said(7, "face")
    assert said is not None
    assert said.embedding is not None
    assert said.embedding == pytest.approx(np.sqrt([0.5, 0.5]), abs=1e-6), "a long vector is no stronger vote"
    assert said.embedding.dtype == np.float32
    assert (said.label, said.class_id) == ("", 0)
    assert not asks(kept, 4.9, stage="face"), "two looks settle an embedding"


def test_an_embedding_of_zeros_is_no_fault() -> None:
    kept = memory()
    asks(kept, 0.0)
    kept.vote(7, "kind", 0, "", 0.0, 0, np.zeros(4, np.float32))
    said = kept.said(7, "kind")
    assert said is not None
    assert said.embedding is not None
    assert said.embedding.tolist() == [0.0] * 4


def test_a_track_that_has_ended_is_forgotten_and_its_last_answers_are_ignored() -> None:
    kept = settled()
    asks(kept, 1.0, track_id=8)
    kept.forget([7, 99])
    votes(kept, 1.0, "A", 0.9)
    assert kept.said(7, "kind") is None
    assert len(kept) == 1


def test_memory_is_bounded_even_if_nobody_forgets() -> None:
    kept = memory()
    for track_id in range(1, 5000):
        asks(kept, 0.0, track_id=1)
        asks(kept, 0.0, track_id=track_id)
        votes(kept, 0.0, "A", 0.9, track_id=track_id)
    assert len(kept) == 1024
    assert kept.said(1, "kind") is not None, "the one that is asked about all the time stays"
    assert kept.said(2, "kind") is None


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 1.0), st.floats(0.0, 1000.0)), min_size=1, max_size=40))
def test_what_is_said_was_voted_and_scores_are_scores(cast: list[tuple[int, float, float]]) -> None:
    kept, now_s = memory(), 0.0
    for class_id, score, after_s in cast:
        now_s += after_s
        asks(kept, now_s)
        kept.vote(7, "kind", class_id, f"class {class_id}", score, round(now_s * SECOND_NS))
        said = kept.said(7, "kind")
        assert said is not None
        assert said.class_id in {each[0] for each in cast}
        assert said.label == f"class {said.class_id}"
        assert 0.0 <= said.score <= 1.0
