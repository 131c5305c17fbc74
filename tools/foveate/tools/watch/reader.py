"""The thread of one camera: it connects, reads, chooses what is worth sending, and connects again.

FFmpeg blocks, so each camera has a thread of its own, and what it does there can hold up no other.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback

from foveate.client import Reconnect
from foveate.tools.native_thread import NativeThread
from foveate.tools.watch.address import Redaction
from foveate.tools.watch.gates import MotionGate, RateGate
from foveate.tools.watch.handover import Handover
from foveate.tools.watch.health import Health, State
from foveate.tools.watch.jpeg import Encoder
from foveate.tools.watch.settings import CameraSettings
from foveate.tools.watch.shot import Picture, Unit
from foveate.tools.watch.source import open_source
from foveate.tools.watch.trouble import CameraTrouble

__all__ = ["BACK_OFF", "CameraReader"]

_LOG = logging.getLogger(__name__)

BACK_OFF = Reconnect(first_delay_s=0.5, longest_delay_s=10.0)
"""Between two connections of one camera: random delays below a bound that doubles."""
_HEALTHY_AFTER_S = 10.0
"""Seconds of pictures after which the next trouble is a new one."""


class CameraReader:
    """Reads one camera until it ends or is stopped."""

    def __init__(
        self,
        settings: CameraSettings,
        encoder: Encoder,
        health: Health,
        handover: Handover[Picture | Unit],
        redact: Redaction,
    ) -> None:
        self._settings = settings
        self._encoder = encoder
        self._health = health
        self._handover = handover
        self._redact = redact
        self._stop = threading.Event()
        self._rate = RateGate()
        motion = settings.motion
        self._motion = MotionGate(motion.threshold, motion.min_fps) if motion else None
        self._chance = random.Random()
        self._faults: set[str] = set()
        self.advised_fps = 0.0
        """What the server advises; 0 while it has not. The loop writes it."""
        self.declared_fps: float | None = None
        """What the camera said of itself when it was connected last."""
        self._thread = NativeThread(self._run, f"camera {settings.name}")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End soon; what waits to be sent can still be."""
        self._stop.set()
        self._handover.close()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended within this time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._keep_connected()
        finally:
            self._handover.close()

    def _keep_connected(self) -> None:
        vain = 0
        while not self._stop.is_set():
            self._health.going_on()
            began, began_with = time.monotonic(), self._health.read
            trouble = self._trouble()
            if self._stop.is_set():
                break
            if trouble is None and self._settings.loop:
                continue
            if trouble is None:
                break
            if trouble.is_final:
                self._health.in_trouble(State.FAILED, str(trouble))
                return
            healthy = self._health.read > began_with and time.monotonic() - began > _HEALTHY_AFTER_S
            vain = 0 if healthy else vain + 1
            self._health.in_trouble(State.FROZEN if trouble.is_frozen else State.RECONNECTING, str(trouble))
            if not self._stop.wait(BACK_OFF.delay_s(max(0, vain - 1), self._chance)):
                self._health.reconnects += 1
        self._health.ended()

    def _trouble(self) -> CameraTrouble | None:
        """What ended one connection; None if a file did."""
        try:
            self._one_connection()
        except CameraTrouble as trouble:
            return trouble
        except Exception as error:  # noqa: BLE001 - garbage can make libraries fail in any way, and the next try may do
            what = self._redact(f"{type(error).__name__}: {error}")
            if what not in self._faults:
                self._faults.add(what)
                text = self._redact(traceback.format_exc())
                _LOG.warning("camera %s made us fail; it is connected anew\n%s", self._settings.name, text)
            return CameraTrouble(what, is_final=self._settings.address.kind.has_end)
        return None

    def _one_connection(self) -> None:
        settings, health = self._settings, self._health
        opened = open_source(settings, sent_as_is=self._encoder.keeps_bytes, redact=self._redact, stop=self._stop)
        with opened as source:
            self.declared_fps = source.fps
            health.going_on()
            last, began_with = time.monotonic(), health.read
            for item in source:
                if self._stop.is_set():
                    return
                if item is not None:
                    last = time.monotonic()
                    self._take(item)
                    continue
                health.damaged += 1
                health.going_on()
                if time.monotonic() - last > settings.timeout_s:
                    raise CameraTrouble(
                        f"what comes is no picture, for {settings.timeout_s:g} s already", is_frozen=True
                    )
            if not settings.address.kind.has_end:
                raise CameraTrouble("the camera ended the connection")
            if health.read == began_with:
                raise CameraTrouble(f"there is no picture in {settings.address.shown}", is_final=True)

    def _take(self, item: Picture | Unit) -> None:
        passes = isinstance(item, Unit) or self._passes(item)
        self._health.arrived(is_still=self._motion is not None and self._motion.is_still(item.captured_at))
        if passes:
            self._handover.put(item)
            self._health.dropped_here = self._handover.dropped

    def _passes(self, picture: Picture) -> bool:
        """Whether it is worth sending. Raises: CameraTrouble if the region lies outside of it."""
        if not self._rate.admits(picture.captured_at, self._fps()):
            self._health.skipped_rate += 1
            return False
        self._encoder.crop_of(picture)
        if self._motion is not None and not self._motion.admits(self._encoder.small_grey(picture), picture.captured_at):
            self._health.skipped_motion += 1
            return False
        return True

    def _fps(self) -> float | None:
        return min((fps for fps in (self._settings.fps, self.advised_fps) if fps), default=None)
