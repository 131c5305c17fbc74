from __future__ import annotations

import asyncio
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.client import Grant, Verdict
from foveate.client.schedule import Outcome
from foveate.tools.bench.figures import fair_shares, figures
from foveate.tools.bench.growth import floor, growth, settled_growth
from foveate.tools.bench.load import StreamLog, StreamPlan
from foveate.tools.bench.sustained import judge, largest_passing


def _outcome(
    verdict: Verdict = Verdict.OK, *, took_ms: float = 10.0, sent_late_ms: float = 0.0, **facts: Any
) -> Outcome:
    told = {"total_ms": took_ms, "infer_ms": 4.0, "decode_ms": 1.0, "batch_size": 2, "budget_ms": 50.0} | facts
    answered_at = 0.0 if verdict is Verdict.LOST else 1.0 + took_ms / 1e3
    return Outcome(1.0, 1.0 + sent_late_ms / 1e3, answered_at, verdict, **told)


def _log(outcomes: list[Outcome], *, name: str = "one", abusive: bool = False, **settings: Any) -> StreamLog:
    log = StreamLog(StreamPlan(name, settings, [], [], abusive))  # type: ignore[arg-type]  # a dict of settings
    log.outcomes = outcomes
    return log


def test_an_answer_that_comes_here_too_late_is_not_on_time_whatever_the_server_says() -> None:
    made = figures([_log([_outcome(took_ms=49), _outcome(took_ms=51, total_ms=45)])], seconds=1.0)
    assert made.on_time_share == 0.5
    assert made.late_share_of_ok == 0.0
    assert made.late_here_share_of_ok == 0.5


def test_the_server_is_late_by_the_age_that_it_was_told() -> None:
    made = figures([_log([_outcome(took_ms=49, total_ms=45, sent_late_ms=6)])], seconds=1.0)
    assert made.late_share_of_ok == 1.0
    assert made.send_error_ms["max"] == pytest.approx(6)


def test_every_frame_is_counted_under_one_verdict() -> None:
    outcomes = [_outcome(), _outcome(Verdict.SUPERSEDED), _outcome(Verdict.LOST), _outcome(Verdict.LOST)]
    made = figures([_log(outcomes)], seconds=2.0)
    assert made.verdicts == {"lost": 2, "ok": 1, "superseded": 1}
    assert made.frames == 4
    assert made.on_time_fps == 0.5


def test_fairness_leaves_abusers_out_and_judges_each_class_by_itself() -> None:
    good, shed = _outcome(), _outcome(Verdict.SUPERSEDED)
    logs = [
        _log([good] * 10, name="top", priority=0),
        _log([good] * 5 + [shed] * 5, name="a", priority=1),
        _log([good] * 5 + [shed] * 5, name="b", priority=1),
        _log([good] * 5 + [shed] * 35, name="abuser", priority=1, abusive=True),
    ]
    made = figures(logs, seconds=1.0)
    assert made.jain == pytest.approx(1.0)
    assert made.worst_share == pytest.approx(1.0)
    assert made.on_time_share_by_class == {0: 1.0, 1: 0.25}


def test_what_is_guaranteed_is_no_unfairness_to_the_others() -> None:
    good, shed = _outcome(), _outcome(Verdict.SUPERSEDED)
    logs = [_log([good] * 10), _log([good] * 2 + [shed] * 8), _log([good] * 2 + [shed] * 8)]
    logs[0].info = SimpleNamespace(grant=Grant.GUARANTEED)  # type: ignore[assignment]  # all that is looked at
    assert figures(logs, seconds=1.0).jain == pytest.approx(1.0)


def test_what_a_weight_brings_is_told() -> None:
    good = _outcome()
    logs = [_log([good] * 6, weight=3.0), _log([good] * 2), _log([good] * 4), _log([good] * 40, abusive=True)]
    assert figures(logs, seconds=2.0).on_time_fps_by_weight == {1.0: 1.5, 3.0: 3.0}


def test_a_stream_that_gets_half_of_its_fair_share_shows() -> None:
    good, shed = _outcome(), _outcome(Verdict.SUPERSEDED)
    logs = [_log([good] * 4 + [shed] * 16, name="poor"), _log([good] * 12 + [shed] * 8, name="rich")]
    made = figures(logs, seconds=1.0)
    assert made.worst_share == pytest.approx(0.5)
    assert made.jain == pytest.approx(0.8)


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 10)), min_size=1, max_size=12),
    st.floats(0.0, 500.0),
)
def test_fair_shares_divide_all_there_is_and_give_nobody_more_than_wanted(
    streams: list[tuple[float, float]], capacity: float
) -> None:
    wanted, weights = [s[0] for s in streams], [s[1] for s in streams]
    given_ = fair_shares(wanted, weights, capacity)
    assert sum(given_) == pytest.approx(min(capacity, sum(wanted)), abs=1e-6)
    assert all(part <= wish + 1e-9 for part, wish in zip(given_, wanted, strict=True))
    unmet = [part / weight for part, wish, weight in zip(given_, wanted, weights, strict=True) if part < wish - 1e-6]
    assert not unmet or max(unmet) == pytest.approx(min(unmet), rel=1e-6, abs=1e-6)


