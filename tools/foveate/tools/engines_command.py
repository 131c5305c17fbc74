"""`foveate engines`: which engines are built on this machine, what they are, and which can go."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from foveate.engines.engine_profile import EngineProfile
from foveate.engines.engine_store import BuiltEngine, EngineStore
from foveate.engines.errors import ConfigError
from foveate.engines.machine import Machine, this_machine
from foveate.tools.console import failing_softly
from foveate.tools.quantities import age_text, bytes_text, latency_text

__all__ = ["app", "engine_facts"]

app = typer.Typer(help="Built engines: list, show, prune.", no_args_is_help=True)

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the engine store. Default: foveate/engines in the user's cache."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_WIDE = 110
"""Columns of a console from which on the list tells which backend and how accurate, not only whether proven."""
_KEY_DIGITS, _WIDE_KEY_DIGITS = 6, 12


@app.command("list")
@failing_softly()
def list_engines(as_json: JsonOption = False, store: StoreOption = None) -> None:
    """The engines of this machine, the newest first; `foveate profile KEY` measures what is not known of one."""
    engines = EngineStore(store).engines()
    if as_json:
        print(json.dumps([_as_json(engine) for engine in engines], indent=2))
        return
    console = Console()
    console.print(_table(engines, datetime.now(UTC), console.width))


@app.command()
@failing_softly()
def show(
    key: Annotated[str, typer.Argument(help="The key of an engine, or how it begins.")],
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """What one engine is, what it was built from, and what it needs."""
    engine = EngineStore(store).resolve(key)
    if as_json:
        print(json.dumps(_as_json(engine), indent=2))
        return
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for field, value in engine_facts(engine).items():
        table.add_row(field, value)
    Console().print(table)


@app.command()
@failing_softly()
def prune(
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Also the engines of this model; may be given again.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Also engines built longer ago than that.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also every engine.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Delete damaged engines and what broken-off builds left; with options, whole engines too.

    With both --model and --older-than, those engines go that are both.
    """
    if everything and (model or older_than is not None):
        raise ConfigError("--all leaves nothing to choose: leave --model and --older-than out")
    engine_store = EngineStore(store)
    chosen = [each for each in engine_store.engines() if everything or _is_chosen(each, model, older_than)]
    gone = [{"path": str(path), "what": "damaged or left over"} for path in engine_store.clean(dry_run=dry_run)]
    for engine in chosen:
        if not dry_run:
            engine_store.remove(engine.key)
        gone.append({"path": str(engine.path.parent), "what": f"{engine.record.name} {engine.record.precision}"})
    if as_json:
        print(json.dumps(gone, indent=2))
        return
    for each in gone:
        print(f"{'would delete' if dry_run else 'deleted'} {each['path']} ({each['what']})")
    if not gone:
        print("nothing to delete")


def _is_chosen(engine: BuiltEngine, models: list[str] | None, older_than_days: float | None) -> bool:
    if not models and older_than_days is None:
        return False
    old = older_than_days is None or _age(engine, datetime.now(UTC)) > timedelta(days=older_than_days)
    return old and (not models or engine.record.name in models)


def engine_facts(engine: BuiltEngine) -> dict[str, str]:
    """What a person wants to know about an engine, field by field."""
    record, memory = engine.record, engine.record.memory
    measured = _measured_here(engine)
    facts = {
        "key": record.key,
        "model": record.name,
        "backend": f"{record.backend} {record.library_version}",
        "precision": record.precision,
        "kept float": ", ".join(record.exclude),
        "targets": _targets(engine),
        "batch": _batch(engine),
        "inputs": _tensors(record.inputs),
        "outputs": _tensors(record.outputs),
        "engine": f"{engine.path} ({bytes_text(record.engine_bytes)})",
        "weights": bytes_text(memory.weights_bytes),
        "activations": "" if memory.activation_bytes is None else f"{bytes_text(memory.activation_bytes)} in flight",
        "slot": bytes_text(memory.slot_bytes),
        "accuracy": _accuracy(engine),
        "l(1)": _first_latency(measured),
        "best rate": _best_rate(measured),
        "memory": _memory(engine, measured),
        "power": _power(measured),
        "measured": f"{measured.measured_at:%Y-%m-%d %H:%M} UTC on {measured.conditions.machine}" if measured else "",
        "source sha256": record.source_sha256,
        "built": f"{record.built_at:%Y-%m-%d %H:%M} UTC in {record.build_seconds:.1f} s",
    }
    return {field: value for field, value in facts.items() if value}


