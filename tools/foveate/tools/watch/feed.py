"""One camera's way to the server: its pictures are encoded beside the loop, sent, and their results handed on."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from foveate.client import (
    AsyncClient,
    AsyncStream,
    BudgetTooSmall,
    ClientError,
    Frame,
    InvalidRequest,
    NoSuchPipeline,
    PixelFormat,
    Reconnect,
    Result,
    StreamSettings,
    Unreachable,
)
from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.watch.address import Redaction
from foveate.tools.watch.handover import Handover, NewestOnly, WaitingUnits
from foveate.tools.watch.health import CameraStatus, Health
from foveate.tools.watch.jpeg import Encoder
from foveate.tools.watch.reader import CameraReader
from foveate.tools.watch.region import Crop, Region
from foveate.tools.watch.settings import CameraSettings
from foveate.tools.watch.shot import Picture, Unit
from foveate.tools.watch.trouble import CameraTrouble

__all__ = ["CameraFeed", "OnResult"]

OnResult = Callable[[CameraResult], None]
"""Takes each result, in pixels of the camera's whole upright picture. It must not block."""

_LOG = logging.getLogger(__name__)

_FINAL = (BudgetTooSmall, InvalidRequest, NoSuchPipeline, Unreachable)
"""Unreachable is what the client says once it has given up, if it ever does."""
_AGAIN = Reconnect(first_delay_s=0.5, longest_delay_s=10.0)
_UNITS = 64
"""Of video that wait for the server before they are thrown away: about two seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sent:
    captured_at: float
    picture: bytes | None
    crop: Crop | None


class CameraFeed:
    """Feeds one camera to a server until the camera ends or is stopped. Make it inside the running loop."""

    def __init__(
        self, settings: CameraSettings, client: AsyncClient, pool: Executor, redact: Redaction, on_result: OnResult
    ) -> None:
        """`pool` encodes pictures."""
        self._settings = settings
        self._client = client
        self._pool = pool
        self._redact = redact
        self._on_result = on_result
        self._encoder = Encoder(Region(settings.roi), settings.rotate, settings.quality)
        self._health = Health(settings.name, settings.address.shown, settings.timeout_s)
        waiting: NewestOnly[Picture | Unit] | WaitingUnits[Picture | Unit] = (
            WaitingUnits(_UNITS) if settings.passthrough else NewestOnly()
        )
        self._handover: Handover[Picture | Unit] = Handover(waiting, asyncio.get_running_loop())
        self._reader = CameraReader(settings, self._encoder, self._health, self._handover, redact)
        self._next: Picture | Unit | None = None
        """Taken and not sent: the first of a stream that is to be opened."""
        self._chance = random.Random()
        self._is_stopping = False

    def status(self) -> CameraStatus:
        """How it is doing."""
        return self._health.status()

    def stop(self) -> None:
        """Read no more; what was sent is still answered."""
        self._is_stopping = True
        self._reader.stop()

    def join(self, timeout_s: float) -> bool:
        """Whether the reader's thread has ended within this time."""
        return self._reader.join(timeout_s)

    async def run(self) -> None:
        """Until all that was sent is answered, or the server will never serve this camera: see its status."""
        self._reader.start()
        vain = 0
        try:
            while (first := self._next or await self._handover.take()) is not None:
                self._next = first
                answered = await self._one_stream(first)
                if self._is_stopping:
                    break
                vain = 0 if answered else vain + 1
                if vain:
                    await asyncio.sleep(_AGAIN.delay_s(vain - 1, self._chance))
        except _FINAL as error:
            self._health.server_trouble(self._redact(str(error)), is_final=True)
        except Exception as error:  # noqa: BLE001 - the camera's outer edge: the others go on
            _LOG.exception("camera %s: this is a fault of the program", self._settings.name)
            self._health.server_trouble(self._redact(repr(error)), is_final=True)
        finally:
            self._reader.stop()
            self._health.over()

    async def _one_stream(self, first: Picture | Unit) -> bool:
        """Whether the server answered anything. Raises: those of `_FINAL`."""
        sent: deque[_Sent] = deque()
        video = first.format if isinstance(first, Unit) else None
        # The reader goes by the rate that the server advises, so nothing is encoded that would then have to wait.
        stream = self._client.stream(self._frames(sent, video), live=True, paced=False, **self._stream_settings(video))
        answered = False
        try:
            async with stream:
                while (result := await stream.next()) is not None:
                    # Every frame gets exactly one result, in frame order: so the oldest is this result's.
                    self._take(result, sent.popleft(), stream)
                    answered = answered or result.round_trip_ms is not None
        except _FINAL:
            raise
        except ClientError as error:
            self._health.server_trouble(self._redact(str(error)))
        return answered

    def _take(self, result: Result, sent: _Sent, stream: AsyncStream) -> None:
        self._health.answered(result)
        if stream.info is not None:
            self._reader.advised_fps = stream.info.advised_fps
        if result.advised_fps > 0:
            self._reader.advised_fps = result.advised_fps
        crop = sent.crop
        self._on_result(
            CameraResult(
                self._settings.name,
                crop.in_full_picture(result) if crop else result,
                sent.picture,
                time.time() - (time.monotonic() - sent.captured_at),
                (crop.x, crop.y) if crop else (0, 0),
            )
        )

    async def _frames(self, sent: deque[_Sent], video: PixelFormat | None) -> AsyncIterator[Frame]:
        loop = asyncio.get_running_loop()
        while (item := self._next or await self._handover.take()) is not None:
            self._next = None
            if (item.format if isinstance(item, Unit) else None) is not video:
                self._next = item  # the camera has changed its codec: this is the first of another stream
                return
            if isinstance(item, Unit):
                sent.append(_Sent(item.captured_at, None, None))
                data = item.data
            else:
                try:
                    data, crop = await loop.run_in_executor(self._pool, self._encoder.encode, item)
                except (CameraTrouble, ValueError, OSError) as error:
                    self._health.cannot_encode(self._redact(str(error)))
                    continue
                sent.append(_Sent(item.captured_at, data, crop))
            self._health.sending()
            yield Frame(data, item.captured_at)

    def _stream_settings(self, video: PixelFormat | None) -> StreamSettings:
        settings = self._settings
        asked: StreamSettings = {
            "pipeline": settings.pipeline,
            "stream_id": settings.name,
            "priority": settings.priority,
            "weight": settings.weight,
        }
        if settings.budget_ms is not None:
            asked["budget_ms"] = settings.budget_ms
        if settings.min_score is not None:
            asked["min_score"] = settings.min_score
        if video is not None:
            asked["format"] = video
        rates = [fps for fps in (settings.fps, self._reader.declared_fps) if fps]
        if rates:
            asked["fps"] = min(rates)
        return asked
