"""The network inside a fused graph, as a model of its own that can be converted and put back.

Preparing a model wraps its network in nodes named ``foveate/...`` that read bytes and decode boxes. Those stay as
they are in every precision: they are cheap, and box arithmetic in 16 bits loses pixels.
"""

from __future__ import annotations

import onnx
from onnx import helper, shape_inference

from foveate.engines.errors import BuildFailed

__all__ = ["OUTER_PREFIX", "network_of", "pixels_to_network", "with_network"]

OUTER_PREFIX = "foveate/"
"""Names of nodes around the network begin with this."""

_Nodes = list[onnx.NodeProto]


def network_of(fused: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes between the pre- and the post-processing, every node with a name of its own; the argument is kept.

    Inputs and outputs are called as the tensors are in the fused graph.
    Raises: BuildFailed where there is no network, or a tensor that crosses has no known type.
    """
    inferred = shape_inference.infer_shapes(fused)
    _, own, after = _parts(inferred.graph)
    if not own:
        raise BuildFailed("the graph holds nothing but pre- and post-processing: there is no network to convert")
    known = _known_values(inferred.graph)
    weights = _weights_for(own, inferred.graph)
    here = {each.name for each in weights}
    made = [name for node in own for name in node.output]
    read_outside = {name for node in after for name in node.input} | {each.name for each in inferred.graph.output}
    inputs = list(dict.fromkeys(name for node in own for name in node.input if name and name not in {*made, *here}))
    graph = helper.make_graph(
        own,
        "network",
        [_known(known, name) for name in inputs],
        [_known(known, name) for name in made if name in read_outside],
        weights,
        value_info=[known[name] for name in made if name in known and name not in read_outside],
    )
    return _named(_like(inferred, graph))


def with_network(fused: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """The fused graph with another network in it, of the same inputs and outputs; neither argument is modified."""
    before, _, after = _parts(fused.graph)
    graph = helper.make_graph(
        [*before, *network.graph.node, *after],
        fused.graph.name,
        fused.graph.input,
        fused.graph.output,
        [*_weights_for([*before, *after], fused.graph), *_weights_for(list(network.graph.node), network.graph)],
    )
    joined = _like(fused, graph)
    joined.ir_version = max(fused.ir_version, network.ir_version)
    del joined.opset_import[:]
    joined.opset_import.extend(network.opset_import)
    return shape_inference.infer_shapes(joined)


def pixels_to_network(fused: onnx.ModelProto) -> onnx.ModelProto | None:
    """The pre-processing alone, from pixels to the network's inputs; None where the graph has none."""
    network = network_of(fused)
    before, _, _ = _parts(fused.graph)
    if not before:
        return None
    graph = helper.make_graph(
        before, "pixels", fused.graph.input, network.graph.input, _weights_for(before, fused.graph)
    )
    return _like(fused, graph)


def _parts(graph: onnx.GraphProto) -> tuple[_Nodes, _Nodes, _Nodes]:
    """Nodes before the network, of it, and after it: what hangs on no node of the network comes before."""
    before, own, after = _Nodes(), _Nodes(), _Nodes()
    behind: set[str] = set()
    for node in graph.node:
        if not node.name.startswith(OUTER_PREFIX):
            own.append(node)
        elif behind.intersection(node.input):
            after.append(node)
        else:
            before.append(node)
            continue
        behind.update(node.output)
    return before, own, after


def _weights_for(nodes: _Nodes, graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    read = _names_read(nodes)
    return [each for each in graph.initializer if each.name in read]


def _names_read(nodes: _Nodes) -> set[str]:
    """Also by graphs inside nodes, which see the tensors around them."""
    read = {name for node in nodes for name in node.input}
    for node in nodes:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                read |= _names_read(list(inner.node)) | {each.name for each in inner.output}
    return read


def _known_values(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    return {each.name: each for each in (*graph.input, *graph.value_info, *graph.output)}


def _known(known: dict[str, onnx.ValueInfoProto], name: str) -> onnx.ValueInfoProto:
    if name not in known:
        raise BuildFailed(f"the type of tensor {name!r} cannot be told: prepare the model again")
    return known[name]


def _like(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model of the graph that keeps everything else."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.CopyFrom(graph)
    return made


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """With names for nodes that have none or share one; quantisers and reports speak of nodes by name."""
    used: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if node.name in ("", "model/") or node.name in used:
            node.name = f"model/{node.op_type}_{index}"
        used.add(node.name)
    return model
