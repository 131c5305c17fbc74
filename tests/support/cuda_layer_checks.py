"""What every CUDA layer must do, as checks on an opened device: for the stand-in and for GPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing

import numpy as np
import pytest

from foveate.engines import DeviceError, DeviceOutOfMemory
from foveate.engines.cuda import Device
from foveate.tools.gpu_report.shared_pages import shared_pages

__all__ = ["CHECKS"]

Check = Callable[[Device], None]
SIZE = 1 << 16


def describes_itself(device: Device) -> None:
    assert device.name
    assert device.compute_capability.startswith("sm_")
    free, total = device.memory_info()
    assert 0 < free <= total


def copies_there_and_back(device: Device) -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(closing(device.new_stream()))
        source, target = (stack.enter_context(closing(device.new_pinned((SIZE,), np.uint8))) for _ in range(2))
        first, second = (stack.enter_context(closing(device.new_buffer(SIZE))) for _ in range(2))
        assert not source.array.any(), "pinned memory comes zeroed"
        source.array[:] = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
        stream.copy_to_device(first.address, source.array)
        stream.copy_on_device(second.address, first.address, SIZE)
        stream.copy_to_host(target.array, second.address)
        stream.synchronize()
        np.testing.assert_array_equal(target.array, source.array)


def copies_a_part(device: Device) -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(closing(device.new_stream()))
        rows = stack.enter_context(closing(device.new_pinned((4, 3, 2), np.float32)))
        buffer = stack.enter_context(closing(device.new_buffer(rows.nbytes)))
        rows.array[:] = np.arange(24).reshape(4, 3, 2)
        stream.copy_to_device(buffer.address, rows.array)
        stream.copy_to_host(rows.array[:1], buffer.address + 3 * 24)
        stream.synchronize()
        np.testing.assert_array_equal(rows.array[0], np.arange(18, 24).reshape(3, 2))
        np.testing.assert_array_equal(rows.array[1], np.arange(6, 12).reshape(3, 2))


def registers_shared_memory(device: Device) -> None:
    """Memory of a file that other processes may map, as slots have it; again after it was given back."""
    memory = shared_pages((4, SIZE), np.uint8)
    for value in range(1, 4):
        with ExitStack() as stack:
            stream = stack.enter_context(closing(device.new_stream()))
            buffer = stack.enter_context(closing(device.new_buffer(SIZE)))
            stack.enter_context(closing(device.register(memory)))
            memory[2].fill(value)
            stream.copy_to_device(buffer.address, memory[2])
            stream.copy_to_host(memory[3], buffer.address)
            stream.synchronize()
            assert (memory[3] == value).all()
    assert (memory[3] == 3).all(), "it is its owner's as before"


def refuses_what_is_registered_already(device: Device) -> None:
    memory = shared_pages((SIZE,), np.uint8)
    with closing(device.register(memory)), pytest.raises(DeviceError, match="712"):
        device.register(memory)
    device.register(memory).close()


def streams_wait_for_events(device: Device) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(device.new_stream(priority))) for priority in (0, -1)]
        started, copied, done = (stack.enter_context(closing(device.new_event())) for _ in range(3))
        source, target = (stack.enter_context(closing(device.new_pinned((SIZE,), np.uint8))) for _ in range(2))
        buffer = stack.enter_context(closing(device.new_buffer(SIZE)))
        for value in range(1, 4):
            source.array.fill(value)
            started.record(streams[0])
            streams[0].copy_to_device(buffer.address, source.array)
            copied.record(streams[0])
            streams[1].wait(copied if value > 1 else copied.address)
            streams[1].copy_to_host(target.array, buffer.address)
            done.record(streams[1])
            done.synchronize()
            assert (target.array == value).all()
            assert 0 <= copied.ns_since(started) <= done.ns_since(started)


def other_threads_may_use_it(device: Device) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with device.current():
                copies_there_and_back(device)
        except BaseException as error:  # noqa: BLE001 - told on the thread of the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def pools_memory(device: Device) -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(closing(device.new_stream()))
        host = stack.enter_context(closing(device.new_pinned((SIZE,), np.uint8)))
        for value in range(1, 4):
            host.array.fill(value)
            buffer = device.new_pooled(SIZE, stream)
            stream.copy_to_device(buffer.address, host.array)
            stream.copy_to_host(host.array, buffer.address)
            buffer.close()
            stream.synchronize()
            assert (host.array == value).all()


def launches_graphs(device: Device) -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(closing(device.new_stream()))
        host = stack.enter_context(closing(device.new_pinned((2, SIZE), np.uint8)))
        buffer = stack.enter_context(closing(device.new_buffer(SIZE)))

        def work() -> None:
            stream.copy_to_device(buffer.address, host.array[0])
            stream.copy_to_host(host.array[1], buffer.address)

        graph = stack.enter_context(closing(device.capture(stream, work)))
        stream.synchronize()
        assert not host.array[1].any(), "capturing does nothing"
        for value in range(1, 4):
            host.array[0].fill(value)
            graph.launch(stream)
            stream.synchronize()
            assert (host.array[1] == value).all()


def survives_a_capture_that_fails(device: Device) -> None:
    def work() -> None:
        raise KeyError("the work's own")

    with closing(device.new_stream()) as stream:
        with pytest.raises(KeyError, match="own"):
            device.capture(stream, work)
        device.capture(stream, lambda: None).close()
        stream.synchronize()
    copies_there_and_back(device)


def refuses_more_memory_than_there_is(device: Device) -> None:
    _, total = device.memory_info()
    with pytest.raises(DeviceOutOfMemory, match="smaller batch"):
        device.new_buffer(total + 1)
    copies_there_and_back(device)


def refuses_what_is_no_module(device: Device) -> None:
    with pytest.raises(DeviceError):
        device.load_module(b"nothing that was compiled")
    copies_there_and_back(device)


def releases_once(device: Device) -> None:
    things = [device.new_stream(), device.new_event(), device.new_buffer(1), device.new_pinned((1,), np.uint8)]
    for thing in (*things, *things):
        thing.close()


CHECKS: tuple[Check, ...] = (
    describes_itself,
    copies_there_and_back,
    copies_a_part,
    registers_shared_memory,
    refuses_what_is_registered_already,
    streams_wait_for_events,
    other_threads_may_use_it,
    pools_memory,
    launches_graphs,
    survives_a_capture_that_fails,
    refuses_more_memory_than_there_is,
    refuses_what_is_no_module,
    releases_once,
)
