"""The device's memory for video, within a bound: what decoders will take, and the pictures that wait there."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict, deque

from foveate.engines.cuda.device import Device, DeviceBuffer
from foveate.engines.cuda.pictures import DevicePicture
from foveate.engines.errors import DeviceOutOfMemory

__all__ = ["GpuPicture", "PicturePool"]


class GpuPicture:
    """`contract.HeldPicture` in memory of a pool, which has it back as soon as nobody holds the picture any more."""

    def __init__(self, picture: DevicePicture) -> None:
        self.picture = picture

    @property
    def width(self) -> int:
        """See `HeldPicture`."""
        return self.picture.width

    @property
    def height(self) -> int:
        """See `HeldPicture`."""
        return self.picture.height


class PicturePool:
    """Buffers for pictures, used again and again. Thread-safe; used and closed with the device current."""

    def __init__(self, device: Device, limit_bytes: int) -> None:
        self._device = device
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._reserved_bytes = 0
        self._taken: set[DeviceBuffer] = set()
        self._spare: dict[int, list[DeviceBuffer]] = defaultdict(list)
        self._returned = deque[DeviceBuffer]()
        """Without the lock: whoever lets go of a picture may hold it, as any allocation may collect garbage."""

    @property
    def held_bytes(self) -> int:
        """Of pictures that somebody holds."""
        with self._lock:
            self._take_back()
            return sum(buffer.nbytes for buffer in self._taken)

    def reserve(self, nbytes: int) -> bool:
        """Count memory that a decoder takes by itself; False if it would be more than half of the limit."""
        with self._lock:
            if self._reserved_bytes + nbytes > self._limit_bytes // 2:
                return False
            self._reserved_bytes += nbytes
            return True

    def release(self, nbytes: int) -> None:
        """A decoder has gone."""
        with self._lock:
            self._reserved_bytes -= nbytes

    def take(self, nbytes: int) -> DeviceBuffer | None:
        """Memory for one picture, until it is given to `keep` or `give_back`; None where the limit is reached."""
        with self._lock:
            self._take_back()
            if spare := self._spare[nbytes]:
                buffer = spare.pop()
            else:
                self._make_room(nbytes)
                if self._reserved_bytes + self._all_bytes() + nbytes > self._limit_bytes:
                    return None
                try:
                    buffer = self._device.new_buffer(nbytes)
                except DeviceOutOfMemory:
                    return None
            self._taken.add(buffer)
            return buffer

    def keep(self, buffer: DeviceBuffer, picture: DevicePicture) -> GpuPicture:
        """The picture in a buffer, which comes back with it."""
        held = GpuPicture(picture)
        weakref.finalize(held, self._returned.append, buffer).atexit = False
        return held

    def give_back(self, buffer: DeviceBuffer) -> None:
        """No picture came to be in it."""
        self._returned.append(buffer)

    def close(self) -> None:
        """Release all memory, also that of pictures which somebody still holds."""
        with self._lock:
            self._take_back()
            for buffer in (*self._taken, *(each for spare in self._spare.values() for each in spare)):
                buffer.close()
            self._taken.clear()
            self._spare.clear()

    def _take_back(self) -> None:
        while self._returned:
            buffer = self._returned.popleft()
            if buffer in self._taken:  # else the pool was closed before
                self._taken.remove(buffer)
                self._spare[buffer.nbytes].append(buffer)

    def _make_room(self, nbytes: int) -> None:
        """Let go of spare memory of other sizes, where the limit asks for it."""
        for spare in self._spare.values():
            while spare and self._reserved_bytes + self._all_bytes() + nbytes > self._limit_bytes:
                spare.pop().close()

    def _all_bytes(self) -> int:
        return sum(
            buffer.nbytes for buffer in (*self._taken, *(each for spare in self._spare.values() for each in spare))
        )
