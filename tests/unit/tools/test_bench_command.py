from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from foveate.client.settings import StreamSettings
from foveate.engines.errors import ConfigError
from foveate.tools.bench import raw_rate, scenarios
from foveate.tools.bench import target as target_module
from foveate.tools.bench.cores import Cores, split_cores
from foveate.tools.bench.fake_service import FakeSpec
from foveate.tools.bench.figures import figures
from foveate.tools.bench.load import StreamPlan, run_load
from foveate.tools.bench.raw_rate import RawRate
from foveate.tools.bench.scenarios import Cameras, Measured, Soak, Target, measure, soak
from foveate.tools.bench.served import Served, Usage
from foveate.tools.bench.target import TargetWish, opened_target
from foveate.tools.cli import app
from support.service import grey_jpeg, running_service
from support.waiting import until_in_loop

pytestmark = pytest.mark.timeout(180)

_SETTINGS: StreamSettings = {"pipeline": "grey", "budget_ms": 5000, "fps": 50.0}
_MEBIBYTE = 1 << 20


@pytest.fixture
def in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are measured alone for a moment only: no figure is looked at here."""
    monkeypatch.setattr(raw_rate, "_PROFILE_S", 0.1)
    monkeypatch.setattr(target_module, "raw_rate", partial(raw_rate.raw_rate, seconds=0.1))


def test_every_planned_frame_has_one_outcome_and_a_refused_stream_holds_up_nobody() -> None:
    refused: StreamSettings = {**_SETTINGS, "pipeline": "none"}
    due = [number / 50 for number in range(20)]
    with running_service() as service:
        plans = [
            StreamPlan("a", {**_SETTINGS, "stream_id": "a"}, due, [grey_jpeg(5)]),
            StreamPlan("b", refused, due, [grey_jpeg(5)]),
        ]
        good, bad = asyncio.run(run_load(service.address, plans))
        ledger = service.status().ledger
    assert len(good.outcomes) == len(due) == ledger.received
    assert sum(outcome.verdict.value == "ok" for outcome in good.outcomes) == ledger.ok
    assert bad.info is None
    assert "none" in bad.refusal
    assert not bad.outcomes


def test_frames_that_a_lost_server_never_answered_are_lost() -> None:
    with running_service() as service:
        plan = StreamPlan("a", _SETTINGS, [0.0, 3600.0, 3600.1], [grey_jpeg(5)])

        async def run() -> list[str]:
            load = asyncio.create_task(run_load(service.address, [plan]))
            await asyncio.to_thread(service.settled, lambda status: status.ledger.ok == 1)
            await asyncio.wrap_future(service.start(service.server.stop(0)))
            (log,) = await load
            return sorted(outcome.verdict.value for outcome in log.outcomes)

        assert asyncio.run(run()) == ["lost", "lost", "ok"]


@pytest.mark.usefixtures("in_short")
def test_bench_measures_the_service_over_a_fake_engine(tmp_path: Path) -> None:
    options = ["--fake", "1,2", "--pin", "0", "--seconds", "1", "--streams", "3", "--out", str(tmp_path), "--plots"]
    ended = CliRunner().invoke(app, ["bench", "overload", "--loads", "0.2,2", *options])
    assert ended.exit_code == 0, ended.output
    assert "engine alone" in ended.output
    report = json.loads((tmp_path / "result.json").read_text())
    assert report["scenario"] == "overload"
    assert len(report["loads"]) == 2
    for load in report["loads"]:
        made = load["figures"]
        assert sum(made["verdicts"].values()) == made["frames"] > 0
    assert report["loads"][-1]["cpu_us_per_frame"] > 0, "of the small load, a fast server's is less than a tick"
    for name in ("latency.png", "overload.png", "streams.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("in_short")
def test_the_most_streams_are_searched_for() -> None:
    options = ["--fake", "0,50", "--pin", "0", "--seconds", "1", "--longest-s", "1", "--fps", "400"]
    ended = CliRunner().invoke(app, ["bench", "max-streams", *options])
    assert ended.exit_code == 0, ended.output
    assert "most streams at 400 frames/s" in ended.output


@pytest.mark.usefixtures("in_short")
def test_a_planted_leak_shows_in_the_memory_of_the_servers_processes() -> None:
    spec = FakeSpec(alpha_ms=1.0, beta_ms=4.0, leak_bytes=_MEBIBYTE // 4)
    crowd = Cameras(streams=2, load=0.5, budget_ms=(5000.0,), seconds=1.0)
    with opened_target(TargetWish(fake=spec), Cores(None, None)) as target:

        def memory_bytes() -> int:
            usage = target.served.usage()
            assert usage is not None
            return usage.memory_bytes

        before, answered = memory_bytes(), 0
        while answered < 400:
            answered += asyncio.run(measure(target, crowd)).figures.verdicts.get("ok", 0)
        fewest_batches = answered / spec.max_batch
        assert memory_bytes() - before > 0.9 * fewest_batches * spec.leak_bytes


def soaked(monkeypatch: pytest.MonkeyPatch, memory_mib: Callable[[int], float]) -> Soak:
    """A soak of 600 s, by a clock that goes on by a second with each sample, of a server of so much memory."""
    ticks, seconds = itertools.count(), [0]

    def clock() -> int:
        seconds[0] = next(ticks)
        return seconds[0]

    class Scripted(Served):
        def usage(self) -> Usage:
            return Usage(0.0, round(memory_mib(seconds[0]) * _MEBIBYTE), 7, 9 + seconds[0], 1)

    async def until_it_is_over(target: Target, wanted: Cameras) -> Measured:
        await until_in_loop(lambda: seconds[0] > wanted.seconds + 10)
        return Measured(wanted, figures([], wanted.seconds), None, target.raw.fps, ())

    monkeypatch.setattr(scenarios, "measure", until_it_is_over)
    monkeypatch.setattr(scenarios, "time", SimpleNamespace(monotonic=clock))
    raw = RawRate(100.0, 1, ((1, 10.0),))
    target = Target(Scripted("nowhere"), _SETTINGS, [b""], raw, lambda: raw)
    return asyncio.run(soak(target, Cameras(1, 1.0, (100.0,), 600.0), every_s=0.0))


def test_a_soak_finds_growth_and_its_absence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    grows = soaked(monkeypatch, lambda second: 100 + 0.01 * second + second % 3)
    assert grows.settled
    assert grows.lowest_mb_per_h <= 36.0 <= grows.highest_mb_per_h
    assert grows.lowest_mb_per_h > 18
    assert grows.threads == (7, 7)
    assert grows.descriptors[1] == 9 + 599, "nothing that comes after the load counts"
    assert grows.samples[-1][0] > 600
    still = soaked(monkeypatch, lambda second: 100 + second % 3)
    assert still.lowest_mb_per_h <= 0 <= still.highest_mb_per_h


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["single", "--fake", "1"], "--fake takes 2 numbers"),
        (["single", "--fake", "1,1", "--plots"], "add --out"),
        (["overload", "--loads", "a,b", "--fake", "1,1", "--pin", "0"], "--loads takes numbers"),
        (["single", "--pin", "99"], "the server can have"),
        (["soak", "--plant-leak", "5"], "needs --fake"),
    ],
)
def test_wrong_wishes_are_named(options: list[str], reason: str) -> None:
    ended = CliRunner().invoke(app, ["bench", *options])
    assert ended.exit_code == 1
    assert reason in ended.output


def test_the_server_never_takes_every_core() -> None:
    with pytest.raises(ConfigError, match="pin 0"):
        split_cores(10_000)


def test_a_server_that_runs_elsewhere_leaves_the_load_the_only_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert split_cores(1, server_is_elsewhere=True) == Cores(None, (5,))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 4, 5})
    assert split_cores(1, server_is_elsewhere=True) == Cores((2,), (4, 5)), "it may be the one on the first"
    with pytest.raises(ConfigError, match="1 to 2 of them, not -1"):
        split_cores(-1, server_is_elsewhere=True)


def test_the_load_beside_a_server_that_runs_already_may_have_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Cores]()

    def stop(wish: TargetWish, cores: Cores) -> NoReturn:
        asked.append(cores)
        raise ConfigError("so far")

    monkeypatch.setattr("foveate.tools.bench.target.opened_target", stop)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    ended = CliRunner().invoke(app, ["bench", "single", "--server", "127.0.0.1:1"])
    assert "so far" in ended.output
    assert asked == [Cores(None, (3,))]
    assert "the server can have" in CliRunner().invoke(app, ["bench", "single"]).output
