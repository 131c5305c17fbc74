"""One ONNX node while it is turned into torch, and what a table of operators is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from foveate.engines.errors import PlanMismatch

__all__ = ["Computation", "Lowering", "Lowerings", "Node", "refusal", "tensor_from_proto", "torch_dtype"]

Computation = Callable[..., Tensor | tuple[Tensor, ...]]
"""What a node does: takes its inputs, None for those missing or read beforehand, then the node's own constants."""
Lowering = Callable[["Node"], Computation]
"""Reads all of a node that is known beforehand, once, and returns what is left to do for each batch."""

_DTYPES = {
    "BOOL": torch.bool,
    "BFLOAT16": torch.bfloat16,
    "DOUBLE": torch.float64,
    "FLOAT": torch.float32,
    "FLOAT16": torch.float16,
    "FLOAT8E4M3FN": torch.float8_e4m3fn,
    "FLOAT8E5M2": torch.float8_e5m2,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
}
_SAME_BITS = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8, torch.float8_e5m2: torch.uint8}
"""Types that NumPy has not by itself, and types of their size that it has."""


class Lowerings(dict[str, Lowering]):
    """Operators by name, entered by the functions that lower them."""

    def of(self, *operators: str) -> Callable[[Lowering], Lowering]:
        """Enter a function as what lowers these operators."""

        def enter(function: Lowering) -> Lowering:
            self.update(dict.fromkeys(operators, function))
            return function

        return enter


class Node:
    """An ONNX node with what is known of its inputs before any batch is run.

    An input that a batch decides is a tensor on the meta device: a type and a shape, no values. All others hold
    their values, on the CPU.
    """

    def __init__(self, proto: onnx.NodeProto, inputs: Sequence[Tensor | None], opset: int) -> None:
        self.inputs = inputs
        self.opset = opset
        self.outputs = len(proto.output)
        self.read_beforehand: set[int] = set()
        """Inputs that the computation does not take any more."""
        self.constants: list[Tensor] = []
        """Tensors that the computation takes after its inputs."""
        self._proto = proto
        self._attributes = {each.name: each for each in proto.attribute}

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value; text as str, a tensor as it is in the file."""
        if name not in self._attributes:
            return default
        value = helper.get_attribute_value(self._attributes[name])
        return value.decode() if isinstance(value, bytes) else value

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def input(self, index: int) -> Tensor:
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None:
            raise refusal(self._proto, f"has no input {index}")
        return tensor

    def shape(self, index: int) -> tuple[int, ...]:
        return tuple(self.input(index).shape)

    def rank(self, index: int) -> int:
        return len(self.shape(index))

    def axis(self, value: int, rank: int | None = None) -> int:
        """An axis counted from the front."""
        return value % max(1, self.rank(0) if rank is None else rank)

    def value(self, index: int) -> Tensor:
        """The values of an input, which the computation then takes no more."""
        tensor = self.input(index)
        if tensor.is_meta:
            raise self.refuse(f"takes its input {index} from the pixels: only shapes that a batch fixes can be had")
        self.read_beforehand.add(index)
        return tensor

    def ints(self, index: int) -> list[int] | None:
        """The whole numbers in an input, None where the node leaves it out."""
        return [int(each) for each in self.value(index).flatten().tolist()] if self.has(index) else None

    def number(self, index: int) -> Any:
        """The single number in an input, None where the node leaves it out."""
        return self.value(index).item() if self.has(index) else None

    def keep(self, constant: Tensor) -> None:
        """Hand a tensor to the computation, after its inputs."""
        self.constants.append(constant)

    def refuse(self, why: str) -> PlanMismatch:
        return refusal(self._proto, why)


def refusal(node: onnx.NodeProto, why: str) -> PlanMismatch:
    """The error for a node that torch cannot run, naming the node and its operator."""
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    name = node.name or (node.output[0] if node.output else "")
    return PlanMismatch(
        f"the torch engine cannot run node {name!r} ({operator}): it {why}. Export the model without it, or run it "
        "on another backend"
    )


def torch_dtype(element_type: int) -> torch.dtype:
    """The torch type of an ONNX element type. Raises: PlanMismatch for text and other types that torch has not."""
    name = onnx.TensorProto.DataType.Name(element_type)
    if name not in _DTYPES:
        raise PlanMismatch(f"the torch engine has no tensors of {name}: only of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def tensor_from_proto(proto: onnx.TensorProto) -> Tensor:
    """A weight of the graph, on the CPU, owning its memory."""
    dtype = torch_dtype(proto.data_type)
    array = numpy_helper.to_array(proto).copy()
    if dtype not in _SAME_BITS:
        return torch.from_numpy(array)
    bits = _SAME_BITS[dtype]
    return torch.from_numpy(array.view(torch.empty(0, dtype=bits).numpy().dtype)).view(dtype)
