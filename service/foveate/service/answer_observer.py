"""Who else hears of answers: traces, metrics, whoever shows streams live."""

from __future__ import annotations

from typing import Protocol

from foveate.service.frame import Answer, Frame
from foveate.service.stream import CameraStream

__all__ = ["AnswerObserver"]


class AnswerObserver(Protocol):
    """Told of every answer as it is handed to gRPC, in the event loop's thread."""

    def answered(self, stream: CameraStream, frame: Frame, answer: Answer) -> None:
        """A frame, without its pixels, has been answered; all of the answer's times are known.

        It is part of every answer's way out, so it takes microseconds and raises nothing. A single picture's stream
        has no name.
        """
