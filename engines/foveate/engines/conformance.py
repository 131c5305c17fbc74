"""What every engine must do, as one check that any backend's tests can call."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import Engine, EngineInfo, RunTimes, Slot, TensorSpec
from foveate.engines.errors import EngineError
from foveate.engines.random_inputs import random_rows

__all__ = ["ConformanceError", "check_engine"]

_UNWRITTEN = 77
"""What stands in the outputs before a run, so that a row that was not written is seen."""
_ROUNDS = 4


class ConformanceError(AssertionError):
    """An engine breaks the contract. Not part of the error tree: it judges an engine, no engine raises it."""


def check_engine(make_engine: Callable[[], Engine], *, rtol: float = 1e-3, atol: float = 1e-3, seed: int = 0) -> None:
    """Return if the engines that `make_engine` makes, unloaded and new each time, keep the contract.

    Floats may differ by `rtol` and `atol` between batch sizes, which may run different kernels; all else must
    be equal. Give it a model whose answers are steady on random pixels: a top-K of near-equal scores is not.
    Raises: ConformanceError, saying what was expected and what came.
    """
    _check_unloaded(make_engine())
    _check_lifecycle(make_engine())
    given: dict[str, NDArray[Any]] = {}  # outlives the engine
    with make_engine() as engine:
        _check_info(engine.info)
        slots = [engine.new_slot() for _ in range(max(2, engine.info.max_in_flight))]
        _check_buffers(engine.info, slots)
        _check_no_shared_memory(slots)
        _check_refusals(engine, slots[0])
        subject = _Subject(engine, slots, np.random.default_rng(seed), rtol, atol)
        answers = _answers_row_by_row(subject)
        _check_answers_differ(answers)
        _check_batches(subject, answers)
        _check_threads(subject, answers)
        given |= {spec.name: _on_pages(spec, engine.info.max_batch) for spec in engine.info.inputs}
        _check_given_inputs(subject, given, answers)
    for rows in given.values():
        rows.fill(0)  # it is the caller's again, whatever the engine had done with it


class _Subject:
    """A loaded engine under check, with random rows to feed it."""

    def __init__(
        self, engine: Engine, slots: Sequence[Slot], rng: np.random.Generator, rtol: float, atol: float
    ) -> None:
        count = max(2, engine.info.max_batch)
        self.engine = engine
        self.slots = slots
        self.rng = rng
        self.count = count
        self.rows = {spec.name: random_rows(spec, count, rng) for spec in engine.info.inputs}
        self._tolerance = (rtol, atol)

    def pick(self) -> NDArray[np.int64]:
        """Which of the rows to put into a slot, one for each of its rows."""
        return self.rng.integers(0, self.count, self.engine.info.max_batch)

    def run(self, slot: Slot, batch: int, picked: NDArray[np.int64]) -> None:
        """Fill the whole slot, run some of it, and see that only the outputs of the batch were written."""
        for name, rows in self.rows.items():
            slot.inputs[name][:] = rows[picked]
        for buffer in slot.outputs.values():
            buffer.fill(_UNWRITTEN)
        _check_times(self.engine.run(slot, batch))
        for name, rows in self.rows.items():
            _require(np.array_equal(slot.inputs[name], rows[picked]), f"a run of {batch} changed input {name!r}")
        for name, buffer in slot.outputs.items():
            _require(
                bool(np.all(buffer[batch:] == _unwritten(buffer))),
                f"a run of {batch} wrote output {name!r} beyond its rows [0:{batch}]",
            )

    def compare(self, slot: Slot, batch: int, picked: NDArray[np.int64], answers: Mapping[str, NDArray[Any]]) -> None:
        """See that each row of the batch holds what the same row gave alone."""
        for name, expected_rows in answers.items():
            for row in range(batch):
                actual, expected = slot.outputs[name][row], expected_rows[picked[row]]
                _require(
                    self._agree(actual, expected),
                    f"row {row} of output {name!r} in a batch of {batch} is not what it was alone: "
                    f"expected {_excerpt(expected)}, got {_excerpt(actual)}",
                )

    def _agree(self, actual: NDArray[Any], expected: NDArray[Any]) -> bool:
        if actual.dtype.kind == "f":
            return np.allclose(actual, expected, *self._tolerance, equal_nan=True)
        return np.array_equal(actual, expected)


def _answers_row_by_row(subject: _Subject) -> dict[str, NDArray[Any]]:
    """What each row gives in a batch of its own, first place of the first slot."""
    slot = subject.slots[0]
    answers: dict[str, list[NDArray[Any]]] = {name: [] for name in slot.outputs}
    for row in range(subject.count):
        picked = subject.pick()
        picked[0] = row
        subject.run(slot, 1, picked)
        for name, rows in answers.items():
            rows.append(slot.outputs[name][0].copy())
    return {name: np.stack(rows) for name, rows in answers.items()}


def _check_unloaded(engine: Engine) -> None:
    _require(not engine.loaded, "an engine says that it is loaded before load()")
    _require_refusal(lambda: engine.info, "info before load()")
    _require_refusal(engine.new_slot, "new_slot() before load()")
    engine.close()
    _require_refusal(engine.load, "load() after close()")


def _check_lifecycle(engine: Engine) -> None:
    info = engine.load()
    _require(engine.loaded, "an engine says that it is not loaded after load()")
    _require(engine.load() == info == engine.info, "a second load() changed the engine's info")
    slot = engine.new_slot()
    engine.close()
    engine.close()
    _require(not engine.loaded, "an engine says that it is loaded after close()")
    _require_refusal(lambda: engine.run(slot, 1), "run() after close()")
    _require_refusal(engine.new_slot, "new_slot() after close()")
    _require_refusal(engine.load, "load() after close()")


def _check_info(info: EngineInfo) -> None:
    for field in ("name", "backend", "backend_version", "precision", "device"):
        _require(bool(getattr(info, field)), f"info.{field} is empty")
    for field in ("max_batch", "max_in_flight"):
        _require(getattr(info, field) >= 1, f"info.{field} must be at least 1, not {getattr(info, field)}")
    for field in ("inputs", "outputs"):
        names = [spec.name for spec in getattr(info, field)]
        _require(len(names) == len(set(names)) > 0, f"info.{field} must have names, each once, not {names}")


def _check_buffers(info: EngineInfo, slots: Sequence[Slot]) -> None:
    for slot in slots:
        for role, specs, buffers in (
            ("input", info.inputs, slot.inputs),
            ("output", info.outputs, slot.outputs),
        ):
            names = [spec.name for spec in specs]
            _require(set(buffers) == set(names), f"a slot's {role}s must be {names}, not {list(buffers)}")
            for spec in specs:
                _check_buffer(f"{role} {spec.name!r}", spec, info.max_batch, buffers[spec.name])


def _check_buffer(where: str, spec: TensorSpec, max_batch: int, buffer: NDArray[Any]) -> None:
    expected = (max_batch, *spec.shape)
    _require(buffer.shape == expected, f"{where} must have the shape {expected}, not {buffer.shape}")
    _require(buffer.dtype == spec.dtype, f"{where} must be of {spec.dtype}, not {buffer.dtype}")
    _require(buffer.flags.c_contiguous, f"{where} must be C-contiguous")
    _require(buffer.flags.writeable, f"{where} must be writeable")


def _check_no_shared_memory(slots: Sequence[Slot]) -> None:
    buffers = [
        (f"{role} {name!r} of slot {slot.index}", buffer)
        for slot in slots
        for role, named in (("input", slot.inputs), ("output", slot.outputs))
        for name, buffer in named.items()
    ]
    for (name, buffer), (other_name, other) in combinations(buffers, 2):
        _require(not np.may_share_memory(buffer, other), f"{name} and {other_name} share memory")


def _check_refusals(engine: Engine, slot: Slot) -> None:
    for batch in (-1, 0, engine.info.max_batch + 1):
        _require_refusal(lambda batch=batch: engine.run(slot, batch), f"a batch of {batch}")  # type: ignore[misc]
    foreign = Slot(slot.index, slot.inputs, slot.outputs)
    _require_refusal(lambda: engine.run(foreign, 1), "a slot that this engine did not make")
    # The flag of the base class stands for a run in another thread, whose end no check could foresee.
    slot._busy = True
    try:
        _require_refusal(lambda: engine.run(slot, 1), "a slot that is running")
    finally:
        slot._busy = False


def _check_times(times: RunTimes) -> None:
    parts = (times.copy_in_ns, times.infer_ns, times.copy_out_ns)
    _require(all(isinstance(part, int) and part >= 0 for part in parts), f"{times} must be 0 or more")


def _check_answers_differ(answers: Mapping[str, NDArray[Any]]) -> None:
    """Different pixels must give different answers, or the engine reads something else."""
    floats = [rows for rows in answers.values() if rows.dtype.kind == "f"]
    if floats:  # an engine that says one class id only may well say the same one of all random pixels
        differ = any(not np.array_equal(rows[0], row, equal_nan=True) for rows in floats for row in rows[1:])
        _require(differ, "all random rows get the same answer: the engine does not read its slot's inputs")


def _check_batches(subject: _Subject, answers: Mapping[str, NDArray[Any]]) -> None:
    """Every batch size gives each row what it gave alone, whatever its place, neighbours and slot."""
    for batch in range(1, subject.engine.info.max_batch + 1):
        slot = subject.slots[batch % len(subject.slots)]
        picked = subject.pick()
        subject.run(slot, batch, picked)
        subject.compare(slot, batch, picked, answers)


def _check_threads(subject: _Subject, answers: Mapping[str, NDArray[Any]]) -> None:
    """As many slots at once as the engine allows, on threads that did not load it."""
    info = subject.engine.info
    slots = subject.slots[: info.max_in_flight]
    rounds = [[subject.pick() for _ in range(_ROUNDS)] for _ in slots]

    def work(slot: Slot, picks: list[NDArray[np.int64]]) -> None:
        for picked in picks:
            subject.run(slot, info.max_batch, picked)
            subject.compare(slot, info.max_batch, picked, answers)

    with ThreadPoolExecutor(len(slots)) as pool:
        list(pool.map(work, slots, rounds))


def _on_pages(spec: TensorSpec, rows: int) -> NDArray[Any]:
    """An input's rows, on pages of their own."""
    count = rows * math.prod(spec.shape)
    pages = mmap.mmap(-1, max(1, count * spec.dtype.itemsize))
    return np.frombuffer(pages, spec.dtype, count).reshape(rows, *spec.shape)


