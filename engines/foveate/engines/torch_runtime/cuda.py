"""Torch on an NVIDIA GPU: pinned buffers, a stream per slot for its copies, one stream that computes, CUDA graphs.

    slot's stream      |copy in|                  |copy out|
    compute stream              |  graph of (slot, batch)  |  the next slot's graph  |
    next slot's stream     |copy in|                                                 |copy out|

Batches compute one after the other, so that each takes as long as its profile says; what overlaps is the copies of
one with the computing of another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.engines.contract import EngineInfo, RunTimes, Slot, TensorSpec
from foveate.engines.errors import DeviceError, DeviceLost, DeviceOutOfMemory, EngineUnavailable
from foveate.engines.torch_runtime.cpu import fill_outputs
from foveate.engines.torch_runtime.page_locking import PageLocked
from foveate.engines.torch_runtime.programs import Bound, Program

__all__ = ["CudaRunner", "cuda_device"]

_log = logging.getLogger(__name__)

_WARM_UPS = 2
"""Runs before a capture: the first lets cuDNN choose and the libraries load, the second finds all in place."""


def cuda_device(name: str) -> torch.device:
    """The GPU of that name, such as ``cuda:1``. Raises: EngineUnavailable where torch sees no such GPU."""
    device = torch.device(name)
    if not torch.backends.cuda.is_built():
        raise EngineUnavailable(
            f"torch {torch.__version__} is built without CUDA: install a CUDA build of it, or run on the CPU"
        )
    if not torch.cuda.is_available():
        raise EngineUnavailable("torch sees no NVIDIA GPU with a driver that fits it: run `nvidia-smi` to see why")
    index = 0 if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise EngineUnavailable(f"no {name} here: torch sees {torch.cuda.device_count()} GPU(s), counted from 0")
    return torch.device("cuda", index)


@dataclass(slots=True)
class _Flight:
    """All that one slot's batches need, made once."""

    stream: Any
    graphs: list[Any]
    """By batch size, from 1 on."""
    copies_in: list[list[tuple[Tensor, Tensor]]]
    """By batch size: where to, where from."""
    copies_out: list[list[tuple[Tensor, Tensor]]]
    begun: Any
    copied: Any
    started: Any
    computed: Any
    done: Any


