"""A stand-in for CUDA that behaves like it in what can go wrong.

Memory of the device is apart from the host's. Work is done as late as it may be: when somebody waits for it, and
then only what that waiting needs. So a missing wait shows as old data; and before that as a `Hazard`, as soon as
work is enqueued that touches what other work, not ordered before it, may still be touching. What would crash or
be undefined on a GPU is a `Hazard` too. Time is virtual: the host's calls, the copies in either direction and the
kernels have costs, and copies and kernels run beside each other.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.cuda.device import Device
from foveate.engines.cuda.layer import Bytes, CudaLayer, Extent, Handle
from foveate.engines.cuda.pictures import PlacementParameters, Rectangle
from foveate.engines.cuda.status import error_from_code
from foveate.engines.errors import DeviceLost
from support.picture_reference import place_picture, rgb_of_nv12

__all__ = ["FakeCuda", "Hazard", "Span", "Work"]

Span = tuple[int, int]

_FIRST_ADDRESS = 0x7_0000_0000_0000
_JUNK = 0xCD
_CALL_NS = 1_000
_COPY_NS_PER_BYTE = 1
_CAPTURE_INVALIDATED = 901
_ALREADY_REGISTERED = 712


class Hazard(AssertionError):
    """Something that a GPU may answer with a crash, wrong data, or nothing at all."""


@dataclass(eq=False)
class Work:
    """Something that a stream has been given to do."""

    what: str
    stream: int
    tick: int
    act: Callable[[], None]
    reads: Sequence[Span]
    writes: Sequence[Span]
    after: list[Work]
    starts_ns: int
    ends_ns: int
    clock: dict[int, int] = field(default_factory=dict)
    done: bool = False

    def follows(self, other: Work) -> bool:
        return self.clock.get(other.stream, 0) >= other.tick

    def clashes(self, other: Work) -> bool:
        return (
            _overlap(self.writes, other.writes)
            or _overlap(self.writes, other.reads)
            or _overlap(self.reads, other.writes)
        )


@dataclass(eq=False)
class _Stream:
    last: Work | None = None
    ticks: int = 0
    waits: list[Work] = field(default_factory=list)
    captured: list[dict[str, Any]] | None = None
    spoilt: bool = False


@dataclass(eq=False)
class _Event:
    work: Work | None = None


class FakeCuda(CudaLayer):
    """One device of 1 GiB. `log` is all the work that was given, `calls` counts the layer's calls by name."""

    name = "fake"
    TOTAL = 1 << 30

    def __init__(self, capability: tuple[int, int] = (8, 9)) -> None:
        self.capability = capability
        self.calls: Counter[str] = Counter()
        self.log: list[Work] = []
        self.staged: list[str] = []
        """The copies whose host memory was not page-locked: the host has waited for each."""
        self.live: dict[int, str] = {}
        self.reserved_bytes = 0
        self.closed = False
        self._users = 0
        self._lock = threading.RLock()
        self._entered = threading.local()
        self._count = 0
        self._failures: dict[int | str, int] = {}
        self._lost = 0
        self._next_handle = 1
        self._next_address = _FIRST_ADDRESS
        self._memory: dict[int, Bytes] = {}
        self._pinned: dict[int, Bytes] = {}
        """Host memory that is page-locked: taken here, or registered."""
        self._objects: dict[int, Any] = {}
        self._host_ns = 0
        self._free_ns: Counter[str] = Counter()
        self._pending: list[Work] = []

    def open(self, index: int = 0) -> Device:
        """As `Device.open`, again and again; it is closed once all who opened it have closed it."""
        self._users += 1
        self.closed = False
        return Device(self, index)

    # What tests say and ask.

    @property
    def call_count(self) -> int:
        return sum(self.calls.values())

    @property
    def leaks(self) -> list[str]:
        """What was made and not released."""
        return sorted(self.live.values())

    def fail(self, call: int | str, code: int) -> None:
        """Have one call fail, the next one of a name, or the one of this number from now on."""
        self._failures[self._count + call if isinstance(call, int) else call] = code

    def read(self, address: int, nbytes: int) -> Bytes:
        """What is in the device's memory at this moment."""
        return self._at(address, nbytes).copy()

    def write(self, address: int, content: bytes) -> None:
        self._at(address, len(content))[:] = np.frombuffer(content, np.uint8)

    def take(self, nbytes: int) -> int:
        """Memory of the device for another library, which gives it back by `take_back`."""
        return self._allocate(nbytes)

    def take_back(self, address: int) -> None:
        self._require_idle(address, address + self._memory[address].nbytes, "device memory")
        del self._memory[address], self.live[address]

    def spend_host_ns(self, nanoseconds: int) -> None:
        self._host_ns += nanoseconds

    def capturing(self, stream: int) -> bool:
        return self._stream(stream).captured is not None

    def spoil_capture(self, stream: int) -> None:
        """Do what cannot be captured."""
        self._stream(stream).spoilt = True

    def give(
        self,
        stream: int,
        what: str,
        act: Callable[[], None],
        *,
        reads: Sequence[Span] = (),
        writes: Sequence[Span] = (),
        cost_ns: int = 0,
        engine: str = "compute",
    ) -> None:
        """Put work on a stream, or note it if the stream is being captured. Spans are addresses, host's or device's."""
        with self._lock:
            queue = self._stream(stream)
            if queue.captured is not None:
                noted = {"what": what, "act": act, "reads": reads, "writes": writes, "cost_ns": cost_ns}
                queue.captured.append(noted)
                return
            for start, end in (*reads, *writes):
                self._require_span(start, end, what)
            after = [*queue.waits, *([queue.last] if queue.last else [])]
            queue.ticks += 1
            free_ns = self._free_ns[engine] if engine else 0
            starts = max([self._host_ns, free_ns, *(each.ends_ns for each in after)])
            work = Work(what, stream, queue.ticks, act, reads, writes, after, starts, starts + cost_ns)
            if engine:
                self._free_ns[engine] = work.ends_ns
            for each in after:
                for known, tick in each.clock.items():
                    work.clock[known] = max(tick, work.clock.get(known, 0))
            work.clock[stream] = work.tick
            self._pending = [each for each in self._pending if not each.done]
            for other in self._pending:
                if work.clashes(other) and not work.follows(other):
                    raise Hazard(f"{what} touches what {other.what} may still be touching: nothing orders them")
            self._pending.append(work)
            self.log.append(work)
            queue.last, queue.waits = work, []

    # The layer.

    def close(self) -> None:
        self._call("close", needs_context=False)
        self._users -= 1
        self.closed = not self._users

    def enter(self) -> None:
        self._call("enter", needs_context=False)
        if self.closed:
            raise Hazard("the device was closed")
        self._entered.depth = getattr(self._entered, "depth", 0) + 1

    def leave(self) -> None:
        try:
            self._call("leave")
        finally:
            self._entered.depth -= 1

    def device_name(self) -> str:
        self._call("device_name")
        return "a fake"

    def compute_capability(self) -> tuple[int, int]:
        self._call("compute_capability")
        return self.capability

    def memory_info(self) -> tuple[int, int]:
        self._call("memory_info")
        return self._free_bytes, self.TOTAL

    def synchronize(self) -> None:
        self._call("synchronize")
        for work in list(self._pending):
            self._finish(work)

    def stream_create(self, priority: int) -> Handle:
        self._call("stream_create")
        return self._new(_Stream(), "stream")

    def stream_destroy(self, stream: Handle) -> None:
        self._call("stream_destroy")
        last = self._stream(stream).last
        if last is not None and not last.done:
            raise Hazard(f"a stream was destroyed before {last.what} was done")
        self._drop(stream)

    def stream_address(self, stream: Handle) -> int:
        return int(stream)

    def stream_synchronize(self, stream: Handle) -> None:
        self._call("stream_synchronize")
        queue = self._stream(stream)
        if queue.captured is not None:
            raise Hazard("a stream that is being captured was waited for")
        if queue.last is not None:
            self._finish(queue.last)

    def stream_wait(self, stream: Handle, event: int) -> None:
        self._call("stream_wait")
        with self._lock:
            work = self._event(event).work
            if work is not None:
                self._stream(stream).waits.append(work)

    def event_create(self) -> Handle:
        self._call("event_create")
        return self._new(_Event(), "event")

    def event_destroy(self, event: Handle) -> None:
        self._call("event_destroy")
        self._event(event)
        self._drop(event)

    def event_address(self, event: Handle) -> int:
        return int(event)

    def event_record(self, event: Handle, stream: Handle) -> None:
        self._call("event_record")
        with self._lock:
            self.give(stream, f"event {event}", lambda: None, engine="")
            self._event(event).work = self._stream(stream).last

    def event_synchronize(self, event: Handle) -> None:
        self._call("event_synchronize")
        work = self._event(event).work
        if work is not None:
            self._finish(work)

    def event_elapsed_ms(self, start: Handle, end: Handle) -> float:
        self._call("event_elapsed_ms")
        first, last = self._event(start).work, self._event(end).work
        if first is None or last is None or not (first.done and last.done):
            raise Hazard("the time of an event that has not happened")
        return (last.ends_ns - first.ends_ns) / 1e6

    def pinned_alloc(self, nbytes: int) -> Bytes:
        self._call("pinned_alloc")
        memory = np.zeros(nbytes, np.uint8)
        self._pinned[memory.ctypes.data] = memory
        self.live[memory.ctypes.data] = "pinned"
        return memory

    def pinned_free(self, memory: Bytes) -> None:
        self._call("pinned_free")
        address = memory.ctypes.data
        self._require_idle(address, address + memory.nbytes, "pinned memory")
        del self.live[address], self._pinned[address]
        memory.fill(_JUNK)

    def host_register(self, memory: NDArray[Any]) -> Handle:
        self._call("host_register")
        start, end = _span(memory)
        pages = start - start % mmap.PAGESIZE, end + -end % mmap.PAGESIZE
        if any(_overlap([pages], [_span(each)]) for each in self._pinned.values()):
            raise error_from_code("host_register", _ALREADY_REGISTERED, "part of it is page-locked already")
        self._pinned[start] = _bytes_of(memory)
        self.live[start] = "registered memory"
        return start

    def host_unregister(self, registered: Handle) -> None:
        self._call("host_unregister")
        self._require_idle(registered, registered + self._pinned[registered].nbytes, "registered memory")
        del self.live[registered], self._pinned[registered]

    def memory_alloc(self, nbytes: int) -> int:
        self._call("memory_alloc")
        return self._allocate(nbytes)

    def memory_free(self, address: int) -> None:
        self._call("memory_free")
        self.take_back(address)

    def memory_alloc_async(self, nbytes: int, stream: Handle) -> int:
        self._call("memory_alloc_async")
        return self._allocate(nbytes)

    def memory_free_async(self, address: int, stream: Handle) -> None:
        self._call("memory_free_async")

        def free() -> None:
            del self._memory[address], self.live[address]

        self.give(stream, "a free", free, writes=[(address, address + self._memory[address].nbytes)])

    def copy_to_device(self, address: int, host: NDArray[Any], stream: Handle) -> None:
        self._call("copy_to_device")
        source = _bytes_of(host)

        def copy() -> None:
            self._at(address, source.nbytes)[:] = source

        self._give_copy(stream, "copy to device", copy, _span(host), (address, address + host.nbytes))

    def copy_to_host(self, host: NDArray[Any], address: int, stream: Handle) -> None:
        self._call("copy_to_host")
        target = _bytes_of(host)

        def copy() -> None:
            target[:] = self._at(address, target.nbytes)

        self._give_copy(stream, "copy to host", copy, (address, address + host.nbytes), _span(host))

    def copy_on_device(self, to: int, source: int, nbytes: int, stream: Handle) -> None:
        self._call("copy_on_device")

        def copy() -> None:
            self._at(to, nbytes)[:] = self._at(source, nbytes)

        self._give_copy(stream, "copy on device", copy, (source, source + nbytes), (to, to + nbytes))

    def capture_begin(self, stream: Handle) -> None:
        self._call("capture_begin")
        self._stream(stream).captured = []

    def capture_end(self, stream: Handle) -> Handle:
        queue = self._stream(stream)
        noted, queue.captured = queue.captured, None
        spoilt, queue.spoilt = queue.spoilt, False
        self._call("capture_end")
        if spoilt:
            raise error_from_code("capture_end", _CAPTURE_INVALIDATED, "capture invalidated")
        return self._new(noted, "graph")

    def graph_launch(self, graph: Handle, stream: Handle) -> None:
        self._call("graph_launch")
        for each in self._objects[graph]:
            self.give(stream, **each)

    def graph_destroy(self, graph: Handle) -> None:
        self._call("graph_destroy")
        self._drop(graph)

    def module_load(self, cubin: bytes) -> Handle:
        self._call("module_load")
        if not cubin.startswith(b"\x7fELF"):
            raise error_from_code("module_load", 200, "not a cubin")
        return self._new(cubin, "module")

    def module_unload(self, module: Handle) -> None:
        self._call("module_unload")
        self._drop(module)

    def module_function(self, module: Handle, name: str) -> Handle:
        self._call("module_function")
        if name.encode() not in self._objects[module]:
            raise error_from_code("module_function", 500, f"no {name}")
        return name

    def launch(
        self, function: Handle, grid: Extent, block: Extent, parameters: ctypes.Structure, stream: Handle
    ) -> None:
        self._call("launch")
        what = f"kernel {function} {grid} {block} {bytes(parameters).hex()}"
        reads, writes = _touched(parameters)
        act = self._launched(function, parameters)
        self.give(stream, what, act, reads=reads, writes=writes, cost_ns=_CALL_NS)

    # Beneath it.

    def _launched(self, kernel: str, parameters: ctypes.Structure) -> Callable[[], None]:
        if isinstance(parameters, PlacementParameters):
            return partial(self._place, kernel, parameters)
        return lambda: None

    def _place(self, kernel: str, told: PlacementParameters) -> None:
        """What the kernels of pictures.cu do, by their reference."""
        lines, columns = told.source_y + told.source_height, told.source_x + told.source_width
        picture: Bytes | NDArray[np.float32]
        if kernel == "place_rgb":
            picture = self._lines(told.picture, told.picture_pitch, lines, 3 * columns).reshape(lines, columns, 3)
        else:
            luma = self._lines(told.picture, told.picture_pitch, lines, columns)
            chroma = self._lines(told.chroma, told.chroma_pitch, (lines + 1) // 2, columns + columns % 2)
            gains = (told.luma_gain, told.red_v, told.green_u, told.green_v, told.blue_u)
            picture = rgb_of_nv12(luma, chroma, told.black, gains)
        source = Rectangle(told.source_x, told.source_y, told.source_width, told.source_height)
        target = Rectangle(told.target_x, told.target_y, told.target_width, told.target_height)
        row = place_picture(picture, source, (told.row_width, told.row_height), target, told.pad_value)
        self.write(told.row, row.tobytes())

    def _lines(self, address: int, pitch: int, lines: int, nbytes: int) -> Bytes:
        return np.stack([self._at(address + line * pitch, nbytes) for line in range(lines)])

    def _call(self, name: str, *, needs_context: bool = True) -> None:
        with self._lock:
            self.calls[name] += 1
            self._count += 1
            self._host_ns += _CALL_NS
            if needs_context and not getattr(self._entered, "depth", 0):
                raise Hazard(f"{name} on a thread that has no current device")
            code = self._failures.pop(self._count, 0) or self._failures.pop(name, 0) or self._lost
            if code:
                error = error_from_code(name, code, "a failure of the test's")
                if isinstance(error, DeviceLost):
                    self._lost = code
                    self._pending = []  # nothing runs on a lost device
                raise error

    def _finish(self, work: Work) -> None:
        with self._lock:
            stack = [work]
            while stack:
                top = stack[-1]
                waits = [each for each in top.after if not each.done]
                if waits:
                    stack.extend(waits)
                    continue
                stack.pop()
                if not top.done:
                    top.done = True
                    top.act()
                    top.after = []
            self._host_ns = max(self._host_ns, work.ends_ns)

    def _give_copy(self, stream: int, what: str, copy: Callable[[], None], source: Span, target: Span) -> None:
        cost_ns = (source[1] - source[0]) * _COPY_NS_PER_BYTE
        reads, writes = ([span] if self._reaches(span) else [] for span in (source, target))
        self.give(stream, what, copy, reads=reads, writes=writes, cost_ns=cost_ns, engine=what)
        if not (reads and writes):
            self.staged.append(what)
            if self.capturing(stream):
                self.spoil_capture(stream)
            else:
                self.stream_synchronize(stream)

    def _new(self, thing: Any, kind: str) -> int:
        with self._lock:
            handle = self._next_handle
            self._next_handle += 1
            self._objects[handle] = thing
            self.live[handle] = kind
            return handle

    def _drop(self, handle: int) -> None:
        del self.live[handle], self._objects[handle]

    def _stream(self, handle: int) -> _Stream:
        return self._thing(handle, _Stream)  # type: ignore[no-any-return]

    def _event(self, handle: int) -> _Event:
        return self._thing(handle, _Event)  # type: ignore[no-any-return]

    def _thing(self, handle: int, kind: type) -> Any:
        thing = self._objects.get(handle)
        if not isinstance(thing, kind):
            raise Hazard(f"{handle} is no {kind.__name__[1:].lower()}, or was destroyed")
        return thing

    def _allocate(self, nbytes: int) -> int:
        with self._lock:
            if nbytes > self._free_bytes:
                raise error_from_code("memory_alloc", 2, "out of memory")
            address = self._next_address
            self._next_address += -(-nbytes // 512) * 512 + 512
            self._memory[address] = np.full(nbytes, _JUNK, np.uint8)
            self.live[address] = "device memory"
            return address

    @property
    def _free_bytes(self) -> int:
        return self.TOTAL - self.reserved_bytes - sum(each.nbytes for each in self._memory.values())

    def _at(self, address: int, nbytes: int) -> Bytes:
        for start, memory in self._memory.items():
            if start <= address and address + nbytes <= start + memory.nbytes:
                return memory[address - start : address - start + nbytes]
        raise Hazard(f"{nbytes} bytes at {address:#x} are not, or no longer, the device's")

    def _require_span(self, start: int, end: int, what: str) -> None:
        if self._on_device(start):
            self._at(start, end - start)
        elif not self._reaches((start, end)):
            raise Hazard(f"{what} of host memory that is not page-locked")

    def _on_device(self, address: int) -> bool:
        return _FIRST_ADDRESS <= address < self._next_address

    def _reaches(self, span: Span) -> bool:
        """Whether the device itself gets at this memory."""
        start, end = span
        return self._on_device(start) or any(
            base <= start and end <= base + each.nbytes for base, each in self._pinned.items()
        )

    def _require_idle(self, start: int, end: int, what: str) -> None:
        for work in self._pending:
            if not work.done and _overlap([(start, end)], [*work.reads, *work.writes]):
                raise Hazard(f"{what} was freed before {work.what} was done")


def _touched(parameters: ctypes.Structure) -> tuple[list[Span], list[Span]]:
    """What a kernel of the project reads and writes."""
    if not isinstance(parameters, PlacementParameters):
        return [], []
    planes = [(parameters.picture, parameters.picture_pitch, 1), (parameters.chroma, parameters.chroma_pitch, 2)]
    last_line = parameters.source_y + parameters.source_height - 1
    reads = [(plane, plane + pitch * (last_line // lines + 1)) for plane, pitch, lines in planes if plane]
    return reads, [(parameters.row, parameters.row + 3 * parameters.row_width * parameters.row_height)]


def _overlap(some: Sequence[Span], others: Sequence[Span]) -> bool:
    return any(a < d and c < b for a, b in some for c, d in others)


def _bytes_of(host: NDArray[Any]) -> Bytes:
    if not host.flags.c_contiguous:
        raise Hazard("a copy of an array with gaps")
    return host.reshape(-1).view(np.uint8)


def _span(host: NDArray[Any]) -> Span:
    return host.ctypes.data, host.ctypes.data + host.nbytes
