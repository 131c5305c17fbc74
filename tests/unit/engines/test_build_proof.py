"""The proof inside a build: it sees what is compiled, before that, and what it says is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from foveate.engines import BatchRange, BuildFailed, BuildOptions, EngineStore
from foveate.engines.build import build_engine
from foveate.engines.precision import precision_of
from support.networks import small_classifier

OPTIONS = BuildOptions("onnxruntime", "fp16", BatchRange(1, 1, 1))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(small_classifier().SerializeToString())
    return path


def test_the_converted_graph_is_proven_and_the_proof_is_kept(graph: Path, tmp_path: Path) -> None:
    store = EngineStore(tmp_path / "engines")
    seen: list[str] = []

    def prove(model: onnx.ModelProto) -> dict[str, Any]:
        seen.append(precision_of(model))
        assert store.engines() == [], "nobody can take an engine that is not proven yet"
        return {"summary": "as good as it gets", "failures": []}

    built = build_engine(graph, "small", OPTIONS, store, prove=prove)
    assert built.record.agrees is True
    assert store.find(built.key) == built
    assert build_engine(graph, "small", OPTIONS, store, prove=prove) == built
    assert seen == ["fp16"], "an engine that is found again was proven when it was built"


def test_a_proof_that_fails_keeps_nothing(graph: Path, tmp_path: Path) -> None:
    store = EngineStore(tmp_path / "engines")

    def prove(_: onnx.ModelProto) -> dict[str, Any]:
        raise BuildFailed("too different")

    with pytest.raises(BuildFailed, match="too different"):
        build_engine(graph, "small", OPTIONS, store, prove=prove)
    assert store.engines() == []


def test_what_is_not_proven_agrees_with_nobody_knows(graph: Path, tmp_path: Path) -> None:
    accuracy = {"summary": "not proven", "proven": False}
    built = build_engine(graph, "small", OPTIONS, EngineStore(tmp_path), prove=lambda _: accuracy)
    assert built.record.agrees is None
