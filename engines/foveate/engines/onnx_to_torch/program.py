"""An ONNX graph as torch calls, in two steps: what no batch changes is done once, the rest once per batch size.

With the batch fixed, every shape in a served graph is a number. So a graph is *bound* per batch size: the nodes are
walked with tensors on the meta device, which have shapes and no values; all that follows from shapes alone is
computed there and then, and what is left is a flat list of torch calls. Such a list reads nothing back from the
device and decides nothing while it runs, so it can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx.inliner import inline_local_functions
from torch import Tensor

from foveate.engines.errors import PlanMismatch
from foveate.engines.onnx_to_torch.node import Computation, Node, refusal, tensor_from_proto, torch_dtype
from foveate.engines.onnx_to_torch.operators import OPERATORS

__all__ = ["BoundProgram", "TorchProgram"]

_OUTER_PREFIX = "foveate/"
"""Nodes of the pre- and post-processing around the network, which stay in float32 whatever the network is in."""
_LEAST_OPSET = 13
_LARGEST_KEPT = 4096
"""Elements. What a batch size decides is worked out beforehand up to this; above it (queries repeated for each
picture, say) it would be held in memory once for each batch size."""


@dataclass(frozen=True, slots=True)
class _Step:
    computation: Computation
    arguments: tuple[int, ...]
    """Registers; 0 is None."""
    results: tuple[int, ...]
    done_with: tuple[int, ...]
    """Registers that nothing reads from here on."""


class BoundProgram:
    """A graph for one batch size: call it with the inputs, get the outputs, both in the graph's order.

    May be called from several threads at once: it keeps nothing between calls.
    """

    def __init__(
        self, registers: Sequence[Tensor | None], inputs: Sequence[int], steps: Sequence[_Step], outputs: Sequence[int]
    ) -> None:
        self._registers = tuple(registers)
        self._inputs = tuple(inputs)
        self._steps = tuple(steps)
        self._outputs = tuple(outputs)

    def __len__(self) -> int:
        """How many torch calls, or small groups of them, a batch takes."""
        return len(self._steps)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        values: list[Any] = list(self._registers)
        for register, tensor in zip(self._inputs, inputs, strict=True):
            values[register] = tensor
        for step in self._steps:
            made = step.computation(*[values[register] for register in step.arguments])
            if len(step.results) == 1 and not isinstance(made, tuple | list):
                values[step.results[0]] = made
            else:
                for register, tensor in zip(step.results, made, strict=False):
                    values[register] = tensor
            for register in step.done_with:
                values[register] = None
        return [values[register] for register in self._outputs]


class TorchProgram:
    """A graph on a device, its weights there once, to be bound to as many batch sizes as are served."""

    def __init__(self, model: onnx.ModelProto, device: torch.device, half: torch.dtype | None = None) -> None:
        """`half`: compute the network (all but ``foveate/`` nodes) in this type where it is in float32.

        Raises: PlanMismatch naming the first node, and its operator, that torch cannot run.
        """
        model = inline_local_functions(model) if model.functions else model
        graph = model.graph
        for node in graph.node:
            if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
                raise refusal(node, "is an operator without a counterpart here")
        self.opset = _opset(model)
        self.device = device
        self.constants = {each.name: tensor_from_proto(each) for each in graph.initializer}
        self.inputs = [each for each in graph.input if each.name not in self.constants]
        self.outputs = [each.name for each in graph.output]
        self._half = half
        self._placed: dict[tuple[str, torch.dtype], Tensor] = {}
        with torch.inference_mode():
            self._nodes = [node for node in graph.node if not self._folded(node)]

    def bind(self, batch: int) -> BoundProgram:
        """The graph for one batch size. Raises: PlanMismatch for a node that torch cannot run in these shapes."""
        with torch.inference_mode():
            binding = _Binding(self, batch)
            for node in self._nodes:
                binding.add(node)
            return binding.program()

    def weight(self, name: str, dtype: torch.dtype) -> Tensor:
        """A constant of the graph on the device, the same tensor for every batch size."""
        key = (name, dtype)
        if key not in self._placed:
            self._placed[key] = _laid_out(self.constants[name].to(self.device, dtype))
        return self._placed[key]

    def type_in(self, node: onnx.NodeProto, dtype: torch.dtype) -> torch.dtype:
        """In which type a node takes an input that is of `dtype`."""
        if self._half is None:
            return dtype
        if node.name.startswith(_OUTER_PREFIX):
            return torch.float32 if dtype == self._half else dtype
        return self._half if dtype == torch.float32 else dtype

    def _folded(self, node: onnx.NodeProto) -> bool:
        """Whether a node reads constants only; then what it makes is a constant too."""
        if not all(name in self.constants for name in node.input if name):
            return False
        inputs = [self.constants[name] if name else None for name in node.input]
        reader = Node(node, inputs, self.opset)
        self.constants.update(zip(node.output, _computed(node, reader, _lowered(node, reader), inputs), strict=False))
        return True


def _laid_out(tensor: Tensor) -> Tensor:
    # Pixels come in NHWC, which torch calls channels_last; with weights in the same order the network keeps to it.
    return tensor.contiguous(memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format)


class _Binding:
    """A graph on its way to a `BoundProgram`."""

    def __init__(self, source: TorchProgram, batch: int) -> None:
        self._source = source
        self._batch = batch
        self._values: dict[str, Tensor] = dict(source.constants)
        """By name: on the meta device what runs will make, on the CPU what is known."""
        self._registers: list[Tensor | None] = [None]
        self._register_of: dict[str, int] = {}
        self._steps: list[tuple[Computation, list[int], list[int]]] = []
        self._inputs = [self._input_register(value) for value in source.inputs]

    def add(self, node: onnx.NodeProto) -> None:
        """Compute a node now if all that it reads is known; otherwise have it computed by every run."""
        inputs = [self._taken(node, name) if name else None for name in node.input]
        reader = Node(node, inputs, self._source.opset)
        computation = self._guarded(node, lambda: _lowered(node, reader))
        read = [None if place in reader.read_beforehand else each for place, each in enumerate(inputs)]
        if not any(each is not None and each.is_meta for each in read):
            made = self._guarded(node, lambda: _computed(node, reader, computation, read))
            at_run_time = any(each is not None for each in read) or reader.constants
            if not at_run_time or sum(each.numel() for each in made) <= _LARGEST_KEPT:
                self._values.update(zip(node.output, made, strict=False))
                return
        self._add_step(node, reader, computation, read)

    def program(self) -> BoundProgram:
        outputs = [self._register(name, self._values[name].dtype) for name in self._source.outputs]
        last_use = {register: number for number, step in enumerate(self._steps) for register in (*step[1], *step[2])}
        steps = []
        for number, (computation, arguments, results) in enumerate(self._steps):
            done = {each for each in (*arguments, *results) if last_use[each] == number and each not in outputs}
            temporary = tuple(each for each in sorted(done) if self._registers[each] is None and each != 0)
            steps.append(_Step(computation, tuple(arguments), tuple(results), temporary))
        return BoundProgram(self._registers, self._inputs, steps, outputs)

    def _add_step(
        self, node: onnx.NodeProto, reader: Node, computation: Computation, read: Sequence[Tensor | None]
    ) -> None:
        arguments, metas = [], []
        for name, tensor in zip(node.input, read, strict=True):
            dtype = None if tensor is None else self._source.type_in(node, tensor.dtype)
            arguments.append(0 if dtype is None else self._register(self._name_in(name, node), dtype))
            metas.append(None if tensor is None else tensor.to("meta", dtype))
        arguments += [self._new_register(constant.to(self._source.device)) for constant in reader.constants]
        made = self._guarded(node, lambda: _computed(node, reader, computation, metas, device="meta"))
        for name, tensor in zip(node.output, made, strict=False):
            self._values[name] = tensor
            self._register_of[name] = self._new_register(None)
        results = [self._register_of[name] for name, _ in zip(node.output, made, strict=False)]
        self._steps.append((computation, arguments, results))

    def _taken(self, node: onnx.NodeProto, name: str) -> Tensor:
        """An input as a node takes it; what runs make is cast for it where it is of another type."""
        tensor = self._values[name]
        dtype = self._source.type_in(node, tensor.dtype)
        if not tensor.is_meta or dtype == tensor.dtype:
            return tensor
        cast = self._name_in(name, node)
        if cast not in self._values:
            register = self._register(name, tensor.dtype)
            self._values[cast] = tensor.to(dtype)
            self._register_of[cast] = self._new_register(None)
            self._steps.append((lambda tensor: tensor.to(dtype), [register], [self._register_of[cast]]))
        return self._values[cast]

    def _name_in(self, name: str, node: onnx.NodeProto) -> str:
        """The name of a tensor in the type in which a node takes it."""
        tensor = self._values[name]
        dtype = self._source.type_in(node, tensor.dtype)
        return name if dtype == tensor.dtype or not tensor.is_meta else f"{name} as {dtype}"

    def _register(self, name: str, dtype: torch.dtype) -> int:
        """Where a run finds a tensor; what is known is put there on first use."""
        known = not self._values[name].is_meta
        key = f"{name} as {dtype}" if known else name
        if key not in self._register_of:
            constant = name in self._source.constants
            placed = self._source.weight(name, dtype) if constant else self._values[name].to(self._source.device, dtype)
            self._register_of[key] = self._new_register(placed)
        return self._register_of[key]

    def _input_register(self, value: onnx.ValueInfoProto) -> int:
        kind = value.type.tensor_type
        shape = (self._batch, *(dim.dim_value for dim in kind.shape.dim[1:]))
        self._values[value.name] = torch.empty(shape, dtype=torch_dtype(kind.elem_type), device="meta")
        self._register_of[value.name] = self._new_register(None)
        return self._register_of[value.name]

    def _new_register(self, content: Tensor | None) -> int:
        self._registers.append(content)
        return len(self._registers) - 1

    def _guarded(self, node: onnx.NodeProto, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except PlanMismatch:
            raise
        except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise refusal(node, f"fails in a batch of {self._batch} ({error})") from error


def _lowered(node: onnx.NodeProto, reader: Node) -> Computation:
    return OPERATORS[node.op_type](reader)


def _computed(
    node: onnx.NodeProto,
    reader: Node,
    computation: Computation,
    inputs: Sequence[Tensor | None],
    device: str = "cpu",
) -> Sequence[Tensor]:
    made = computation(*inputs, *(constant.to(device) for constant in reader.constants))
    results = [made] if isinstance(made, Tensor) else list(made)
    if len(results) < len(node.output):
        raise refusal(node, f"has {len(node.output)} outputs, of which {len(results)} can be computed")
    return results


def _opset(model: onnx.ModelProto) -> int:
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if not versions or versions[0] < _LEAST_OPSET:
        raise PlanMismatch(
            f"the torch engine runs graphs of opset {_LEAST_OPSET} and later, this one is of {versions or 'none'}: "
            "prepare the model as a package, which raises the opset"
        )
    return versions[0]
