"""The stages of a frame's time as people are shown them: in tables, under pictures and in reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from foveate.client import Result, Verdict

__all__ = ["STAGES", "VERDICT_COLOURS"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the time from capture to answer."""

    label: str
    meaning: str
    colour: str
    """As #rrggbb; legible on light and dark grounds."""
    duration_ms: Callable[[Result], float]
    optional: bool = False
    """Left out where no frame passed through it."""


STAGES = (
    Stage("age", "captured until sent", "#94a3b8", lambda r: r.age_ms),
    Stage("receive", "received until decoding began", "#c084fc", lambda r: r.times.receive_queue_ms),
    Stage("decode", "decoding and resizing", "#38bdf8", lambda r: r.times.decode_ms),
    Stage("wait", "decoded until its batch started", "#fbbf24", lambda r: r.times.wait_ms),
    Stage(
        "infer",
        "the engine's run, with copies",
        "#6366f1",
        lambda r: r.times.copy_in_ms + r.times.infer_ms + r.times.copy_out_ms,
    ),
    Stage("postprocess", "outputs to detections", "#34d399", lambda r: r.times.postprocess_ms),
    Stage("cascade", "a closer look at what was detected", "#0d9488", lambda r: r.times.cascade_ms, optional=True),
    Stage("reply", "answer ready until sent", "#f472b6", lambda r: r.times.reply_queue_ms),
)
"""In the order in which a frame passes through them."""

VERDICT_COLOURS = {
    Verdict.OK: "#22c55e",
    Verdict.SUPERSEDED: "#94a3b8",
    Verdict.DROPPED: "#cbd5e1",
    Verdict.INFEASIBLE: "#f59e0b",
    Verdict.EXPIRED: "#f97316",
    Verdict.BAD_FRAME: "#e11d48",
    Verdict.REJECTED: "#be185d",
    Verdict.FAILED: "#dc2626",
    Verdict.DRAINING: "#8b5cf6",
    Verdict.LOST: "#7c3aed",
    Verdict.UNKNOWN: "#64748b",
}
