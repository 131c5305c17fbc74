"""The command line `foveate`. Commands are imported when they run, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from foveate.tools.bench_command import app as bench_app
from foveate.tools.build_command import build
from foveate.tools.demo_command import demo
from foveate.tools.engines_command import app as engines_app
from foveate.tools.models_command import app as models_app
from foveate.tools.monitoring_command import monitoring
from foveate.tools.native_thread import any_native_thread
from foveate.tools.profile_command import profile
from foveate.tools.serve_command import serve
from foveate.tools.simulate_command import simulate
from foveate.tools.stream_command import stream
from foveate.tools.verify_command import verify
from foveate.tools.watch_command import watch

__all__ = ["app", "main"]

app = typer.Typer(
    name="foveate",
    help="Real-time vision inference: every frame carries a latency budget and gets exactly one answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"foveate {version('foveate')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(serve)
app.command()(stream)
app.command()(watch)
app.command()(demo)
app.command()(build)
app.command()(verify)
app.command()(monitoring)
app.command()(simulate)
app.command()(profile)
app.add_typer(bench_app, name="bench")
app.add_typer(models_app, name="models")
app.add_typer(engines_app, name="engines")


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback."""
    code: str | int | None = None
    try:
        app()
    except KeyboardInterrupt:
        code = 130
    except SystemExit as ending:
        code = ending.code
    if any_native_thread():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


if __name__ == "__main__":
    main()
