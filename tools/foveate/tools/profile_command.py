"""`foveate profile`: how fast an engine is here, how much memory it takes, and how much power."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from foveate.engines.build_options import BUILD_PRECISIONS
from foveate.engines.registry import backend_names
from foveate.tools.console import failing_softly
from foveate.tools.quantities import bytes_text, latency_text

if TYPE_CHECKING:
    from foveate.engines.engine_choice import ChosenEngine, EngineWish
    from foveate.engines.engine_profile import BatchRate, EngineProfile, MemoryUse
    from foveate.engines.engine_record import MemoryPlan
    from foveate.engines.engine_store import EngineStore

__all__ = ["profile"]

_KEY = re.compile(r"[0-9a-f]{6,64}")


@failing_softly()
def profile(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|ENGINE_KEY",
            help="A catalog name, the path of a package's folder, or how the key of a built engine begins.",
        ),
    ],
    backend: Annotated[
        str, typer.Option(metavar="|".join(backend_names()), help="Of a model: what runs it.")
    ] = "onnxruntime",
    precision: Annotated[
        str, typer.Option(metavar="|".join(BUILD_PRECISIONS), help="Of a model: what it computes in.")
    ] = "fp32",
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Largest batch. Default: 8 of a model, the engine's own limit by key."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads of one run. Default: all cores.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="Time for the latencies and the rates together.")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model_store: Annotated[
        Path | None, typer.Option("--model-store", metavar="DIR", help="Folder of fetched and prepared models.")
    ] = None,
    engine_store: Annotated[
        Path | None, typer.Option("--engine-store", metavar="DIR", help="Folder of built engines and of profiles.")
    ] = None,
) -> None:
    """Measure an engine on this machine, alone, and keep the result for serving and planning.

    onnxruntime in fp32, and torch in fp32, fp16 and bf16, run a model as it is; all else needs an engine made by
    `foveate build`. Stop what else uses the device: it counts too.
    """
    # Imported here, so that `--help` answers at once.
    from foveate.engines.engine_choice import EngineWish
    from foveate.engines.engine_store import EngineStore
    from foveate.engines.memory_accounting import planned_memory
    from foveate.engines.profiling import profile_engine

    store = EngineStore(engine_store)
    wish = EngineWish(backend, precision, max_batch or EngineWish().max_batch, accept_failed=True)
    name, chosen = _chosen(target, wish, max_batch, store, model_store)
    console = Console(stderr=True)
    with closing(chosen.new_engine(name, threads)) as engine, console.status("loading") as status:
        measured = profile_engine(
            engine,
            chosen.backend,
            threads=threads,
            seconds=seconds,
            on_phase=lambda phase, done, total: status.update(f"{phase} {done}/{total}"),
        )
        plan = planned_memory(chosen, engine.info)
    if as_json:
        print(json.dumps(_facts(name, chosen, measured, plan), indent=2))
    else:
        _print(name, measured, plan)
    store.add_profile(chosen.key, measured)  # last: a store that cannot be written must not cost the figures


def _chosen(
    target: str, wish: EngineWish, max_batch: int | None, store: EngineStore, model_store: Path | None
) -> tuple[str, ChosenEngine]:
    """The name and the file of what is to be measured."""
    from foveate.engines.engine_choice import choose_engine, engine_of_key
    from foveate.models.catalog import catalog_names
    from foveate.models.package import load_package, prepare
    from foveate.models.store import ModelStore

    if _KEY.fullmatch(target) and target not in catalog_names():
        chosen = engine_of_key(target, store, max_batch, accept_failed=True)
        return chosen.record.name if chosen.record else target, chosen
    model = prepare(load_package(target), ModelStore(model_store))
    return model.manifest.name, choose_engine(model.onnx_path, target, wish, store)


def _facts(name: str, chosen: ChosenEngine, measured: EngineProfile, plan: MemoryPlan) -> dict[str, Any]:
    """The profile as it is kept, with what follows from it."""
    facts = measured.model_dump(mode="json")
    for kept, rate in zip(facts["rates"], measured.rates, strict=True):
        kept["joules_per_frame"] = rate.joules_per_frame
    best = measured.best_rate
    return {
        "model": name,
        "key": chosen.key,
        "built": chosen.record is not None,
        **facts,
        "alpha_ns": measured.latency.alpha_ns,
        "beta_ns": measured.latency.beta_ns,
        "best_frames_per_s": best and best.frames_per_s,
        "planned_memory": plan.model_dump(mode="json"),
    }


def _print(name: str, measured: EngineProfile, plan: MemoryPlan) -> None:
    where, latency, best = measured.conditions, measured.latency, measured.best_rate
    threads = "" if where.threads is None else f", {where.threads} thread{'s' if where.threads > 1 else ''}"
    lines = [
        f"\nl(b) is about {latency_text(latency.alpha_ns)} a frame + {latency_text(latency.beta_ns)} a batch",
        f"power: {measured.power}\n",
    ]
    if best:
        in_batches = f"in batches of {best.batch}, {best.in_flight} in flight"
        lines.insert(1, f"best: {best.frames_per_s:.1f} frames/s {in_batches}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{name} in {where.precision}, {where.backend} {where.library_version} on {where.device}{threads}")
    console.print(f"{where.machine}\n")
    console.print(_batch_table(measured))
    console.print(*lines, sep="\n")
    _print_memory(console, measured.memory, plan)


def _batch_table(measured: EngineProfile) -> Table:
    """What is known of each batch size; a latency that was not measured but extrapolated is marked."""
    latency, rates = measured.latency, {rate.batch: rate for rate in measured.rates}
    power = any(rate.watts is not None for rate in measured.rates)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("batch", "median", "p99", "frames/s", *(("W", "J/frame") if power else ())):
        table.add_column(column, justify="right")
    columns = (latency.buckets, latency.median_ns, latency.p99_ns, latency.measured)
    for batch, median_ns, p99_ns, was_measured in zip(*columns, strict=True):
        mark = "" if was_measured else "~"
        cells = _rate_cells(rates.get(batch))
        table.add_row(
            str(batch), mark + latency_text(median_ns), mark + latency_text(p99_ns), *cells[: 3 if power else 1]
        )
    return table


def _rate_cells(rate: BatchRate | None) -> tuple[str, str, str]:
    if rate is None:
        return "-", "-", "-"
    if rate.watts is None or rate.joules_per_frame is None:
        return f"{rate.frames_per_s:.1f}", "-", "-"
    return f"{rate.frames_per_s:.1f}", f"{rate.watts:.1f}", f"{rate.joules_per_frame:.3g}"


def _print_memory(console: Console, memory: MemoryUse | None, plan: MemoryPlan) -> None:
    """What was planned beside what was taken, which counts more; so both are explained."""
    batch = plan.slot_bytes + (plan.activation_bytes or 0)
    taken = (memory.load_bytes, memory.first_slot_bytes, memory.next_slot_bytes) if memory else (None, None, None)
    names = ("loaded", "first batch in flight", "each further one")
    table = Table("memory", box=None, padding=(0, 2, 0, 0))
    for column in ("planned", "taken"):
        table.add_column(column, justify="right")
    for step, planned, took in zip(names, (plan.weights_bytes, batch, batch), taken, strict=True):
        if memory and took is None:
            continue  # only one batch runs at a time
        table.add_row(step, bytes_text(planned), "-" if took is None else bytes_text(took))
    console.print(table)
    scratch = "tensors" if plan.activation_bytes is None else "tensors and scratch"
    meter = f"{memory.meter}, with all that the library keeps" if memory else "no meter reads this device here"
    console.print(f"planned: weights, then {scratch} of the largest batch; taken: {meter}")
