"""What a person, or a log, sees of the cameras: a table that keeps up on a terminal, else a line for each change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from foveate.tools.watch.health import CameraStatus, State

__all__ = ["Display", "camera_table", "summary_line"]

_SUMMARY_EVERY_S = 60.0
_ERROR_SHOWN_S = 60.0
_COLOURS = {
    State.CONNECTING: "#38bdf8",
    State.LIVE: "#22c55e",
    State.STILL: "#94a3b8",
    State.FROZEN: "#f59e0b",
    State.RECONNECTING: "#f97316",
    State.ENDED: "#64748b",
    State.FAILED: "#dc2626",
}
_WELL = (State.LIVE, State.STILL, State.ENDED)


class Display:
    """Follows the cameras on stderr; call `show` a few times a second."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._states: dict[str, State] = {}
        self._summed_at = clock()

    def say(self, text: str) -> None:
        """One line, now."""
        self._console.print(Text(f"{time.strftime('%H:%M:%S')} {text}"), soft_wrap=True)

    def show(self, cameras: Sequence[CameraStatus]) -> None:
        """How the cameras are doing now."""
        if self._live is not None:
            self._live.update(camera_table(cameras), refresh=True)
            return
        for camera in cameras:
            self._show_change(camera)
        if self._clock() - self._summed_at >= _SUMMARY_EVERY_S:
            self.sum_up(cameras)

    def sum_up(self, cameras: Sequence[CameraStatus]) -> None:
        """One line for each camera, where there is no table."""
        self._summed_at = self._clock()
        if self._live is None:
            for camera in cameras:
                self.say(summary_line(camera))

    def _show_change(self, camera: CameraStatus) -> None:
        if self._states.get(camera.name) is not camera.state:
            self._states[camera.name] = camera.state
            error = "" if camera.state in _WELL else camera.error
            self.say(f"{camera.name}: {camera.state}" + (f": {error}" if error else ""))

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def camera_table(cameras: Sequence[CameraStatus]) -> RenderableType:
    """All cameras, a row each, and below them what is wrong."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("camera", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("fps", "read", "skipped", "dropped", "sent", "on time", "p50 ms", "reconnects"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("not on time")
    for camera in cameras:
        table.add_row(
            Text(camera.name, "bold"),
            Text(camera.state, _COLOURS[camera.state]),
            f"{camera.pictures_per_s:.1f}",
            str(camera.read),
            str(camera.skipped_rate + camera.skipped_motion),
            str(camera.dropped),
            str(camera.sent),
            _on_time(camera),
            "" if camera.p50_ms is None else f"{camera.p50_ms:.0f}",
            str(camera.reconnects),
            Text(_others(camera), "dim"),
        )
    troubles = [
        Text.assemble((f"{camera.name}: ", "bold"), (camera.error, "dim" if camera.state in _WELL else ""))
        for camera in cameras
        if camera.error and (camera.state not in _WELL or (camera.error_age_s or 0.0) < _ERROR_SHOWN_S)
    ]
    return Group(table, "", *troubles) if troubles else table


def summary_line(camera: CameraStatus) -> str:
    """One camera's counts, for a log."""
    latency = "" if camera.p50_ms is None else f", p50 {camera.p50_ms:.0f} ms"
    others = _others(camera)
    return (
        f"{camera.name}: {camera.state}, {camera.pictures_per_s:.1f} fps, "
        f"read {camera.read}, damaged {camera.damaged}, "
        f"skipped {camera.skipped_rate} by rate and {camera.skipped_motion} still, dropped {camera.dropped}, "
        f"sent {camera.sent}, on time {_on_time(camera) or 'none'}{latency}"
        f"{f', {others}' if others else ''}, reconnects {camera.reconnects}"
    )


def _on_time(camera: CameraStatus) -> str:
    answered = sum(camera.verdicts.values())
    return f"{camera.on_time / answered:.1%}" if answered else ""


def _others(camera: CameraStatus) -> str:
    others = (each for each in camera.verdicts.items() if each[0] != "ok")
    return " ".join(f"{verdict.replace('_', ' ')} {count}" for verdict, count in others)