def test_a_share_is_proven_only_by_enough_frames() -> None:
    # 0.99 ** 458 is just above one in a hundred, 0.99 ** 459 just below.
    assert judge(458, late=0) is None
    assert judge(459, late=0) is True
    assert judge(1000, late=10) is None
    assert judge(1000, late=30) is False
    assert judge(100_000, late=900) is True


async def _find(limit: int, start: int, most: int = 4096) -> tuple[int, list[int]]:
    tried: list[int] = []

    async def passes(streams: int) -> bool:
        tried.append(streams)
        return streams <= limit

    return await largest_passing(passes, start, most), tried


@pytest.mark.parametrize(("limit", "start"), [(0, 4), (1, 1), (7, 3), (37, 64), (40, 5)])
def test_the_search_finds_the_largest_that_passes(limit: int, start: int) -> None:
    found, tried = asyncio.run(_find(limit, start))
    assert found == limit
    assert len(tried) == len(set(tried))


def test_the_search_stops_at_the_most_that_may_be_tried() -> None:
    assert asyncio.run(_find(10_000, 5, most=100))[0] == 100


def test_growth_is_found_below_noise_and_jumps() -> None:
    rng = random.Random(3)
    noise = [(float(second), 100 + rng.gauss(0, 1)) for second in range(200)]
    flat = growth(noise)
    assert flat.lowest_per_s < 0 < flat.highest_per_s
    leaking = growth([(second, value + 0.05 * second) for second, value in noise])
    assert leaking.lowest_per_s > 0.04
    jumped = growth([(second, value + (50 if second == 120 else 0)) for second, value in noise])
    assert abs(jumped.per_s - flat.per_s) < 0.01


def memory(seconds: int, seed: int = 3, *, leak_per_s: float = 0.0, warm_s: float = 0.0) -> list[tuple[float, float]]:
    """MiB each second: a floor, what is in use for a moment above it, and arenas that come and go."""
    rng = random.Random(seed)
    warm = [12 * (1 - math.exp(-second / warm_s)) if warm_s else 0.0 for second in range(seconds)]
    return [
        (float(second), 50 + warm[second] + leak_per_s * second + rng.expovariate(2) + (rng.random() < 0.1) * 4)
        for second in range(seconds)
    ]


def test_the_floor_is_the_least_of_each_window() -> None:
    samples = [(10.0, 5.0), (11.0, 4.0), (12.5, 9.0), (13.0, 7.0), (19.9, 1.0)]
    assert floor(samples, 2.0) == [(11.0, 4.0), (13.0, 7.0), (19.9, 1.0)]


@pytest.mark.parametrize("seed", range(5))
def test_a_process_that_warms_up_has_settled_only_then_and_grows_no_more(seed: int) -> None:
    found = settled_growth(memory(3600, seed, warm_s=150.0))
    assert found.settled
    assert 3600 * 0.1 < found.since_s <= 3600 * 0.5
    assert found.growth.lowest_per_s * 3600 < 0.2
    assert found.growth.highest_per_s * 3600 < 1.0, "so a growth of 1 MiB an hour would be seen"


@pytest.mark.parametrize("warm_s", [0.0, 150.0])
def test_a_leak_of_one_mebibyte_an_hour_is_found_in_an_hour(warm_s: float) -> None:
    found = settled_growth(memory(3600, leak_per_s=1 / 3600, warm_s=warm_s))
    assert found.growth.lowest_per_s * 3600 > 0.5
    assert found.growth.highest_per_s * 3600 < 1.7


def test_a_leak_is_no_warm_up() -> None:
    found = settled_growth(memory(900, leak_per_s=0.1))
    assert found.settled
    assert found.since_s < 0.2 * 900
    assert found.growth.per_s == pytest.approx(0.1, rel=0.02)


def test_a_warm_up_longer_than_the_soak_is_told() -> None:
    assert not settled_growth(memory(900, warm_s=300.0)).settled


def test_growth_needs_samples() -> None:
    with pytest.raises(ValueError, match="three samples"):
        growth([(0.0, 1.0), (1.0, 2.0)])