class CudaRunner:
    """Batches of several slots in flight on one GPU."""

    def __init__(self, program: Program, info: EngineInfo, device: torch.device, *, tf32: bool = False) -> None:
        self._info = info
        self._device = device
        self._tf32 = tf32
        self._bound = [program.bind(batch) for batch in range(1, info.max_batch + 1)]
        self._compute = torch.cuda.Stream(device)
        # Graphs of one pool may use the same memory, since they never run at the same time: all are on one stream.
        self._pool = torch.cuda.graph_pool_handle()
        self._enqueueing = threading.Lock()
        self._flights: list[_Flight] = []
        self._page_locks = ExitStack()

    def new_slot(self, index: int, inputs: Mapping[str, NDArray[Any]] | None = None) -> Slot:
        """Pinned host buffers, the caller's where they can be, with graphs captured for every batch size."""
        with _device_errors(self._device), ExitStack() as undo:
            slot = self._prepared(index, self._page_locked(inputs, undo) if inputs else {})
            self._page_locks.push(undo.pop_all())
        return slot

    def _page_locked(self, inputs: Mapping[str, NDArray[Any]], undo: ExitStack) -> Mapping[str, NDArray[Any]]:
        """The inputs if they can be page-locked, until `close`; else none."""
        try:
            locked = PageLocked(self._device.index or 0, inputs.values())
        except DeviceLost:
            raise
        except (DeviceError, EngineUnavailable) as error:
            _log.warning("inputs are copied once more on the host, as they cannot be page-locked: %s", error)
            return {}
        undo.callback(locked.close)
        return inputs

    def _prepared(self, index: int, given: Mapping[str, NDArray[Any]]) -> Slot:
        inputs = [
            torch.from_numpy(given[spec.name]) if spec.name in given else _pinned(self._info, spec)
            for spec in self._info.inputs
        ]
        outputs = [_pinned(self._info, spec) for spec in self._info.outputs]
        device_inputs, device_outputs = ([host.to(self._device) for host in hosts] for hosts in (inputs, outputs))
        sizes = range(1, self._info.max_batch + 1)
        with self._enqueueing:
            graphs = [
                self._captured(
                    bound, [each[:batch] for each in device_inputs], [each[:batch] for each in device_outputs]
                )
                for batch, bound in zip(sizes, self._bound, strict=True)
            ]
        self._flights.append(
            _Flight(
                torch.cuda.Stream(self._device),
                graphs,
                [_pairs(device_inputs, inputs, batch) for batch in sizes],
                [_pairs(outputs, device_outputs, batch) for batch in sizes],
                *(torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(5)),
            )
        )
        return Slot(index, {**_named(self._info.inputs, inputs), **given}, _named(self._info.outputs, outputs))

    def run(self, index: int, batch: int) -> RunTimes:
        """Run rows ``[0:batch]`` of a slot; the thread sleeps while the GPU works."""
        flight = self._flights[index]
        with _device_errors(self._device):
            return self._flown(flight, batch)

    def _flown(self, flight: _Flight, batch: int) -> RunTimes:
        with torch.inference_mode(), torch.cuda.stream(flight.stream):
            flight.begun.record(flight.stream)
            _copy(flight.copies_in[batch - 1])
            flight.copied.record(flight.stream)
            self._compute_batch(flight, batch)
            flight.stream.wait_event(flight.computed)
            _copy(flight.copies_out[batch - 1])
            flight.done.record(flight.stream)
        flight.done.synchronize()
        return RunTimes(
            copy_in_ns=_elapsed_ns(flight.begun, flight.copied),
            infer_ns=_elapsed_ns(flight.started, flight.computed),
            copy_out_ns=_elapsed_ns(flight.computed, flight.done),
        )

    def close(self) -> None:
        """Give graphs, weights and buffers up, when all that runs is over; a lost device keeps what it has."""
        try:
            with _device_errors(self._device):
                torch.cuda.synchronize(self._device)
                for flight in self._flights:
                    for graph in flight.graphs:
                        graph.reset()
        except DeviceLost as error:
            _log.debug("nothing was released: %s", error)
        self._flights.clear()
        self._page_locks.close()
        self._bound.clear()

    def _compute_batch(self, flight: _Flight, batch: int) -> None:
        # Another slot's wait in between would be one more that this batch waits for.
        with self._enqueueing, torch.cuda.stream(self._compute):
            self._compute.wait_event(flight.copied)
            flight.started.record(self._compute)
            flight.graphs[batch - 1].replay()
            flight.computed.record(self._compute)

    def _captured(self, bound: Bound, inputs: list[Tensor], outputs: list[Tensor]) -> Any:
        """The graph of one slot and batch size: reads and writes the slot's device buffers."""
        with torch.inference_mode(), _arithmetic(self._tf32):
            self._compute.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._compute):
                for _ in range(_WARM_UPS):
                    fill_outputs(outputs, bound(inputs))
            self._compute.synchronize()
            graph = torch.cuda.CUDAGraph()
            # thread_local: what other engines do in their threads meanwhile must not spoil the capture.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"):
                fill_outputs(outputs, bound(inputs))
        return graph


@contextmanager
def _device_errors(device: torch.device) -> Iterator[None]:
    """torch's errors as ours. An error of CUDA itself stays with the process: every later call gets it too."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceOutOfMemory(f"{device}: {error}; serve smaller batches, or fewer models on this GPU") from error
    except RuntimeError as error:
        if "CUDA error" not in str(error):
            raise
        raise DeviceLost(f"{device} cannot be used by this process any more: {error}; start it anew") from error


@contextmanager
def _arithmetic(tf32: bool) -> Iterator[None]:
    """How a graph computes is settled when it is captured; the process's settings are as before afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=tf32):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _pinned(info: EngineInfo, spec: TensorSpec) -> Tensor:
    like = torch.from_numpy(np.zeros(0, spec.dtype))
    return torch.zeros((info.max_batch, *spec.shape), dtype=like.dtype, pin_memory=True)


def _named(specs: Sequence[TensorSpec], tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {spec.name: tensor.numpy() for spec, tensor in zip(specs, tensors, strict=True)}


def _pairs(targets: Sequence[Tensor], sources: Sequence[Tensor], batch: int) -> list[tuple[Tensor, Tensor]]:
    return [(target[:batch], source[:batch]) for target, source in zip(targets, sources, strict=True)]


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for target, source in pairs:
        target.copy_(source, non_blocking=True)


def _elapsed_ns(begin: Any, end: Any) -> int:
    milliseconds: float = begin.elapsed_time(end)
    return max(0, round(milliseconds * 1e6))
