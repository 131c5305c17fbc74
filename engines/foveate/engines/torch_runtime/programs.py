"""Models from files as something that torch runs: ONNX graphs, exported programs (.pt2) and TorchScript."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from foveate.engines.contract import TensorSpec
from foveate.engines.errors import BuildFailed, EngineError, PlanMismatch
from foveate.engines.onnx_graph import graph_from_file, graph_specs
from foveate.engines.onnx_to_torch import TorchProgram

__all__ = ["Bound", "Program", "open_program", "script_description"]

Bound = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A model for one batch size: its inputs in, its outputs out, both in the order of its specs."""

_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_DESCRIPTION = "foveate.json"
"""The extra file in a TorchScript archive that says what TorchScript itself does not: its inputs."""


class Program(ABC):
    """A model on a device. `bind` is called once for each batch size, before the first batch."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def bind(self, batch: int) -> Bound:
        """The model for one batch size."""


def open_program(path: Path, device: torch.device, precision: str, max_batch: int) -> Program:
    """The model in a file, its weights on the device.

    Raises: EngineError where there is no such file, PlanMismatch for one that cannot be run this way.
    """
    if not path.is_file():
        raise EngineError(f"no model file at {path}: prepare the model, or correct the path")
    openers: dict[str, Callable[[], Program]] = {
        ".onnx": lambda: _OnnxProgram(path, device, _HALVES.get(precision)),
        ".pt2": lambda: _ExportedProgram(path, device, max_batch),
        ".pt": lambda: _ScriptProgram(path, device),
        ".ts": lambda: _ScriptProgram(path, device),
    }
    if path.suffix not in openers:
        raise PlanMismatch(f"{path}: the torch engine reads {', '.join(openers)}, told apart by the file's name")
    return openers[path.suffix]()


class _OnnxProgram(Program):
    def __init__(self, path: Path, device: torch.device, half: torch.dtype | None) -> None:
        try:
            model = graph_from_file(path)
            self.inputs, self.outputs = graph_specs(model)
        except BuildFailed as error:
            raise PlanMismatch(str(error)) from error
        self._program = TorchProgram(model, device, half)

    def bind(self, batch: int) -> Bound:
        return self._program.bind(batch)


class _ExportedProgram(Program):
    """A `torch.export` program: its signature says names, types and shapes."""

    def __init__(self, path: Path, device: torch.device, max_batch: int) -> None:
        try:
            exported = torch.export.load(path)
        except (AssertionError, EOFError, KeyError, OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
            raise PlanMismatch(f"torch {torch.__version__} cannot load {path}: {error}. Export it again") from error
        signature = exported.graph_signature
        made = {node.name: node.meta.get("val") for node in exported.graph.nodes}
        names = _output_names(exported.call_spec.out_spec, signature.user_outputs)
        self.inputs = tuple(_spec(path, name, made[name]) for name in signature.user_inputs)
        self.outputs = tuple(
            _spec(path, name, made[node]) for name, node in zip(names, signature.user_outputs, strict=True)
        )
        _require_batches(path, exported, made[signature.user_inputs[0]], max_batch)
        if device.type != "cpu":
            exported = move_to_device_pass(exported, device)
        self._module = exported.module()

    def bind(self, batch: int) -> Bound:
        return lambda inputs: _flat(self._module(*inputs))


class _ScriptProgram(Program):
    """A TorchScript module that describes its inputs in an extra file, see `script_description`."""

    def __init__(self, path: Path, device: torch.device) -> None:
        files = {_DESCRIPTION: ""}
        try:
            with warnings.catch_warnings():
                # Making TorchScript is deprecated; files made in the past are still to be served.
                warnings.simplefilter("ignore", DeprecationWarning)
                module = torch.jit.load(str(path), device, _extra_files=files).eval()
        except (RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise PlanMismatch(f"torch {torch.__version__} cannot load {path}: {error}. Export it again") from error
        self.inputs = _described_inputs(path, files[_DESCRIPTION])
        self._module = module
        self.outputs = self._probed_outputs(device)

    def bind(self, batch: int) -> Bound:
        return lambda inputs: _flat(self._module(*inputs))

    def _probed_outputs(self, device: torch.device) -> tuple[TensorSpec, ...]:
        """What comes out, seen by running one batch of nothing."""
        zeros = [torch.from_numpy(np.zeros((1, *spec.shape), spec.dtype)).to(device) for spec in self.inputs]
        with torch.inference_mode():
            made = self._module(*zeros)
        tensors = _flat(made)
        names = list(made) if isinstance(made, Mapping) else [f"output_{place}" for place in range(len(tensors))]
        return tuple(
            TensorSpec(name, _numpy_dtype(tensor.dtype), tuple(tensor.shape[1:]))
            for name, tensor in zip(names, tensors, strict=True)
        )


def script_description(inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Extra files for `torch.jit.save` that tell the torch engine the inputs of a TorchScript module."""
    specs = [{"name": spec.name, "dtype": spec.dtype.name, "shape": list(spec.shape)} for spec in inputs]
    return {_DESCRIPTION: json.dumps({"inputs": specs})}


def _described_inputs(path: Path, text: str | bytes) -> tuple[TensorSpec, ...]:
    try:
        described = json.loads(text)["inputs"]
        return tuple(TensorSpec(each["name"], np.dtype(each["dtype"]), tuple(each["shape"])) for each in described)
    except (KeyError, TypeError, ValueError) as error:
        raise PlanMismatch(
            f"{path} does not say what its inputs are: save it with "
            "_extra_files=script_description(...), or export the model with torch.export as a .pt2"
        ) from error


def _flat(made: Any) -> list[Tensor]:
    if isinstance(made, Tensor):
        return [made]
    return list(made.values()) if isinstance(made, Mapping) else list(made)


def _output_names(spec: Any, nodes: Sequence[str]) -> Sequence[str]:
    """The keys of a dict that a model returns; else the names that the exporter gave."""
    return list(spec.context) if spec is not None and spec.type is dict else nodes


def _spec(path: Path, name: str, value: Any) -> TensorSpec:
    where = f"{path}: {name!r} of shape {list(value.shape)}"
    if not value.shape or isinstance(value.shape[0], int):
        raise PlanMismatch(f"{where} has no dynamic batch: export the model with its first dimension dynamic")
    if not all(isinstance(size, int) for size in value.shape[1:]):
        raise PlanMismatch(f"{where} is dynamic beyond the batch: export the model for one input size")
    return TensorSpec(name, _numpy_dtype(value.dtype), tuple(value.shape[1:]))


def _require_batches(path: Path, exported: Any, value: Any, max_batch: int) -> None:
    allowed = exported.range_constraints.get(value.shape[0].node.expr)
    if allowed is not None and not (allowed.lower <= 1 and max_batch <= allowed.upper):
        raise PlanMismatch(
            f"{path} takes batches of {allowed.lower} to {allowed.upper}, not of 1 to {max_batch}: export it for "
            "those, or serve smaller batches"
        )


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] = torch.empty(0, dtype=dtype).numpy().dtype
    except TypeError as error:
        raise PlanMismatch(f"NumPy has no {dtype}: let the model cast its inputs and outputs to float32") from error
    return found
