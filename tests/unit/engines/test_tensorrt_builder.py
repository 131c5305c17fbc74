"""The builder with the real compiler of TensorRT for RTX, which needs no GPU."""

from __future__ import annotations

import os
import signal
import sys
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from foveate.engines import BatchRange, BuildFailed, BuildOptions, ConfigError, EngineUnavailable, Target, TensorSpec
from foveate.engines import tensorrt_builder as builder_module
from foveate.engines.tensorrt_builder import TensorRtBuilder
from foveate.engines.tensorrt_library import MessageLog
from support.models import TINY_DETECTOR, TINY_MODELS, TinyModel, onnx_model

OPTIONS = BuildOptions(batch=BatchRange(1, 2, 4))
FLOAT32 = np.dtype(np.float32)
IMAGE = TensorSpec("image", FLOAT32, (3, 8, 8))


@pytest.fixture(scope="module")
def builder() -> TensorRtBuilder:
    pytest.importorskip("tensorrt_rtx", reason="the compiler of tensorrt_rtx is not installed")
    return TensorRtBuilder("tensorrt_rtx")


def _model(tiny: TinyModel) -> onnx.ModelProto:
    return onnx_model(tiny.inputs, tiny.outputs, tiny.nodes, tiny.weights)


Shape = tuple[int | str, ...]


def _unchecked(
    *nodes: onnx.NodeProto,
    input_shape: Shape = ("batch", 3, 8, 8),
    output_shape: Shape = ("batch", 3, 8, 8),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, output_shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name)
def test_a_tiny_model_compiles(builder: TensorRtBuilder, tiny: TinyModel) -> None:
    compiled = builder.compile(_model(tiny), OPTIONS, name=tiny.name)
    assert compiled.inputs == tiny.inputs
    assert compiled.outputs == tiny.outputs
    assert len(compiled.content) > 1000
    assert compiled.timing_cache == b""


def test_the_compiler_says_what_memory_it_needs(builder: TensorRtBuilder) -> None:
    small = builder.compile(_model(TINY_DETECTOR), OPTIONS)
    large = builder.compile(_model(TINY_DETECTOR), BuildOptions(batch=BatchRange(1, 2, 400)))
    assert small.weights_bytes >= TINY_DETECTOR.weights["kernel"].nbytes
    assert small.activation_bytes is not None
    assert large.activation_bytes is not None
    assert large.activation_bytes > small.activation_bytes


def test_progress_is_told_phase_by_phase(builder: TensorRtBuilder) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    builder.compile(
        _model(TINY_DETECTOR),
        OPTIONS,
        on_progress=lambda phase, done, total: told.setdefault(phase, []).append((done, total)),
    )
    assert "Building engine" in told
    for steps in told.values():
        assert all(0 <= done <= total for done, total in steps)
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1]


def test_a_build_can_be_cancelled(builder: TensorRtBuilder) -> None:
    cancel = threading.Event()
    with pytest.raises(BuildFailed, match="cancelled"):
        builder.compile(_model(TINY_DETECTOR), OPTIONS, on_progress=lambda *_: cancel.set(), cancel=cancel)
    builder.compile(_model(TINY_DETECTOR), OPTIONS)


def test_ctrl_c_cancels_a_build(builder: TensorRtBuilder) -> None:
    cancel = threading.Event()

    def interrupt(*_: object) -> None:
        if not cancel.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            assert cancel.wait(10), "the build must not end before Ctrl-C has been heard"

    with pytest.raises(BuildFailed, match="cancelled"):
        builder.compile(_model(TINY_DETECTOR), OPTIONS, on_progress=interrupt, cancel=cancel)
    assert cancel.is_set()


def test_what_the_progress_callback_raises_comes_out(builder: TensorRtBuilder) -> None:
    def fail(*_: object) -> None:
        raise LookupError("the callback's own")

    with pytest.raises(LookupError, match="own"):
        builder.compile(_model(TINY_DETECTOR), OPTIONS, on_progress=fail)


def test_an_empty_model_is_refused(builder: TensorRtBuilder) -> None:
    """Its parser says that all went well."""
    with pytest.raises(BuildFailed, match="no graph with outputs"):
        builder.compile(onnx.ModelProto(), OPTIONS)


