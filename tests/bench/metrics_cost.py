"""What metrics cost: per answer on its way out, and per scrape. Prints JSON.

    python tests/bench/metrics_cost.py [--streams 100] [--pipelines 4] [--frame-us 330]

`answer_us` is what counting one answered frame takes in the event loop of its ingest: its two ledgers and all its
times. `share` is that part of `--frame-us`, the processor time that an ingest spends on a frame altogether, as
`ingest_cost.py` measures it. A scrape is made from what is counted: `read_ms` in the event loop (copying the counts),
`text_ms` in a thread beside it (writing the text).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

from foveate.service.directory import StreamDirectory
from foveate.service.frame import Answer, Frame, Ran, StageTimes, StreamOptions, Verdict
from foveate.service.metrics import IngestStanding, LaneTotals, ProcessLife, ServiceCounts
from foveate.service.metrics_tables import STAGES, IngestTable
from foveate.service.metrics_text import metrics_text
from foveate.service.stream import Books, CameraStream, StreamRecord
from foveate.tools.provenance import provenance

_ANSWERS = 50_000
_SCRAPES = 10


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--pipelines", type=int, default=4)
    parser.add_argument("--frame-us", type=float, default=330.0)
    asked = parser.parse_args()
    names = [f"pipeline-{number}" for number in range(asked.pipelines)]
    counts = ServiceCounts(names, asked.streams, StreamDirectory(1000, 30.0).is_open)
    counts.add(table := IngestTable(counts.layout))
    streams = [_stream(counts, table, number, names[number % len(names)]) for number in range(asked.streams)]
    answers = [(streams[index % len(streams)], *_answer(random.Random(index))) for index in range(_ANSWERS)]
    times_us = 1e6 * _best(lambda: _count_all(table, answers, times=True)) / _ANSWERS
    ledgers_us = 1e6 * _best(lambda: _count_all(table, answers, times=False)) / _ANSWERS

    def snapshot() -> Any:
        return counts.metrics(LaneTotals(), [], IngestStanding(), [ProcessLife("service", None, 1)])

    text, _ = metrics_text(snapshot())
    result = {
        "answer_us": round(times_us, 2),
        "of_which_ledgers_us": round(ledgers_us, 2),
        "share": round(times_us / asked.frame_us, 4),
        "series": sum(not line.startswith(b"#") for line in text.splitlines()),
        "text_bytes": len(text),
        "read_ms": round(1e3 * _best(snapshot, _SCRAPES), 2),
        "text_ms": round(1e3 * _best(lambda: metrics_text(snapshot()), _SCRAPES), 2),
    }
    print(json.dumps(provenance() | vars(asked) | result, indent=2))


def _stream(counts: ServiceCounts, table: IngestTable, number: int, pipeline: str) -> CameraStream:
    name = f"camera-{number}"
    series = counts.series(name, pipeline, named=True)
    return CameraStream(StreamRecord(name, name), StreamOptions(pipeline, 10**8), 8, Books(table), series)


def _answer(chance: random.Random) -> tuple[Frame, Answer]:
    spent = {stage: int(chance.expovariate(1 / 3e6)) for stage in STAGES}
    total = sum(spent.values())
    times = StageTimes(**spent, total=total)
    ran = Ran(4, total // 2, total // 2 + spent["infer"], 0, spent["infer"], 0, total, 1, 0, 1)
    return Frame(1, 0, 10**8, b""), Answer(Verdict.OK, times=times, run=ran)


def _count_all(table: IngestTable, answers: list[tuple[CameraStream, Frame, Answer]], *, times: bool) -> None:
    for stream, frame, answer in answers:
        stream._count("received")
        stream._count("ok")
        if times:
            table.answered(stream, frame, answer)


def _best(call: Callable[[], object], times: int = 5) -> float:
    """The seconds that a call takes, at its best: the machine may do something else meanwhile."""
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
