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

from foveate.engines.engine_store import BuiltEngine, EngineStore
from foveate.engines.errors import ConfigError
from foveate.engines.profile import LatencyProfile
from foveate.tools.console import failing_softly

__all__ = ["app", "engine_facts"]

app = typer.Typer(help="Built engines: list, show, prune.", no_args_is_help=True)

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the engine store. Default: foveate/engines in the user's cache."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_SHOWN_DIGITS = 12


@app.command("list")
@failing_softly()
def list_engines(as_json: JsonOption = False, store: StoreOption = None) -> None:
    """The engines of this machine, the newest first."""
    engines = EngineStore(store).engines()
    if as_json:
        print(json.dumps([_as_json(engine) for engine in engines], indent=2))
        return
    columns = ("key", "model", "precision", "backend", "targets", "batch", "size", "accuracy", "l(1)", "age")
    table = Table(*columns, box=None, padding=(0, 1, 0, 0))
    now = datetime.now(UTC)
    for engine in engines:
        table.add_row(*_row(engine, now))
    Console().print(table)


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
        "engine": f"{engine.path} ({_size(record.engine_bytes)})",
        "weights": _size(memory.weights_bytes),
        "activations": "" if memory.activation_bytes is None else f"{_size(memory.activation_bytes)} in flight",
        "slot": _size(memory.slot_bytes),
        "accuracy": _accuracy(engine),
        "l(1)": _first_latency(engine),
        "source sha256": record.source_sha256,
        "built": f"{record.built_at:%Y-%m-%d %H:%M} UTC in {record.build_seconds:.1f} s",
    }
    return {field: value for field, value in facts.items() if value}


def _row(engine: BuiltEngine, now: datetime) -> tuple[str, ...]:
    record = engine.record
    return (
        engine.key[:_SHOWN_DIGITS],
        record.name,
        record.precision,
        record.backend,
        _targets(engine),
        _batch(engine),
        _size(record.engine_bytes),
        _accuracy(engine) or "-",
        _first_latency(engine) or "-",
        _shown_age(_age(engine, now)),
    )


def _as_json(engine: BuiltEngine) -> dict[str, Any]:
    return {**engine.record.model_dump(mode="json"), "path": str(engine.path)}


def _targets(engine: BuiltEngine) -> str:
    return ", ".join(engine.record.compute_capabilities) or "cpu"


def _batch(engine: BuiltEngine) -> str:
    batch = engine.record.batch
    return f"{batch.min}:{batch.opt}:{batch.max}"


def _tensors(tensors: Iterable[Any]) -> str:
    return ", ".join(f"{each.name} {each.dtype}{list(each.shape)}" for each in tensors)


def _accuracy(engine: BuiltEngine) -> str:
    accuracy = engine.record.accuracy
    return "" if accuracy is None else str(accuracy.get("summary", "measured"))


def _first_latency(engine: BuiltEngine) -> str:
    if engine.record.profile is None:
        return ""
    return f"{LatencyProfile.from_json(engine.record.profile).latency_ns(1) / 1e6:.2f} ms"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _age(engine: BuiltEngine, now: datetime) -> timedelta:
    return now - engine.record.built_at


def _shown_age(age: timedelta) -> str:
    seconds = age.total_seconds()
    steps = ((86400, "d"), (3600, "h"), (60, "min"))
    return next((f"{seconds // size:.0f} {unit}" for size, unit in steps if seconds >= size), "now")
