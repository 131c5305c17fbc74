"""`foveate bench`: how much of an engine's rate reaches clients within their budgets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foveate.engines.errors import ConfigError
from foveate.tools.console import failing_softly
from foveate.tools.written_output import writing

if TYPE_CHECKING:
    from foveate.tools.bench.scenarios import Measured, Target

__all__ = ["app"]

_BUDGET_ENGINE_TIMES = 4.0
_DEFAULT_LOADS = "0.3,0.6,0.9,1.0,1.2,1.5,2,3"

app = typer.Typer(
    help="Measure a service under open-loop load, beside the raw rate of its engine in the same run.",
    no_args_is_help=True,
)

Pipeline = Annotated[str, typer.Option(metavar="NAME", help="What is asked for. Default: the default pipeline.")]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings of the server, as for `foveate serve`.")]
Fake = Annotated[
    str,
    typer.Option(
        metavar="ALPHA,BETA",
        help="Measure the service alone: an engine that waits ALPHA ms per frame and BETA ms per batch, raw frames "
        "of 100 KB that need no decoding.",
    ),
]
Server = Annotated[str, typer.Option(metavar="HOST:PORT", help="A server that runs already. Default: one is started.")]
Source = Annotated[str, typer.Option(metavar="SOURCE", help="Video or pictures to send. Default: the demo's video.")]
Seconds = Annotated[float, typer.Option(min=1.0, help="How long each load lasts.")]
Streams = Annotated[int, typer.Option(min=1, help="Streams open at once.")]
Budget = Annotated[
    str,
    typer.Option(metavar="MS[,MS...]", help="Budgets, dealt out in turn. Default: four runs of the best batch."),
]
Pin = Annotated[
    int,
    typer.Option(
        metavar="CORES",
        help="Cores for the server, the others for the load; 0: both run anywhere. Beside --server, the load has all "
        "where there are no others.",
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write result.json there, and plots with --plots.")]
Plots = Annotated[bool, typer.Option("--plots", help="Draw PNGs into --out; needs matplotlib.")]
Seed = Annotated[int, typer.Option(help="Of the arrivals.")]
Declare = Annotated[
    bool,
    typer.Option(
        "--declare/--no-declare",
        help="Whether streams say their frame rate: as many as fit are guaranteed it, and the others share the rest.",
    ),
]


@dataclass(frozen=True, slots=True)
class _Wish:
    """The options that all scenarios share."""

    pipeline: str
    config: Path | None
    fake: str
    server: str
    source: str
    budget: str
    server_cores: int
    out: Path | None
    plots: bool


@app.command()
@failing_softly()
def single(
    load: Annotated[float, typer.Option(min=0.01, help="Of the engine's rate, one frame a batch.")] = 0.5,
    seconds: Seconds = 20.0,
    budget_ms: Budget = "",
    pipeline: Pipeline = "",
    config: Config = None,
    fake: Fake = "",
    server: Server = "",
    source: Source = "",
    pin: Pin = 1,
    out: Out = None,
    plots: Plots = False,
    seed: Seed = 0,
) -> None:
    """One stream, evenly paced."""
    wish = _Wish(pipeline, config, fake, server, source, budget_ms, pin, out, plots)
    crowd = {"streams": 1, "seconds": seconds, "camera_like": False, "seed": seed}
    _run_loads("single", wish, [load], crowd, of_single=True)


@app.command()
@failing_softly()
def cameras(
    streams: Streams = 16,
    load: Annotated[float, typer.Option(min=0.01, help="Offered by the declared rates, of the raw rate.")] = 0.8,
    abusers: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of streams that send four times that.")] = 0.0,
    top_class: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of streams in the first class.")] = 0.0,
    weights: Annotated[str, typer.Option(metavar="W[,W...]", help="Weights, dealt out in turn.")] = "1",
    seconds: Seconds = 20.0,
    budget_ms: Budget = "",
    pipeline: Pipeline = "",
    config: Config = None,
    fake: Fake = "",
    server: Server = "",
    source: Source = "",
    pin: Pin = 1,
    out: Out = None,
    plots: Plots = False,
    seed: Seed = 0,
    declare: Declare = True,
) -> None:
    """Many cameras that jitter, stall and burst, of several budgets, classes and manners."""
    wish = _Wish(pipeline, config, fake, server, source, budget_ms, pin, out, plots)
    crowd = {
        "streams": streams,
        "seconds": seconds,
        "abusers": abusers,
        "top_class": top_class,
        "weights": _numbers(weights, "--weights"),
        "declares": declare,
        "seed": seed,
    }
    _run_loads("cameras", wish, [load], crowd)


@app.command()
@failing_softly()
def overload(
    loads: Annotated[
        str, typer.Option(metavar="X[,X...]", help="Offered loads, of the engine's raw rate.")
    ] = _DEFAULT_LOADS,
    streams: Streams = 16,
    seconds: Seconds = 10.0,
    budget_ms: Budget = "",
    pipeline: Pipeline = "",
    config: Config = None,
    fake: Fake = "",
    server: Server = "",
    source: Source = "",
    pin: Pin = 1,
    out: Out = None,
    plots: Plots = False,
    seed: Seed = 0,
    declare: Declare = True,
) -> None:
    """A sweep from idle to three times what the engine can do."""
    wish = _Wish(pipeline, config, fake, server, source, budget_ms, pin, out, plots)
    crowd = {"streams": streams, "seconds": seconds, "declares": declare, "seed": seed}
    _run_loads("overload", wish, list(_numbers(loads, "--loads")), crowd)


@app.command("max-streams")
@failing_softly()
def max_streams(
    fps: Annotated[float, typer.Option(min=0.01, help="Of each stream.")] = 10.0,
    share: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of all frames, to be on time.")] = 0.99,
    longest_s: Annotated[float, typer.Option(min=1.0, help="Of one try, where chance leaves it open.")] = 60.0,
    seconds: Seconds = 5.0,
    budget_ms: Budget = "",
    pipeline: Pipeline = "",
    config: Config = None,
    fake: Fake = "",
    server: Server = "",
    source: Source = "",
    pin: Pin = 1,
    out: Out = None,
    plots: Plots = False,
    seed: Seed = 0,
) -> None:
    """The most streams of one frame rate that are kept on time, proven by early stopping."""
    from foveate.tools.bench.scenarios import Cameras, most_streams
    from foveate.tools.bench.tables import loads_table

    wish = _Wish(pipeline, config, fake, server, source, budget_ms, pin, out, plots)
    tries: list[Measured] = []
    with _opened("max-streams", wish) as (target, report):

        def on_try(measured: Measured, passed: bool) -> None:
            tries.append(measured)
            made = measured.figures
            print(f"{made.streams} streams: {made.on_time_share:.2%} on time, {'passed' if passed else 'failed'}")

        crowd = Cameras(1, 0.0, _budgets(wish, target), seconds, seed=seed)
        search = most_streams(target, fps, crowd, share=share, longest_s=longest_s, on_try=on_try)
        found = asyncio.run(search)
        Console().print(loads_table(tries))
        print(f"most streams at {fps:g} frames/s with {share:.1%} on time: {found}")
        report |= {"most_streams": found, "fps": fps, "share": share, "tries": [each.to_json() for each in tries]}


@app.command()
@failing_softly()
def soak(
    load: Annotated[float, typer.Option(min=0.01, help="Of the engine's raw rate.")] = 0.7,
    streams: Streams = 16,
    seconds: Annotated[
        float,
        typer.Option(min=30.0, help="How long it lasts. The longer, the smaller the growth it can tell."),
    ] = 3600.0,
    plant_leak: Annotated[
        int, typer.Option(metavar="BYTES", help="Let the fake engine keep so many bytes per batch: must be found.")
    ] = 0,
    budget_ms: Budget = "",
    pipeline: Pipeline = "",
    config: Config = None,
    fake: Fake = "",
    source: Source = "",
    pin: Pin = 1,
    out: Out = None,
    plots: Plots = False,
    seed: Seed = 0,
) -> None:
    """A long load, and whether the server's memory, threads or descriptors grow under it."""
    from foveate.tools.bench.scenarios import Cameras
    from foveate.tools.bench.scenarios import soak as run_soak
    from foveate.tools.bench.tables import loads_table, soak_table

    wish = _Wish(pipeline, config, fake, "", source, budget_ms, pin, out, plots)
    with _opened("soak", wish, plant_leak) as (target, report):
        result = asyncio.run(run_soak(target, Cameras(streams, load, _budgets(wish, target), seconds, seed=seed)))
        console = Console()
        console.print(loads_table([result.measured]))
        console.print(soak_table(result))
        report |= result.to_json()
        if plots and out:
            from foveate.tools.bench.plots import plot_soak

            plot_soak(result, out / "memory.png")


