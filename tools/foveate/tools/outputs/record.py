"""A camera's result as plain data: what JSON lines, webhooks and MQTT carry."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.result_record import record_from_result

__all__ = ["iso_time", "json_bytes", "record_from_camera_result"]


def record_from_camera_result(result: CameraResult) -> dict[str, Any]:
    """The record of the result, led by the camera's name and the time of capture (ISO 8601, UTC, milliseconds)."""
    return {
        "camera": result.camera,
        "captured_at": iso_time(result.captured_at_unix_s),
        **record_from_result(result.result),
    }


def json_bytes(value: object) -> bytes:
    """One line of JSON without its end, in UTF-8. Numbers that JSON cannot say (NaN, infinity) become null."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_sayable(value), ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="replace")


def iso_time(unix_s: float) -> str:
    """``2026-01-31T12:00:00.250Z``."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sayable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
