"""From a prepared ONNX graph to an engine in the store: convert the precision, compile, keep with its sidecar."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from foveate.engines.build_options import BuildOptions
from foveate.engines.compiled import CompiledEngine
from foveate.engines.engine_record import BatchRecord, EngineRecord, MemoryPlan, TensorRecord
from foveate.engines.engine_store import BuiltEngine, EngineStore
from foveate.engines.errors import BuildFailed
from foveate.engines.onnx_graph import graph_from_file, graph_specs, weights_bytes
from foveate.engines.tensorrt_builder import TensorRtBuilder
from foveate.engines.tensorrt_library import BuildProgress

__all__ = ["build_engine"]

_RECIPE_VERSION = 2
"""Raised whenever conversion or compilation makes another engine of the same graph and options."""

Pixels = NDArray[np.uint8]


def build_engine(
    model_path: Path,
    name: str,
    options: BuildOptions,
    store: EngineStore,
    *,
    calibration: Sequence[Pixels] = (),
    on_progress: BuildProgress | None = None,
    cancel: threading.Event | None = None,
    prove: Callable[[onnx.ModelProto], dict[str, Any] | None] | None = None,
    force: bool = False,
) -> BuiltEngine:
    """The engine of a prepared graph, built if the store does not have it.

    Shapes: `calibration` pictures are (H, W, 3) uint8 in the size of the graph's input; int8 and fp8 need some,
    others take none.
    `on_progress` is called, from another thread too, with a phase, its steps done and its steps in all; what it
    raises ends the build. `prove` is called with the converted graph before it is compiled: what it returns is kept
    as the engine's `accuracy`, and what it raises ends the build with nothing kept. `force` builds the engine even if
    it is there.
    Raises: BuildFailed, also if `cancel` is set or Ctrl-C comes while it compiles; EngineUnavailable where the
    backend is missing; EngineError if the store cannot be written.
    """
    builder = None if options.backend == "onnxruntime" else TensorRtBuilder(options.backend)
    pictures = calibration if options.quantised else ()
    recipe = _Recipe(
        options,
        source_sha256=_sha256_of_file(model_path),
        calibration_sha256=_sha256_of_pictures(pictures),
        library_version=version("onnxruntime") if builder is None else builder.version,
        compute_capabilities=() if builder is None else builder.target_capabilities(options),
    )

    def build() -> tuple[bytes, EngineRecord]:
        started = time.monotonic()
        model = _converted(model_path, options, pictures, on_progress)
        if cancel is not None and cancel.is_set():
            raise BuildFailed("cancelled: nothing was kept")
        accuracy = None if prove is None else prove(model)
        if builder is None:
            compiled = _uncompiled(model)
        else:
            compiled = _compiled(builder, model, name, recipe, store, on_progress, cancel)
        record = _record(recipe, name, compiled, time.monotonic() - started)
        return compiled.content, record.model_copy(update={"accuracy": accuracy})

    return store.find_or_build(recipe.key, build, force=force)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """All that decides what an engine computes and where it runs."""

    options: BuildOptions
    source_sha256: str
    calibration_sha256: str
    library_version: str
    compute_capabilities: tuple[str, ...]

    @property
    def key(self) -> str:
        facts = {"version": _RECIPE_VERSION, **asdict(self)}
        facts["options"]["exclude"] = sorted(self.options.exclude)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def timing_cache_name(self) -> str:
        return "-".join((self.options.backend, self.library_version, *self.compute_capabilities))


def _converted(
    model_path: Path, options: BuildOptions, pictures: Sequence[Pixels], on_progress: BuildProgress | None
) -> onnx.ModelProto:
    # Imported here: quantising brings ONNX Runtime with it, which finding an engine again does not need.
    from foveate.engines.precision import convert

    model = graph_from_file(model_path)
    graph_specs(model)  # refuses what no engine can be before time is spent on it
    phase = f"Converting to {options.precision}"
    tell = on_progress or (lambda *_: None)
    tell(phase, 0, 1)
    converted = convert(
        model, options.precision, target=options.graph_target, calibration=pictures, exclude=options.exclude
    )
    tell(phase, 1, 1)
    return converted


def _uncompiled(model: onnx.ModelProto) -> CompiledEngine:
    """ONNX Runtime compiles when it loads: the graph is the engine."""
    return CompiledEngine(model.SerializeToString(), *graph_specs(model), weights_bytes(model), None)


def _compiled(
    builder: TensorRtBuilder,
    model: onnx.ModelProto,
    name: str,
    recipe: _Recipe,
    store: EngineStore,
    on_progress: BuildProgress | None,
    cancel: threading.Event | None,
) -> CompiledEngine:
    cache_name = recipe.timing_cache_name
    compiled = builder.compile(
        model,
        recipe.options,
        name=name,
        timing_cache=store.read_timing_cache(cache_name) if builder.measures else b"",
        on_progress=on_progress,
        cancel=cancel,
    )
    if compiled.timing_cache:
        store.write_timing_cache(cache_name, compiled.timing_cache)
    return compiled


def _record(recipe: _Recipe, name: str, compiled: CompiledEngine, seconds: float) -> EngineRecord:
    options = recipe.options
    batch = options.batch
    return EngineRecord(
        key=recipe.key,
        name=name,
        backend=options.backend,
        library_version=recipe.library_version,
        precision=options.precision,
        target=str(options.target),
        compute_capabilities=recipe.compute_capabilities,
        version_compatible=options.version_compatible,
        batch=BatchRecord(min=batch.min, opt=batch.opt, max=batch.max),
        exclude=options.exclude,
        calibration_sha256=recipe.calibration_sha256,
        source_sha256=recipe.source_sha256,
        engine_sha256=hashlib.sha256(compiled.content).hexdigest(),
        engine_bytes=len(compiled.content),
        inputs=tuple(map(TensorRecord.from_spec, compiled.inputs)),
        outputs=tuple(map(TensorRecord.from_spec, compiled.outputs)),
        memory=_memory_plan(compiled, batch.max),
        built_at=datetime.now(UTC).replace(microsecond=0),
        build_seconds=round(seconds, 3),
    )


def _memory_plan(compiled: CompiledEngine, max_batch: int) -> MemoryPlan:
    row = sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in (*compiled.inputs, *compiled.outputs))
    return MemoryPlan(
        weights_bytes=compiled.weights_bytes, activation_bytes=compiled.activation_bytes, slot_bytes=row * max_batch
    )


def _sha256_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BuildFailed(f"cannot read the prepared graph {path} ({error.strerror}): prepare the model") from error


def _sha256_of_pictures(pictures: Sequence[Pixels]) -> str:
    if not pictures:
        return ""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.shape}{picture.dtype}".encode())
        digest.update(picture.tobytes())
    return digest.hexdigest()
