"""What an output's thread delivers to. These exceptions pass between the two and never leave the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from foveate.tools.outputs.camera_result import CameraResult

__all__ = ["Destination", "Unavailable", "Undeliverable"]


class Undeliverable(Exception):
    """These results can never be delivered; others may be."""


class Unavailable(Exception):
    """Nothing can be delivered now; the same results may be later."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """`message` may be empty: no trouble yet, it only takes its time.

        `retry_after_s`: when the destination wants to be asked again; None leaves it to the back-off.
        """
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Destination(Protocol):
    """A file, a server, a broker. All of it is called by one thread."""

    def deliver(self, results: Sequence[CameraResult]) -> None:
        """Deliver all of them or none, as far as that can be known; after `Unavailable` the same ones come again.

        Raises: Undeliverable, Unavailable, both without credentials in their words.
        """

    def close(self) -> None:
        """Finish; nothing comes any more."""
