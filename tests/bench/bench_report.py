"""What every benchmark says of its machine, and how it sums up its samples."""

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

__all__ = ["machine", "spread"]


def machine() -> dict[str, Any]:
    """The command, the date, the machine and the versions."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in facts if "model name" in line), platform.machine())
    versions = {name: version(name) for name in ("foveate", "onnxruntime", "grpcio", "numpy")}
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.node(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions | {"python": platform.python_version()},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Percentiles of the samples, in their own unit."""
    ranked = sorted(values)
    shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    return {name: round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 3) for name, share in shares}
