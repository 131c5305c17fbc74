"""Every ONNX operator of the torch engine says what ONNX Runtime says, for one picture and for several."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from foveate.engines.errors import PlanMismatch  # noqa: E402
from foveate.engines.onnx_to_torch import OPERATORS, TorchProgram  # noqa: E402
from support.onnx_models import run_onnx  # noqa: E402

Array = NDArray[Any]
RANDOM = np.random.default_rng(5)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node over a batch `x` and constants; `shape` is that of one row of `x`, `low` and `high` its values."""

    operator: str
    shape: tuple[int, ...] = (3, 8, 6)
    constants: tuple[Array | None, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    low: float = -3
    high: float = 3
    dtype: Any = np.float32
    outputs: int = 1
    twice: bool = False
    """The batch is both inputs."""
    opset: int = 20
    tolerance: float = 1e-5
    x_last: bool = False
    note: str = ""

    def __str__(self) -> str:
        extra = "-".join(f"{name}={value}" for name, value in self.attributes.items())
        return "-".join(filter(None, (self.operator, self.note, extra))).replace(" ", "")

    def rows(self, count: int) -> Array:
        values = np.random.default_rng(3).uniform(self.low, self.high, (count, *self.shape))
        return values.astype(self.dtype)

    def model(self) -> onnx.ModelProto:
        names = [f"c{place}" if value is not None else "" for place, value in enumerate(self.constants)]
        batch = ["x", "x"] if self.twice else ["x"]
        read = [*names, *batch] if self.x_last else [*batch, *names]
        made = [f"y{place}" for place in range(self.outputs)]
        nodes = [helper.make_node(self.operator, read, made, name="subject", **self.attributes)]
        nodes += [helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT) for name in made]
        weights = [
            numpy_helper.from_array(value, f"c{place}")
            for place, value in enumerate(self.constants)
            if value is not None
        ]
        element = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = helper.make_graph(
            nodes,
            "case",
            [helper.make_tensor_value_info("x", element, ["batch", *self.shape])],
            [helper.make_tensor_value_info(f"{name}_float", TensorProto.FLOAT, None) for name in made],
            weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)


def answers(model: onnx.ModelProto, rows: Array, half: Any = None) -> list[Array]:
    program = TorchProgram(model, torch.device("cpu"), half)
    with torch.inference_mode():
        made = program.bind(len(rows))([torch.from_numpy(rows)])
    return [tensor.numpy() for tensor in made]


def check(case: Case) -> None:
    model = case.model()
    for count in (1, 3):
        rows = case.rows(count)
        expected = list(run_onnx(model, {"x": rows}).values())
        for actual, wanted in zip(answers(model, rows), expected, strict=True):
            assert actual.shape == wanted.shape
            np.testing.assert_allclose(actual, wanted, rtol=case.tolerance, atol=case.tolerance)


def conv(note: str, *weight: int, bias: bool = True, shape: tuple[int, ...] = (4, 9, 8), **attributes: Any) -> Case:
    constants: tuple[Array, ...] = (floats(*weight), floats(weight[0])) if bias else (floats(*weight),)
    return Case("Conv", shape, constants, attributes, note=note, tolerance=1e-4)


def turned(note: str, *weight: int, **attributes: Any) -> Case:
    return Case("ConvTranspose", (4, 5, 6), (floats(*weight),), attributes, note=note, tolerance=1e-4)


def resize(
    note: str, sizes: tuple[int, int] | None = None, scales: tuple[float, float] | None = None, **how: Any
) -> Case:
    if scales is not None:
        return Case("Resize", (2, 5, 6), (None, np.array([1, 1, *scales], np.float32)), how, note=note)
    assert sizes is not None
    return Case("Resize", (2, 5, 6), (None, None, ints(*sizes)), {"axes": [2, 3], **how}, note=note, tolerance=1e-4)


