"""From a graph to an engine in the store; the conversion of the precision has tests of its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from foveate.engines import (
    BatchRange,
    BuildFailed,
    BuildOptions,
    BuiltEngine,
    EngineStore,
    EngineUse,
    OnnxRuntimeEngine,
    PlanMismatch,
    Target,
    check_engine,
    tensorrt_builder,
)
from foveate.engines import precision as precision_package
from foveate.engines.build import build_engine
from support.fake_tensorrt import FakeTensorRt
from support.models import COLOUR_MEAN, TINY_DETECTOR, onnx_model

ONNX = BuildOptions(backend="onnxruntime", batch=BatchRange(1, 2, 4))
RTX = BuildOptions(batch=BatchRange(1, 2, 4))
PICTURES = [np.full((8, 8, 3), value, np.uint8) for value in (10, 200)]


class Conversion:
    """Stands in for `convert`: notes what it was told and gives the graph back."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        model: onnx.ModelProto,
        precision: str,
        *,
        target: str,
        calibration: Sequence[NDArray[np.uint8]] = (),
        exclude: Collection[str] = (),
    ) -> onnx.ModelProto:
        self.calls.append(
            {"precision": precision, "target": target, "pictures": len(calibration), "exclude": tuple(exclude)}
        )
        return model


@pytest.fixture
def conversion(monkeypatch: pytest.MonkeyPatch) -> Conversion:
    stand_in = Conversion()
    monkeypatch.setattr(precision_package, "convert", stand_in)
    return stand_in


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return TINY_DETECTOR.save(tmp_path)


def _use(built: BuiltEngine, capability: str | None = None) -> EngineUse:
    return EngineUse(built.record.source_sha256, built.record.library_version, capability)


@pytest.mark.usefixtures("conversion")
def test_an_onnx_engine_is_the_converted_graph(store: EngineStore, graph: Path) -> None:
    built = build_engine(graph, "tiny", ONNX, store)
    record = built.record
    assert (record.name, record.backend, record.precision, record.target) == ("tiny", "onnxruntime", "fp32", "default")
    assert record.compute_capabilities == ()
    assert (record.batch.min, record.batch.opt, record.batch.max) == (1, 2, 4)
    assert tuple(each.spec() for each in record.inputs) == TINY_DETECTOR.inputs
    assert tuple(each.spec() for each in record.outputs) == TINY_DETECTOR.outputs
    assert record.memory.weights_bytes == 4 + 2 * 3 * 3 * 3 * 4 + 8
    assert record.memory.activation_bytes is None
    assert record.memory.slot_bytes == 4 * (8 * 8 * 3 + 5 * 4 + 5 * 8)
    assert store.open_engine(built.key, _use(built)) == built

    def new_engine() -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(built.path, name=record.name, max_batch=record.batch.max)

    check_engine(new_engine)
    with new_engine() as engine:
        TINY_DETECTOR.check(lambda rows: _run(engine, rows))


def _run(engine: OnnxRuntimeEngine, rows: Any) -> dict[str, NDArray[Any]]:
    slot = engine.new_slot()
    for name, values in rows.items():
        slot.inputs[name][: len(values)] = values
    count = len(next(iter(rows.values())))
    engine.run(slot, count)
    return {name: values[:count] for name, values in slot.outputs.items()}


def test_a_plan_is_kept_with_what_it_is(store: EngineStore, graph: Path, conversion: Conversion) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the compiler of tensorrt_rtx is not installed")
    built = build_engine(graph, "tiny", RTX, store)
    record = built.record
    assert built.path.name == "engine.plan"
    assert built.path.stat().st_size == record.engine_bytes > 1000
    assert record.compute_capabilities == ("sm_80+",)
    assert tuple(each.spec() for each in record.outputs) == TINY_DETECTOR.outputs
    assert record.memory.weights_bytes > 0
    assert record.memory.activation_bytes is not None
    assert conversion.calls == [{"precision": "fp32", "target": "tensorrt", "pictures": 0, "exclude": ()}]
    assert store.open_engine(built.key, _use(built, "sm_120")) == built
    with pytest.raises(PlanMismatch, match="sm_75"):
        store.open_engine(built.key, _use(built, "sm_75"))


def test_force_builds_again_under_the_same_key(store: EngineStore, graph: Path, conversion: Conversion) -> None:
    """The bytes may differ from build to build, so that nothing compares them with another build's."""
    pytest.importorskip("tensorrt_rtx", reason="the compiler of tensorrt_rtx is not installed")
    first = build_engine(graph, "tiny", RTX, store)
    second = build_engine(graph, "tiny", RTX, store, force=True)
    assert len(conversion.calls) == 2
    assert first.key == second.key
    assert store.open_engine(second.key, _use(second, "sm_89")) == second


def test_an_engine_is_found_again(store: EngineStore, graph: Path, conversion: Conversion) -> None:
    told: list[tuple[str, int, int]] = []

    def tell(phase: str, done: int, total: int) -> None:
        told.append((phase, done, total))

    built = build_engine(graph, "tiny", ONNX, store, on_progress=tell)
    assert told == [("Converting to fp32", 0, 1), ("Converting to fp32", 1, 1)]
    again = build_engine(graph, "another name", ONNX, EngineStore(store.root), on_progress=tell)
    assert again == built
    assert len(told) == 2
    assert len(conversion.calls) == 1


