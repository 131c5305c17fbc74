"""What every measurement says of where it comes from, and how samples are summed up."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["percentile", "provenance", "spread"]

_LIBRARIES = ("foveate", "onnxruntime", "grpcio", "numpy")


def provenance() -> dict[str, Any]:
    """The command, the date, the machine and the versions, as values for JSON."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in facts if "model name" in line), platform.machine())
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.node(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
    }


def percentile(ranked: Sequence[float], share: float) -> float:
    """The value of sorted samples that at least `share` of them do not exceed."""
    return ranked[max(0, min(len(ranked) - 1, -int(-share * len(ranked) // 1) - 1))]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Percentiles of the samples, in their own unit; empty of no samples."""
    ranked = sorted(values)
    if not ranked:
        return {}
    shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    return {name: round(percentile(ranked, share), 3) for name, share in shares}
