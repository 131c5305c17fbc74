"""Two graphs of one network, cut into layers that can be exchanged: the one in fp32 and one converted from it.

A layer ends at a tensor that both graphs make under one name. Converting keeps these names, so whatever a conversion
puts between two of them (casts, Q/DQ pairs, a fused activation) belongs to the layer, and one graph's layer fits
into the other with a cast at each edge.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper, shape_inference

from foveate.engines.errors import BuildFailed
from foveate.engines.half_rounding import with_half_rounding
from foveate.engines.precision.network import network_of

__all__ = ["Layer", "LayerGraphs"]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_ABSORBED = ("Clip", "Relu")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Layer:
    """What lies between a tensor that both graphs make and those before it."""

    tensor: str
    node: str
    """In fp32: the product among its nodes, or the last one."""
    op_type: str


@dataclass(frozen=True, slots=True)
class _Side:
    """One graph by its tensors."""

    graph: onnx.GraphProto
    producers: Mapping[str, onnx.NodeProto]
    weights: Mapping[str, onnx.TensorProto]
    types: Mapping[str, int]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Side:
        graph = shape_inference.infer_shapes(model).graph
        known = (*graph.input, *graph.value_info, *graph.output)
        return cls(
            graph,
            {name: node for node in graph.node for name in node.output if name},
            {each.name: each for each in graph.initializer},
            {each.name: each.type.tensor_type.elem_type for each in known},
        )


class LayerGraphs:
    """A reference in fp32 and a graph converted from it, of one opset and with the same inputs.

    Raises: BuildFailed where they have no tensor in common.
    """

    def __init__(self, reference: onnx.ModelProto, converted: onnx.ModelProto) -> None:
        self._reference = _Side.of(reference)
        self._converted = _Side.of(with_half_rounding(_with_absorbed_activations(converted, self._reference)))
        opsets = {each.domain: each.version for model in (reference, converted) for each in model.opset_import}
        self._opsets = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        self._ir_version = max(reference.ir_version, converted.ir_version)
        network = network_of(reference).graph
        self._shared = self._shared_tensors(network)
        self.layers = tuple(self._layer(tensor) for tensor in self._shared)
        """In the order in which they run."""
        self.outputs = tuple(each.name for each in network.output if each.name in self._shared)
        """Where the network ends."""
        if not self.outputs:
            raise BuildFailed(
                "the two graphs have no outputs of the network in common, so they cannot be compared layer by layer: "
                "give a graph that was converted from this model"
            )

    def reference(self, tensors: Iterable[str]) -> onnx.ModelProto:
        """The graph in fp32 that ends at these tensors, each as float32 under its name."""
        return self._model(self._reference, [], {name: name for name in tensors})

    def converted(self, tensors: Iterable[str]) -> onnx.ModelProto:
        """The converted graph likewise."""
        return self._model(self._converted, [], {name: name for name in tensors})

    def each_alone(self, tensors: Iterable[str]) -> onnx.ModelProto:
        """What each of these converted layers makes of what the reference gives it."""
        pool: list[onnx.NodeProto] = []
        weights: list[onnx.TensorProto] = []
        shown = {}
        for index, tensor in enumerate(tensors):
            prefix = f"alone/{index}/"
            nodes, copied = _grafted(self._converted, self._reference, {tensor}, self._shared, prefix)
            pool += nodes
            weights += copied
            shown[tensor] = prefix + tensor
        return self._model(self._reference, pool, shown, weights)

    def only_converted(self, tensors: Collection[str]) -> onnx.ModelProto:
        """The reference with these layers converted, down to the network's outputs."""
        return self._exchanged(self._reference, self._converted, tensors)

    def all_but(self, tensors: Collection[str]) -> onnx.ModelProto:
        """The converted graph with these layers in fp32, down to the network's outputs."""
        return self._exchanged(self._converted, self._reference, tensors)

    def _shared_tensors(self, network: onnx.GraphProto) -> dict[str, None]:
        varying = {each.name for each in network.input}
        shared: dict[str, None] = {}
        for node in network.node:
            if not varying.intersection(_names_read(node)):
                continue  # a constant is no layer
            varying.update(node.output)
            for name in node.output:
                in_fp32 = self._reference.types.get(name) == TensorProto.FLOAT
                if in_fp32 and name in self._converted.producers and self._converted.types.get(name) in _FLOATS:
                    shared[name] = None
        return shared

    def _layer(self, tensor: str) -> Layer:
        nodes = _nodes_for(self._reference, [tensor], self._shared.keys() - {tensor})
        products = [node for node in nodes if node.op_type in _PRODUCTS]
        named = (products or nodes)[-1]
        return Layer(tensor, named.name or named.output[0], named.op_type)

    def _exchanged(self, host: _Side, donor: _Side, tensors: Collection[str]) -> onnx.ModelProto:
        nodes, weights = _grafted(donor, host, tensors, self._shared, "graft/")
        nodes += [node for name in tensors for node in _cast(f"graft/{name}", name, host.types[name])]
        return self._model(host, nodes, {name: name for name in self.outputs}, weights)

    def _model(
        self,
        host: _Side,
        extra: Sequence[onnx.NodeProto],
        shown: Mapping[str, str],
        weights: Sequence[onnx.TensorProto] = (),
    ) -> onnx.ModelProto:
        """The host with more nodes, which come before its own where both make a tensor; only what is shown is run."""
        ends = [
            helper.make_node("Cast", [inside], [f"shown/{name}"], name=f"shown/{name}", to=TensorProto.FLOAT)
            for name, inside in shown.items()
        ]
        made = {name: node for node in (*extra, *ends) for name in node.output}
        side = _Side(host.graph, {**host.producers, **made}, {**host.weights, **{w.name: w for w in weights}}, {})
        nodes = _nodes_for(side, [f"shown/{name}" for name in shown], ())
        read = {name for node in nodes for name in _names_read(node)}
        graph = helper.make_graph(
            nodes,
            "layers",
            [each for each in host.graph.input if each.name in read],
            [helper.make_tensor_value_info(f"shown/{name}", TensorProto.FLOAT, None) for name in shown],
            [each for name, each in side.weights.items() if name in read],
        )
        return helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)


