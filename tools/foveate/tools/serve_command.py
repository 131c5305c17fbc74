"""`foveate serve`: run the service."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.tools.console import failing_softly

if TYPE_CHECKING:
    from foveate.service.config import ServiceConfig
    from foveate.service.pipeline import PipelineSet

__all__ = ["serve"]


@failing_softly()
def serve(
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.", show_default="127.0.0.1:50051"
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST]:PORT",
            help="Show the streams live in a browser, and serve /metrics, /healthz and /readyz. "
            ":8080 is open to the network; 127.0.0.1:8080 is not.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings as TOML; --print-config shows them all.")
    ] = None,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Serve only this pipeline; may be given again. The first is the default."),
    ] = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of fetched and prepared models.")] = None,
    engine_store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of built engines and of profiles.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write where single frames spent their time, for Perfetto.")
    ] = None,
    trace_sample: Annotated[
        int | None, typer.Option(metavar="N", help="Trace one answer in N.", show_default="100")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings in force, with what they mean, and exit.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what happens, not only what goes wrong.")
    ] = False,
) -> None:
    """Serve the pipelines over gRPC until SIGTERM or Ctrl-C, then drain.

    Settings come from the command line, then the environment (FOVEATE_LISTEN, FOVEATE_LIMITS__MAX_STREAMS, ...),
    then the file. One line with the address is printed when the port is open.
    """
    from foveate.service.config import load_config, only_pipelines
    from foveate.service.config_text import config_text

    settings = load_config(
        config,
        listen=listen,
        http=http,
        model_store=store,
        trace=trace,
        trace_sample=trace_sample,
        engine_store=engine_store,
    )
    if pipeline:
        settings = only_pipelines(settings, pipeline)
    if print_config:
        typer.echo(config_text(settings), nl=False)
        return
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _run(settings)


def _run(settings: ServiceConfig) -> None:
    from foveate.service.serve import serve as serve_until_signal

    def ready(address: str, pipelines: PipelineSet) -> None:
        names = ", ".join(pipeline.name for pipeline in pipelines.ready)
        # Whoever waits for this line reads it through a pipe, so it must not stay in a buffer.
        typer.echo(f"foveate is ready on {address} (pipelines: {names})")

    def page(url: str) -> None:
        is_open = settings.http.rpartition(":")[0] in ("", "0.0.0.0", "[::]")
        typer.echo(f"live view: {url}{' (open to the network, without a password)' if is_open else ''}")

    asyncio.run(serve_until_signal(settings, ready, on_page=page))
