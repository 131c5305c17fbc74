"""An output with a queue and a thread of its own, so that nothing that happens behind it reaches the frame's way."""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace

from foveate.client import Reconnect
from foveate.client.reconnect import Outage
from foveate.tools.outputs.backlog import Backlog
from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.destination import Destination, Unavailable, Undeliverable
from foveate.tools.outputs.output import OutputCounts
from foveate.tools.outputs.selection import Selection

__all__ = ["QueuedOutput", "Queueing"]

_log = logging.getLogger(__name__)
_SAY_AGAIN_S = 60.0
"""The same trouble is logged once in so long: an outage, or a camera's every other frame, is not a line each."""


@dataclass(frozen=True, slots=True)
class Queueing:
    """How results wait, and how often they are tried."""

    capacity: int
    """Results that may wait; a newer one pushes the oldest out."""
    retries: Reconnect
    """When a delivery that failed is tried again, and for how long."""
    batch: int = 1
    """Most results in one delivery."""
    linger_s: float = 0.0
    """How long the first of a batch waits for others."""
    pictures: bool = False
    """Whether pictures wait along; without them a full queue costs little memory."""


class QueuedOutput:
    """Delivers what it is given, in that order, from a thread of its own."""

    def __init__(self, name: str, destination: Destination, selection: Selection, queueing: Queueing) -> None:
        self._name = name
        self._destination = destination
        self._selection = selection
        self._queueing = queueing
        self._backlog = Backlog(queueing.capacity)
        self._trouble = ""
        self._said, self._said_at, self._said_now = "", 0.0, False
        self._closing, self._over = threading.Event(), threading.Event()
        # A daemon, as a server that hangs must not keep a program from ending.
        self._thread = threading.Thread(target=self._run, name=f"output-{name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._name

    @property
    def counts(self) -> OutputCounts:
        return self._backlog.counts

    @property
    def trouble(self) -> str:
        return self._trouble

    def put(self, result: CameraResult) -> None:
        if not self._selection.takes(result):
            self._backlog.leave_out()
            return
        if result.picture is not None and not self._queueing.pictures:
            result = replace(result, picture=None)
        self._backlog.put(result)

    def close(self, timeout_s: float) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._backlog.close()
        self._thread.join(timeout_s)
        self._over.set()
        self._backlog.abandon()

    def _run(self) -> None:
        while batch := self._backlog.take(self._queueing.batch, self._queueing.linger_s):
            if self._delivered(batch):
                self._backlog.settle(sent=len(batch))
            else:
                self._backlog.settle(failed=len(batch))
        try:
            self._destination.close()
        except Exception as error:  # noqa: BLE001 the thread's outer edge
            self._report_fault(error)

    def _delivered(self, batch: Sequence[CameraResult]) -> bool:
        outage = Outage(self._queueing.retries, random.Random())
        while not self._over.is_set():
            closing = self._closing.is_set()
            try:
                self._destination.deliver(batch)
            except Unavailable as error:
                self._say_trouble(str(error))
                if not self._paused(outage.next_delay_s(time.monotonic()), error.retry_after_s, closing):
                    return False
            except Undeliverable as error:
                self._say_trouble(str(error))
                return False
            except Exception as error:  # noqa: BLE001 the thread's outer edge: it must live on
                self._report_fault(error)
                return False
            else:
                self._say_well()
                return True
        return False

    def _paused(self, delay_s: float | None, wished_s: float | None, closing: bool) -> bool:
        """Whether it is time for another attempt; False when it is to be given up.

        `closing` says whether the last one was made while closing.
        """
        if delay_s is None:
            return False
        if wished_s is not None:
            delay_s = wished_s
        if closing:
            return not self._over.wait(delay_s)
        self._closing.wait(delay_s)  # closing is a reason to try at once: there may be no later
        return True

    def _say_trouble(self, words: str, level: int = logging.WARNING, detail: str = "") -> None:
        self._trouble = words or self._trouble
        now = time.monotonic()
        if words and (words != self._said or now - self._said_at > _SAY_AGAIN_S):
            self._said, self._said_at, self._said_now = words, now, True
            _log.log(level, "output %s: %s%s", self._name, words, detail)

    def _say_well(self) -> None:
        self._trouble = ""
        if self._said_now:
            self._said_now = False
            counts = self.counts
            _log.warning("output %s delivers again; %d dropped, %d failed", self._name, counts.dropped, counts.failed)

    def _report_fault(self, error: Exception) -> None:
        """A fault of ours: where it is, but not its words, which may quote an address with its password."""
        frames = "".join(traceback.format_tb(error.__traceback__))
        self._say_trouble(f"internal error ({type(error).__name__})", logging.ERROR, f"\n{frames}")
