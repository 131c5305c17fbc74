"""`foveate monitoring`: what Prometheus and Grafana need to watch a service."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from foveate.engines.errors import ConfigError
from foveate.tools.console import failing_softly
from foveate.tools.written_output import writing

__all__ = ["FILES", "monitoring"]

FILES = ("prometheus.yml", "alert_rules.yml", "grafana_dashboard.json")
_DEFAULT_TARGET = "localhost:8080"


@failing_softly()
def monitoring(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the files; made if it is not there.")],
    target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the service's metrics are: what `serve --http` was given.")
    ] = _DEFAULT_TARGET,
) -> None:
    """Write a Prometheus configuration, alert rules and a Grafana dashboard for a service.

    Start `prometheus --config.file=DIR/prometheus.yml`, and import DIR/grafana_dashboard.json in Grafana under
    Dashboards, New, Import. The files are yours to change: one that is there already is not overwritten.
    """
    if not re.fullmatch(r"[\w.\-\[\]:]+:\d+", target):
        raise ConfigError(f"--target {target!r}: expected HOST:PORT, as in {_DEFAULT_TARGET}")
    for name in FILES:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} is there already: move it away, or name another folder")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            text = (files("foveate.tools") / "monitoring" / name).read_text(encoding="utf-8")
            (folder / name).write_text(text.replace(f"'{_DEFAULT_TARGET}'", f"'{target}'"), encoding="utf-8")
            typer.echo(folder / name)
