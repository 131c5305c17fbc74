"""Which engine serves a model: its prepared graph as it is, or the engine in the store that fits best."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from foveate.engines.build_options import BUILD_BACKENDS, BUILD_CALIBRATED_PRECISIONS, BUILD_PRECISIONS
from foveate.engines.compute_capability import compute_capability
from foveate.engines.contract import Engine
from foveate.engines.engine_record import EngineRecord, EngineUse
from foveate.engines.engine_store import BuiltEngine, EngineStore
from foveate.engines.errors import ConfigError, EngineError, PlanMismatch
from foveate.engines.machine import gpu_of
from foveate.engines.registry import engine_class
from foveate.engines.tensorrt_library import tensorrt_library

__all__ = ["ChosenEngine", "EngineWish", "choose_engine", "engine_of_key", "runs_graphs"]

_log = logging.getLogger(__name__)

_VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The process of one GPU of several has it set, and `foveate build` must see the same one."""
_AS_IT_IS = {"onnxruntime": ("fp32",), "torch": ("fp32", "fp16", "bf16")}
"""What a backend computes a prepared graph in by itself."""


@dataclass(frozen=True, slots=True)
class EngineWish:
    """What a pipeline asks for. Raises: ConfigError for a precision that nothing computes in."""

    backend: str = "onnxruntime"
    precision: str = "fp32"
    max_batch: int = 8
    engine: str = ""
    """The key of one built engine, or how it begins; backend and precision are its own then."""
    accept_failed: bool = False
    """Whether an engine may be taken that agrees too little with its graph, and that nobody accepted."""

    def __post_init__(self) -> None:
        if self.precision not in BUILD_PRECISIONS:
            raise ConfigError(f"no precision is called {self.precision!r}: choose one of {', '.join(BUILD_PRECISIONS)}")


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """A file that a backend runs."""

    path: Path
    key: str
    """Of the built engine, or the sha256 of a graph that is run as it is: names its profiles in the store."""
    backend: str
    precision: str
    max_batch: int
    """As asked for, or the built engine's limit if that is smaller."""
    record: EngineRecord | None = None
    """The sidecar of a built engine."""

    def new_engine(self, name: str, threads: int | None = None) -> Engine:
        """The engine, not loaded yet. Raises: ConfigError for a backend that runs no files."""
        return engine_class(self.backend).from_file(
            self.path, name=name, max_batch=self.max_batch, threads=threads, precision=self.precision
        )


def choose_engine(graph: Path, reference: str, wish: EngineWish, store: EngineStore) -> ChosenEngine:
    """The engine for a prepared graph that fits this machine.

    Of several that fit, the one that takes the largest batches up to what is wished; then one that is proven to agree
    with its graph; then the newest. `reference` is the model as `foveate build` knows it.
    Raises: PlanMismatch saying why none fits and how to build one; EngineUnavailable if the backend is missing here;
    ConfigError for a backend that nobody knows, or that cannot do it; EngineError if no engine, or more than one, has
    that key.
    """
    chosen = _chosen(_sha256_of(graph), graph, reference, wish, store)
    if chosen.record is not None and chosen.record.agrees is False:
        name, failures = chosen.record.name, _failures(chosen.record)
        _log.warning("the engine %s of %s agrees too little with its model: %s", chosen.key[:12], name, failures)
    return chosen


def engine_of_key(
    key: str,
    store: EngineStore,
    max_batch: int | None = None,
    source_sha256: str | None = None,
    *,
    accept_failed: bool = False,
) -> ChosenEngine:
    """The built engine whose key begins like this, if it fits this machine and, where that is given, the graph.

    `max_batch` None takes the engine's own limit.
    Raises: PlanMismatch saying what does not fit; EngineUnavailable, EngineError as `choose_engine`.
    """
    built = store.resolve(key)
    use = _use_here(built.record.backend, source_sha256 or built.record.source_sha256)
    _require(built.record, use, accept_failed)
    return _opened(built, use, store, max_batch or built.record.batch.max)


def runs_graphs(backend: str, precision: str) -> bool:
    """Whether a backend runs a prepared graph in this precision as it is, so that nothing needs to be built."""
    return precision in _AS_IT_IS.get(backend, ())


