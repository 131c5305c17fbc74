"""A measurement as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from foveate.tools.bench.raw_rate import RawRate
from foveate.tools.bench.scenarios import Measured, Soak

__all__ = ["groups_line", "loads_table", "raw_line", "soak_table", "verdict_line"]


def raw_line(raw: RawRate) -> str:
    """The engine alone, in words."""
    steps = ", ".join(f"l({batch}) {ms:g} ms" for batch, ms in raw.latency_ms)
    return f"engine alone: {raw.fps:.1f} frames/s at batch {raw.batch} ({steps})"


def loads_table(measured: Sequence[Measured]) -> Table:
    """A row per load. Goodput is what was on time over the rate of the engine alone, cpu the server's us per frame."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (
        "cams",
        "load",
        "goodput",
        "on time",
        "late OK",
        "p50 ms",
        "p99 ms",
        "batch",
        "Jain",
        "worst",
        "cpu",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for each in measured:
        made = each.figures
        table.add_row(
            str(made.streams),
            f"{made.offered_fps / each.raw_fps:.2f}x",
            f"{each.goodput_ratio:.3f}",
            f"{made.on_time_share:.1%}",
            f"{made.late_share_of_ok:.2%}",
            f"{made.latency_ms.get('p50', 0):.1f}",
            f"{made.latency_ms.get('p99', 0):.1f}",
            f"{made.mean_batch:.1f}",
            f"{made.jain:.3f}",
            f"{made.worst_share:.2f}",
            "" if each.cpu_us_per_frame is None else f"{each.cpu_us_per_frame:.0f}",
        )
    return table


def verdict_line(measured: Iterable[Measured]) -> str:
    """How many frames met which fate over all loads, and how late this tool itself was."""
    measured = list(measured)
    total: dict[str, int] = {}
    for each in measured:
        for verdict, count in each.figures.verdicts.items():
            total[verdict] = total.get(verdict, 0) + count
    sent_late_ms = max((each.figures.send_error_ms.get("p99", 0.0) for each in measured), default=0.0)
    refused = sum(each.figures.refused_streams for each in measured)
    if refused:
        total["streams refused"] = refused
    counts = ", ".join(f"{count} {verdict}" for verdict, count in total.items())
    return f"verdicts: {counts}; frames were sent up to {sent_late_ms:.1f} ms late (p99)"


def groups_line(measured: Measured) -> str:
    """What classes and weights got, where there are several; else empty."""
    made, told = measured.figures, []
    if len(made.on_time_share_by_class) > 1:
        told += [f"class {number}: {share:.1%} on time" for number, share in made.on_time_share_by_class.items()]
    if len(made.on_time_fps_by_weight) > 1:
        told += [f"weight {weight:g}: {fps:.2f} frames/s each" for weight, fps in made.on_time_fps_by_weight.items()]
    return "; ".join(told)


def _resolved(result: Soak) -> str:
    if not result.settled:
        return "it had not settled then: soak longer"
    return f"a growth below {result.resolves_mb_per_h:.2f} MiB/h cannot be told from none"


def soak_table(result: Soak) -> Table:
    """What changed over a soak."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    bounds = f"{result.lowest_mb_per_h:+.2f} to {result.highest_mb_per_h:+.2f}"
    table.add_row("memory", f"{result.memory_mb_per_h:+.2f} MiB/h (95 % between {bounds})")
    table.add_row("", f"after a warm-up of {result.warmup_s:.0f} s; {_resolved(result)}")
    table.add_row("threads", f"{result.threads[0]} -> {result.threads[1]}")
    table.add_row("descriptors", f"{result.descriptors[0]} -> {result.descriptors[1]}")
    return table
