"""Which engine is opened for a model, and what is said where none fits."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foveate.engines import (
    BuiltEngine,
    ConfigError,
    EngineError,
    EngineStore,
    EngineUnavailable,
    PlanMismatch,
    engine_choice,
)
from foveate.engines.engine_choice import EngineWish, choose_engine, engine_of_key, runs_graphs
from foveate.engines.engine_record import BatchRecord
from foveate.engines.machine import Gpu
from support.engine_records import engine_record

GRAPH = b"a prepared graph"
SHA256 = hashlib.sha256(GRAPH).hexdigest()
PLAN = b"a plan"
FP16 = EngineWish("tensorrt_rtx", "fp16", 8)


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(GRAPH)
    return path


@pytest.fixture(autouse=True)
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with an sm_89 GPU and the version that `engine_record` names."""
    monkeypatch.setattr(engine_choice, "tensorrt_library", lambda _: SimpleNamespace(__version__="1.7.1.116"))
    monkeypatch.setattr(engine_choice, "compute_capability", lambda: "sm_89")
    monkeypatch.setattr(engine_choice, "gpu_of", lambda _: Gpu("NVIDIA L4", "GPU-4", "13.0", 24 << 30))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(engine_choice, "engine_class", lambda _: None)


def _put(store: EngineStore, seed: str, day: int = 1, most: int = 8, **changes: Any) -> BuiltEngine:
    fields = {"source_sha256": SHA256, "built_at": datetime(2026, 1, day, tzinfo=UTC)}
    record = engine_record(PLAN, seed, **fields | {"batch": BatchRecord(min=1, opt=1, max=most)} | changes)
    return store.find_or_build(record.key, lambda: (PLAN, record))


def test_fp32_on_the_cpu_is_the_graph_itself(graph: Path, store: EngineStore) -> None:
    chosen = choose_engine(graph, "tiny", EngineWish("onnxruntime", "fp32", 3), store)
    assert (chosen.path, chosen.key, chosen.precision, chosen.max_batch) == (graph, SHA256, "fp32", 3)
    assert chosen.record is None
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("backend", "precision", "as_it_is"),
    [
        ("onnxruntime", "fp32", True),
        ("onnxruntime", "int8", False),
        ("tensorrt", "fp32", False),
        ("tensorrt_rtx", "fp16", False),
        ("torch", "fp16", True),
        ("torch", "int8", False),
        ("fake", "fp32", False),
    ],
)
def test_what_needs_to_be_built(backend: str, precision: str, as_it_is: bool) -> None:
    assert runs_graphs(backend, precision) == as_it_is


def test_the_engine_of_this_graph_backend_and_precision_is_taken(graph: Path, store: EngineStore) -> None:
    _put(store, "another precision", precision="fp32")
    _put(store, "another backend", backend="tensorrt")
    _put(store, "another graph", source_sha256="7" * 64)
    wanted = _put(store, "wanted")
    chosen = choose_engine(graph, "tiny", FP16, store)
    assert (chosen.path, chosen.key, chosen.record) == (wanted.path, wanted.key, wanted.record)
    assert (chosen.backend, chosen.precision, chosen.max_batch) == ("tensorrt_rtx", "fp16", 8)


AGREES = {"summary": "cosine 1"}
FAILED = {"failures": ["cosine 0.1, least 0.9"]}


@pytest.mark.parametrize(
    "worse",
    [
        {"day": 1},
        {"day": 3, "most": 7},
        {"day": 3, "most": 7, "accuracy": AGREES},
        {"day": 3, "compute_capabilities": ("sm_120",)},
        {"day": 3, "library_version": "1.8"},
        {"day": 3, "accuracy": FAILED},
        {"day": 3, "batch": BatchRecord(min=2, opt=4, max=8)},
    ],
    ids=["older", "smaller", "smaller and proven", "another GPU", "another version", "failed", "no single frame"],
)
def test_the_best_that_fits_is_taken(graph: Path, store: EngineStore, worse: dict[str, Any]) -> None:
    best = _put(store, "best", day=2)
    _put(store, "worse", **worse)
    assert choose_engine(graph, "tiny", FP16, store).key == best.key


def test_a_proven_one_comes_before_a_newer_one(graph: Path, store: EngineStore) -> None:
    proven = _put(store, "proven", day=1, accuracy=AGREES)
    _put(store, "unproven", day=2, most=16)
    assert choose_engine(graph, "tiny", FP16, store).key == proven.key


def test_the_engines_limit_bounds_the_batch(graph: Path, store: EngineStore) -> None:
    _put(store, "small", most=4)
    assert choose_engine(graph, "tiny", FP16, store).max_batch == 4


