"""The fastest precision that is accurate enough: built and proven from the fastest down."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace

from foveate.engines.build_options import BUILD_CALIBRATED_PRECISIONS, BuildOptions
from foveate.engines.engine_store import BuiltEngine, EngineStore
from foveate.engines.errors import BuildFailed, EngineUnavailable
from foveate.engines.serving_latency import serving_latency
from foveate.engines.tensorrt_library import BuildProgress
from foveate.tools.proof import BelowBar
from foveate.tools.proven_build import ProvenBuild, ProvenBuilder, running_here

__all__ = ["Attempt", "choose_precision", "precisions_to_try"]

_FASTEST_FIRST = ("fp8", "int8", "fp16", "fp32")
_ON_THE_CPU = ("int8", "fp32")
"""ONNX Runtime computes half precision in single, with casts between: never faster, and less exact."""
_MEASURE_S = 5.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One precision that was tried."""

    precision: str
    outcome: str
    """``kept``, or why it was not: ``slower``, ``below the bar``, ``not possible``."""
    reached: str
    """The figures, or what went wrong."""
    frames_per_s: float | None = None
    """In batches of the size that the engine is tuned for; None where the engine cannot run here."""


def precisions_to_try(options: BuildOptions, calibrated: bool) -> list[str]:
    """The precisions that a backend gains by, the fastest first as far as that is known beforehand."""
    order = _ON_THE_CPU if options.backend == "onnxruntime" else _FASTEST_FIRST
    tried = [each for each in order if calibrated or each not in BUILD_CALIBRATED_PRECISIONS]
    # Its absence is no news to somebody who did not ask for fp8 by name.
    return [each for each in tried if each != "fp8" or importlib.util.find_spec("modelopt") is not None]


def choose_precision(
    builder: ProvenBuilder,
    options: BuildOptions,
    precisions: list[str],
    store: EngineStore,
    *,
    force: bool = False,
    on_progress: BuildProgress | None = None,
    on_attempt: Callable[[str], None] = lambda _: None,
) -> tuple[ProvenBuild, list[Attempt]]:
    """The fastest engine that passes the bar of its precision, and what each precision reached.

    Where the engines can run here all are built and measured; else the first that passes is the one. Engines that
    were built for nothing are deleted again. `on_attempt` is told each precision before it is tried.
    Raises: BuildFailed where none passes.
    """
    attempts: list[Attempt] = []
    passed: list[tuple[float, ProvenBuild]] = []
    for precision in precisions:
        on_attempt(precision)
        exclude = options.exclude if precision in BUILD_CALIBRATED_PRECISIONS else ()
        try:
            wish = replace(options, precision=precision, exclude=exclude)
            built = builder.build(wish, force=force, on_progress=on_progress)
        except BelowBar as error:
            attempts.append(Attempt(precision, "below the bar", "; ".join(error.proof.failures)))
            continue
        except (BuildFailed, EngineUnavailable) as error:
            attempts.append(Attempt(precision, "not possible", str(error)))
            continue
        rate = _frames_per_s(built.engine, store)
        attempts.append(Attempt(precision, "slower", _reached(built), rate))
        passed.append((rate or 0.0, built))
        if rate is None:
            break
    if not passed:
        raise BuildFailed("; ".join(f"{each.precision} is {each.outcome}: {each.reached}" for each in attempts))
    _, best = max(passed, key=lambda each: each[0])
    for _, built in passed:
        if built is not best and built.fresh:
            store.remove(built.engine.key)
    kept = best.engine.record.precision
    return best, [replace(each, outcome="kept") if each.precision == kept else each for each in attempts]


def _reached(built: ProvenBuild) -> str:
    accuracy = built.engine.record.accuracy
    return "what the others are compared with" if accuracy is None else str(accuracy.get("summary", "measured"))


def _frames_per_s(built: BuiltEngine, store: EngineStore) -> float | None:
    batch = built.record.batch.opt
    with running_here(built, store, batch) as engine:
        if engine is None:
            return None
        latency = serving_latency(engine, built.key, store, time_limit_s=_MEASURE_S)
    return batch / latency.latency_ns(batch) * 1e9
