"""Engines by PyTorch, on the CPU and on NVIDIA GPUs: the reference for accuracy, and for GPUs without TensorRT."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from numpy.typing import NDArray

from foveate.engines.contract import Engine, EngineInfo, RunTimes, Slot
from foveate.engines.errors import ConfigError, EngineUnavailable

__all__ = ["TorchEngine"]

_FEW_CORES = 4
_CUDA_IN_FLIGHT = 3
"""One batch is copied in and one out while a third computes."""


class _Runner(Protocol):
    """What runs a program on one kind of device."""

    def new_slot(self, index: int, inputs: Mapping[str, NDArray[Any]] | None = None) -> Slot:
        """Buffers for a batch; over the caller's inputs if the device can read them."""
        ...

    def run(self, index: int, batch: int) -> RunTimes: ...

    def close(self) -> None: ...


class TorchEngine(Engine):
    """An ONNX graph (.onnx), a `torch.export` program (.pt2) or a TorchScript file (.pt, .ts), run by torch.

    Shapes: every input and output of the file has a dynamic first dimension, the batch; all others are fixed.
    Raises: ConfigError for a setting out of range. `load` raises EngineUnavailable without torch or the GPU,
    EngineError where there is no such file, PlanMismatch for a file that it cannot run this way.
    """

    @classmethod
    def from_file(
        cls, model_path: Path, *, name: str, max_batch: int, threads: int | None = None, precision: str = "fp32"
    ) -> TorchEngine:
        return cls(model_path, name=name, max_batch=max_batch, precision=precision, threads=threads)

    def __init__(
        self,
        model_path: Path,
        *,
        name: str,
        max_batch: int,
        precision: str = "fp32",
        device: str | None = None,
        threads: int | None = None,
        tf32: bool = False,
    ) -> None:
        """Describe the engine; nothing is opened before `load`.

        `precision`: fp16 and bf16 compute an ONNX file's network in it, its pre- and post-processing in float32;
        any other name says what the file holds and changes nothing.
        `device`: ``cpu`` or ``cuda:N``; None takes the first GPU if torch sees one.
        `threads` on the CPU: None takes every core this process may run on. A container's CPU quota is not seen by it.
        `tf32`: let float32 products on the GPU lose the last 13 bits of their factors, for speed.
        """
        super().__init__()
        if max_batch < 1:
            raise ConfigError(f"max_batch must be at least 1, not {max_batch}")
        if threads is not None and threads < 1:
            raise ConfigError(f"threads must be at least 1, or None for all, not {threads}")
        if device is not None and device != "cpu" and not _is_cuda(device):
            raise ConfigError(f"device must be cpu, cuda or cuda:N, not {device!r}")
        self._model_path = model_path
        self._name = name
        self._max_batch = max_batch
        self._precision = precision
        self._device = device
        self._threads = len(os.sched_getaffinity(0)) if threads is None else threads
        self._tf32 = tf32
        self._runner: _Runner | None = None

    def _load_impl(self) -> EngineInfo:
        torch = _import_torch()
        from foveate.engines import torch_runtime

        asked = self._device or ("cuda:0" if torch.cuda.is_available() else "cpu")
        on_gpu = asked != "cpu"
        device = torch_runtime.cuda_device(asked) if on_gpu else torch.device("cpu")
        program = torch_runtime.open_program(self._model_path, device, self._precision, self._max_batch)
        info = EngineInfo(
            name=self._name,
            backend="torch",
            backend_version=str(torch.__version__),
            precision=self._precision,
            device=str(device),
            inputs=program.inputs,
            outputs=program.outputs,
            max_batch=self._max_batch,
            max_in_flight=_CUDA_IN_FLIGHT if on_gpu else 1,
        )
        if on_gpu:
            self._runner = torch_runtime.CudaRunner(program, info, device, tf32=self._tf32)
        else:
            self._runner = torch_runtime.CpuRunner(program, info, self._threads)
        return info

    def _new_slot_impl(self, index: int) -> Slot:
        return self._running().new_slot(index)

    def _new_slot_over_impl(self, index: int, inputs: Mapping[str, NDArray[Any]]) -> Slot:
        return self._running().new_slot(index, inputs)

    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        return self._running().run(slot.index, batch)

    def _close_impl(self) -> None:
        self._running().close()
        self._runner = None

    def _running(self) -> _Runner:
        assert self._runner is not None  # it is there from load to close
        return self._runner


def _is_cuda(device: str) -> bool:
    kind, _, index = device.partition(":")
    return kind == "cuda" and (index.isdigit() or (not index and ":" not in device))


def _import_torch() -> ModuleType:
    if len(os.sched_getaffinity(0)) <= _FEW_CORES:
        # Threads that wait for each other by spinning take the cores from those that they wait for, as soon as
        # anything else runs: seven times slower on two busy cores. OpenMP reads this once, when it is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of CUDA's that torch links is missing
        raise EngineUnavailable(
            f"PyTorch is not usable here ({error}): install it with `pip install 'foveate[torch]'`"
        ) from error
    module: ModuleType = torch
    return module
