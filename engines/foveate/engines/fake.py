"""An engine without a model: settable latency, failures and answers, for tests, demos and simulations."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import Engine, EngineInfo, RunTimes, Slot, TensorSpec, host_run_times

__all__ = ["FakeEngine", "Gate", "Rows"]

Rows = Mapping[str, NDArray[Any]]
"""Buffers by tensor name, cut to the rows of the batch."""

_MEAN = (TensorSpec("mean", np.dtype(np.float32), (1,)),)


class Gate:
    """A door inside a `FakeEngine`: while it is shut, every batch that comes is held in its run.

    `set`, `clear` and `wait` are those of `threading.Event`; `wait_for_held` tells a test that a batch has
    come in, without sleeping.
    """

    def __init__(self, *, is_open: bool = False) -> None:
        self._open = is_open
        self._held = 0
        self._changed = threading.Condition()

    def set(self) -> None:
        """Open the door: what is held goes on, what comes passes."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Shut the door for the batches that come from now on."""
        with self._changed:
            self._open = False

    def wait(self, timeout: float | None = None) -> bool:
        """Go through the door, or return False if it stays shut for `timeout` seconds."""
        with self._changed:
            self._held += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._open, timeout)
            finally:
                self._held -= 1

    def wait_for_held(self, count: int = 1, timeout_s: float = 30.0) -> None:
        """Return when `count` batches stand before the door. Raises: TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._held >= count, timeout_s):
                raise TimeoutError(f"{self._held} of {count} batches came to the gate within {timeout_s} seconds")


def _mean_pixel(inputs: Rows, batch: int, outputs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    """Every element of an output row is the mean pixel of its input row.

    So an answer tells which frame it belongs to, also after a frame has been through a lossy codec.
    """
    first = next(iter(inputs.values()))
    means = first.reshape(batch, -1).mean(axis=1)
    return {
        spec.name: np.broadcast_to(means.reshape(batch, *(1 for _ in spec.shape)), (batch, *spec.shape))
        for spec in outputs
    }


class FakeEngine(Engine):
    """An engine that takes as long, fails when, and answers what it is told to.

    The attributes named like the arguments may be set at any time; a run reads each of them once.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        input_shape: tuple[int, ...] = (32, 32, 3),
        outputs: tuple[TensorSpec, ...] = _MEAN,
        max_batch: int = 8,
        max_in_flight: int = 1,
        latency_s: Callable[[int], float] | None = None,
        fail_when: Callable[[Slot, int], Exception | None] | None = None,
        compute: Callable[[Rows, int], Rows] | None = None,
        gate: Gate | threading.Event | None = None,
    ) -> None:
        """Describe the engine: one uint8 input ``pixels`` of `input_shape` (H, W, C).

        `latency_s`: seconds that a batch of this size takes, computing and the gate included; None: at once.
        `fail_when`: the exception that this run ends with, after its latency and without outputs, or None.
        `compute`: outputs from the rows of the batch; None: every element is the mean pixel of its row.
        `gate`: holds each run until it is set.
        """
        super().__init__()
        self._description = EngineInfo(
            name=name,
            backend="fake",
            backend_version="1",
            precision="fp32",
            device="cpu",
            inputs=(TensorSpec("pixels", np.dtype(np.uint8), input_shape),),
            outputs=outputs,
            max_batch=max_batch,
            max_in_flight=max_in_flight,
        )
        self.latency_s = latency_s
        self.fail_when = fail_when
        self.compute = compute
        self.gate = gate

    def _load_impl(self) -> EngineInfo:
        return self._description

    def _new_slot_over_impl(self, index: int, inputs: Rows) -> Slot:
        return Slot(index, inputs, self._new_slot_impl(index).outputs)

    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        started_ns = time.monotonic_ns()
        latency_s, fail_when, gate = self.latency_s, self.fail_when, self.gate
        if gate is not None:
            gate.wait()
        failure = fail_when(slot, batch) if fail_when is not None else None
        answers = self._answers(slot, batch) if failure is None else {}
        if latency_s is not None:
            _sleep_until(started_ns + round(latency_s(batch) * 1e9))
        if failure is not None:
            raise failure
        for name, buffer in slot.outputs.items():
            buffer[:batch] = answers[name]
        return host_run_times(started_ns)

    def _answers(self, slot: Slot, batch: int) -> Rows:
        inputs = {name: buffer[:batch] for name, buffer in slot.inputs.items()}
        compute = self.compute
        return _mean_pixel(inputs, batch, self.info.outputs) if compute is None else compute(inputs, batch)


def _sleep_until(until_ns: int) -> None:
    """Sleep to a `time.monotonic_ns`, some tens of microseconds over. No spin at the end: it would hold the
    interpreter's lock, which a real engine does not."""
    remaining_ns = until_ns - time.monotonic_ns()
    if remaining_ns > 0:
        time.sleep(remaining_ns / 1e9)
