"""Raw pixels that a client on this host hands over in a file below /dev/shm."""

from __future__ import annotations

import os
import re
import stat

from foveate.engines.errors import BadFrame
from foveate.service.frame import SharedMemoryRef

__all__ = ["shared_pixels"]

_FOLDER = "/dev/shm"
_NAME = re.compile(r"foveate-[A-Za-z0-9_.-]{1,100}")
"""Only files that are meant for this service: a client must not make it read another program's memory."""


def shared_pixels(where: SharedMemoryRef) -> bytes:
    """A copy of the bytes of a frame.

    They are read, not mapped: a client that cuts its file short meanwhile would kill a process that maps it.
    Raises: BadFrame if there is no such file, or it is too short.
    """
    if not _NAME.fullmatch(where.name):
        raise BadFrame(f"shared memory {where.name!r}: expected a name like foveate-CAMERA, without a slash")
    try:
        # Not blocking: whoever opens a pipe waits for its other end.
        handle = os.open(f"{_FOLDER}/{where.name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadFrame(f"shared memory {where.name!r} cannot be opened: {error.strerror}") from error
    try:
        return _read(handle, where)
    finally:
        os.close(handle)


def _read(handle: int, where: SharedMemoryRef) -> bytes:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise BadFrame(f"shared memory {where.name!r} is not a file: expected one that holds the frame's pixels")
    ends = where.offset + where.size
    if where.size == 0 or ends > status.st_size:
        raise BadFrame(
            f"shared memory {where.name!r} has {status.st_size} bytes, the frame is said to lie at "
            f"{where.offset} to {ends}"
        )
    data = os.pread(handle, where.size, where.offset)
    if len(data) != where.size:
        raise BadFrame(f"shared memory {where.name!r} was cut short while it was read")
    return data
