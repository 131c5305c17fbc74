from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foveate.engines import BuiltEngine, EngineStore
from foveate.engines.engine_profile import BatchRate, EngineProfile, MemoryUse
from foveate.engines.machine import Machine, this_machine
from foveate.tools.engines_command import app
from support.engine_records import engine_profile, engine_record, run_conditions

Run = Callable[..., tuple[int, str, str]]
"""Arguments of `foveate engines` -> exit status, stdout, stderr."""


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


@pytest.fixture
def run(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `foveate engines ...` on a store of its own."""
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*arguments, "--store", str(store.root)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


def _put(store: EngineStore, seed: str, days_old: float = 0, **changes: Any) -> BuiltEngine:
    built_at = datetime.now(UTC) - timedelta(days=days_old)
    record = engine_record(b"plan" * 1000, seed, built_at=built_at, **changes)
    return store.find_or_build(record.key, lambda: (b"plan" * 1000, record))


def _measured(machine: Machine | None = None) -> EngineProfile:
    """5 ms a frame at 200 frames/s, by default on this machine."""
    memory = MemoryUse(meter="a meter", load_bytes=1 << 20, first_slot_bytes=2 << 20, next_slot_bytes=None)
    rates = (
        BatchRate(batch=1, in_flight=1, frames_per_s=150),
        BatchRate(batch=2, in_flight=1, frames_per_s=200, watts=50),
    )
    conditions = run_conditions(machine=machine or this_machine())
    return engine_profile(conditions, median_ms=5, rates=rates, memory=memory)


PROVEN = {"summary": "top-1 99.2 %"}
CPU: dict[str, Any] = {"backend": "onnxruntime", "compute_capabilities": ()}


def test_the_list_shows_what_matters(run: Run, store: EngineStore) -> None:
    old = _put(store, "old", days_old=3, name="centerface", accuracy=PROVEN, profiles=(_measured(),), **CPU)
    new = _put(store, "new", precision="fp32")
    code, out, _ = run("list")
    assert code == 0
    header, first, second = out.splitlines()
    columns = "key model precision backend accuracy l(1) best rate memory device age"
    assert _squeezed(header) == columns
    planned = "not proven - - ~1.9 KiB sm_80+ now"
    assert _squeezed(first) == f"{new.key[:12]} tiny fp32 tensorrt_rtx {planned}"
    measured = "top-1 99.2 % 5.00 ms 200/s 3.0 MiB cpu 3d"
    assert _squeezed(second) == f"{old.key[:12]} centerface fp16 onnxruntime {measured}"


def test_a_narrow_console_shows_the_same_engines_with_less(
    run: Run, store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    engine = _put(store, "one", name="efficientnet_lite0", accuracy=PROVEN, profiles=(_measured(),), **CPU)
    out = run("list")[1]
    header = out.splitlines()[0]
    assert _squeezed(header) == "key model prec. accuracy l(1) rate memory device age"
    assert max(map(len, out.splitlines())) <= 80
    assert len(out.splitlines()) == 2, "nothing is broken"
    for text in (engine.key[:6], "efficientnet_lite0", "fp16", "proven", "5.00 ms", "200/s", "3.0 MiB", "cpu", "now"):
        assert text in out


def test_what_was_measured_elsewhere_is_not_shown(run: Run, store: EngineStore) -> None:
    _put(store, "one", profiles=(_measured(Machine(cpu="another", cores=1)),))
    assert "5.00 ms" not in run("list")[1]


@pytest.mark.parametrize(
    ("accuracy", "narrow", "wide"),
    [
        ({"summary": "not proven: no pictures", "proven": False}, "not proven", "not proven"),
        ({"failures": ["x"], "accepted": True, "summary": "below: top-1 3 %"}, "accepted", "below: top-1 3 %"),
        ({"failures": ["x"]}, "below bar", "below bar"),
        ({"failures": [], "summary": "top-1 99 %"}, "proven", "top-1 99 %"),
    ],
)
def test_the_list_tells_how_far_an_engine_is_to_be_trusted(
    run: Run, store: EngineStore, monkeypatch: pytest.MonkeyPatch, accuracy: dict[str, Any], narrow: str, wide: str
) -> None:
    _put(store, "one", accuracy=accuracy)
    assert f" tensorrt_rtx {wide} - " in _squeezed(run("list")[1])
    monkeypatch.setenv("COLUMNS", "80")
    assert f" fp16 {narrow} - " in _squeezed(run("list")[1])


def _squeezed(line: str) -> str:
    return " ".join(line.split())


def test_the_list_as_json_has_the_whole_sidecars(run: Run, store: EngineStore) -> None:
    engine = _put(store, "one")
    code, out, _ = run("list", "--json")
    assert code == 0
    assert json.loads(out) == [engine.record.model_dump(mode="json") | {"path": str(engine.path)}]


def test_an_empty_store_has_an_empty_list(run: Run) -> None:
    assert json.loads(run("list", "--json")[1]) == []
    assert len(run("list")[1].splitlines()) == 1


def test_show_finds_an_engine_by_how_its_key_begins(run: Run, store: EngineStore) -> None:
    engine = _put(store, "one", exclude=("conv1", "conv2"), profiles=(_measured(),))
    code, out, _ = run("show", engine.key[:8])
    assert code == 0
    for text in (
        engine.key,
        "tensorrt_rtx 1.7.1.116",
        "conv1, conv2",
        "pixels uint8[8, 8, 3]",
        "200 B",
        "1.7 KiB",
        "50.0 W, 0.25 J",
    ):
        assert text in out
    assert json.loads(run("show", engine.key, "--json")[1])["key"] == engine.key
    code, _, err = run("show", "zzz")
    assert code == 1
    assert "begins with 'zzz'" in err


def test_prune_takes_only_what_is_broken(run: Run, store: EngineStore) -> None:
    whole, broken = _put(store, "whole"), _put(store, "broken")
    broken.path.unlink()
    code, out, _ = run("prune", "--dry-run")
    assert code == 0
    assert out == f"would delete {broken.path.parent} (damaged or left over)\n"
    assert broken.path.parent.is_dir()
    assert run("prune")[1] == f"deleted {broken.path.parent} (damaged or left over)\n"
    assert run("prune")[1] == "nothing to delete\n"
    assert store.engines() == [whole]


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--model", "a"], {"b old", "b new"}),
        (["--model", "a", "--model", "b"], set()),
        (["--older-than", "2"], {"a new", "b new"}),
        (["--model", "a", "--older-than", "2"], {"a new", "b old", "b new"}),
        (["--all"], set()),
    ],
)
def test_prune_takes_what_is_chosen(run: Run, store: EngineStore, arguments: list[str], left: set[str]) -> None:
    engines = {
        f"{name} {age}": _put(store, f"{name} {age}", days_old=days, name=name)
        for name in ("a", "b")
        for age, days in (("old", 3), ("new", 1))
    }
    gone = json.loads(run("prune", *arguments, "--dry-run", "--json")[1])
    assert len(store.engines()) == len(engines)
    assert run("prune", *arguments, "--json")[0] == 0
    kept = {name for name, engine in engines.items() if store.find(engine.key)}
    assert kept == left
    assert {each["path"] for each in gone} == {str(engines[name].path.parent) for name in set(engines) - left}


def test_prune_all_leaves_nothing_to_choose(run: Run) -> None:
    code, _, err = run("prune", "--all", "--model", "a")
    assert code == 1
    assert "--all leaves nothing to choose" in err
