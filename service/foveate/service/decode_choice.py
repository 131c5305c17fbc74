"""Whether a lane's JPEGs are decoded on its device: as the settings say, or where that is faster and as strict."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Literal

import numpy as np

from foveate.engines.contract import Engine
from foveate.engines.errors import ConfigError, EngineError
from foveate.models.package import PreparedModel
from foveate.service.batch import BatchSlot
from foveate.service.boundary import Encoded
from foveate.service.frame import PixelFormat

__all__ = ["decodes_on_device"]

_log = logging.getLogger(__name__)

_SIZE = (1280, 720)
_MOST = 16
"""JPEGs in the batch that is timed."""
_TRIES = 3
"""The best of them counts, after one that is not timed."""

Clock = Callable[[], int]


def decodes_on_device(
    wish: Literal["auto", "cpu", "gpu"],
    engine: Engine,
    slot: BatchSlot,
    model: PreparedModel,
    threads: int,
    clock: Clock = time.monotonic_ns,
) -> bool:
    """Whether the engine is to decode JPEGs; its decoder is open then. The slot may be used for trying.

    `threads` is how many frames the CPU decodes side by side; 0: as many as there are cores.
    Raises: ConfigError if it has to, and cannot.
    """
    if wish == "cpu":
        return False
    if not engine.open_decoder():
        if wish == "gpu":
            raise ConfigError(
                f'decode is "gpu", and {engine.info.name}/{engine.info.backend} decodes no JPEGs here: choose a '
                'TensorRT engine and install `foveate[gpu]`, or set it to "auto"'
            )
        return False
    if wish == "gpu" or _device_is_faster(engine, slot, model, threads, clock):
        return True
    engine.close_decoder()
    return False


def _device_is_faster(engine: Engine, slot: BatchSlot, model: PreparedModel, threads: int, clock: Clock) -> bool:
    # Imported here: where frames are decoded elsewhere, decoders are needed for this alone.
    from foveate.service.decode import decode_into, leave_encoded, sample_jpeg

    batch, data = min(engine.info.max_batch, _MOST), sample_jpeg(_SIZE)
    left = leave_encoded(np.empty(len(data), np.uint8), data, PixelFormat.JPEG, _SIZE, model)
    assert left, "the sample is a JPEG of the common kind"
    encoded = left[1]

    def decode(row: int) -> None:
        decode_into(slot.pixels[row], data, PixelFormat.JPEG, _SIZE, model)

    try:
        _require_strict(engine, slot, encoded, data)
        rows = [encoded.row(data, row) for row in range(batch)]
        device_ns = _best_ns(lambda: engine.place_encoded(slot.slot, rows), clock)
    except EngineError as error:
        _log.info("%s has its JPEGs decoded on the CPU: %s", engine.info.name, error)
        return False
    finally:
        with suppress(EngineError):
            engine.place_encoded(slot.slot, ())
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as decoders:
        cpu_ns = _best_ns(lambda: list(decoders.map(decode, range(batch))), clock)
    took = f"{batch} JPEGs take {cpu_ns / 1e6:.1f} ms on the CPU, {device_ns / 1e6:.1f} ms on the device"
    _log.info("%s: %s", engine.info.name, took)
    return device_ns < cpu_ns


def _require_strict(engine: Engine, slot: BatchSlot, encoded: Encoded, data: bytes) -> None:
    """A decoder that paints what is missing would have noise answered with boxes. Raises: EngineError."""
    broken = data[: len(data) // 2] + data[-2:]
    placed = engine.place_encoded(slot.slot, [encoded.row(data, 0), encoded.row(broken, 1 % engine.info.max_batch)])
    if placed != [True, False]:
        raise EngineError(f"of a whole JPEG and a broken one its device should decode the first alone, not {placed}")


def _best_ns(work: Callable[[], object], clock: Clock) -> int:
    work()
    times = []
    for _ in range(_TRIES):
        began_ns = clock()
        work()
        times.append(clock() - began_ns)
    return min(times)