def _check_given_inputs(
    subject: _Subject, given: Mapping[str, NDArray[Any]], answers: Mapping[str, NDArray[Any]]
) -> None:
    """A slot over its caller's memory reads from there, or has inputs of its own, and answers as any other."""
    engine = subject.engine
    for name, rows in given.items():
        short = {**given, name: rows[:-1]}
        _require_refusal(lambda short=short: engine.new_slot(short), "memory of another shape")  # type: ignore[misc]
    slot = engine.new_slot(given)
    _check_buffers(engine.info, [slot])
    for name, rows in given.items():
        own = slot.inputs[name] is not rows
        _require(
            not (own and np.may_share_memory(slot.inputs[name], rows)),
            f"input {name!r} of a slot must be the caller's array itself, or share no memory with it",
        )
    picked = subject.pick()
    subject.run(slot, engine.info.max_batch, picked)
    subject.compare(slot, engine.info.max_batch, picked, answers)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConformanceError(message)


def _require_refusal(action: Callable[[], object], what: str) -> None:
    try:
        action()
    except EngineError:
        return
    except Exception as error:
        raise ConformanceError(f"{what} must raise an EngineError, not {error!r}") from error
    raise ConformanceError(f"{what} must raise an EngineError, but was accepted")


def _unwritten(buffer: NDArray[Any]) -> Any:
    return buffer.dtype.type(_UNWRITTEN)


def _excerpt(values: NDArray[Any]) -> str:
    return np.array2string(values.ravel(), threshold=6, edgeitems=3, precision=5)