def _with_absorbed_activations(converted: onnx.ModelProto, reference: _Side) -> onnx.ModelProto:
    """The converted graph with tensors called as in fp32 where a quantiser does an activation's work.

    Where a Relu or Clip is left to the clipping of a Q/DQ pair, its tensor's name stands for what comes before it.
    """
    model = onnx.ModelProto()
    model.CopyFrom(converted)
    producers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for name, activation in reference.producers.items():
        here = producers.get(name)
        if here is None or activation.op_type not in _ABSORBED or here.op_type == activation.op_type:
            continue
        pair = _quantized_by(name, readers)
        if pair is not None:
            quantize, dequantize = pair
            for reader in readers.get(dequantize.output[0], ()):
                reader.input[:] = [name if each == dequantize.output[0] else each for each in reader.input]
            here.output[:] = [f"{name}/unclipped" if each == name else each for each in here.output]
            quantize.input[0], dequantize.output[0] = f"{name}/unclipped", name
    del model.graph.value_info[:]  # it tells of tensors by their old names
    return model


def _quantized_by(
    name: str, readers: Mapping[str, Sequence[onnx.NodeProto]]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The Q/DQ pair that is all that reads a tensor."""
    match readers.get(name, ()):
        case [quantize] if quantize.op_type == "QuantizeLinear":
            match readers.get(quantize.output[0], ()):
                case [dequantize] if dequantize.op_type == "DequantizeLinear":
                    return quantize, dequantize
    return None


def _grafted(
    donor: _Side, host: _Side, tensors: Collection[str], shared: Collection[str], prefix: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The donor's nodes that make these tensors out of the host's shared ones, and their weights.

    All that they make is called as in the donor, behind the prefix.
    """
    edges = set(shared) - set(tensors)
    nodes = _nodes_for(donor, tensors, edges)
    made = {name for node in nodes for name in node.output if name}
    read = {name for node in nodes for name in _names_read(node)} - made
    inside = read & edges
    weights = [_renamed_weight(donor.weights[name], prefix) for name in read if name in donor.weights]
    renames = {name: prefix + name for name in (*made, *inside, *(name for name in read if name in donor.weights))}
    casts = [node for name in inside for node in _cast(name, prefix + name, donor.types[name])]
    return [*casts, *(_renamed(node, renames, prefix) for node in nodes)], weights


def _cast(given: str, made: str, kind: int) -> list[onnx.NodeProto]:
    """A tensor in another type. The Identity keeps ONNX Runtime from leaving the rounding out, see half_rounding."""
    cast = helper.make_node("Cast", [given], [f"{made}/cast"], name=f"{made}/cast", to=kind)
    return [cast, helper.make_node("Identity", [f"{made}/cast"], [made], name=f"{made}/cast/kept")]


def _nodes_for(side: _Side, tensors: Iterable[str], stop_at: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes that make these tensors, each after those that it reads, back to tensors that are given."""
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    waiting = [(name, False) for name in reversed(list(tensors))]
    while waiting:
        name, all_read = waiting.pop()
        node = side.producers.get(name)
        if node is None or id(node) in done:
            continue
        if all_read:
            done.add(id(node))
            ordered.append(node)
            continue
        waiting.append((name, True))
        waiting += [(each, False) for each in _names_read(node) if each not in stop_at]
    return ordered


def _names_read(node: onnx.NodeProto) -> set[str]:
    """Also by graphs inside the node, which see the tensors around them."""
    read = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            here = {name for each in inner.node for name in each.output} | {each.name for each in inner.initializer}
            asked = {name for each in inner.node for name in _names_read(each)} | {each.name for each in inner.output}
            read |= asked - here - {each.name for each in inner.input}
    return read


def _renamed(node: onnx.NodeProto, renames: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = prefix + node.name
    _rename_inside(copy, renames)
    copy.output[:] = [renames.get(name, name) for name in node.output]
    return copy


def _rename_inside(node: Any, renames: Mapping[str, str]) -> None:
    node.input[:] = [renames.get(name, name) for name in node.input]
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for each in inner.node:
                _rename_inside(each, renames)
            for output in inner.output:
                output.name = renames.get(output.name, output.name)


def _renamed_weight(weight: onnx.TensorProto, prefix: str) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(weight)
    copy.name = prefix + weight.name
    return copy
