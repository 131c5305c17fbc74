"""Numbers with their units, as people read them."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["age_text", "bytes_text", "latency_text"]


def bytes_text(count: int) -> str:
    """``512 B``, ``3.9 KiB``, ``120 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def latency_text(nanoseconds: float) -> str:
    """Milliseconds with three digits that count: ``0 ms``, ``0.125 ms``, ``1.25 ms``, ``125 ms``."""
    value = nanoseconds / 1e6
    if value == 0:
        return "0 ms"
    digits = next(digits for digits, least in ((0, 100), (1, 10), (2, 1), (3, 0)) if value >= least)
    return f"{value:.{digits}f} ms"


def age_text(age: timedelta) -> str:
    """The largest whole unit: ``3d``, ``5h``, ``7m``, ``now``."""
    seconds = age.total_seconds()
    steps = ((86400, "d"), (3600, "h"), (60, "m"))
    return next((f"{seconds // size:.0f}{unit}" for size, unit in steps if seconds >= size), "now")
