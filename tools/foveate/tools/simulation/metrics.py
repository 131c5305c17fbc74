"""What became of the frames, and how fairly."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from foveate.tools.simulation.cameras import Arrival, Camera

__all__ = ["Outcome", "StreamOutcome", "jain"]


def jain(shares: Collection[float]) -> float:
    """Jain's index of fairness: 1 where all have the same, 1/n where one has it all.

    Source: Jain, Chiu, Hawe, "A quantitative measure of fairness and discrimination", DEC TR-301, 1984.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


@dataclass(slots=True)
class StreamOutcome:
    """Counts of one stream's frames."""

    received: int = 0
    on_time: int = 0
    late: int = 0
    superseded: int = 0
    dropped: int = 0
    """Answered without having run, for another reason than a newer frame."""


class Outcome:
    """The fate of all frames. Every frame received is counted once: on time, late, superseded or dropped."""

    def __init__(self, cameras: Sequence[Camera], seconds: float, warmup_ns: int = 0) -> None:
        self.cameras = cameras
        self.seconds = seconds
        """For which frames are counted."""
        self.streams = [StreamOutcome() for _ in cameras]
        self.batches = 0
        self._warmup_ns = warmup_ns

    def receive(self, arrival: Arrival) -> None:
        if arrival.at_ns >= self._warmup_ns:
            self.streams[arrival.stream].received += 1

    def answer(self, batch: Sequence[Arrival], now_ns: int) -> None:
        self.batches += 1
        for arrival in batch:
            if arrival.at_ns >= self._warmup_ns:
                stream = self.streams[arrival.stream]
                stream.on_time += now_ns <= arrival.deadline_ns
                stream.late += now_ns > arrival.deadline_ns

    def drop(self, dropped: Sequence[Arrival], superseded: Sequence[Arrival] = ()) -> None:
        for arrival in dropped:
            if arrival.at_ns >= self._warmup_ns:
                is_superseded = arrival in superseded
                self.streams[arrival.stream].superseded += is_superseded
                self.streams[arrival.stream].dropped += not is_superseded

    @property
    def goodput_fps(self) -> float:
        """Frames per second answered on time."""
        return sum(stream.on_time for stream in self.streams) / self.seconds

    @property
    def late_share(self) -> float:
        """Of the frames that ran, those that were late."""
        late = sum(stream.late for stream in self.streams)
        ran = late + sum(stream.on_time for stream in self.streams)
        return late / ran if ran else 0.0

    def fps(self, of: Callable[[Camera], bool]) -> list[float]:
        """Frames per second on time of each stream that is meant."""
        pairs = zip(self.cameras, self.streams, strict=True)
        return [stream.on_time / self.seconds for camera, stream in pairs if of(camera)]

    def on_time_share(self, of: Callable[[Camera], bool]) -> float:
        """Of the frames that no newer one replaced, those answered on time."""
        meant = [stream for camera, stream in zip(self.cameras, self.streams, strict=True) if of(camera)]
        wanted = sum(stream.received - stream.superseded for stream in meant)
        return sum(stream.on_time for stream in meant) / wanted if wanted else 1.0