def test_a_node_that_cannot_be_parsed_is_named(builder: TensorRtBuilder) -> None:
    model = _unchecked(
        helper.make_node("Relu", ["image"], ["positive"], name="fine"),
        helper.make_node("Det", ["positive"], ["out"], name="the culprit"),
        output_shape=("batch", 3),
    )
    with pytest.raises(BuildFailed, match=r"cannot take node 'the culprit' of type Det .*export the model without it"):
        builder.compile(model, OPTIONS)


@pytest.mark.parametrize("operator", ["NonMaxSuppression", "NonZero", "RoiAlign"])
@pytest.mark.parametrize("nested", [False, True], ids=["graph", "branch"])
def test_operators_that_fail_only_in_the_build_are_named(builder: TensorRtBuilder, operator: str, nested: bool) -> None:
    node = helper.make_node(operator, ["image"], ["out"], name="the culprit")
    if nested:
        branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("out", 1, None)])
        node = helper.make_node("If", ["condition"], ["out"], then_branch=branch, else_branch=branch)
    with pytest.raises(BuildFailed, match=f"node 'the culprit': it has no {operator}"):
        builder.compile(_unchecked(node), OPTIONS)


def test_two_dimensions_of_one_name_are_refused(builder: TensorRtBuilder) -> None:
    """The library takes them for one size, and then says that the profile is inconsistent."""
    shape = ("?", 3, "?", 8)
    model = _unchecked(helper.make_node("Relu", ["image"], ["out"]), input_shape=shape, output_shape=shape)
    with pytest.raises(BuildFailed, match=r"'image' of shape \['\?', 3, '\?', 8\] is dynamic beyond the batch"):
        builder.compile(model, OPTIONS)


def test_two_inputs_whose_batch_has_no_name_compile(builder: TensorRtBuilder) -> None:
    inputs = (IMAGE, TensorSpec("gain", FLOAT32, (3, 1, 1)))
    outputs = (TensorSpec("out", FLOAT32, (3, 8, 8)),)
    model = onnx_model(inputs, outputs, (helper.make_node("Mul", ["image", "gain"], ["out"]),), {})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
    assert builder.compile(model, OPTIONS).outputs == outputs


def test_a_fixed_batch_is_refused(builder: TensorRtBuilder) -> None:
    model = _unchecked(helper.make_node("Relu", ["image"], ["out"]), input_shape=(1, 3, 8, 8))
    with pytest.raises(BuildFailed, match="no dynamic batch"):
        builder.compile(model, OPTIONS)


def _fp8_convolution() -> onnx.ModelProto:
    """A convolution in fp8."""
    nodes = []
    for name in ("image", "kernel"):
        nodes += [
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_fp8"]),
            helper.make_node("DequantizeLinear", [f"{name}_fp8", "scale", "zero"], [f"{name}_seen"]),
        ]
    nodes.append(helper.make_node("Conv", ["image_seen", "kernel_seen"], ["out"], pads=[1, 1, 1, 1]))
    model = _unchecked(*nodes)
    model.opset_import[0].version = 19
    model.ir_version = 9
    kernel = np.random.default_rng(3).normal(size=(3, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(kernel, "kernel"),
            onnx.numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0]),
        ]
    )
    return model


@pytest.mark.parametrize("name", ["sm_75", "sm_80", "sm_86"])
def test_fp8_is_refused_where_there_is_none(builder: TensorRtBuilder, name: str) -> None:
    """What `BuildOptions` knows of the GPUs is what the compiler knows; here the options do not give it away."""
    with pytest.raises(BuildFailed, match=r"fp8.*leave the older GPUs out"):
        builder.compile(_fp8_convolution(), BuildOptions(target=Target.parse(name)))


@pytest.mark.parametrize("target", ["default", "sm_89", "sm_120"])
def test_fp8_compiles_where_there_is_some(builder: TensorRtBuilder, target: str) -> None:
    options = BuildOptions(precision="fp8", target=Target.parse(target))
    assert builder.compile(_fp8_convolution(), options).outputs[0].name == "out"


