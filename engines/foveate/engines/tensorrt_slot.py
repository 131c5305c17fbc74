"""A slot on the device: its buffers on both sides, the stream that copies between them, and its captured runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from foveate.engines.contract import RunTimes, Slot, TensorSpec
from foveate.engines.cuda import Device, DeviceBuffer, Graph, Stream
from foveate.engines.errors import DeviceError, DeviceLost, EngineError
from foveate.engines.tensorrt_runtime import Context, Plan

__all__ = ["DeviceInput", "DeviceSlot"]

_log = logging.getLogger(__name__)

_TRIES = 3
"""Of each way to run a batch, to tell which is the faster."""
_WORTHWHILE = 0.98
"""Of the plain run's time; a graph that saves less only costs memory."""


class DeviceInput:
    """The device's rows of one input; as foveate.engines.contract.DeviceRows."""

    def __init__(self, buffer: DeviceBuffer, row_bytes: int) -> None:
        self._buffer = buffer
        self._row_bytes = row_bytes
        self._events: dict[int, int] = {}

    @property
    def address(self) -> int:
        return self._buffer.address

    @property
    def row_bytes(self) -> int:
        return self._row_bytes

    def written(self, row: int, event: int) -> None:
        rows = self._buffer.nbytes // self._row_bytes
        if not 0 <= row < rows:
            raise EngineError(f"this input has the rows 0 to {rows - 1}, not {row}")
        self._events[row] = event

    def take(self, batch: int) -> dict[int, int]:
        """The rows of a batch that are the device's, with their events; all are the host's again after it."""
        events, self._events = self._events, {}
        return {row: event for row, event in events.items() if row < batch}


