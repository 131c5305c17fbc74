"""What is measured: one stream, many cameras, overload, the most streams, and hours on end."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from foveate.client import Verdict
from foveate.client.settings import StreamSettings
from foveate.tools.bench.figures import LoadFigures, figures
from foveate.tools.bench.growth import settled_growth
from foveate.tools.bench.load import StreamLog, StreamPlan, run_load
from foveate.tools.bench.raw_rate import RawRate
from foveate.tools.bench.served import Served
from foveate.tools.bench.sustained import judge, largest_passing
from foveate.tools.simulation.cameras import Camera, arrivals

__all__ = ["Cameras", "Measured", "Soak", "Target", "cameras_plans", "measure", "most_streams", "soak"]

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What is sent to, and with what."""

    served: Served
    settings: StreamSettings
    """Of every stream: pipeline, format, size."""
    pictures: Sequence[bytes]
    raw: RawRate
    """Of the engine behind it, before the load."""
    measure_raw: Callable[[], RawRate]
    """Measures that once more, with no load on: machines change their speed."""


@dataclass(frozen=True, slots=True)
class Cameras:
    """A crowd of cameras. Loads and rates are relative to the engine alone."""

    streams: int
    load: float
    """Offered by the well-behaved streams together, of the raw rate."""
    budget_ms: tuple[float, ...]
    """Dealt out in turn."""
    seconds: float
    abusers: float = 0.0
    """Share of the streams that send four times what they declare."""
    top_class: float = 0.0
    """Share of the load that the streams of the first class offer."""
    weights: tuple[float, ...] = (1.0,)
    """Dealt out in turn."""
    camera_like: bool = True
    declares: bool = True
    """Whether streams say how much they send: as many as fit are guaranteed it, the rest share what is left."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """One load and what it took."""

    wanted: Cameras
    figures: LoadFigures
    cpu_us_per_frame: float | None
    """Of the server's processes; None for a server that was not started here."""
    raw_fps: float
    latencies_ms: tuple[float, ...]
    """From due to answered, of each frame answered OK."""

    @property
    def goodput_ratio(self) -> float:
        """On-time frames per second over the raw rate of the engine."""
        return self.figures.on_time_fps / self.raw_fps

    def to_json(self) -> dict[str, Any]:
        return {
            "wanted": asdict(self.wanted),
            "offered_ratio": round(self.figures.offered_fps / self.raw_fps, 4),
            "goodput_ratio": round(self.goodput_ratio, 4),
            "cpu_us_per_frame": None if self.cpu_us_per_frame is None else round(self.cpu_us_per_frame, 1),
            "figures": self.figures.to_json(),
        }


_ABUSE = 4.0
_FIRST, _SECOND = 0, 1


def cameras_plans(target: Target, wanted: Cameras) -> list[StreamPlan]:
    """The streams of a crowd, which share the load evenly; abusers send four times their part."""
    rng = random.Random(wanted.seed)
    top = round(wanted.streams * wanted.top_class)
    honest = wanted.streams - round(wanted.streams * wanted.abusers)
    fps = wanted.load * target.raw.fps / wanted.streams
    manner = Camera(fps=fps) if wanted.camera_like else _metronome(fps)
    cameras = [replace(manner, excess=1.0 if number < honest else _ABUSE) for number in range(wanted.streams)]
    due_s: list[list[float]] = [[] for _ in cameras]
    for arrival in arrivals(cameras, wanted.seconds, wanted.seed):
        due_s[arrival.stream].append(arrival.at_ns / 1e9)
    # Of each load's own: the load before may still hold its streams' names for a moment.
    crowd = secrets.token_hex(3)
    plans = []
    for number, due in enumerate(due_s):
        settings: StreamSettings = {
            **target.settings,
            "stream_id": f"{crowd}-{number}",
            "fps": fps if wanted.declares else 0.0,
            "budget_ms": math.ceil(wanted.budget_ms[number % len(wanted.budget_ms)]),
            "weight": wanted.weights[number % len(wanted.weights)],
            "priority": _FIRST if number < top or not top else _SECOND,
        }
        shift = rng.randrange(len(target.pictures))
        pictures = [*target.pictures[shift:], *target.pictures[:shift]]
        plans.append(StreamPlan(f"camera-{number}", settings, due, pictures, abusive=number >= honest))
    return plans


def _metronome(fps: float) -> Camera:
    return Camera(fps=fps, jitter_ms=0.0, stalls_per_minute=0.0, key_frame_every=0)