# fmt: off
UNARY_NAMES = [
    "Abs", "Atan", "Ceil", "Celu", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "IsNaN", "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus",
    "Softsign", "Tanh",
]
REDUCTION_NAMES = [
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
]
# fmt: on
UNARY = [Case(operator) for operator in UNARY_NAMES]
POSITIVE = [Case(operator, low=0.5, high=4) for operator in ("Log", "Reciprocal", "Sqrt", "Tan")]
BINARY = [
    Case(operator, constants=(floats(8, 1),))
    for operator in (
        "Add",
        "Mul",
        "Sub",
        "Max",
        "Min",
        "Sum",
        "PRelu",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
    )
]
ELEMENTWISE = [
    Case("Div", constants=(floats(8, 1) + 5,)),
    Case("Div", constants=(np.array([3, -4, 5, 7, 2, 6], np.int64),), dtype=np.int64, low=-40, high=40, note="ints"),
    Case("Equal", constants=(np.full((6,), 2, np.int32),), dtype=np.int32, high=4),
    Case("Pow", constants=(np.array(2.5, np.float32),), low=0, note="scalar"),
    Case("Pow", constants=(floats(6),), low=0.5, note="tensor", tolerance=1e-4),
    Case("Mod", constants=(np.array([3, -4, 5, 7, 2, 6], np.int64),), dtype=np.int64, low=-40, high=40),
    Case("Mod", constants=(np.full(6, 1.5, np.float32),), attributes={"fmod": 1}),
    Case("Clip", constants=(np.array(-1, np.float32), np.array(2, np.float32))),
    Case("Clip", constants=(None, np.array(1, np.float32)), note="above"),
    Case("Clip", note="nothing"),
    Case("Cast", attributes={"to": TensorProto.INT32}),
    Case("Cast", attributes={"to": TensorProto.FLOAT16}, tolerance=1e-3),
    Case("Cast", attributes={"to": TensorProto.FLOAT}, dtype=np.uint8, low=0, high=255),
    Case("Not", dtype=np.bool_, low=-1, high=2),
    Case("And", constants=(np.array([True, False] * 3),), dtype=np.bool_),
    Case("Or", constants=(np.array([True, False] * 3),), dtype=np.bool_),
    Case("Xor", constants=(np.array([True, False] * 3),), dtype=np.bool_),
    Case("Elu", attributes={"alpha": 0.5}),
    Case("HardSigmoid", attributes={"alpha": 1 / 6, "beta": 0.5}),
    Case("Gelu", attributes={"approximate": "tanh"}),
    Case("CastLike", constants=(np.zeros(1, np.float16),), tolerance=1e-3),
]
SHAPING = [
    Case("Reshape", constants=(ints(0, -1),)),
    Case("Reshape", constants=(ints(0, 6, 0, 4),), shape=(4, 5, 6), note="zeros"),
    Case("Flatten"),
    Case("Flatten", attributes={"axis": -1}),
    Case("Transpose", attributes={"perm": [0, 2, 3, 1]}),
    Case("Transpose"),
    Case("Squeeze", (1, 4, 1), (ints(1, -1),)),
    Case("Unsqueeze", (4,), (ints(0, -1),)),
    Case("Expand", (1, 4), (ints(1, 3, 4),)),
    Case("Tile", constants=(ints(1, 2, 1, 3),)),
    Case("Concat", attributes={"axis": -1}, twice=True),
    Case("Split", constants=(ints(2, 1, 5),), attributes={"axis": 2}, outputs=3),
    Case("Split", attributes={"axis": -2, "num_outputs": 3}, outputs=3),
    Case("Slice", constants=(ints(1, -5), ints(9999, -1), ints(2, 3), ints(2, 3))),
    Case("Slice", constants=(ints(-1, 4), ints(-(2**63), 1), ints(3, 2), ints(-2, -1)), note="backwards"),
    Case("Slice", constants=(ints(5), ints(2), ints(2)), note="empty"),
    Case("Gather", constants=(ints(2, 1, 0),), attributes={"axis": 1}),
    Case("Gather", constants=(np.array(-1),), attributes={"axis": 2}, note="scalar"),
    Case("Gather", constants=(np.array([[0, 3], [5, -6]]),), attributes={"axis": 3}, note="matrix"),
    Case("Gather", constants=(floats(7, 4),), dtype=np.int64, shape=(5,), low=-7, high=6, x_last=True, note="table"),
    Case("Trilu", attributes={"upper": 0}),
    Case("Trilu", constants=(np.array(1),)),
    Case("DepthToSpace", (8, 3, 2), attributes={"blocksize": 2}),
    Case("DepthToSpace", (8, 3, 2), attributes={"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", (2, 4, 6), attributes={"blocksize": 2}),
    Case("Pad", constants=(ints(0, 1, 0, 2, 0, 0, 3, 1), np.array(7, np.float32))),
    Case("Pad", constants=(ints(0, -1, 0, 0, 0, 0, -2, 1),), note="cut"),
    Case("Pad", constants=(ints(2, 1), None, ints(-1)), attributes={"mode": "reflect"}),
    Case("Pad", constants=(ints(2, 4, 1, 0), None, ints(1, 2)), attributes={"mode": "edge"}),
    Case("Pad", constants=(ints(2, 1), None, ints(2)), attributes={"mode": "wrap"}),
    Case("Shape"),
    Case("Shape", attributes={"start": 1, "end": -1}),
    Case("Size"),
]
SPATIAL = [
    conv("plain", 5, 4, 3, 3, pads=[1, 1, 1, 1]),
    conv("no bias", 5, 4, 3, 3, bias=False, strides=[2, 2]),
    conv("groups", 6, 2, 3, 3, group=2, dilations=[2, 1], pads=[2, 1, 2, 1]),
    conv("depthwise", 4, 1, 5, 5, group=4, pads=[2, 2, 2, 2]),
    conv("uneven", 5, 4, 3, 3, strides=[2, 2], pads=[0, 0, 1, 1]),
    conv("upper", 5, 4, 3, 2, strides=[2, 2], auto_pad="SAME_UPPER"),
    conv("lower", 5, 4, 3, 2, strides=[2, 2], auto_pad="SAME_LOWER"),
    conv("valid", 5, 4, 3, 2, auto_pad="VALID"),
    conv("line", 5, 4, 3, shape=(4, 9), pads=[1, 1]),
    conv("volume", 5, 4, 2, 2, 2, shape=(4, 3, 4, 5)),
    turned("plain", 4, 3, 2, 2, strides=[2, 2]),
    turned("padded", 4, 3, 4, 4, strides=[2, 2], pads=[1, 1, 1, 1]),
    turned("extra", 4, 3, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    turned("uneven", 4, 3, 3, 3, strides=[2, 2], pads=[0, 1, 1, 0]),
    turned("groups", 4, 3, 3, 3, group=2, dilations=[2, 2]),
    Case("MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", attributes={"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    Case("MaxPool", attributes={"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "dilations": [1, 1]}),
    Case("MaxPool", attributes={"kernel_shape": [2, 2], "dilations": [2, 2]}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    Case("GlobalAveragePool"),
    Case("GlobalMaxPool"),
    resize("double", scales=(2, 2)),
    resize("odd", scales=(1.5, 0.5), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    resize("ceil", scales=(3, 2), mode="nearest", nearest_mode="round_prefer_ceil"),
    resize("corners", (7, 11), mode="nearest", coordinate_transformation_mode="align_corners", nearest_mode="ceil"),
    resize("half", (10, 3), mode="nearest", coordinate_transformation_mode="pytorch_half_pixel"),
    resize("up", (9, 13), mode="linear"),
    resize("down", (3, 4), mode="linear"),
    resize("corners", (9, 13), mode="linear", coordinate_transformation_mode="align_corners"),
    resize("up", (9, 13), mode="cubic"),
]
REDUCTION = [
    *(
        Case(operator, constants=(ints(-1, 1),), low=0.2, tolerance=1e-4, attributes={"keepdims": keep})
        for keep in (0, 1)
        for operator in REDUCTION_NAMES
    ),
    Case("ReduceMean", attributes={"axes": [2, 3], "keepdims": 0}, opset=17),
    Case("ReduceMax", attributes={"noop_with_empty_axes": 1}),
    Case("ArgMax", attributes={"axis": -1, "keepdims": 0}),
    Case("ArgMin", attributes={"axis": 1}),
    Case("TopK", (9,), (ints(4),), outputs=2),
    Case("TopK", (9, 3), (ints(2),), {"axis": 1, "largest": 0}, outputs=2),
    Case("Softmax"),
    Case("Softmax", attributes={"axis": 1}),
    Case("LogSoftmax"),
    Case("CumSum", constants=(np.array(2),)),
    Case("MatMul", constants=(floats(6, 5),), tolerance=1e-4),
    Case("Einsum", constants=(floats(6, 5),), attributes={"equation": "bchw,wk->bchk"}, tolerance=1e-4),
    Case("Gemm", (6,), (floats(6, 5), floats(5)), tolerance=1e-4),
    Case("Gemm", (6,), (floats(5, 6), floats(5)), {"transB": 1, "alpha": 0.5, "beta": 2.0}, tolerance=1e-4),
    Case("Gemm", (6,), (floats(6, 5),), {"alpha": 0.5}, tolerance=1e-4, note="no bias"),
    Case("BatchNormalization", constants=(floats(3), floats(3), floats(3), np.abs(floats(3)) + 0.1), tolerance=1e-4),
    Case("LayerNormalization", constants=(floats(6), floats(6)), attributes={"epsilon": 1e-3}, tolerance=1e-4),
    Case("LayerNormalization", constants=(floats(8, 6),), attributes={"axis": -2}, tolerance=1e-4),
    Case("InstanceNormalization", constants=(floats(3), floats(3)), tolerance=1e-4),
    Case("GroupNormalization", (4, 3, 3), (floats(2), floats(2)), {"num_groups": 2}, tolerance=1e-4),
    Case("GroupNormalization", (4, 3, 3), (floats(4), floats(4)), {"num_groups": 2}, tolerance=1e-4, opset=21),
    Case("LpNormalization", attributes={"axis": 1, "p": 2}, tolerance=1e-4),
]
QUANTISATION = [
    Case("QuantizeLinear", constants=(np.array(0.02, np.float32), np.array(3, np.int8))),
    Case("QuantizeLinear", constants=(np.array(0.02, np.float32), np.array(130, np.uint8)), note="uint8"),
    Case("QuantizeLinear", constants=(np.abs(floats(3)) * 0.05 + 0.01, np.zeros(3, np.int8)), attributes={"axis": 1}),
    Case(
        "DequantizeLinear",
        constants=(np.array(0.02, np.float32), np.array(3, np.int8)),
        dtype=np.int8,
        low=-128,
        high=127,
    ),
    Case("DequantizeLinear", constants=(np.abs(floats(3)),), attributes={"axis": 1}, dtype=np.uint8, low=0, high=255),
]
CASES = [*UNARY, *POSITIVE, *BINARY, *ELEMENTWISE, *SHAPING, *SPATIAL, *REDUCTION, *QUANTISATION]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_agrees(case: Case) -> None:
    check(case)


def graph(
    nodes: list[onnx.NodeProto], rows: dict[str, Array], weights: dict[str, Array] | None = None
) -> onnx.ModelProto:
    """A graph with several inputs, whose nodes make `y`; the first dimension of every input is the batch."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), ["batch", *value.shape[1:]])
        for name, value in rows.items()
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    initializers = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    made = helper.make_graph(nodes, "case", inputs, outputs, initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def check_graph(nodes: list[onnx.NodeProto], rows: dict[str, Array], weights: dict[str, Array] | None = None) -> None:
    model = graph(nodes, rows, weights)
    program = TorchProgram(model, torch.device("cpu"))
    (expected,) = run_onnx(model, rows).values()
    (actual,) = program.bind(len(expected))([torch.from_numpy(value) for value in rows.values()])
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-4)


def node(operator: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, ["" if name == "-" else name for name in inputs.split()], [output], **attributes)


def tensor(value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([value], np.float32))


PLACES = RANDOM.integers(-4, 4, (3, 5, 2))
SEVERAL = {
    "Where": ([node("Greater", "a b", "c"), node("Where", "c a b")], {"a": floats(3, 4), "b": floats(3, 4)}, {}),
    "Clip by a tensor": ([node("Clip", "a - top")], {"a": floats(3, 4)}, {"top": np.array(0.5, np.float32)}),
    "GatherElements": (
        [node("GatherElements", "a i", axis=-1)],
        {"a": floats(3, 5, 8), "i": RANDOM.integers(-8, 8, (3, 5, 4))},
        {},
    ),
    "GatherND": ([node("GatherND", "a i", batch_dims=1)], {"a": floats(3, 4, 4, 2), "i": PLACES}, {}),
    "GatherND of rows": ([node("GatherND", "t i")], {"i": RANDOM.integers(-4, 4, (3, 5, 1))}, {"t": floats(4, 6)}),
    "Gather by pixels": ([node("Gather", "t i")], {"i": RANDOM.integers(-7, 7, (3, 5))}, {"t": floats(7, 2)}),
    "ScatterElements": (
        [node("ScatterElements", "a i u", axis=1)],
        {"a": floats(3, 8), "i": np.tile(np.array([[0, -1, 3]]), (3, 1)), "u": floats(3, 3)},
        {},
    ),
    "ScatterElements with a sum": (
        [node("ScatterElements", "a i u", axis=1, reduction="add")],
        {"a": floats(3, 8), "i": RANDOM.integers(0, 8, (3, 3)), "u": floats(3, 3)},
        {},
    ),
    "ScatterND": (
        [node("ScatterND", "a i u")],
        {"a": floats(3, 4), "u": floats(3)},
        {"i": np.array([[0, 1], [2, -1], [1, 0]])},
    ),
    "GridSample": (
        [node("GridSample", "a g", align_corners=0, mode="linear")],
        {"a": floats(3, 2, 6, 7), "g": RANDOM.uniform(-1.2, 1.2, (3, 4, 5, 2)).astype(np.float32)},
        {},
    ),
    "GridSample at the border": (
        [node("GridSample", "a g", align_corners=1, mode="nearest", padding_mode="border")],
        {"a": floats(3, 2, 6, 7), "g": RANDOM.uniform(-1.2, 1.2, (3, 4, 5, 2)).astype(np.float32)},
        {},
    ),
    "Div towards zero": (
        [node("Div", "a b", "c"), node("Cast", "c", to=TensorProto.FLOAT)],
        {"a": RANDOM.integers(-40, 40, (3, 9)), "b": RANDOM.integers(1, 9, (3, 9))},
        {},
    ),
    "Range": (
        [node("Shape", "a", "s", start=1, end=2), node("Squeeze", "s", "n"), node("Range", "zero n one", "r"),
         node("Cast", "r", "f", to=TensorProto.FLOAT), node("Add", "a f")],
        {"a": floats(3, 4)},
        {"zero": np.array(0), "one": np.array(1)},
    ),
    "ConstantOfShape": (
        [node("Shape", "a", "s"), node("ConstantOfShape", "s", "k", value=tensor(2.5)), node("Mul", "a k")],
        {"a": floats(3, 4)},
        {},
    ),
    "Constant": (
        [node("Constant", "", "k", value_floats=[1.0, 2.0, 3.0, 4.0]), node("Mul", "a k")],
        {"a": floats(3, 4)},
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_an_operator_of_several_inputs_agrees(name: str) -> None:
    nodes, rows, weights = SEVERAL[name]
    check_graph(nodes, rows, weights)


def test_no_operator_is_untested() -> None:
    tested = {case.operator for case in CASES} | {each.op_type for nodes, _, _ in SEVERAL.values() for each in nodes}
    assert set(OPERATORS) - tested == {"Swish"}


def test_swish() -> None:
    """Of opset 24, which ONNX Runtime does not all have yet."""
    rows = {"a": floats(3, 4)}
    model = graph([node("Swish", "a", alpha=1.5)], rows)
    (actual,) = answers(model, rows["a"])
    np.testing.assert_allclose(actual, rows["a"] / (1 + np.exp(-1.5 * rows["a"])), rtol=1e-5, atol=1e-6)


def test_queries_repeated_for_each_picture_are_not_kept_for_each_batch_size() -> None:
    """What a batch size makes large is made by the run."""
    nodes = [
        node("Shape", "a", "s", start=0, end=1),
        node("Concat", "s rest", "shape", axis=0),
        node("Expand", "queries shape", "many"),
        node("Add", "many a"),
    ]
    weights = {"rest": ints(100, 64), "queries": floats(1, 100, 64)}
    rows = {"a": floats(3, 100, 64)}
    check_graph(nodes, rows, weights)
    program = TorchProgram(graph(nodes, rows, weights), torch.device("cpu"))
    assert max(each.numel() for each in program.bind(3)._registers if each is not None) == 100 * 64


def test_weights_are_the_same_memory_for_every_batch_size() -> None:
    program = TorchProgram(conv("shared", 5, 4, 3, 3).model(), torch.device("cpu"))
    weights = [[each for each in program.bind(batch)._registers if each is not None] for batch in (1, 7)]
    assert [each.data_ptr() for each in weights[0]] == [each.data_ptr() for each in weights[1]]
    assert len(weights[0]) == 2


def test_temporaries_are_let_go() -> None:
    nodes = [node("Relu", "a", "t0"), *(node("Neg", f"t{place}", f"t{place + 1}") for place in range(9))]
    nodes.append(node("Add", "t9 a"))
    program = TorchProgram(graph(nodes, {"a": floats(3, 4)}), torch.device("cpu")).bind(3)
    assert sum(len(step.done_with) for step in program._steps) == 11  # ten in between and the input


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_for_the_network_alone(half: str) -> None:
    """Pre- and post-processing keep float32: 2049 cannot be had in half precision, nor 257 in bfloat16."""
    dtype, beyond = getattr(torch, half), {"float16": 2049.0, "bfloat16": 257.0}[half]
    nodes = [
        node("Mul", "a one", "inside", name="foveate/input/scaled"),
        node("Add", "inside tiny", "network", name="model/add"),
        node("Add", "network offset", "y", name="foveate/head/offset"),
    ]
    weights = {
        "one": np.array(1, np.float32),
        "tiny": np.array(1e-5, np.float32),
        "offset": np.array(beyond - 1, np.float32),
    }
    rows = {"a": np.ones((2, 1), np.float32)}
    (answer,) = TorchProgram(graph(nodes, rows, weights), torch.device("cpu"), dtype).bind(2)(
        [torch.from_numpy(rows["a"])]
    )
    assert answer.dtype == torch.float32
    assert answer.tolist() == [[beyond], [beyond]]  # the network lost its 1e-5, the offset nothing


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ([node("NonZero", "a", name="finder")], r"node 'finder' \(NonZero\): it is an operator without"),
        ([node("Relu", "a", name="own", domain="com.example")], r"node 'own' \(com\.example\.Relu\)"),
        (
            [node("Reshape", "a places", name="folder")],
            r"node 'folder' \(Reshape\): it takes its input 1 from the pixels",
        ),
        ([node("MatMul", "a a", name="product")], r"node 'product' \(MatMul\): it fails in a batch of 3"),
        ([node("Resize", "a - scales", name="grow", mode="linear")], r"node 'grow' \(Resize\): it resizes"),
    ],
    ids=["unknown", "other domain", "shape from pixels", "wrong sizes", "unusual resize"],
)
def test_what_cannot_be_run_is_named(nodes: list[onnx.NodeProto], complaint: str) -> None:
    rows = {"a": floats(3, 4), "places": ints(3, 4, 1)}
    model = graph(nodes, rows, {"scales": np.array([1, 2], np.float32)})
    with pytest.raises(PlanMismatch, match=complaint):
        TorchProgram(model, torch.device("cpu")).bind(3)


def test_an_old_opset_is_refused() -> None:
    with pytest.raises(PlanMismatch, match=r"opset 13 and later, this one is of \[11\]: prepare the model"):
        TorchProgram(Case("Relu", opset=11).model(), torch.device("cpu"))


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array]:
    """Chains of convolutions, poolings, activations and joins, as backbones are."""
    height, width = draw(st.integers(6, 14)), draw(st.integers(6, 14))
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    nodes, weights, channels, last = [], {}, 3, "x"
    skip = None
    for place in range(draw(st.integers(1, 6))):
        kind, made = (
            draw(st.sampled_from(["conv", "depthwise", "relu", "clip", "pool", "norm", "join", "up"])),
            f"t{place}",
        )
        if kind == "conv":
            wide = draw(st.sampled_from([2, 4, 8]))
            size, stride = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2]))
            weights[f"w{place}"] = (random.standard_normal((wide, channels, size, size)) / channels).astype(np.float32)
            weights[f"b{place}"] = random.standard_normal(wide).astype(np.float32)
            pads = [size // 2] * 4
            nodes.append(node("Conv", f"{last} w{place} b{place}", made, pads=pads, strides=[stride, stride]))
            channels, skip = wide, None
        elif kind == "depthwise":
            weights[f"w{place}"] = random.standard_normal((channels, 1, 3, 3)).astype(np.float32)
            nodes.append(node("Conv", f"{last} w{place}", made, pads=[1, 1, 1, 1], group=channels))
        elif kind == "pool":
            nodes.append(node("MaxPool", last, made, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
            skip = None
        elif kind == "norm":
            for part in "sbmv":
                weights[f"{part}{place}"] = random.uniform(0.5, 1.5, channels).astype(np.float32)
            nodes.append(node("BatchNormalization", f"{last} s{place} b{place} m{place} v{place}", made))
        elif kind == "join" and skip is not None:
            nodes.append(node("Concat", f"{last} {skip}", made, axis=1))
            channels, skip = 2 * channels, None
        elif kind == "up":
            weights["scales"] = np.array([1, 1, 2, 2], np.float32)
            how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            nodes.append(node("Resize", f"{last} - scales", made, mode="nearest", **how))
            skip = None
        elif kind == "clip":
            weights["low"], weights["high"] = np.array(-1, np.float32), np.array(6, np.float32)
            nodes.append(node("Clip", f"{last} low high", made))
        else:
            nodes.append(node("Relu", last, made))
        skip = made if skip is None else skip
        last = made
    nodes.append(node("Identity", last))
    rows = random.standard_normal((draw(st.integers(1, 4)), 3, height, width)).astype(np.float32)
    return graph(nodes, {"x": rows}, weights), rows


@settings(max_examples=40, deadline=None)
@given(networks())
def test_random_networks_agree(network: tuple[onnx.ModelProto, Array]) -> None:
    model, rows = network
    (expected,) = run_onnx(model, {"x": rows}).values()
    (actual,) = answers(model, rows)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
