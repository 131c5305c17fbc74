"""Whether a compiled engine runs on this GPU, step by step: what each step said is the result."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from foveate.engines.build_options import BatchRange, BuildOptions, Target
from foveate.engines.contract import Engine, Slot
from foveate.engines.engine_store import EngineStore
from foveate.engines.errors import FoveateError
from foveate.engines.onnx_runtime import OnnxRuntimeEngine
from foveate.engines.profile import fill_slot
from foveate.engines.registry import engine_class
from foveate.tools.gpu_report.child import Keep

__all__ = ["try_plan"]

_MAX_BATCH = 4


def try_plan(arguments: dict[str, Any], _seconds: float, keep: Keep) -> None:
    """Keep what came of building, loading, and running an engine, and how far it is from ONNX Runtime.

    ``default`` names no compute capability, ``this`` the one of the GPU that is here. Later steps are left out once
    one has failed.
    """
    from foveate.engines.build import build_engine  # imports onnx

    backend, name, path = arguments["backend"], arguments["name"], Path(arguments["path"])
    options = BuildOptions(
        backend=backend, batch=BatchRange(1, 1, _MAX_BATCH), target=Target.parse(arguments["target"])
    )
    steps = _Steps(keep)
    built = steps.take(
        "build", lambda: build_engine(path, name, options, EngineStore(Path(arguments["work"]) / "engines"))
    )
    if built is None:
        return
    keep("targets", list(built.record.compute_capabilities))
    engine = engine_class(backend).from_file(built.path, name=name, max_batch=_MAX_BATCH)
    try:
        # `load` checks whether the plan is valid on this GPU and deserialises it.
        if steps.take("load", engine.load) is None:
            return
        slot = steps.take("slot", engine.new_slot)
        if slot is None:
            return
        fill_slot(engine, slot)
        for batch in (1, _MAX_BATCH):
            if steps.take(f"run of {batch}", lambda batch=batch: engine.run(slot, batch)) is None:  # type: ignore[misc]
                return
        steps.take("comparison", lambda: _compare(engine, slot, path, keep))
    finally:
        engine.close()


class _Steps:
    """What is tried one after the other."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._taken: list[dict[str, Any]] = []

    def take(self, name: str, action: Callable[[], Any]) -> Any:
        """What an action returns, or None once it has failed; either way it is kept what happened."""
        started = time.monotonic()
        try:
            result, complaint = action(), ""
        except FoveateError as error:
            result, complaint = None, f"{type(error).__name__}: {error}"
        except Exception:  # noqa: BLE001  # the outer edge of a step: exactly what happened is to be told
            result, complaint = None, traceback.format_exc()[-2000:]
        self._taken.append({"step": name, "seconds": round(time.monotonic() - started, 3), "error": complaint})
        self._keep("steps", self._taken)
        return result


def _compare(engine: Engine, slot: Slot, path: Path, keep: Keep) -> None:
    """Keep, by output, the largest distance from what ONNX Runtime says about the same pixels."""
    with OnnxRuntimeEngine(path, name="reference", max_batch=_MAX_BATCH) as reference:
        own = reference.new_slot()
        for name, rows in slot.inputs.items():
            own.inputs[name][:] = rows
        reference.run(own, _MAX_BATCH)
        distances = {
            name: float(np.abs(rows.astype(np.float64) - slot.outputs[name]).max())
            for name, rows in own.outputs.items()
        }
    keep("largest_difference", distances)
