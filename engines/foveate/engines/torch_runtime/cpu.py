"""Torch on the CPU: reads a slot's inputs where they lie and copies the outputs there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.engines.contract import EngineInfo, RunTimes, Slot, TensorSpec, host_run_times
from foveate.engines.errors import RunFailed
from foveate.engines.torch_runtime.programs import Program

__all__ = ["CpuRunner", "fill_outputs"]

_Rows = tuple[list[Tensor], list[Tensor]]


class CpuRunner:
    """Batches one after the other on the threads asked for."""

    def __init__(self, program: Program, info: EngineInfo, threads: int) -> None:
        self._info = info
        self._threads = threads
        # Every batch size is bound now: binding at a first frame would make that frame late.
        self._bound = [program.bind(batch) for batch in range(1, info.max_batch + 1)]
        self._rows: list[list[_Rows]] = []

    def new_slot(self, index: int, inputs: Mapping[str, NDArray[Any]] | None = None) -> Slot:
        """A slot that reads the caller's buffers, or its own where there are none."""
        info = self._info
        slot = Slot(index, _zeros(info, info.inputs) if inputs is None else inputs, _zeros(info, info.outputs))
        sizes = range(1, info.max_batch + 1)
        self._rows.append(
            [(_rows(slot.inputs, info.inputs, batch), _rows(slot.outputs, info.outputs, batch)) for batch in sizes]
        )
        return slot

    def run(self, index: int, batch: int) -> RunTimes:
        """Run rows ``[0:batch]`` of a slot."""
        inputs, outputs = self._rows[index][batch - 1]
        started_ns = time.monotonic_ns()
        # OpenMP keeps the number per calling thread, and it is the lane's thread that computes.
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            fill_outputs(outputs, self._bound[batch - 1](inputs))
        return host_run_times(started_ns)

    def close(self) -> None:
        """Give the weights up."""
        self._bound.clear()
        self._rows.clear()


def fill_outputs(outputs: list[Tensor], made: Any) -> None:
    """Copy what a program made to where it belongs; a wrong shape is an error, never spread over the rows."""
    for target, result in zip(outputs, made, strict=True):
        if result.shape != target.shape:
            raise RunFailed(f"the program made {list(result.shape)} where {list(target.shape)} belongs")
        target.copy_(result)


def _zeros(info: EngineInfo, specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    return {spec.name: np.zeros((info.max_batch, *spec.shape), spec.dtype) for spec in specs}


def _rows(buffers: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec], batch: int) -> list[Tensor]:
    return [torch.from_numpy(buffers[spec.name][:batch]) for spec in specs]
