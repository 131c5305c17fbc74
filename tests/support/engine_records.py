"""Sidecars of engines that were never compiled: enough for a store."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from foveate.engines import EngineRecord, LatencyProfile
from foveate.engines.engine_profile import EngineProfile, RunConditions
from foveate.engines.engine_record import BatchRecord, MemoryPlan, TensorRecord
from foveate.engines.machine import Machine

__all__ = ["SOURCE_SHA256", "engine_key", "engine_profile", "engine_record", "run_conditions"]

SOURCE_SHA256 = "5" * 64


def engine_key(seed: str) -> str:
    """A key that nothing else has."""
    return hashlib.sha256(seed.encode()).hexdigest()


def engine_record(content: bytes, seed: str = "", **changes: Any) -> EngineRecord:
    """The sidecar of an engine that is these bytes; `changes` replace fields."""
    fields: dict[str, Any] = {
        "key": engine_key(seed),
        "name": "tiny",
        "backend": "tensorrt_rtx",
        "library_version": "1.7.1.116",
        "precision": "fp16",
        "target": "default",
        "compute_capabilities": ("sm_80+",),
        "version_compatible": False,
        "batch": BatchRecord(min=1, opt=4, max=8),
        "exclude": (),
        "calibration_sha256": "",
        "source_sha256": SOURCE_SHA256,
        "engine_sha256": hashlib.sha256(content).hexdigest(),
        "engine_bytes": len(content),
        "inputs": (TensorRecord(name="pixels", dtype="uint8", shape=(8, 8, 3)),),
        "outputs": (TensorRecord(name="scores", dtype="float32", shape=(5,)),),
        "memory": MemoryPlan(weights_bytes=100, activation_bytes=200, slot_bytes=1696),
        "built_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "build_seconds": 1.5,
    }
    return EngineRecord(**(fields | changes))


def run_conditions(**changes: Any) -> RunConditions:
    """Those of a small CPU; `changes` replace fields."""
    fields: dict[str, Any] = {
        "machine": Machine(cpu="a small CPU", cores=2),
        "device": "cpu",
        "backend": "onnxruntime",
        "library_version": "1.32.0",
        "precision": "fp32",
        "threads": 2,
    }
    return RunConditions(**(fields | changes))


def engine_profile(
    conditions: RunConditions | None = None,
    *,
    median_ms: float = 1.0,
    buckets: tuple[int, ...] = (1, 2),
    **changes: Any,
) -> EngineProfile:
    """A profile in which a batch of b takes b times `median_ms`; `changes` set further fields."""
    median_ns = tuple(round(median_ms * 1e6 * batch) for batch in buckets)
    fields: dict[str, Any] = {
        "conditions": conditions or run_conditions(),
        "host": "test",
        "foveate_version": "1",
        "measured_at": datetime(2026, 1, 2, tzinfo=UTC),
        "latency": LatencyProfile(buckets, median_ns, median_ns),
    }
    return EngineProfile(**(fields | changes))
