"""What became of a stream, in numbers: counted while it runs, shown when it ends."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from foveate.client import Result, Verdict
from foveate.tools.stages import STAGES, VERDICT_COLOURS

__all__ = ["Quantiles", "StageQuantiles", "Summary", "Tally", "summary_table"]

_KEPT = 100_000
"""Quantiles are those of so many latest frames; counts are those of all."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The median and the 99th percentile."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class StageQuantiles:
    """One stage's times over the frames that were answered OK."""

    label: str
    meaning: str
    colour: str
    times: Quantiles


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the frames of a stream."""

    offered: int
    """Frames that were given to the client."""
    answered: int
    """Of these, the ones that the server answered, with whatever verdict."""
    ok: int
    on_time: int
    """Of the OK ones, those within their budget, counted from capture."""
    verdicts: dict[Verdict, int]
    """Only those that came up, in the order of `Verdict`."""
    total: Quantiles | None
    """Capture to the server's answer, over the frames answered OK; None if there were none. So below."""
    round_trip: Quantiles | None
    """Sent until the answer was here."""
    stages: tuple[StageQuantiles, ...]

    @property
    def on_time_share(self) -> float:
        """0..1 of the offered frames."""
        return self.on_time / self.offered if self.offered else 0.0


class Tally:
    """Counts results as they come."""

    def __init__(self) -> None:
        self._verdicts: Counter[Verdict] = Counter()
        self._answered = 0
        self._on_time = 0
        self._total_ms: deque[float] = deque(maxlen=_KEPT)
        self._round_trip_ms: deque[float] = deque(maxlen=_KEPT)
        self._stages_ms: tuple[deque[float], ...] = tuple(deque(maxlen=_KEPT) for _ in STAGES)

    def add(self, result: Result) -> None:
        """Count one more result."""
        self._verdicts[result.verdict] += 1
        self._on_time += result.on_time
        if result.round_trip_ms is None:
            return
        self._answered += 1
        if result.verdict is Verdict.OK:
            self._total_ms.append(result.age_ms + result.times.total_ms)
            self._round_trip_ms.append(result.round_trip_ms)
            for times_ms, stage in zip(self._stages_ms, STAGES, strict=True):
                times_ms.append(stage.duration_ms(result))

    @property
    def offered(self) -> int:
        """Frames counted until now."""
        return self._verdicts.total()

    def summary(self) -> Summary:
        """What was counted until now."""
        return Summary(
            offered=self.offered,
            answered=self._answered,
            ok=self._verdicts[Verdict.OK],
            on_time=self._on_time,
            verdicts={verdict: count for verdict in Verdict if (count := self._verdicts[verdict])},
            total=_quantiles(self._total_ms),
            round_trip=_quantiles(self._round_trip_ms),
            stages=tuple(
                StageQuantiles(stage.label, stage.meaning, stage.colour, quantiles)
                for stage, times_ms in zip(STAGES, self._stages_ms, strict=True)
                if (quantiles := _quantiles(times_ms)) is not None and not (stage.optional and not any(times_ms))
            ),
        )


def summary_table(summary: Summary) -> RenderableType:
    """The summary as two tables for a terminal."""
    frames = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    frames.add_column(style="bold")
    frames.add_column(justify="right")
    frames.add_column(style="dim")
    frames.add_row("offered", str(summary.offered), "frames")
    frames.add_row("answered", str(summary.answered), "by the server, with whatever verdict")
    frames.add_row("on time", f"{summary.on_time_share:.1%}", f"{summary.on_time} answered OK within the budget")
    for verdict, count in summary.verdicts.items():
        frames.add_row(Text(f"  {verdict.replace('_', ' ')}", VERDICT_COLOURS[verdict]), str(count), "")
    if summary.total is None or summary.round_trip is None:
        return frames
    times = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    times.add_column("ms, of those answered OK")
    times.add_column("p50", justify="right")
    times.add_column("p99", justify="right")
    for stage in summary.stages:
        times.add_row(Text(f"  {stage.label}", stage.colour), *_cells(stage.times), Text(stage.meaning, "dim"))
    times.add_row(Text("total", "bold"), *_cells(summary.total), Text("captured until answered", "dim"))
    times.add_row(Text("round trip", "bold"), *_cells(summary.round_trip), Text("sent until received", "dim"))
    return Group(frames, "", times)


def _cells(quantiles: Quantiles) -> tuple[str, str]:
    return f"{quantiles.p50_ms:.1f}", f"{quantiles.p99_ms:.1f}"


def _quantiles(times_ms: deque[float]) -> Quantiles | None:
    if not times_ms:
        return None
    p50_ms, p99_ms = np.percentile(np.fromiter(times_ms, float), [50, 99])
    return Quantiles(float(p50_ms), float(p99_ms))
