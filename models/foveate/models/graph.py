"""A few words for writing ONNX nodes: every name telling and unique, every constant beside its node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

__all__ = ["GraphBuilder"]


class GraphBuilder:
    """Collects nodes, in the order in which they run, and constants for a graph that is put together later.

    Tensors are spoken of by name. A name given to a method is a hint: the real one is ``scope/hint``, with a
    number where the hint was used before.
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._used: Counter[str] = Counter()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append a node with one output; returns that output's name."""
        return self.add_many(op, *inputs, names=(name,), **attributes)[0]

    def add_many(self, op: str, *inputs: str, names: Sequence[str], **attributes: Any) -> list[str]:
        """Append a node with an output per name; the node itself is called as its first output."""
        outputs = [self._unique(name) for name in names]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs

    def floats(self, values: ArrayLike, name: str) -> str:
        """A float32 constant."""
        return self._constant(np.asarray(values, np.float32), name)

    def ints(self, values: ArrayLike, name: str) -> str:
        """An int64 constant."""
        return self._constant(np.asarray(values, np.int64), name)

    def columns(self, tensor: str, start: int, end: int, axis: int, name: str) -> str:
        """``tensor[..., start:end, ...]`` along one axis."""
        bounds = [
            self.ints([value], f"{name}_{part}") for value, part in ((start, "start"), (end, "end"), (axis, "axis"))
        ]
        return self.add("Slice", tensor, *bounds, name=name)

    def reshape(self, tensor: str, shape: Sequence[int], name: str) -> str:
        """The tensor with a batch dimension kept as it is and ``shape`` after it."""
        return self.add("Reshape", tensor, self.ints([0, *shape], f"{name}_shape"), name=name)

    def pick(self, tensor: str, indices: Sequence[int], axis: int, name: str) -> str:
        """The chosen entries along an axis, in the order of the indices."""
        return self.add("Gather", tensor, self.ints(indices, f"{name}_order"), name=name, axis=axis)

    def reduce_max(self, tensor: str, axis: int, name: str) -> str:
        """The largest value along an axis, which goes away."""
        return self.add("ReduceMax", tensor, self.ints([axis], f"{name}_axis"), name=name, keepdims=0)

    def unsqueeze(self, tensor: str, axis: int, name: str) -> str:
        """The tensor with one more dimension, of length 1."""
        return self.add("Unsqueeze", tensor, self.ints([axis], f"{name}_axis"), name=name)

    def cast(self, tensor: str, dtype: int, name: str) -> str:
        """The tensor with another element type, one of TensorProto's."""
        return self.add("Cast", tensor, name=name, to=dtype)

    def export(self, tensor: str, name: str) -> None:
        """Give a tensor exactly this name, as an output of the graph or as the input of what follows."""
        own = [node for node in self.nodes if tensor in node.output]
        if not own:
            self.nodes.append(helper.make_node("Identity", [tensor], [name], name=self._unique(name)))
            return
        for node in self.nodes:
            node.input[:] = [name if each == tensor else each for each in node.input]
            node.output[:] = [name if each == tensor else each for each in node.output]

    def _constant(self, value: np.ndarray[Any, Any], name: str) -> str:
        unique = self._unique(name)
        self.initializers.append(numpy_helper.from_array(value, unique))
        return unique

    def _unique(self, name: str) -> str:
        count = self._used[name]
        self._used[name] += 1
        return f"{self._scope}/{name}" + (f"_{count}" if count else "")