@pytest.mark.parametrize(
    ("wish", "command"),
    [
        (FP16, "foveate build tiny --backend tensorrt_rtx --precision fp16 --batch 8"),
        (
            EngineWish("onnxruntime", "int8", 4),
            "foveate build tiny --backend onnxruntime --precision int8 --batch 4 --calibration FOLDER_OR_VIDEO",
        ),
    ],
)
def test_a_missing_engine_is_told_with_the_command_that_builds_it(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: EngineWish, command: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(PlanMismatch, match=f"`{command}`"):
        choose_engine(graph, "tiny", wish, EngineStore())
    other = tmp_path / "engines"
    with pytest.raises(PlanMismatch, match=f"`{command} --engine-store {other}`"):
        choose_engine(graph, "tiny", wish, EngineStore(other))


def test_why_those_that_are_there_do_not_fit_is_told(graph: Path, store: EngineStore) -> None:
    _put(store, "version", library_version="1.6")
    _put(store, "capability", compute_capabilities=("sm_120",))
    with pytest.raises(PlanMismatch) as refused:
        choose_engine(graph, "tiny", FP16, store)
    for text in (
        "foveate build tiny",
        "was built by version 1.6",
        "is for compute capability sm_120, here is sm_89 (NVIDIA L4)",
    ):
        assert text in str(refused.value)


def test_an_engine_that_agrees_too_little_is_served_only_if_accepted(
    graph: Path, store: EngineStore, caplog: pytest.LogCaptureFixture
) -> None:
    failed = _put(store, "failed", accuracy=FAILED)
    with pytest.raises(PlanMismatch, match=r"agrees too little.*cosine 0\.1, least 0\.9.*build it .* with --accept"):
        choose_engine(graph, "tiny", FP16, store)
    assert choose_engine(graph, "tiny", replace(FP16, accept_failed=True), store).key == failed.key
    caplog.clear()
    accepted = _put(store, "accepted", accuracy=FAILED | {"accepted": True})
    assert choose_engine(graph, "tiny", FP16, store).key == accepted.key
    assert "cosine 0.1, least 0.9" in caplog.text, "whoever serves it is told"
    unproven = _put(store, "unproven")
    assert choose_engine(graph, "tiny", FP16, store).key == unproven.key


def test_a_key_decides_alone(graph: Path, store: EngineStore) -> None:
    named = _put(store, "named", most=2, day=1)
    _put(store, "newer", day=2)
    chosen = choose_engine(graph, "tiny", EngineWish(engine=named.key[:10]), store)
    assert (chosen.key, chosen.backend, chosen.precision, chosen.max_batch) == (named.key, "tensorrt_rtx", "fp16", 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source_sha256": "7" * 64}, "was built from another ONNX graph"),
        ({"compute_capabilities": ("sm_120",)}, "is for compute capability sm_120"),
        ({"accuracy": FAILED}, "agrees too little"),
    ],
)
def test_a_key_of_what_does_not_fit_is_refused(
    graph: Path, store: EngineStore, changes: dict[str, Any], said: str
) -> None:
    named = _put(store, "named", **changes)
    with pytest.raises(PlanMismatch, match=said):
        choose_engine(graph, "tiny", EngineWish(engine=named.key), store)


def test_an_unknown_key_is_told(graph: Path, store: EngineStore) -> None:
    with pytest.raises(EngineError, match="`foveate engines list` shows them"):
        choose_engine(graph, "tiny", EngineWish(engine="abc"), store)


def test_an_engine_without_a_model_needs_only_its_key(store: EngineStore) -> None:
    built = _put(store, "any", source_sha256="7" * 64)
    assert engine_of_key(built.key[:8], store, 64).max_batch == 8


def test_a_damaged_file_is_not_opened(graph: Path, store: EngineStore) -> None:
    built = _put(store, "damaged")
    built.path.write_bytes(b"b plan")
    with pytest.raises(PlanMismatch, match="is corrupt"):
        choose_engine(graph, "tiny", FP16, store)


def test_a_missing_library_is_told_before_a_missing_engine(
    graph: Path, store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(backend: str) -> Any:
        raise EngineUnavailable(f"{backend} is not usable here: install it")

    monkeypatch.setattr(engine_choice, "tensorrt_library", missing)
    with pytest.raises(EngineUnavailable, match="install it"):
        choose_engine(graph, "tiny", FP16, store)


@pytest.mark.parametrize(
    ("wish", "can"), [(EngineWish("torch", "int8"), "fp32, fp16, bf16"), (EngineWish("fake"), "no precision")]
)
def test_what_no_engine_can_be_built_for_is_told(graph: Path, store: EngineStore, wish: EngineWish, can: str) -> None:
    with pytest.raises(ConfigError, match=f"{wish.backend} runs models in {can}, not in {wish.precision}"):
        choose_engine(graph, "tiny", wish, store)


def test_a_precision_that_nobody_knows_is_told() -> None:
    with pytest.raises(ConfigError, match="no precision is called 'fp17': choose one of fp32, fp16"):
        EngineWish("onnxruntime", "fp17")


def test_a_missing_graph_is_told(tmp_path: Path, store: EngineStore) -> None:
    with pytest.raises(EngineError, match="prepare the model"):
        choose_engine(tmp_path / "none.onnx", "tiny", FP16, store)


def test_an_unknown_backend_is_told(graph: Path, store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="no backend is called 'abacus'"):
        choose_engine(graph, "tiny", EngineWish("abacus"), store)