class DeviceSlot:
    """What a slot has on the device. Made, used and closed with the device current.

    What several slots share, the compute stream and the contexts' memory, is the engine's; the calls that touch it
    say so, and the engine lets one of them in at a time.
    """

    def __init__(
        self, index: int, plan: Plan, max_batch: int, device: Device, given: Mapping[str, NDArray[Any]]
    ) -> None:
        """`given` are inputs of the caller's, which are copied from where they lie if they can be page-locked."""
        self._index = index
        self._device = device
        self._given = given
        self.device_bytes = 0
        with ExitStack() as undo:
            specs = (*plan.inputs, *plan.outputs)
            self._host = {spec: self._host_rows(spec, max_batch, undo) for spec in specs}
            buffers = {spec: self._device_rows(spec, max_batch, undo) for spec in specs}
            self._inputs = {spec: DeviceInput(buffers[spec], _row_bytes(spec)) for spec in plan.inputs}
            self._addresses = {spec: rows.address for spec, rows in self._inputs.items()}
            self._outputs = {spec: buffers[spec].address for spec in plan.outputs}
            self._copies = _entered(device.new_stream(), undo)
            self._started, self._copied_in, self._began, self._inferred, self._done = (
                _entered(device.new_event(), undo) for _ in range(5)
            )
            self._resources = undo.pop_all()
        self._graphs: dict[int, Graph] = {}

    @property
    def slot(self) -> Slot:
        """The slot that a lane sees."""
        return Slot(
            self._index,
            {spec.name: self._host[spec] for spec in self._inputs},
            {spec.name: self._host[spec] for spec in self._outputs},
            {spec.name: rows for spec, rows in self._inputs.items()},
        )

    @property
    def pinned_bytes(self) -> int:
        return sum(array.nbytes for array in self._host.values())

    def copy_in(self, batch: int) -> None:
        """Begin a run: the host's rows to the device; rows that are made there are waited for, on the device."""
        self._started.record(self._copies)
        for spec, rows in self._inputs.items():
            events = rows.take(batch)
            for first, end in _spans_off_device(batch, events):
                self._copies.copy_to_device(rows.address + first * rows.row_bytes, self._host[spec][first:end])
            for event in dict.fromkeys(events.values()):
                self._copies.wait(event)
        self._copied_in.record(self._copies)

    def infer(self, batch: int, context: Context, compute: Stream) -> None:
        """Have a batch run once it is copied in. Touches what slots share."""
        compute.wait(self._copied_in)
        self._began.record(compute)
        graph = self._graphs.get(batch)
        if graph is None:
            self.enqueue(batch, context, compute)
        else:
            graph.launch(compute)
        self._inferred.record(compute)

    def copy_out(self, batch: int) -> None:
        """Have a batch's answers copied to the host once they are there."""
        self._copies.wait(self._inferred)
        for spec, address in self._outputs.items():
            self._copies.copy_to_host(self._host[spec][:batch], address)
        self._done.record(self._copies)

    def wait(self) -> RunTimes:
        """Sleep until a run's answers are on the host."""
        self._done.synchronize()
        return RunTimes(
            self._copied_in.ns_since(self._started),
            self._inferred.ns_since(self._began),
            self._done.ns_since(self._inferred),
        )

    def forget_device_rows(self) -> None:
        """All rows are the host's again."""
        for rows in self._inputs.values():
            rows.take(0)

    def enqueue(self, batch: int, context: Context, compute: Stream) -> None:
        """Run a batch of what the buffers hold. Touches what slots share."""
        context.bind(self._index, batch, self._addresses, self._outputs)
        context.enqueue(compute)

    def capture(self, batch: int, plan: Plan, memory: DeviceBuffer, compute: Stream) -> bool:
        """Have a batch's runs launched as one graph from now on; False if they cannot be. Touches what slots share.

        A graph holds its context's state, so it has a context to itself, which is never bound anew.
        """
        with ExitStack() as undo:
            context = plan.new_context(memory, compute)
            undo.callback(context.close)
            try:
                graph = self._graph_of(batch, context, compute)
            except BaseException:
                self._device.finish()
                raise
            if graph is None:
                return False
            undo.callback(graph.close)
            self._resources.push(undo.pop_all())
        self._graphs[batch] = graph
        return True

    def _graph_of(self, batch: int, context: Context, compute: Stream) -> Graph | None:
        self.enqueue(batch, context, compute)  # a first run sets up what may not be set up while capturing
        compute.synchronize()
        if not context.capturable(compute):
            return None
        try:
            return self._device.capture(compute, lambda: context.enqueue(compute))
        except DeviceLost:
            raise
        except EngineError:  # some of it cannot be captured: it is enqueued anew each time
            return None

    def drop_graph(self, batch: int) -> None:
        """Have a batch's runs enqueued again; what the graph holds is released with the slot."""
        self._graphs.pop(batch, None)

    def graph_pays(self, batch: int, context: Context, compute: Stream) -> bool:
        """Whether a batch is faster as a graph than enqueued on a context. Touches what slots share."""
        graph = self._graphs[batch]
        plain_ns = min(self._time_ns(lambda: self.enqueue(batch, context, compute), compute) for _ in range(_TRIES))
        graph_ns = min(self._time_ns(lambda: graph.launch(compute), compute) for _ in range(_TRIES))
        return graph_ns < _WORTHWHILE * plain_ns

    def close(self) -> None:
        self._graphs.clear()
        self._resources.close()

    def _time_ns(self, work: Callable[[], None], compute: Stream) -> int:
        """How long an idle device takes, the time included in which it waits for the host to launch kernels."""
        compute.synchronize()
        self._began.record(compute)
        work()
        self._inferred.record(compute)
        self._inferred.synchronize()
        return self._inferred.ns_since(self._began)

    def _host_rows(self, spec: TensorSpec, rows: int, undo: ExitStack) -> NDArray[Any]:
        """Page-locked in any case: of other memory no copy would be asynchronous."""
        given = self._given.get(spec.name)
        if given is not None:
            try:
                return _entered(self._device.register(given), undo).array
            except DeviceLost:
                raise
            except DeviceError as error:
                _log.warning(
                    "slot %d has %r copied once more on the host, as its memory cannot be page-locked: %s",
                    *(self._index, spec.name, error),
                )
        return _entered(self._device.new_pinned((rows, *spec.shape), spec.dtype), undo).array

    def _device_rows(self, spec: TensorSpec, rows: int, undo: ExitStack) -> DeviceBuffer:
        buffer = _entered(self._device.new_buffer(rows * _row_bytes(spec)), undo)
        self.device_bytes += buffer.nbytes
        return buffer


def _spans_off_device(batch: int, on_device: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """The spans of rows that are not on the device."""
    for held, rows in groupby(range(batch), key=on_device.__contains__):
        if not held:
            span = list(rows)
            yield span[0], span[-1] + 1


def _row_bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize


class _Closes(Protocol):
    def close(self) -> None: ...


_R = TypeVar("_R", bound=_Closes)


def _entered(resource: _R, undo: ExitStack) -> _R:
    undo.callback(resource.close)
    return resource