def _table(engines: Iterable[BuiltEngine], now: datetime, width: int) -> Table:
    """A row for each engine; what a narrow console has no room for is left to `show`."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for engine in engines:
        row = _row(engine, now, width >= _WIDE)
        if not table.columns:
            _add_columns(table, row)
        table.add_row(*(value or "-" for value in row.values()))
    if not table.columns:
        table.add_column("no engines: `foveate build` makes them")
    return table


def _add_columns(table: Table, names: Iterable[str]) -> None:
    for name in names:
        wraps = name in ("accuracy", "device")
        table.add_column(name, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")


def _row(engine: BuiltEngine, now: datetime, wide: bool) -> dict[str, str]:
    """The cells by the names of their columns."""
    record, measured = engine.record, _measured_here(engine)
    start = {"key": engine.key[: _WIDE_KEY_DIGITS if wide else _KEY_DIGITS], "model": record.name}
    if wide:
        start |= {"precision": record.precision, "backend": record.backend, "accuracy": _accuracy(engine)}
    else:
        start |= {"prec.": record.precision, "accuracy": _trust(engine)}
    return start | {
        "l(1)": _first_latency(measured),
        "best rate" if wide else "rate": _best_rate(measured),
        "memory": _memory(engine, measured),
        "device": _targets(engine),
        "age": age_text(_age(engine, now)),
    }


def _as_json(engine: BuiltEngine) -> dict[str, Any]:
    return {**engine.record.model_dump(mode="json"), "path": str(engine.path)}


def _targets(engine: BuiltEngine) -> str:
    return ", ".join(engine.record.compute_capabilities) or "cpu"


def _batch(engine: BuiltEngine) -> str:
    batch = engine.record.batch
    return f"{batch.min}:{batch.opt}:{batch.max}"


def _tensors(tensors: Iterable[Any]) -> str:
    return ", ".join(f"{each.name} {each.dtype}{list(each.shape)}" for each in tensors)


def _trust(engine: BuiltEngine) -> str:
    """In a word or two, whether it was compared with its model and agrees."""
    match engine.record.agrees:
        case None:
            return "not proven"
        case True:
            return "proven"
        case False:
            return "accepted" if engine.record.accepted else "below bar"


def _accuracy(engine: BuiltEngine) -> str:
    """How far it agrees with its model, in figures where there are any."""
    summary = str((engine.record.accuracy or {}).get("summary", ""))
    return "not proven" if engine.record.agrees is None else summary or _trust(engine)


def _measured_here(engine: BuiltEngine) -> EngineProfile | None:
    """What was measured last of an engine on this machine."""
    return next((each for each in engine.record.profiles if each.conditions.machine == _machine(each)), None)


def _machine(profile: EngineProfile) -> Machine:
    return this_machine(profile.conditions.device)


def _first_latency(measured: EngineProfile | None) -> str:
    return latency_text(measured.latency.latency_ns(1)) if measured else ""


def _best_rate(measured: EngineProfile | None) -> str:
    best = measured.best_rate if measured else None
    return f"{best.frames_per_s:.{1 if best.frames_per_s < 100 else 0}f}/s" if best else ""


def _power(measured: EngineProfile | None) -> str:
    best = measured.best_rate if measured else None
    if best is None or best.watts is None or best.joules_per_frame is None:
        return ""
    return f"{best.watts:.1f} W, {best.joules_per_frame:.3g} J a frame at the best rate"


def _memory(engine: BuiltEngine, measured: EngineProfile | None) -> str:
    """What it took; ``~`` before what it should take with one batch in flight, where that was not measured here."""
    if measured and measured.memory:
        return bytes_text(measured.memory.total_bytes)
    plan = engine.record.memory
    return f"~{bytes_text(plan.weights_bytes + plan.slot_bytes + (plan.activation_bytes or 0))}"


def _age(engine: BuiltEngine, now: datetime) -> timedelta:
    return now - engine.record.built_at
