"""What the page asks of a service, in however many processes it runs."""

from __future__ import annotations

from typing import Protocol

from foveate.service.live.picture import LiveSink, PictureWishes
from foveate.service.metrics import ServiceMetrics
from foveate.service.pipeline import PipelineSet
from foveate.service.whole_service import ServiceStatus

__all__ = ["LiveService"]


class LiveService(Protocol):
    """A service that may not have started yet, or be about to stop."""

    @property
    def address(self) -> str:
        """Of its gRPC port; "" before it is open."""

    @property
    def pipelines(self) -> PipelineSet:
        """What is served. Raises: FoveateError where nothing has been loaded yet."""

    @property
    def unready(self) -> str:
        """Why it cannot take new streams for its default pipeline now; "" where it can."""

    @property
    def draining(self) -> bool:
        """Whether it is about to stop."""

    async def status(self) -> ServiceStatus:
        """How everything stands now."""

    async def metrics(self) -> ServiceMetrics:
        """All that it tells about itself."""

    def watch(self, wishes: PictureWishes, sink: LiveSink) -> None:
        """Show these streams, and no others, to `sink` for some seconds."""
