"""The boundary between an ingest, which has the frames, and a device, which has the engines.

A device decides with a frame's *ticket* alone: pixels stay with the ingest until the device has chosen a frame, and
then go straight into the engine's input. Both sides may be in one process, where calls are calls, or in two, where
they are messages beside shared memory (`remote_device`, `remote_ingest`); neither side can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import EncodedRow, EngineInfo, HeldPicture
from foveate.engines.video_decoding import VideoFormat
from foveate.service.frame import Grant, PixelFormat, Ran, StreamOptions, Verdict

__all__ = [
    "UNITS_AT_ONCE",
    "Admission",
    "DevicePort",
    "Encoded",
    "FrameTicket",
    "IngestPort",
    "LaneStatus",
    "PictureTicket",
    "Prepared",
    "Refused",
    "Row",
    "VideoUnit",
]

UNITS_AT_ONCE = 8
"""Video units that a device is asked to decode side by side: no GPU has more decoders."""


class FrameTicket(NamedTuple):
    """All that a device must know of a frame to choose it. Units: nanoseconds on the host's monotonic clock."""

    frame: int
    """The ingest's number for it."""
    stream: int
    """The ingest's number for its stream."""
    deadline_ns: int
    prepare_ns: int
    """Predicted time to decode it."""
    again: bool = False
    """Whether the device has had it before, with an earlier deadline, and refused it."""


class Row(NamedTuple):
    """Where a chosen frame goes."""

    frame: int
    row: int
    """In the slot's input."""
    encoded: bool = False
    """Whether it may be left there as a JPEG, which the device decodes."""
    held: bool = False
    """Whether the device fills the row itself where it holds the frame's picture, as of a video that it decodes."""


class Encoded(NamedTuple):
    """A frame that is left to the device: a JPEG in the first bytes of its row, or a picture that it holds.

    Units: rectangles are (x, y, width, height) in whole pixels.
    """

    nbytes: int
    source: tuple[int, int, int, int]
    """Of the picture."""
    target: tuple[int, int, int, int]
    """Of the row, to which the source is resized; the rest of it is padded."""
    pad_value: int
    picture: int = 0
    """The device's number of the one that it holds; 0: the frame is a JPEG."""

    def row(self, data: bytes | HeldPicture, row: int) -> EncodedRow:
        """The same for an engine."""
        return EncodedRow(data, row, self.source, self.target, self.pad_value)


class VideoUnit(NamedTuple):
    """An access unit that is to be decoded, and what has been read in it."""

    data: bytes
    declared: VideoFormat | None
    """By the stream's newest parameter set; None: there was none yet."""
    key: bool
    """Whether decoding can begin with it."""
    anew: bool
    """Whether it has to: nothing before it is built on."""
    recovery: int = 0
    """Units from this one on, where it does, of which the pictures are not whole yet."""
    lacks_reference: bool = False
    """Whether a picture that it builds on has not come; it is for those to ask whose decoder does not notice."""


class PictureTicket(NamedTuple):
    """A picture that stays on the device until it is dropped. Units: pixels."""

    picture: int
    """The device's number for it."""
    width: int
    height: int


class Refused(NamedTuple):
    """A frame that was not run, or in vain."""

    frame: int
    verdict: Verdict
    message: str
    batch_size: int = 0
    """Frames in the batch that failed; 0: it was not started."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a device promises a stream."""

    grant: Grant
    smallest_budget_ns: int
    advised_fps: float


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """What a lane has done and how it stands; a snapshot."""

    pipeline: str
    engine: EngineInfo
    profile: tuple[tuple[int, int], ...]
    """Batch sizes, and the nanoseconds that a run takes as tracked now."""
    smallest_budget_ns: int
    margin_ns: int
    waiting: int
    """Frames that wait to be planned."""
    batches: int
    """Run since the start."""
    frames: int
    """Inferred since the start; each crop of a cascade counts as one."""
    busy_share: float
    """Of the last five seconds, the share in which the engine ran; 0..1."""
    batch_cap: int
    """The largest batch that the scheduler forms now."""


class Prepared(Protocol):
    """Told once of each frame that was to be prepared, from any thread."""

    def __call__(self, frame: int, succeeded: bool, encoded: Encoded | None = None, /) -> None:
        """Whether its row holds the frame, and what the device has to know of it if it is left to decode."""


class DevicePort(Protocol):
    """What an ingest asks of a device. Streams and frames go by the ingest's own numbers."""

    def serves(self, pipeline: str) -> bool:
        """Whether an engine of this pipeline runs there now."""

    async def admit(self, stream: int, options: StreamOptions) -> Admission:
        """Take a stream in. Raises: BudgetTooSmall, EngineUnavailable."""

    def enter(self, stream: int, options: StreamOptions, grant: Grant | None = None) -> None:
        """Let a stream in without asking: a single picture (no grant), or one that was admitted before."""

    def leave(self, stream: int) -> None:
        """The stream is over; its frames that wait are withdrawn, and nobody is told."""

    def submit(self, ticket: FrameTicket) -> None:
        """Let a frame wait for a batch. It comes back through the ingest's port, exactly once."""

    def observe_reply(self, stream: int, took_ns: int) -> None:
        """Learn how long an answer took from the end of its run until gRPC had it."""

    def advised_fps(self, stream: int) -> float:
        """Frames per second of a stream that may expect to be answered OK; 0 where that is not known."""

    def video_refusal(self, kind: PixelFormat) -> str:
        """Why the device decodes no video streams of this format; "" if it does."""

    def decode_unit(self, stream: int, unit: VideoUnit) -> PictureTicket | None:
        """Decode a stream's next unit; None if no whole picture came out of it. Blocks; from any thread.

        A stream that the device has let in has a decoder from its first key unit on until it leaves. Raises: as
        `StreamDecoder.decode` and `VideoDecoders.open_stream`; EngineUnavailable if the device is gone.
        """

    def picture_pixels(self, picture: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """A picture brought here, resized. Blocks; from any thread.

        Shapes: (height, width, 3) uint8, RGB. Units: size is (width, height) in pixels. Raises: EngineError.
        """

    def drop_picture(self, picture: int) -> None:
        """Nobody needs a picture any more. Never blocks; from any thread, also amid anything else that it does."""


class IngestPort(Protocol):
    """What a device asks of an ingest. Called from the device's threads, never while a lane is locked."""

    def prepare(self, pipeline: str, slot: int, rows: Sequence[Row], done: Prepared) -> None:
        """Decode chosen frames into their rows. `done` is called once for each frame, before or after this returns: a
        frame that could not be decoded is answered by the ingest. One that was left encoded, and that the device could
        not decode, is asked for again, not to be left so.
        """

    def refuse(self, refused: Sequence[Refused]) -> None:
        """These frames are not answered OK."""

    def deliver(self, pipeline: str, ran: Ran, outputs: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> None:
        """What the engine said of frames. The arrays are theirs: no later run changes them."""
