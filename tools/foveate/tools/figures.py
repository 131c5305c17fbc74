"""Figures of a comparison, for people and for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from foveate.engines.layer_errors import Bisection
from foveate.models.accuracy import Accuracy
from foveate.models.agreement import THRESHOLDS
from foveate.tools.written_output import STANDARD_OUTPUT, writing

__all__ = ["accuracy_table", "agreement_table", "bisection_table", "bisection_verdict", "write_json"]


def agreement_table(figures: Mapping[str, float], precision: str) -> Table:
    """Each figure beside the least that the precision must reach."""
    least = THRESHOLDS[precision]
    table = Table("figure", "value", f"least for {precision}", box=None, padding=(0, 2, 0, 0))
    for name, value in figures.items():
        shown = f"{value:.4f}"
        if name in least and not value >= least[name]:
            shown = f"[bold red]{shown}[/]"
        table.add_row(name.replace("_", " "), shown, f"{least[name]:g}" if name in least else "-")
    return table


def accuracy_table(reference: Accuracy, tested: Accuracy, name: str) -> Table:
    """Each figure of both on labelled pictures, and what is lost."""
    table = Table("figure", "fp32", name, "change", box=None, padding=(0, 2, 0, 0))
    for figure, value in reference.figures.items():
        other = tested.figures.get(figure)
        cells = ("-", "-") if other is None else (f"{other:.4f}", f"{other - value:+.4f}")
        table.add_row(figure.replace("_", " "), f"{value:.4f}", *cells)
    return table


def bisection_table(bisection: Bisection) -> Table:
    """Every layer in the order in which they run."""
    columns = ("layer", "operator", "error", "own error", "cosine")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    suspects = {each.layer.tensor for each in bisection.suspects}
    for each in bisection.layers:
        style = "bold red" if each.layer.tensor in suspects else ""
        shown = (f"{each.error:.5f}", f"{each.own_error:.5f}", f"{each.cosine:.6f}")
        table.add_row(escape(each.layer.node), each.layer.op_type, *shown, style=style)
    return table


def bisection_verdict(bisection: Bisection) -> str:
    """The layer that breaks the graph and the proof of it, or that there is no such layer."""
    culprit = bisection.culprit
    at_outputs = f"the outputs are off by {bisection.error:.5f}"
    if culprit is None:
        worst = sorted(bisection.layers, key=lambda each: -each.own_error)[:3]
        named = ", ".join(f"{each.layer.node} ({each.own_error:.5f})" for each in worst)
        return f"no single layer breaks it: {at_outputs}; the layers that add most are {named}"
    kept = f" and {len(culprit.kept_with)} with values beyond the precision" if culprit.kept_with else ""
    return (
        f"{culprit.layer.node} breaks it: its own error is {culprit.own_error:.5f}; {at_outputs}, by "
        f"{culprit.alone:.5f} with that layer alone converted, by {culprit.without:.5f} with that layer{kept} in fp32"
    )


def _sayable(value: Any) -> Any:
    """With words for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _sayable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as JSON into a file, or on standard output for ``-``. Raises: ConfigError if that fails."""
    text = json.dumps(_sayable(facts), indent=2, allow_nan=False) + "\n"
    with writing(path):
        if path == STANDARD_OUTPUT:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            path.write_text(text, encoding="utf-8")