def _run_loads(
    scenario: str, wish: _Wish, loads: Sequence[float], crowd: dict[str, Any], *, of_single: bool = False
) -> None:
    """Offer one load after the other to one server, and tell.

    `of_single`: the loads are of what the engine does frame by frame, as one stream of newest frames fills no batch.
    """
    from foveate.tools.bench.scenarios import Cameras, measure
    from foveate.tools.bench.tables import groups_line, loads_table, verdict_line

    with _opened(scenario, wish) as (target, report):
        budgets = _budgets(wish, target)
        if of_single:
            loads = [load * target.raw.single_fps / target.raw.fps for load in loads]
        measured = [asyncio.run(measure(target, Cameras(load=load, budget_ms=budgets, **crowd))) for load in loads]
        Console().print(loads_table(measured))
        print(verdict_line(measured))
        if groups := groups_line(measured[-1]):
            print(groups)
        report["loads"] = [each.to_json() for each in measured]
        if wish.plots and wish.out:
            _plot(measured, wish.out)


def _plot(measured: Sequence[Measured], folder: Path) -> None:
    from foveate.tools.bench.plots import plot_fairness, plot_latency, plot_overload

    plot_latency(measured[-1], folder / "latency.png")
    if len(measured) > 1:
        plot_overload(measured, folder / "overload.png")
    if measured[-1].figures.streams > 1:
        plot_fairness(measured[-1], folder / "streams.png")


