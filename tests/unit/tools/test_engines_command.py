from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foveate.engines import BuiltEngine, EngineStore
from foveate.tools.engines_command import app
from support.engine_records import engine_record

Run = Callable[..., tuple[int, str, str]]
"""Arguments of `foveate engines` -> exit status, stdout, stderr."""

PROFILE = {"buckets": [1, 2], "median_ns": [1_250_000, 2_000_000], "p99_ns": [1, 2], "measured": [True, True]}


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


def test_the_list_shows_what_matters(run: Run, store: EngineStore) -> None:
    measured = {"accuracy": {"summary": "top-1 99.2 %"}, "profile": PROFILE}
    old = _put(store, "old", days_old=3, name="centerface", **measured)
    new = _put(store, "new", backend="onnxruntime", compute_capabilities=(), precision="fp32")
    code, out, _ = run("list")
    assert code == 0
    header, first, second = out.splitlines()
    assert _squeezed(header) == "key model precision backend targets batch size accuracy l(1) age"
    assert _squeezed(first) == f"{new.key[:12]} tiny fp32 onnxruntime cpu 1:4:8 3.9 KiB - - now"
    shown = "centerface fp16 tensorrt_rtx sm_80+ 1:4:8 3.9 KiB top-1 99.2 % 1.25 ms 3 d"
    assert _squeezed(second) == f"{old.key[:12]} {shown}"


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
    engine = _put(store, "one", exclude=("conv1", "conv2"))
    code, out, _ = run("show", engine.key[:8])
    assert code == 0
    for text in (engine.key, "tensorrt_rtx 1.7.1.116", "conv1, conv2", "pixels uint8[8, 8, 3]", "200 B", "1.7 KiB"):
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