@pytest.mark.parametrize(
    ("options", "capabilities"),
    [
        (OPTIONS, ("sm_80+",)),
        (BuildOptions(precision="fp8"), ("sm_89+",)),
        (BuildOptions(target=Target.parse("sm_120,sm_86")), ("sm_86", "sm_120")),
        (BuildOptions(target=Target("this")), ("sm_89",)),
    ],
    ids=["default", "fp8", "listed", "this"],
)
def test_the_gpus_that_a_plan_is_for(
    builder: TensorRtBuilder,
    monkeypatch: pytest.MonkeyPatch,
    options: BuildOptions,
    capabilities: tuple[str, ...],
) -> None:
    monkeypatch.setattr(builder_module, "compute_capability", lambda: "sm_89")
    assert builder.target_capabilities(options) == capabilities


def test_several_gpus_in_one_plan(builder: TensorRtBuilder) -> None:
    options = BuildOptions(target=Target.parse("sm_80,sm_89,sm_120"))
    assert builder.compile(_model(TINY_DETECTOR), options).outputs == TINY_DETECTOR.outputs


def test_this_gpu_needs_a_gpu(builder: TensorRtBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module, "compute_capability", lambda: None)
    with pytest.raises(EngineUnavailable, match="needs an NVIDIA GPU and its driver here"):
        builder.compile(_model(TINY_DETECTOR), BuildOptions(target=Target("this")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(target=Target.parse("sm_90")), r"no target sm_90: choose from .*sm_89.*or default"),
        (BuildOptions(target=Target("ampere_plus")), "no target ampere_plus"),
        (BuildOptions(target=Target("same_compute_capability")), "no target same_compute_capability"),
        (BuildOptions(version_compatible=True), "no version-compatible engines"),
    ],
)
def test_what_the_library_does_not_have_is_refused(
    builder: TensorRtBuilder, options: BuildOptions, message: str
) -> None:
    with pytest.raises(BuildFailed, match=message):
        builder.compile(_model(TINY_DETECTOR), options)


def test_a_workspace_that_is_too_small_is_said(builder: TensorRtBuilder) -> None:
    large = TensorSpec("image", FLOAT32, (64, 128, 128))
    weights = {f"w{number}": np.ones((64, 64, 3, 3), np.float32) for number in range(2)}
    nodes = (
        helper.make_node("Conv", ["image", "w0"], ["middle"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["middle", "w1"], ["out"], pads=[1, 1, 1, 1]),
    )
    model = onnx_model((large,), (TensorSpec("out", FLOAT32, (64, 128, 128)),), nodes, weights)
    assert builder.compile(model, BuildOptions(workspace_mib=1024)).content
    with pytest.raises(BuildFailed, match="raise the workspace limit"):
        builder.compile(model, BuildOptions(workspace_mib=1))


@pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "gpu"), ("tensorrt_rtx", "rtx")])
def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, backend: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(EngineUnavailable, match=rf"pip install 'foveate\[{extra}\]'"):
        TensorRtBuilder(backend)


def test_only_tensorrt_is_tensorrt() -> None:
    with pytest.raises(ConfigError, match="'onnxruntime' is not TensorRT"):
        TensorRtBuilder("onnxruntime")


def test_the_missing_driver_is_no_reason_unless_it_is_the_only_one() -> None:
    log = MessageLog()
    assert log.reason() == "the library gave no reason"
    log.add("ERROR", "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)")
    assert "cudaError 35" in log.reason()
    log.add("WARNING", "a warning")
    log.add("INTERNAL_ERROR", "the layer\n  is too large")
    log.add("ERROR", "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)")
    assert log.reason() == "the layer is too large"


def test_a_number_is_read_from_the_last_message_that_has_it() -> None:
    log = MessageLog()
    log.add("INFO", "Total Weights Memory: 12 bytes")
    log.add("INFO", "Total Weights Memory: 34 bytes")
    log.add("INFO", "Total Weights Memory:")
    assert log.bytes_after("Total Weights Memory:") == 34
    assert log.bytes_after("Total Activation Memory:") is None