def test_all_that_changes_an_engine_changes_its_key(
    store: EngineStore, graph: Path, tmp_path: Path, conversion: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt())
    monkeypatch.setattr(tensorrt_builder, "compute_capability", lambda: "sm_90")

    def key(**changes: Any) -> str:
        fields: dict[str, Any] = {"backend": "tensorrt"} | changes
        pictures = fields.pop("pictures", PICTURES)
        return build_engine(fields.pop("graph", graph), "tiny", BuildOptions(**fields), store, calibration=pictures).key

    keys = [
        key(),
        key(graph=COLOUR_MEAN.save(tmp_path)),
        key(backend="onnxruntime"),
        key(precision="fp16"),
        key(batch=BatchRange(1, 2, 3)),
        key(target=Target("ampere_plus")),
        key(version_compatible=True),
        key(workspace_mib=64),
        key(precision="int8"),
        key(precision="int8", exclude=("a", "b")),
        key(precision="int8", pictures=PICTURES[:1]),
    ]
    monkeypatch.setattr(tensorrt_builder, "compute_capability", lambda: "sm_89")
    keys.append(key())
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt("11.5.0.1"))
    keys.append(key())
    assert len(set(keys)) == len(keys) == len(store.engines())


def test_what_changes_nothing_changes_no_key(store: EngineStore, graph: Path, conversion: Conversion) -> None:
    one = BuildOptions(backend="onnxruntime", precision="int8", exclude=("a", "b"))
    other = BuildOptions(backend="onnxruntime", precision="int8", exclude=("b", "a"))
    first = build_engine(graph, "tiny", one, store, calibration=PICTURES)
    assert build_engine(graph, "tiny", other, store, calibration=PICTURES) == first
    assert conversion.calls == [{"precision": "int8", "target": "onnxruntime", "pictures": 2, "exclude": ("a", "b")}]
    assert len(first.record.calibration_sha256) == 64


def test_what_is_not_quantised_takes_no_pictures(store: EngineStore, graph: Path, conversion: Conversion) -> None:
    with_pictures = build_engine(graph, "tiny", ONNX, store, calibration=PICTURES)
    assert build_engine(graph, "tiny", ONNX, store) == with_pictures
    assert with_pictures.record.calibration_sha256 == ""
    assert conversion.calls[0]["pictures"] == 0


@pytest.mark.usefixtures("conversion")
def test_a_changed_graph_does_not_get_the_old_engine(store: EngineStore, graph: Path) -> None:
    old = build_engine(graph, "tiny", ONNX, store)
    graph.write_bytes(COLOUR_MEAN.save(graph.parent).read_bytes())
    new = build_engine(graph, "tiny", ONNX, store)
    assert new.record.source_sha256 != old.record.source_sha256
    with pytest.raises(PlanMismatch, match="the model has changed"):
        store.open_engine(old.key, _use(new))


@pytest.mark.parametrize("options", [ONNX, RTX], ids=["onnxruntime", "tensorrt_rtx"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no graph with nodes and outputs"),
        (b"no ONNX at all " * 50, "cannot be read as an ONNX model|holds no graph"),
        (None, r"cannot read the prepared graph .*No such file"),
    ],
    ids=["empty", "garbage", "missing"],
)
def test_a_file_that_is_no_model_is_refused(
    store: EngineStore,
    tmp_path: Path,
    conversion: Conversion,
    options: BuildOptions,
    content: bytes | None,
    message: str,
) -> None:
    if options is RTX:
        pytest.importorskip("tensorrt_rtx", reason="the compiler of tensorrt_rtx is not installed")
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildFailed, match=message):
        build_engine(path, "tiny", options, store)
    assert conversion.calls == []
    assert store.engines() == []


def test_a_cut_off_file_is_refused(store: EngineStore, graph: Path, conversion: Conversion) -> None:
    content = graph.read_bytes()
    graph.write_bytes(content[: len(content) // 2])
    with pytest.raises(BuildFailed, match="cannot be read as an ONNX model"):
        build_engine(graph, "tiny", ONNX, store)
    assert conversion.calls == []


def test_a_fixed_batch_is_refused_before_anything_is_done(
    store: EngineStore, tmp_path: Path, conversion: Conversion
) -> None:
    path = tmp_path / "fixed.onnx"
    model = onnx_model(COLOUR_MEAN.inputs, COLOUR_MEAN.outputs, COLOUR_MEAN.nodes, COLOUR_MEAN.weights, batch=1)
    onnx.save(model, path)
    with pytest.raises(BuildFailed, match=r"'pixels' of shape \[1, 4, 6, 3\] has no dynamic batch"):
        build_engine(path, "tiny", ONNX, store)
    assert conversion.calls == []


@pytest.mark.usefixtures("conversion")
def test_a_cancelled_build_keeps_nothing(store: EngineStore, graph: Path) -> None:
    cancel = threading.Event()
    with pytest.raises(BuildFailed, match="cancelled"):
        build_engine(graph, "tiny", ONNX, store, on_progress=lambda *_: cancel.set(), cancel=cancel)
    assert store.engines() == []
    assert store.clean() == []


@pytest.mark.usefixtures("conversion")
def test_what_tensorrt_measured_serves_the_next_build(
    store: EngineStore, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt("11.4.0.106"))
    monkeypatch.setattr(tensorrt_builder, "compute_capability", lambda: "sm_90")
    options = BuildOptions(backend="tensorrt")
    for times in (1, 2):
        build_engine(graph, "tiny", options, store, force=True)
        assert store.read_timing_cache("tensorrt-11.4.0.106-sm_90") == b"+" * times
