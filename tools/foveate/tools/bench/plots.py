"""A measurement as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate.engines.errors import ConfigError
from foveate.tools.bench.scenarios import Measured, Soak

__all__ = ["plot_fairness", "plot_latency", "plot_overload", "plot_soak"]

_INK, _ACCENT, _MUTED, _WARN = "#1c2733", "#0a7d74", "#9fb3c1", "#c8452f"
_DPI = 120


def plot_latency(measured: Measured, path: Path) -> None:
    """The share of answers within a latency, with the budgets marked; the far tail stays visible."""
    figure, axes = _figure("Latency of answers", "ms from the moment the frame was due", "share answered within")
    latencies = sorted(measured.latencies_ms)
    shares = [(rank + 1) / len(latencies) for rank in range(len(latencies))]
    axes.step(latencies, shares, color=_ACCENT, where="post", linewidth=1.8)
    for budget_ms in sorted(set(measured.wanted.budget_ms)):
        axes.axvline(budget_ms, color=_WARN, linewidth=1, linestyle="--")
        axes.annotate(f" budget {budget_ms:.0f} ms", (budget_ms, 0.03), color=_WARN, fontsize=9)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    _save(figure, path)


def plot_overload(measured: Sequence[Measured], path: Path) -> None:
    """What is on time over what is offered, both relative to the engine alone."""
    figure, axes = _figure("Goodput over load", "offered / engine alone", "on time / engine alone")
    offered = [each.figures.offered_fps / each.raw_fps for each in measured]
    axes.plot([0, 1, max(1.0, *offered)], [0, 1, 1], color=_MUTED, linewidth=1.2, label="the engine's limit")
    goodput = [each.goodput_ratio for each in measured]
    axes.plot(offered, goodput, color=_ACCENT, marker="o", linewidth=1.8, label="on time")
    late = [each.figures.late_share_of_ok * each.figures.verdicts.get("ok", 0) for each in measured]
    late_ratio = [count / each.wanted.seconds / each.raw_fps for count, each in zip(late, measured, strict=True)]
    axes.plot(offered, late_ratio, color=_WARN, marker="x", linewidth=1, label="answered OK, but late")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.1)
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def plot_fairness(measured: Measured, path: Path) -> None:
    """What each stream offered and what of it was on time."""
    figure, axes = _figure("Streams", "stream, by what it offers", "frames/s")
    streams = sorted(measured.figures.per_stream, key=lambda each: each.offered_fps)
    axes.bar(range(len(streams)), [each.offered_fps for each in streams], color=_MUTED, width=0.85, label="offered")
    for abusive, colour, label in ((False, _ACCENT, "on time"), (True, _WARN, "on time, of one that sends too much")):
        heights = {place: each.on_time_fps for place, each in enumerate(streams) if each.abusive == abusive}
        if heights:
            axes.bar(heights.keys(), heights.values(), color=colour, width=0.55, label=label)
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)


def plot_soak(result: Soak, path: Path) -> None:
    """Memory over time."""
    figure, axes = _figure("Memory of the server", "s", "MiB")
    axes.plot(*zip(*result.samples, strict=True), color=_ACCENT, linewidth=1.4)
    axes.axvline(result.warmup_s, color=_MUTED, linewidth=1, linestyle="--")
    _save(figure, path)


def _figure(title: str, x_label: str, y_label: str) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'foveate[bench]', or leave --plots out") from error
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold")
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel(y_label, color=_INK)
    axes.grid(axis="y", color="#e4eaee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=_DPI)