def _chosen(sha256: str, graph: Path, reference: str, wish: EngineWish, store: EngineStore) -> ChosenEngine:
    if wish.engine:
        return engine_of_key(wish.engine, store, wish.max_batch, sha256, accept_failed=wish.accept_failed)
    engine_class(wish.backend)  # refuses what nobody knows
    if runs_graphs(wish.backend, wish.precision):
        return ChosenEngine(graph, sha256, wish.backend, wish.precision, wish.max_batch)
    if wish.backend not in BUILD_BACKENDS:
        can = ", ".join(_AS_IT_IS.get(wish.backend, ())) or "no precision"
        raise ConfigError(
            f"{wish.backend} runs models in {can}, not in {wish.precision}, and no engines are built for it: choose "
            "another backend or precision"
        )
    return _best_built(sha256, reference, wish, store)


def _best_built(sha256: str, reference: str, wish: EngineWish, store: EngineStore) -> ChosenEngine:
    use = _use_here(wish.backend, sha256)
    fitting: list[BuiltEngine] = []
    reasons: list[str] = []
    for built in store.engines(sha256):
        if (built.record.backend, built.record.precision) != (wish.backend, wish.precision):
            continue
        try:
            _require(built.record, use, wish.accept_failed)
            fitting.append(built)
        except PlanMismatch as error:
            reasons.append(str(error))
    if not fitting:
        raise PlanMismatch("; ".join([_nothing_fits(reference, wish, store), *reasons]))
    best = max(fitting, key=lambda built: _rank(built.record, wish.max_batch))  # of equals the first, the newest
    return _opened(best, use, store, wish.max_batch)


def _opened(built: BuiltEngine, use: EngineUse, store: EngineStore, max_batch: int) -> ChosenEngine:
    record = built.record
    path = store.open_engine(built.key, use).path
    return ChosenEngine(path, built.key, record.backend, record.precision, min(max_batch, record.batch.max), record)


def _use_here(backend: str, source_sha256: str) -> EngineUse:
    if backend == "onnxruntime":
        return EngineUse(source_sha256, "", None)  # an ONNX file runs on any version
    version, gpu = str(tensorrt_library(backend).__version__), gpu_of(0)
    if gpu is None:
        return EngineUse(source_sha256, version, None)
    return EngineUse(source_sha256, version, compute_capability(), gpu=gpu.name, memory_bytes=gpu.memory_bytes or None)


def _require(record: EngineRecord, use: EngineUse, accept_failed: bool) -> None:
    use.require_fit(record)
    if record.agrees is False and not (record.accepted or accept_failed):
        raise PlanMismatch(
            f"the engine {record.key[:12]} of {record.name} agrees too little with its model in fp32 "
            f"({_failures(record)}): build it in another precision, or with --accept to serve it nevertheless"
        )


def _failures(record: EngineRecord) -> str:
    return "; ".join(map(str, (record.accuracy or {}).get("failures", ())))


def _rank(record: EngineRecord, max_batch: int) -> tuple[int, int]:
    return min(record.batch.max, max_batch), {True: 2, None: 1, False: 0}[record.agrees]


def _nothing_fits(reference: str, wish: EngineWish, store: EngineStore) -> str:
    command = ["foveate", "build", reference, "--backend", wish.backend, "--precision", wish.precision]
    command += ["--batch", str(wish.max_batch)]
    if wish.precision in BUILD_CALIBRATED_PRECISIONS:
        command += ["--calibration", "FOLDER_OR_VIDEO"]
    if store.root != EngineStore().root:
        command += ["--engine-store", str(store.root)]
    visible = os.environ.get(_VISIBLE)
    prefix = f"{_VISIBLE}={shlex.quote(visible)} " if visible and wish.backend != "onnxruntime" else ""
    return (
        f"no engine of {reference} for {wish.backend} in {wish.precision} that fits is in {store.root}: build one with "
        f"`{prefix}{shlex.join(command)}`"
    )


def _sha256_of(graph: Path) -> str:
    try:
        with graph.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EngineError(f"cannot read the prepared graph {graph} ({error.strerror}): prepare the model") from error
