"""`foveate demo`: find the faces in a real video and write a page about it, with nothing to set up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.engines.errors import ConfigError
from foveate.tools.console import failing_softly

__all__ = ["demo"]


@failing_softly()
def demo(
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")] = Path("demo-output"),
    video: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A video of your own.", show_default="a talking face, fetched")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, metavar="N", help="How long; the video repeats.", show_default="once")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings of the server, as `foveate serve` takes them; its first pipeline answers.",
            show_default="faces",
        ),
    ] = None,
    cascade: Annotated[
        bool,
        typer.Option(
            "--cascade",
            help="Find objects instead, and have a classifier say of each what it is in detail: YOLOX-Nano and "
            "EfficientNet-Lite0.",
        ),
    ] = False,
) -> None:
    """Stream a real video to a server of its own, find the faces in it, and show how long each frame took.

    Writes annotated.webm, report.html and results.jsonl.
    """
    from foveate.tools.demo_session import CASCADE_SETTINGS, run_demo

    if cascade and config is not None:
        raise ConfigError(f"--cascade brings settings of its own: leave it out to use those of {config}")
    page = run_demo(output_dir, video, seconds, CASCADE_SETTINGS if cascade else config)
    typer.echo(f"\nreport: {page}")
