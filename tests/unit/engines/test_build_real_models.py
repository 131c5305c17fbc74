"""Real networks, fused, converted and compiled by TensorRT for RTX on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines import BatchRange, BuildOptions, EngineStore, EngineUse
from foveate.engines.build import build_engine
from foveate.models import ModelStore, PreparedModel, import_file, load_package, prepare
from support.shared_models import centerface, picture, shared_model

pytestmark = pytest.mark.timeout(180)

MODELS = ("centerface", "efficientnet_lite0")
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    pytest.importorskip("tensorrt_rtx", reason="the compiler of tensorrt_rtx is not installed")
    return ModelStore(tmp_path_factory.mktemp("models"))


def _prepared(name: str, store: ModelStore) -> PreparedModel:
    package = load_package(name)
    import_file(package, store, centerface() if name == "centerface" else shared_model(f"{name}.onnx"))
    return prepare(package, store, fetch=False)


def _pictures(model: PreparedModel) -> list[NDArray[np.uint8]]:
    """The corners of real pictures: real values, without a decoder."""
    spec = model.manifest.input
    pictures = []
    for name in ("astronaut", "coffee", "chelsea"):
        row = np.zeros((spec.height_px, spec.width_px, 3), np.uint8)
        seen = picture(name)[: spec.height_px, : spec.width_px]
        row[: seen.shape[0], : seen.shape[1]] = seen
        pictures.append(row)
    return pictures


@pytest.mark.network
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_compiles(name: str, precision: str, model_store: ModelStore, tmp_path: Path) -> None:
    model = _prepared(name, model_store)
    options = BuildOptions(precision=precision, batch=BatchRange(1, 2, 4))
    store = EngineStore(tmp_path)
    pictures = _pictures(model) if options.quantised else []
    built = build_engine(model.onnx_path, name, options, store, calibration=pictures)
    record = built.record
    spec = model.manifest.input
    assert [(each.name, each.dtype, each.shape) for each in record.inputs] == [
        ("pixels", "uint8", (spec.height_px, spec.width_px, 3))
    ]
    assert {"scores", "class_ids"} <= {each.name for each in record.outputs}
    assert {each.dtype for each in record.outputs} <= {"float32", "int32", "int64"}
    assert 1_000_000 < record.engine_bytes < 40_000_000
    use = EngineUse(record.source_sha256, record.library_version, "sm_89", batch=4)
    assert store.open_engine(built.key, use) == built


@pytest.mark.network
def test_half_precision_halves_the_weights(model_store: ModelStore, tmp_path: Path) -> None:
    model = _prepared("efficientnet_lite0", model_store)
    sizes = {
        precision: build_engine(
            model.onnx_path, "lite0", BuildOptions(precision=precision), EngineStore(tmp_path)
        ).record.memory.weights_bytes
        for precision in ("fp32", "fp16")
    }
    assert sizes["fp16"] / sizes["fp32"] == pytest.approx(0.5, abs=0.05)
