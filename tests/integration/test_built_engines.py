"""Built engines are served over gRPC, and each answer names what ran it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import grpc
import numpy as np
import onnx
import pytest

from foveate.engines import BatchRange, BuildOptions, EngineStore, PlanMismatch
from foveate.engines.build import build_engine
from foveate.engines.errors import ModelError
from foveate.models.exporters import RANDOM_WEIGHTS
from foveate.models.package import PreparedModel, load_package, prepare
from foveate.models.store import ModelStore
from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service.config import EngineConfig, PipelineConfig, ServiceConfig, load_config
from foveate.service.embedded import embedded_server
from foveate.service.opening import open_pipelines
from support.networks import network_pictures, write_small_package
from support.packages import write_package

PRECISIONS = ("fp32", "fp16", "int8")
MAX_BATCH = {"fp32": 8, "fp16": 4, "int8": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="module")
def model(root: Path) -> PreparedModel:
    return prepare(load_package(write_small_package(root / "small")), ModelStore(root / "models"))


def _config(root: Path, **engines: EngineConfig) -> ServiceConfig:
    """A pipeline for each of the engines, of the small network."""
    pipelines = {name: PipelineConfig(model=str(root / "small"), engine=engine) for name, engine in engines.items()}
    return load_config(model_store=root / "models", engine_store=root / "engines", pipelines=pipelines)


@pytest.fixture(scope="module")
def stub(root: Path, model: PreparedModel) -> Iterator[pb_grpc.VisionStub]:
    """A server of the graph, of both built engines by their precision, and of one that was never built."""
    store = EngineStore(root / "engines")
    for precision in ("fp16", "int8"):
        options = BuildOptions("onnxruntime", precision, BatchRange(1, 1, MAX_BATCH[precision]))
        pictures = network_pictures(8) if precision == "int8" else ()
        build_engine(model.onnx_path, "small", options, store, calibration=pictures)
    engines = {precision: EngineConfig(precision=precision) for precision in PRECISIONS}
    config = _config(root, **engines, bf16=EngineConfig(precision="bf16"))
    with embedded_server(config=config) as address, grpc.insecure_channel(address) as channel:
        yield pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("allowed", [False, True])
def test_a_model_that_nobody_trained_is_served_only_if_that_is_allowed(tmp_path: Path, allowed: bool) -> None:
    package = write_small_package(tmp_path / "small")
    network = onnx.load(package / "model.onnx")
    network.metadata_props.add(key=RANDOM_WEIGHTS, value="true")
    onnx.save(network, package / "model.onnx")
    wanted = PipelineConfig(model=str(package), allow_random_weights=allowed)
    config = load_config(
        model_store=tmp_path / "models", engine_store=tmp_path / "engines", pipelines={"small": wanted}
    )
    if allowed:
        opened = open_pipelines(config)
        assert [each.name for each in opened.pipelines.ready] == ["small"]
        opened.device.close()
    else:
        with pytest.raises(ModelError, match=r"random weights.* with allow_random_weights = true"):
            open_pipelines(config)


def _scores(stub: pb_grpc.VisionStub, precision: str, picture: int) -> tuple[str, list[float]]:
    """What answered, and the score of each class."""
    done, data = cv2.imencode(".png", network_pictures(4, seed=7)[picture])
    assert done
    frame = pb.Frame(data=data.tobytes(), budget_ms=20_000)
    result: pb.FrameResult = stub.Infer(pb.InferRequest(pipeline=precision, frame=frame))
    assert result.verdict == pb.VERDICT_OK, result.message
    by_label = {each.label: each.score for each in result.classes}
    return result.engine, [by_label[f"class{index}"] for index in range(10)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_answer_names_the_precision_that_ran_it(stub: pb_grpc.VisionStub, precision: str) -> None:
    assert _scores(stub, precision, 0)[0] == f"small/onnxruntime/{precision}/cpu"
    pipelines = {each.name: each for each in stub.ListPipelines(pb.ListPipelinesRequest()).pipelines}
    assert pipelines[precision].engine.precision == precision


def test_the_engines_say_the_same_in_their_own_precision(stub: pb_grpc.VisionStub) -> None:
    differences = {"fp16": 0.0, "int8": 0.0}
    for picture in range(4):
        exact = np.array(_scores(stub, "fp32", picture)[1])
        for precision in differences:
            said = np.array(_scores(stub, precision, picture)[1])
            assert said == pytest.approx(exact, abs=0.1), precision
            differences[precision] += float(np.abs(said - exact).sum())
    assert 0 < differences["fp16"] < differences["int8"], "each was run by an engine of its own"


def test_an_engine_that_was_not_built_is_told_with_the_command(stub: pb_grpc.VisionStub, root: Path) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Infer(pb.InferRequest(pipeline="bf16"))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    command = f"foveate build {root / 'small'} --backend onnxruntime --precision bf16 --batch 8"
    assert f"`{command} --engine-store {root / 'engines'}`" in str(refused.value.details())


def test_latencies_are_measured_once_and_kept_with_the_engines(stub: pb_grpc.VisionStub, root: Path) -> None:
    store = EngineStore(root / "engines")
    for built in store.engines():
        (profile,) = built.record.profiles
        assert profile.conditions.precision == built.record.precision
        assert profile.max_batch == MAX_BATCH[built.record.precision], "the engine's limit bounds the pipeline's"
    assert len(list((store.root / "graphs").iterdir())) == 1


def test_an_engine_of_another_graph_is_refused_by_its_key(root: Path, model: PreparedModel, tmp_path: Path) -> None:
    other = prepare(load_package(write_package(tmp_path / "other")), ModelStore(tmp_path / "models"))
    store = EngineStore(root / "engines")
    built = build_engine(other.onnx_path, "other", BuildOptions("onnxruntime"), store)
    config = _config(root, mine=EngineConfig(engine=built.key[:12]))
    with pytest.raises(PlanMismatch, match="was built from another ONNX graph"), embedded_server(config=config):
        pass
