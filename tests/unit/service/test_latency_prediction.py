"""What a batch is predicted to take: it follows the engine, keeps a bounded margin, and forgets a slow spell."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines.profile import LatencyProfile
from foveate.service.prediction import LatencyModel
from support.frames import MS, latency_model

SECOND = 1_000 * MS
ERROR_FLOOR = 500_000


def observed(model: LatencyModel, slowness: float, runs: int, batch: int = 1, since_ns: int = 0) -> int:
    """Let the engine run at a multiple of its profile; returns when the last run ended."""
    now_ns = since_ns
    for _ in range(runs):
        took_ns = int(model.profile.latency_ns(batch) * slowness)
        now_ns += took_ns
        model.observe_run(batch, took_ns, now_ns)
    return now_ns


def test_a_fresh_model_predicts_its_profile() -> None:
    model = latency_model(lambda batch: (5 + batch) * MS)
    assert [model.latency_ns(batch) for batch in (1, 2, 3, 8)] == [6 * MS, 7 * MS, 8 * MS, 13 * MS]
    assert model.margin_ns == ERROR_FLOOR


@pytest.mark.parametrize("slowness", [0.5, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_batch_size_follows_the_engine_that_got_slower_or_faster(slowness: float, batch: int) -> None:
    model = latency_model(lambda size: (5 + size) * MS)
    observed(model, slowness, runs=60, batch=batch)
    for size in (1, 2, 4, 8):
        assert model.latency_ns(size) == pytest.approx(slowness * (5 + size) * MS, rel=0.02)


@given(st.lists(st.tuples(st.integers(1, 32), st.integers(0, 10 * SECOND)), max_size=60))
def test_prediction_stays_monotone_and_the_margin_bounded(runs: list[tuple[int, int]]) -> None:
    model = latency_model(lambda batch: (3 + 2 * batch) * MS)
    for batch, took_ns in runs:
        model.observe_run(batch, took_ns, 0)
        model.observe_reply(took_ns)
    latencies = [model.latency_ns(batch) for batch in range(1, 40)]
    assert latencies == sorted(latencies)
    assert ERROR_FLOOR <= model.margin_ns <= max(ERROR_FLOOR, model.latency_ns(1)) + 20 * MS


def test_a_batch_size_that_got_slower_does_not_speak_for_the_others() -> None:
    model = latency_model(lambda size: (5 + size) * MS)
    for _ in range(100):
        observed(model, 1.0, runs=1, batch=1)
        observed(model, 1.5, runs=1, batch=8)
    assert model.latency_ns(1) == pytest.approx(6 * MS, rel=0.02)
    assert model.latency_ns(8) == pytest.approx(1.5 * 13 * MS, rel=0.02)


def test_a_batch_size_that_has_not_run_for_long_goes_along_with_the_others_and_keeps_what_sets_it_apart() -> None:
    model = latency_model(lambda size: (5 + size) * MS)
    for _ in range(100):
        observed(model, 1.0, runs=1, batch=1)
        observed(model, 1.5, runs=1, batch=8)
    observed(model, 1.5, runs=64, batch=8)
    observed(model, 3.0, runs=100, batch=8)
    assert model.latency_ns(8) == pytest.approx(3.0 * 13 * MS, rel=0.02)
    assert model.latency_ns(1) == pytest.approx(2.0 * 6 * MS, rel=0.05)


def test_a_larger_batch_is_never_predicted_to_be_faster() -> None:
    model = latency_model(lambda size: (5 + size) * MS)
    for _ in range(100):
        observed(model, 1.0, runs=1, batch=1)
        observed(model, 0.1, runs=1, batch=8)
    latencies = model.latencies_ns
    assert list(latencies) == [model.latency_ns(batch) for batch in range(1, 33)]
    assert list(latencies) == sorted(latencies)
    assert latencies[7] == pytest.approx(6 * MS, rel=0.05)


def test_the_line_through_the_buckets_follows_the_engine() -> None:
    model = latency_model(lambda size: (8 + size) * MS, buckets=(1, 2, 4, 8))
    before = model.fill_cap
    for _ in range(300):
        for batch in (1, 2, 4, 8):
            model.observe_run(batch, (1 + batch) * MS, 0)
    assert before == 72
    assert model.fill_cap == pytest.approx(9, abs=1)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 10 * SECOND)), max_size=30),
    st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True),
)
def test_the_table_of_latencies_agrees_with_single_ones(runs: list[tuple[int, int]], sizes: list[int]) -> None:
    buckets = tuple(sorted(sizes))
    model = latency_model(lambda batch: (3 + 2 * batch) * MS + batch % 7, buckets)
    for batch, took_ns in runs:
        model.observe_run(batch, took_ns, 0)
    assert list(model.latencies_ns) == [model.latency_ns(size) for size in range(1, buckets[-1] + 1)]


def test_the_margin_covers_the_errors_that_were_seen() -> None:
    model = latency_model(lambda batch: 20 * MS)
    for index in range(200):
        model.observe_run(1, (24 if index % 10 == 0 else 20) * MS, 0)
    assert 20 * MS + 4 * MS <= model.latency_ns(1) + model.margin_ns <= 30 * MS


def test_the_margin_covers_the_way_of_the_answer_out() -> None:
    model = latency_model(lambda batch: 20 * MS)
    for index in range(200):
        model.observe_run(1, 20 * MS, index * 20 * MS)
        model.observe_reply((7 if index % 20 == 0 else 2) * MS)
    assert model.margin_ns == 7 * MS + ERROR_FLOOR


def test_an_engine_that_is_faster_than_predicted_needs_no_more_margin() -> None:
    model = latency_model(lambda batch: 20 * MS)
    observed(model, 0.5, runs=100)
    assert model.margin_ns == ERROR_FLOOR


@pytest.mark.parametrize("run_ms", [2, 20, 200])
def test_one_stall_of_the_machine_is_not_taken_at_its_word(run_ms: int) -> None:
    model = latency_model(lambda batch: run_ms * MS)
    now_ns = observed(model, 1.0, runs=100)
    model.observe_run(1, 3 * SECOND, now_ns)
    for _ in range(8):  # the answers of that batch
        model.observe_reply(3 * SECOND)
    model.observe_run(1, run_ms * MS, now_ns)
    assert model.latency_ns(1) <= 1.1 * run_ms * MS
    assert model.margin_ns <= 4 * ERROR_FLOOR


@pytest.mark.parametrize("run_ms", [2, 20, 60])
def test_stalls_are_forgotten_in_two_seconds_however_slow_the_engine(run_ms: int) -> None:
    model = latency_model(lambda batch: run_ms * MS)
    now_ns = observed(model, 1.0, runs=100)
    for _ in range(10):
        now_ns = observed(model, 3.0, runs=1, since_ns=now_ns)
    assert model.margin_ns > 2 * ERROR_FLOOR
    observed(model, 1.0, runs=2100 // run_ms, since_ns=now_ns)
    assert model.margin_ns == ERROR_FLOOR


def test_stalls_that_come_again_are_kept_free() -> None:
    model = latency_model(lambda batch: 20 * MS)
    now_ns = 0
    for _ in range(6):
        now_ns = observed(model, 1.4, runs=1, since_ns=observed(model, 1.0, runs=40, since_ns=now_ns))
    assert model.latency_ns(1) + model.margin_ns >= 1.4 * 20 * MS


def test_the_margin_never_keeps_more_than_one_run_for_errors() -> None:
    model = latency_model(lambda batch: 10 * MS)
    for index in range(100):
        model.observe_run(1, (80 if index % 2 else 10) * MS, index * 10 * MS)
    assert model.margin_ns == model.latency_ns(1)


def test_smallest_budget_is_two_runs_and_the_margin() -> None:
    model = latency_model(lambda batch: (5 + batch) * MS)
    assert model.smallest_budget_ns == 2 * 6 * MS + ERROR_FLOOR


def test_a_slow_spell_is_forgotten_while_nothing_runs() -> None:
    """Every frame would be refused on a prediction of the spell, and no run would ever show that it is over."""
    model = latency_model(lambda batch: 10 * MS)
    spell_ends_ns = observed(model, 100.0, runs=300)
    for _ in range(300):
        model.observe_reply(2 * SECOND)
    model.observe_run(1, SECOND, spell_ends_ns)
    assert model.smallest_budget_ns > SECOND
    for second in range(1, 16):
        model.relax(spell_ends_ns + second * SECOND)
    assert model.latency_ns(1) < 11 * MS
    assert model.margin_ns == ERROR_FLOOR


def test_nothing_is_forgotten_while_the_engine_runs() -> None:
    model = latency_model(lambda batch: 10 * MS)
    now_ns = observed(model, 3.0, runs=100)
    before = (model.latency_ns(1), model.margin_ns)
    for _ in range(20):
        model.relax(now_ns + SECOND - 1)
    assert (model.latency_ns(1), model.margin_ns) == before


def test_relaxing_before_any_run_changes_nothing() -> None:
    model = latency_model(lambda batch: 10 * MS)
    model.relax(1 << 60)
    assert model.latency_ns(1) == 10 * MS


@pytest.mark.parametrize(("alpha_ms", "beta_ms", "cap"), [(1, 1, 9), (2, 1, 5), (1, 0.5, 5), (10, 0.01, 1)])
def test_fill_cap_reaches_nine_tenths_of_the_best_rate(alpha_ms: float, beta_ms: float, cap: int) -> None:
    model = latency_model(lambda batch: (beta_ms + alpha_ms * batch) * MS)
    assert model.fill_cap == cap
    rate = cap / (beta_ms + alpha_ms * cap)
    assert rate >= 0.9 / alpha_ms - 1e-6


def test_an_engine_whose_batches_all_cost_the_same_is_filled_without_end() -> None:
    model = LatencyModel(LatencyProfile((1, 2, 4), (MS, MS, MS), (MS, MS, MS)))
    assert model.fill_cap > 1_000_000
    assert not math.isinf(model.fill_cap)