@contextmanager
def _opened(scenario: str, wish: _Wish, leak_bytes: int = 0) -> Iterator[tuple[Target, dict[str, Any]]]:
    """The target to measure, and the report to fill in, which is written in the end."""
    from foveate.tools.bench.cores import Cores, split_cores
    from foveate.tools.bench.fake_service import FakeSpec
    from foveate.tools.bench.tables import raw_line
    from foveate.tools.bench.target import TargetWish, opened_target
    from foveate.tools.provenance import provenance

    fake = None
    if wish.fake:
        alpha_ms, beta_ms = _numbers(wish.fake, "--fake", count=2)
        fake = FakeSpec(alpha_ms, beta_ms, leak_bytes=leak_bytes)
    elif leak_bytes:
        raise ConfigError("--plant-leak needs --fake: only the fake engine leaks on purpose")
    if wish.plots and wish.out is None:
        raise ConfigError("--plots needs a folder to draw into: add --out FOLDER")
    if wish.out is not None:
        with writing(wish.out):
            wish.out.mkdir(parents=True, exist_ok=True)
    elsewhere = bool(wish.server)
    cores = split_cores(wish.server_cores, server_is_elsewhere=elsewhere) if wish.server_cores else Cores(None, None)
    asked = TargetWish(fake, wish.pipeline, wish.config, wish.server, wish.source)
    report: dict[str, Any] = provenance() | {"scenario": scenario}
    with opened_target(asked, cores) as target:
        print(raw_line(target.raw))
        report |= {"engine_alone": target.raw.to_json(), "cores": {"server": cores.server, "load": cores.load}}
        yield target, report
        again = target.measure_raw()
        print(f"engine alone, after the load: {again.fps:.1f} frames/s ({again.fps / target.raw.fps:.3f} of before)")
        report["engine_alone_after"] = again.to_json()
    if wish.out is not None:
        with writing(wish.out / "result.json"):
            (wish.out / "result.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"written: {wish.out / 'result.json'}")


def _budgets(wish: _Wish, target: Target) -> tuple[float, ...]:
    return _numbers(wish.budget, "--budget-ms") if wish.budget else (_BUDGET_ENGINE_TIMES * target.raw.engine_ms,)


def _numbers(text: str, option: str, count: int | None = None) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or (count is not None and len(numbers) != count):
        wanted = "numbers" if count is None else f"{count} numbers"
        raise ConfigError(f"{option} takes {wanted} of 0 or more with commas between them, not {text!r}")
    return numbers
