"""The state and argument checks that every engine inherits."""

from __future__ import annotations

import pytest

from foveate.engines import EngineError, EngineInfo, EngineUnavailable, FakeEngine, RunTimes, host_run_times


class CountingEngine(FakeEngine):
    """A fake engine that counts what the base class asks of it."""

    def __init__(self) -> None:
        super().__init__(max_batch=3)
        self.calls: list[str] = []

    def _load_impl(self) -> EngineInfo:
        self.calls.append("load")
        return super()._load_impl()

    def _close_impl(self) -> None:
        self.calls.append("close")


def test_load_and_close_reach_the_backend_once() -> None:
    engine = CountingEngine()
    with engine:
        engine.load()
    engine.close()
    assert engine.calls == ["load", "close"]


def test_close_without_load_leaves_the_backend_alone() -> None:
    engine = CountingEngine()
    engine.close()
    assert engine.calls == []
    with pytest.raises(EngineError, match="is closed: make a new engine"):
        engine.load()


def test_failed_load_can_be_tried_again() -> None:
    class Flaky(CountingEngine):
        def _load_impl(self) -> EngineInfo:
            if not self.calls:
                self.calls.append("fail")
                raise EngineUnavailable("device busy")
            return super()._load_impl()

    engine = Flaky()
    with pytest.raises(EngineUnavailable, match="device busy"):
        engine.load()
    assert not engine.loaded
    assert engine.load().max_batch == 3


@pytest.mark.parametrize("batch", [-1, 0, 4])
def test_batch_out_of_range_is_refused(batch: int) -> None:
    with FakeEngine(max_batch=3) as engine, pytest.raises(EngineError, match=rf"1\.\.3, not {batch}"):
        engine.run(engine.new_slot(), batch)


def test_slot_of_another_engine_is_refused() -> None:
    with FakeEngine() as engine, FakeEngine() as other:
        engine.new_slot()
        with pytest.raises(EngineError, match="belongs to another engine"):
            engine.run(other.new_slot(), 1)


def test_slot_is_free_again_after_a_failure() -> None:
    with FakeEngine(fail_when=lambda slot, batch: OSError("gone")) as engine:
        slot = engine.new_slot()
        for _ in range(2):
            with pytest.raises(EngineError, match="gone"):
                engine.run(slot, 1)


def test_total_is_the_sum_of_the_parts() -> None:
    assert RunTimes(copy_in_ns=1, infer_ns=20, copy_out_ns=300).total_ns == 321


def test_host_run_times_count_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.engines.contract.time.monotonic_ns", lambda: 1500)
    assert host_run_times(started_ns=500) == RunTimes(0, 1000, 0)
