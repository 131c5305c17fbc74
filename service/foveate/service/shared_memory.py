"""Raw pixels that a client on this host hands over in a file below /dev/shm."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from foveate.engines.errors import BadFrame
from foveate.service.frame import SharedMemoryRef

__all__ = ["shared_pixels"]

_FOLDER = "/dev/shm"
_NAME = re.compile(r"foveate-[A-Za-z0-9_.-]{1,100}")
"""Only files that are meant for this service: a client must not make it read another program's memory."""


@contextmanager
def shared_pixels(where: SharedMemoryRef) -> Iterator[memoryview]:
    """The bytes of a frame, read in place; the view ends with the context.

    Raises: BadFrame if there is no such file, or it is too short.
    """
    if not _NAME.fullmatch(where.name):
        raise BadFrame(f"shared memory {where.name!r}: expected a name like foveate-CAMERA, without a slash")
    try:
        handle = os.open(f"{_FOLDER}/{where.name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BadFrame(f"shared memory {where.name!r} cannot be opened: {error.strerror}") from error
    try:
        length = os.fstat(handle).st_size
        if where.size == 0 or where.offset + where.size > length:
            raise BadFrame(
                f"shared memory {where.name!r} has {length} bytes, the frame is said to lie at "
                f"{where.offset} to {where.offset + where.size}"
            )
        mapping = mmap.mmap(handle, length, prot=mmap.PROT_READ)
    finally:
        os.close(handle)
    with mapping, memoryview(mapping) as whole, whole[where.offset : where.offset + where.size] as view:
        yield view
