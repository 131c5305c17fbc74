"""A batch on its way through a slot, as the device sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import EncodedRow, HeldPicture, Slot
from foveate.service.boundary import Encoded, IngestPort, Refused
from foveate.service.frame import Verdict

__all__ = ["Batch", "BatchSlot", "Entry", "by_ingest"]


class BatchSlot(NamedTuple):
    """The buffers of one batch in flight, and where the ingests write its pixels."""

    slot: Slot
    pixels: NDArray[np.uint8]
    """The slot's input itself, or, where the engine cannot read from there, what is copied into it."""


@dataclass(slots=True, eq=False)
class Entry:
    """A frame on its way through a device."""

    ingest: IngestPort
    frame: int
    """The ingest's number for it."""
    deadline_ns: int
    pictures: Mapping[int, HeldPicture] = field(default_factory=dict)
    """Those that the device holds for its ingest."""
    out: bool = False
    """It will not run: its ingest has been told, or has said so itself."""


@dataclass(slots=True)
class Batch:
    """Frames that were planned to run together."""

    turn: int
    ends_ns: int
    """Predicted end of its run, on the monotonic clock."""
    entries: tuple[Entry, ...]
    encoded: dict[Entry, Encoded] = field(default_factory=dict)
    """What is left to the device."""
    on_device: dict[Entry, EncodedRow] = field(default_factory=dict)
    """What the device has put into the slot, and where it lies."""
    placed_ns: int = 0
    """When that was done; 0: there is none."""
    _left: set[Entry] = field(init=False)
    """Whose rows are being written."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _decoded: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._left = set(self.entries)

    def ready(self) -> list[Entry]:
        """Those that run, in the order of their rows."""
        return [entry for entry in self.entries if not entry.out]

    def decode_again(self, entries: Sequence[Entry]) -> None:
        """These are decoded once more, after all were: the device could not."""
        for entry in entries:
            del self.encoded[entry]
        self._left = set(entries)
        self._decoded.clear()

    def decoded(self, entry: Entry, succeeded: bool, encoded: Encoded | None = None) -> None:
        """A frame's row is written, or never will be. From any thread."""
        if not succeeded:
            entry.out = True
        elif encoded:
            self.encoded[entry] = encoded
        with self._lock:
            self._left.discard(entry)
            if not self._left:
                self._decoded.set()

    def wait_for_pixels(self) -> None:
        """Block until no row is being written any more."""
        self._decoded.wait()

    def moved_on_device(self) -> dict[Entry, EncodedRow]:
        """Where those on the device belong in the run: a frame before them may have fallen out."""
        rows = {entry: row for row, entry in enumerate(self.ready())}
        return {entry: replace(at, row=rows[entry]) for entry, at in self.on_device.items() if entry in rows}

    def late(self, now_ns: int, needed_ns: int) -> list[Entry]:
        """The frames that would be late if the batch began now."""
        return [entry for entry in self.ready() if now_ns + needed_ns > entry.deadline_ns]

    def expire(self, now_ns: int, needed_ns: int) -> Iterator[tuple[Entry, Refused]]:
        """Take out the frames that would be late if the batch began now."""
        for entry in self.late(now_ns, needed_ns):
            entry.out = True
            why = "its decoding, or the batch before it, took longer than predicted"
            yield entry, Refused(entry.frame, Verdict.EXPIRED, why)


def by_ingest(entries: Iterable[Entry]) -> dict[IngestPort, list[Entry]]:
    """The same frames, together with those of the same ingest."""
    grouped: dict[IngestPort, list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.ingest, []).append(entry)
    return grouped
