"""`foveate simulate`: what scheduling policies make of an overloaded engine, in a table."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

__all__ = ["simulate"]


def simulate(
    load: Annotated[float, typer.Option(min=0.01, help="What the streams declare, over what the engine can do.")] = 1.5,
    streams: Annotated[int, typer.Option(min=1, help="Cameras.")] = 336,
    abusive: Annotated[int, typer.Option(min=0, help="Cameras that send more than they declare.")] = 20,
    excess: Annotated[float, typer.Option(min=1.0, help="How many times their rate those send.")] = 4.0,
    per_batch_ms: Annotated[float, typer.Option(min=0.0, help="What each run of the engine takes at least.")] = 1.5,
    per_frame_ms: Annotated[float, typer.Option(min=0.001, help="What each frame of a batch adds.")] = 0.25,
    seconds: Annotated[float, typer.Option(min=0.1, help="Simulated time, after one second to settle.")] = 10.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same frames.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare scheduling policies on a simulated, overloaded engine.

    Budgets of 60, 100, 150 and 200 ms take turns. The cameras jitter, stall and catch up as real ones do.
    """
    if abusive >= streams:
        raise typer.BadParameter(f"at least one of the {streams} streams must be well-behaved", param_hint="--abusive")
    rows = _rows(
        load=load,
        streams=streams,
        abusive=abusive,
        excess=excess,
        per_batch_ms=per_batch_ms,
        per_frame_ms=per_frame_ms,
        seconds=seconds,
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print_table(rows)


def _rows(load: float, **options: Any) -> list[dict[str, Any]]:
    from foveate.tools.simulation import POLICIES, jain, overloaded

    scenario = overloaded(load, **options)
    fair_fps = min(scenario.capacity_fps / len(scenario.cameras), min(camera.fps for camera in scenario.cameras))
    rows = []
    for name, policy in POLICIES.items():
        outcome = scenario.run(policy)
        honest = outcome.fps(lambda camera: camera.excess == 1.0)
        rows.append(
            {
                "policy": name,
                "on_time_of_capacity": round(outcome.goodput_fps / scenario.capacity_fps, 4),
                "late_of_answered": round(outcome.late_share, 4),
                "jain": round(jain(honest), 4),
                "worst_of_fair_share": round(min(honest) / fair_fps, 4),
            }
        )
    return rows


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("policy", no_wrap=True)
    for title in ("on time, of capacity", "late, of answered", "Jain index", "worst, of fair share"):
        table.add_column(title, justify="right")
    for row in rows:
        policy, on_time, late, jain, worst = row.values()
        table.add_row(policy, f"{on_time:.1%}", f"{late:.2%}", f"{jain:.3f}", f"{worst:.2f}")
    console = Console()
    console.print(table)
    console.print("Jain index and worst stream are those of the streams that send what they declare.")