async def measure(target: Target, wanted: Cameras) -> Measured:
    """Offer one load and sum up what became of it."""
    plans = cameras_plans(target, wanted)
    before = target.served.usage()
    logs = await run_load(target.served.address, plans)
    after = target.served.usage()
    summed = figures(logs, wanted.seconds)
    cpu_us = (after.cpu_s - before.cpu_s) * 1e6 / max(1, summed.frames) if before and after else None
    return Measured(wanted, summed, cpu_us, target.raw.fps, _latencies_ms(logs))


def _latencies_ms(logs: Sequence[StreamLog]) -> tuple[float, ...]:
    outcomes = (outcome for log in logs for outcome in log.outcomes)
    return tuple((each.answered_at - each.due_at) * 1e3 for each in outcomes if each.verdict is Verdict.OK)


async def most_streams(
    target: Target,
    fps: float,
    wanted: Cameras,
    *,
    share: float,
    longest_s: float,
    on_try: Callable[[Measured, bool], None],
) -> int:
    """The most streams of that frame rate of which the given share of frames is on time, proven by early stopping."""

    async def passes(streams: int) -> bool:
        frames = late = 0
        passed_s, verdict = 0.0, None
        while verdict is None and passed_s < longest_s:
            seed = wanted.seed + frames
            load = streams * fps / target.raw.fps
            measured = await measure(target, replace(wanted, streams=streams, load=load, seed=seed))
            frames += measured.figures.frames
            late += round(measured.figures.frames * (1 - measured.figures.on_time_share))
            passed_s += wanted.seconds
            verdict = judge(frames, late, share)
            if measured.figures.refused_streams:
                verdict = False
        on_try(measured, bool(verdict))
        return bool(verdict)

    start = max(1, int(0.8 * target.raw.fps / fps))
    return await largest_passing(passes, start, most=4096)


@dataclass(frozen=True, slots=True)
class Soak:
    """How a server's processes changed over a long load, after its warm-up."""

    measured: Measured
    warmup_s: float
    """From when on memory grew no differently until the end."""
    settled: bool
    """False: it was still growing less and less; a longer soak is called for."""
    memory_mb_per_h: float
    lowest_mb_per_h: float
    highest_mb_per_h: float
    threads: tuple[int, int]
    """At the beginning and at the end."""
    descriptors: tuple[int, int]
    samples: tuple[tuple[float, float], ...]
    """Second and MiB."""

    @property
    def resolves_mb_per_h(self) -> float:
        """A growth smaller than this cannot be told from none by so long a soak."""
        return (self.highest_mb_per_h - self.lowest_mb_per_h) / 2

    def to_json(self) -> dict[str, Any]:
        facts = {name: getattr(self, name) for name in self.__slots__ if name != "measured"}
        resolves = {"resolves_mb_per_h": round(self.resolves_mb_per_h, 3)}
        return {**facts, **resolves, "measured": self.measured.to_json()}


async def soak(target: Target, wanted: Cameras, *, every_s: float = 1.0) -> Soak:
    """Offer one load for long and watch the memory, threads and descriptors of the server's processes.

    Raises: ValueError for a server that was not started here, whose processes cannot be seen, or a soak that is too
    short.
    """
    if target.served.usage() is None:
        raise ValueError("only a server that is started here can be watched: leave the address out")
    started = time.monotonic()
    samples: list[tuple[float, int, int, int]] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(every_s)
            if (usage := target.served.usage()) is not None:
                samples.append((time.monotonic() - started, usage.memory_bytes, usage.threads, usage.descriptors))

    watcher = asyncio.create_task(watch())
    try:
        measured = await measure(target, wanted)
    finally:
        watcher.cancel()
    under_load = [each for each in samples if each[0] <= wanted.seconds]
    if len(under_load) < 2:
        raise ValueError(f"a soak of {wanted.seconds:g} s is too short to be watched every {every_s:g} s")
    found = settled_growth([(second, memory / _MEBIBYTE) for second, memory, *_ in under_load])
    slope = found.growth
    first, last = next(each for each in under_load if each[0] >= found.since_s), under_load[-1]
    return Soak(
        measured,
        round(found.since_s, 1),
        found.settled,
        round(slope.per_s * 3600, 3),
        round(slope.lowest_per_s * 3600, 3),
        round(slope.highest_per_s * 3600, 3),
        (first[2], last[2]),
        (first[3], last[3]),
        tuple((round(second, 1), round(memory / _MEBIBYTE, 3)) for second, memory, *_ in samples),
    )
