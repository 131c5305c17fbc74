"""A page about one streaming session: one HTML file that needs nothing beside it. Fed by plain data."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from foveate.client import Verdict
from foveate.tools.stages import VERDICT_COLOURS
from foveate.tools.summary import Summary

__all__ = ["FramePoint", "ReportPicture", "SessionReport", "html_from_report"]

_WIDTH, _HEIGHT = 860, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 18, 30
_BINS = 48


@dataclass(frozen=True, slots=True)
class FramePoint:
    """One frame on the time line."""

    sequence: int
    verdict: Verdict
    spent_ms: float
    """Captured until answered."""


@dataclass(frozen=True, slots=True)
class ReportPicture:
    """One annotated picture."""

    jpeg: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class SessionReport:
    """What the page is made of."""

    source: str
    facts: Sequence[tuple[str, str]]
    """Name and value, for people: engine, machine, ..."""
    budget_ms: float
    summary: Summary
    frames: Sequence[FramePoint]
    """Those that are drawn one by one: all, or the latest of a long session."""
    pictures: Sequence[ReportPicture]


def html_from_report(report: SessionReport) -> str:
    """The whole page; it follows the reader's light or dark setting."""
    sections = [_headline(report), _pictures(report.pictures), _verdicts(report.summary)]
    answered_ms = [frame.spent_ms for frame in report.frames if frame.verdict is Verdict.OK]
    if answered_ms:
        sections += [_distribution(answered_ms, report.budget_ms), _stages(report.summary)]
    sections += [_timeline(report.frames, report.budget_ms, report.summary.offered), _facts(report.facts)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Foveate: {escape(report.source)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _headline(report: SessionReport) -> str:
    summary = report.summary
    tiles = [(f"{summary.on_time_share:.1%}", "of the frames on time"), (f"{report.budget_ms:.0f} ms", "budget")]
    if summary.total is not None:
        tiles.append((f"{summary.total.p50_ms:.1f} ms", "captured until answered, median"))
        tiles.append((f"{summary.total.p99_ms:.1f} ms", "99th percentile"))
    tiles.append((f"{summary.offered}", "frames"))
    cells = "".join(f"<div class=tile><b>{value}</b><span>{name}</span></div>" for value, name in tiles)
    return f"<header><h1>Foveate</h1><p>{escape(report.source)}</p></header><section class=tiles>{cells}</section>"


def _verdicts(summary: Summary) -> str:
    parts = [
        (verdict.replace("_", " "), VERDICT_COLOURS[verdict], float(count))
        for verdict, count in summary.verdicts.items()
    ]
    rows = [(name, colour, f"{count:.0f}") for name, colour, count in parts]
    return _section("What became of every frame", _stacked_bar(parts) + _legend(rows, "frames"))


def _stages(summary: Summary) -> str:
    parts = [(stage.label, stage.colour, stage.times.p50_ms) for stage in summary.stages]
    rows = [
        (f"{stage.label}: {stage.meaning}", stage.colour, f"{stage.times.p50_ms:.2f}", f"{stage.times.p99_ms:.2f}")
        for stage in summary.stages
    ]
    for name, quantiles in (("total", summary.total), ("round trip", summary.round_trip)):
        if quantiles is not None:
            rows.append((name, "none", f"{quantiles.p50_ms:.2f}", f"{quantiles.p99_ms:.2f}"))
    return _section("Where the time goes", _stacked_bar(parts) + _legend(rows, "median ms", "p99 ms"))


def _distribution(answered_ms: Sequence[float], budget_ms: float) -> str:
    top_ms = _nice_top(max(answered_ms))
    counts, edges = np.histogram(answered_ms, bins=_BINS, range=(0.0, top_ms))
    most = max(1, int(counts.max()))
    floor, height = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
    bars = "".join(
        f'<rect class=bar x="{_x(left, top_ms) + 0.5:.1f}" y="{floor - count / most * height:.1f}" '
        f'width="{_x(right, top_ms) - _x(left, top_ms) - 1:.1f}" height="{count / most * height:.1f}" rx="1.5">'
        f"<title>{left:.1f} to {right:.1f} ms: {count} frames</title></rect>"
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    )
    p50_ms, p99_ms = np.percentile(answered_ms, [50, 99])
    marks = _mark(float(p50_ms), top_ms, "median", 12) + _mark(float(p99_ms), top_ms, "p99", 26)
    if budget_ms <= top_ms:
        marks += _mark(budget_ms, top_ms, "budget", 40, "budget")
    note = "" if budget_ms <= top_ms else f" The budget, {budget_ms:.0f} ms, lies beyond the right edge."
    chart = _chart(bars + marks + _axis(top_ms), "Histogram of the time from capture to answer")
    return _section(
        "Captured until answered", chart + f"<p class=note>Milliseconds, of the frames answered OK.{note}</p>"
    )


def _timeline(frames: Sequence[FramePoint], budget_ms: float, offered: int) -> str:
    top_ms = _nice_top(max([frame.spent_ms for frame in frames] + [budget_ms]))
    last = max(1, len(frames) - 1)
    floor, height = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
    width = _WIDTH - _LEFT - _RIGHT
    dots = "".join(
        f'<circle cx="{_LEFT + index / last * width:.1f}" cy="{floor - frame.spent_ms / top_ms * height:.1f}" '
        f'r="2.2" fill="{VERDICT_COLOURS[frame.verdict]}">'
        f"<title>frame {frame.sequence}: {frame.verdict}, {frame.spent_ms:.1f} ms</title></circle>"
        for index, frame in enumerate(frames)
    )
    y = floor - budget_ms / top_ms * height
    line = (
        f'<line class=budget x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_WIDTH - _RIGHT}" y="{y - 5:.1f}" text-anchor="end">budget {budget_ms:.0f} ms</text>'
    )
    ground = f'<line class=axis x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>'
    scale = f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">0</text>'
    chart = _chart(line + ground + scale + dots, "Time of every frame in order")
    title = "Every frame" if len(frames) == offered else f"The last {len(frames)} frames"
    return _section(title, chart + "<p class=note>Milliseconds since capture, frames in order.</p>")


def _pictures(pictures: Sequence[ReportPicture]) -> str:
    figures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return _section("What it saw", f"<div class=strip>{figures}</div>") if figures else ""


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return _section("How it was measured", f"<table class=facts>{rows}</table>")


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _stacked_bar(parts: Sequence[tuple[str, str, float]]) -> str:
    whole = sum(size for _, _, size in parts) or 1.0
    cells = "".join(
        f'<span title="{escape(name)}" style="width:{size / whole:.4%};background:{colour}"></span>'
        for name, colour, size in parts
        if size > 0
    )
    return f"<div class=stack>{cells}</div>"


def _legend(rows: Iterable[tuple[str, ...]], *heads: str) -> str:
    """A table of (name, colour, value under each head)."""
    body = "".join(
        f'<tr><td><i style="background:{colour}"></i>{escape(name)}</td>'
        f"{''.join(f'<td>{value}</td>' for value in values)}</tr>"
        for name, colour, *values in rows
    )
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table class=legend><tr><th></th>{head}</tr>{body}</table>"


def _chart(content: str, label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{content}</svg>'


def _mark(value_ms: float, top_ms: float, name: str, y: int, kind: str = "mark") -> str:
    x = _x(value_ms, top_ms)
    anchor, shift = ("end", -5) if x > _WIDTH * 0.8 else ("start", 5)
    return (
        f'<line class={kind} x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 14}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text x="{x + shift:.1f}" y="{y}" text-anchor="{anchor}">{name} {value_ms:.1f} ms</text>'
    )


def _axis(top_ms: float) -> str:
    floor = _HEIGHT - _BOTTOM
    ticks = "".join(
        f'<text x="{_x(top_ms * part / 5, top_ms):.1f}" y="{floor + 18}" text-anchor="middle">'
        f"{top_ms * part / 5:g}</text>"
        for part in range(6)
    )
    return f'<line class=axis x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>{ticks}'


def _x(value_ms: float, top_ms: float) -> float:
    return _LEFT + value_ms / top_ms * (_WIDTH - _LEFT - _RIGHT)


def _nice_top(highest: float) -> float:
    """The next round number above: 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 or 10 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(max(highest, 0.1)))
    steps = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return float(next(step * power for step in steps if step * power >= highest or step == steps[-1]))


_STYLE = """
:root{color-scheme:light dark;--ground:#f8fafc;--card:#fff;--ink:#0f172a;--muted:#64748b;--line:#e2e8f0;--bar:#6366f1}
@media(prefers-color-scheme:dark){:root{--ground:#0b1120;--card:#131c31;--ink:#e2e8f0;--muted:#94a3b8;
--line:#24304a;--bar:#818cf8}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif}
main{max-width:960px;margin:0 auto;padding:32px 20px 56px}
header{display:flex;align-items:baseline;gap:14px;margin-bottom:18px}
h1{font-size:26px;margin:0;letter-spacing:-.02em}header p{margin:0;color:var(--muted)}
h2{font-size:16px;margin:0 0 14px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px;margin-bottom:16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:16px}
.tile b{display:block;font-size:24px;font-variant-numeric:tabular-nums;letter-spacing:-.02em}
.tile span,.note,figcaption{color:var(--muted);font-size:13px}.note{margin:8px 0 0}
.stack{display:flex;height:22px;border-radius:6px;overflow:hidden;background:var(--line)}
.stack span{display:block;height:100%}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
.legend{margin-top:12px}.legend td,.legend th{padding:4px 0;text-align:right}
.legend td:first-child{text-align:left}.legend td+td,.legend th+th{width:100px}
.legend th,.facts th{color:var(--muted);font-weight:500}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:9px}
.legend tr+tr td,.facts tr+tr td,.facts tr+tr th{border-top:1px solid var(--line)}
.facts th{text-align:left;padding:5px 20px 5px 0;white-space:nowrap;vertical-align:top}
.facts td{width:100%;padding:5px 0}
svg{display:block;width:100%;height:auto}svg text{fill:var(--muted);font-size:12px}
.bar{fill:var(--bar)}.axis{stroke:var(--line)}.mark{stroke:var(--muted);stroke-dasharray:3 3}
.budget{stroke:#ef4444;stroke-dasharray:5 4}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:14px}
figure{margin:0}figure img{display:block;width:100%;border-radius:8px}
"""
