"""How long a batch takes: measured per bucket of batch sizes, then read as one rising line."""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from foveate.engines.contract import Engine, Slot
from foveate.engines.errors import EngineError
from foveate.engines.random_inputs import random_rows

__all__ = ["LatencyProfile", "batch_buckets", "fill_slot", "measure_profile"]

_LEAST_SAMPLES = 3


@dataclass(frozen=True)
class LatencyProfile:
    """The latency of an engine per batch size, never falling as the batch grows.

    What is given is made to rise: a bucket faster than a smaller one gets the smaller one's latency, and a
    99th percentile is at least its median.
    Units: nanoseconds of one whole `Engine.run`.
    Raises: EngineError where the columns do not fit together.
    """

    buckets: tuple[int, ...]
    """Batch sizes, ascending."""
    median_ns: tuple[int, ...]
    p99_ns: tuple[int, ...]
    measured: tuple[bool, ...] = ()
    """False for a bucket that was too slow to measure and is extrapolated; empty: all were measured."""

    def __post_init__(self) -> None:
        measured = self.measured or (True,) * len(self.buckets)
        _require_columns(self.buckets, self.median_ns, self.p99_ns, measured)
        median_ns = tuple(accumulate(self.median_ns, max))
        p99_ns = tuple(accumulate(map(max, self.p99_ns, median_ns), max))
        object.__setattr__(self, "median_ns", median_ns)
        object.__setattr__(self, "p99_ns", p99_ns)
        object.__setattr__(self, "measured", measured)

    def latency_ns(self, batch: int) -> int:
        """The median latency of a batch.

        Between buckets it lies on the straight line; beyond the last it grows by `alpha_ns` a frame.
        """
        if batch < 1:
            raise EngineError(f"batch must be at least 1, not {batch}")
        above = bisect_left(self.buckets, batch)
        if above == len(self.buckets):
            return self.median_ns[-1] + math.ceil(self.alpha_ns * (batch - self.buckets[-1]))
        if above == 0 or self.buckets[above] == batch:
            return self.median_ns[above]
        low, high = self.buckets[above - 1], self.buckets[above]
        low_ns, high_ns = self.median_ns[above - 1], self.median_ns[above]
        return low_ns + (high_ns - low_ns) * (batch - low) // (high - low)

    @property
    def alpha_ns(self) -> float:
        """What each further frame of a batch costs; 0 or more."""
        return self._line[0]

    @property
    def beta_ns(self) -> float:
        """What each batch costs whatever its size; 0 or more, and 0 where only one bucket was measured."""
        return self._line[1]

    @cached_property
    def _line(self) -> tuple[float, float]:
        points = zip(self.buckets, self.median_ns, self.measured, strict=True)
        return _rising_line([(batch, median_ns) for batch, median_ns, measured in points if measured])

    def to_json(self) -> dict[str, list[Any]]:
        """The profile as a dict that `json.dumps` takes and `from_json` reads."""
        return {name: list(column) for name, column in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LatencyProfile:
        """The profile that `to_json` wrote. Raises: EngineError for anything else."""
        names = ("buckets", "median_ns", "p99_ns", "measured")
        if set(value) != set(names) or not all(isinstance(value[name], list) for name in names):
            raise EngineError(f"expected a latency profile with the lists {', '.join(names)}, not {value!r}")
        return cls(**{name: tuple(value[name]) for name in names})


def _require_columns(
    buckets: Sequence[int], median_ns: Sequence[int], p99_ns: Sequence[int], measured: Sequence[bool]
) -> None:
    if not len(buckets) == len(median_ns) == len(p99_ns) == len(measured) > 0:
        raise EngineError("a latency profile needs at least one bucket, and each column one value per bucket")
    if not all(isinstance(value, int) for column in (buckets, median_ns, p99_ns) for value in column):
        raise EngineError("a latency profile's batch sizes and nanoseconds must be whole numbers")
    if buckets[0] < 1 or any(low >= high for low, high in pairwise(buckets)):
        raise EngineError(f"a latency profile's buckets must be 1 or more and ascending, not {list(buckets)}")
    if min(*median_ns, *p99_ns) < 0:
        raise EngineError("a latency profile's nanoseconds must not be negative")
    if not any(measured):
        raise EngineError("a latency profile needs at least one bucket that was measured")


def _rising_line(points: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Slope and intercept of the line closest to the points, least squares, with neither below 0."""
    batches, latencies = np.array(points, dtype=np.float64).T
    centred = batches - batches.mean()
    if len(points) > 1:
        alpha = max(0.0, float(centred @ latencies / (centred @ centred)))
        beta = float(latencies.mean() - alpha * batches.mean())
        if beta >= 0:
            return alpha, beta
    return float(batches @ latencies / (batches @ batches)), 0.0


def batch_buckets(max_batch: int) -> tuple[int, ...]:
    """The batch sizes to measure: the powers of two below `max_batch`, then `max_batch`."""
    if max_batch < 1:
        raise EngineError(f"max_batch must be at least 1, not {max_batch}")
    return (*(1 << power for power in range((max_batch - 1).bit_length())), max_batch)


def measure_profile(
    engine: Engine,
    *,
    slot: Slot | None = None,
    warmup: int = 2,
    repeats: int = 30,
    time_limit_s: float = 20.0,
    on_progress: Callable[[int, int], None] | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> LatencyProfile:
    """The latency of a loaded engine per bucket of batch sizes, on random pixels.

    A bucket ends after `repeats` runs, or when its share of the time limit is over and it has 3. Buckets for
    which not even those would fit into the limit are extrapolated. The first is always measured.

    `slot` is the one to measure with, overwritten; None takes a new one, which stays until the engine closes.
    `on_progress` is called after each bucket with the buckets done and the buckets in all.
    Raises: what `Engine.run` raises.
    """
    slot = engine.new_slot() if slot is None else slot
    fill_slot(engine, slot)
    buckets = batch_buckets(engine.info.max_batch)
    end_ns = clock_ns() + round(time_limit_s * 1e9)
    samples: list[list[int]] = []
    for done, batch in enumerate(buckets):
        left_ns = end_ns - clock_ns()
        if samples and _least_cost_ns(batch, buckets[done - 1], samples[-1], warmup) > left_ns:
            break
        bucket_end_ns = clock_ns() + left_ns // (len(buckets) - done)
        samples.append(_time_runs(engine, slot, batch, warmup, repeats, bucket_end_ns, clock_ns))
        if on_progress is not None:
            on_progress(done + 1, len(buckets))
    return _profile_from_samples(buckets, samples)


def fill_slot(engine: Engine, slot: Slot) -> None:
    """Fill all rows of a slot with random pixels, the same for each slot."""
    rng = np.random.default_rng(0)
    for spec in engine.info.inputs:
        slot.inputs[spec.name][:] = random_rows(spec, engine.info.max_batch, rng)


def _least_cost_ns(batch: int, measured_batch: int, measured_ns: Sequence[int], warmup: int) -> float:
    """What the fewest runs of a bucket would take if a frame gets no cheaper in a larger batch."""
    return statistics.median(measured_ns) * batch / measured_batch * (warmup + _LEAST_SAMPLES)


def _time_runs(
    engine: Engine,
    slot: Slot,
    batch: int,
    warmup: int,
    repeats: int,
    end_ns: int,
    clock_ns: Callable[[], int],
) -> list[int]:
    for _ in range(warmup):
        engine.run(slot, batch)
    samples: list[int] = []
    while len(samples) < _LEAST_SAMPLES or (len(samples) < repeats and clock_ns() < end_ns):
        started_ns = clock_ns()
        engine.run(slot, batch)
        samples.append(clock_ns() - started_ns)
    return samples


def _profile_from_samples(buckets: tuple[int, ...], samples: Sequence[Sequence[int]]) -> LatencyProfile:
    count = len(samples)
    medians = tuple(round(statistics.median(runs)) for runs in samples)
    # "higher": with few samples the 99th percentile is the slowest of them, not a value in between.
    p99s = tuple(int(np.percentile(runs, 99, method="higher")) for runs in samples)
    known = LatencyProfile(buckets[:count], medians, p99s)
    beyond = tuple(known.latency_ns(batch) for batch in buckets[count:])
    spread = known.p99_ns[-1] / max(1, known.median_ns[-1])
    return LatencyProfile(
        buckets,
        known.median_ns + beyond,
        known.p99_ns + tuple(math.ceil(median_ns * spread) for median_ns in beyond),
        (True,) * count + (False,) * len(beyond),
    )
