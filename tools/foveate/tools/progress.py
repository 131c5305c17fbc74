"""How a stream is doing, while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from foveate.tools.stages import VERDICT_COLOURS
from foveate.tools.summary import Summary, Tally

__all__ = ["StreamProgress", "progress_line"]

_TERMINAL_EVERY_S = 0.2
_PLAIN_EVERY_S = 5.0


class StreamProgress:
    """A line on stderr that follows a tally: redrawn in place on a terminal, else printed now and then."""

    def __init__(
        self, tally: Tally, count: int | None, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`count` is how many frames there will be, where that is known."""
        self._tally = tally
        self._count = count
        self._console = console
        self._clock = clock
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._every_s = _TERMINAL_EVERY_S if self._live else _PLAIN_EVERY_S
        self._shown_at = clock()

    def update(self) -> None:
        """Show the tally, if the last time is long enough ago."""
        now = self._clock()
        if now - self._shown_at < self._every_s:
            return
        self._shown_at = now
        line = progress_line(self._tally.summary(), self._count)
        if self._live is not None:
            self._live.update(line, refresh=True)
        else:
            self._console.print(line, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def progress_line(summary: Summary, count: int | None) -> Text:
    """Frames, share on time, times and verdicts in one line."""
    of = f"/{count}" if count else ""
    line = Text.assemble(("frames ", "dim"), f"{summary.offered}{of}", ("  on time ", "dim"))
    line.append(f"{summary.on_time_share:.1%}", "bold")
    for name, quantiles in (("total", summary.total), ("round trip", summary.round_trip)):
        if quantiles is not None:
            line.append(f"  {name} ", "dim")
            line.append(f"{quantiles.p50_ms:.1f}/{quantiles.p99_ms:.1f} ms")
    for verdict, number in summary.verdicts.items():
        line.append(f"  {verdict.replace('_', ' ')} ", VERDICT_COLOURS[verdict])
        line.append(str(number))
    return line
