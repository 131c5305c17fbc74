"""`foveate watch`: connect cameras and see what the models see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.tools.console import failing_softly

__all__ = ["watch"]


@failing_softly()
def watch(
    urls: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CAMERA...",
            help="rtsp:// and http:// URLs, videos, pictures, folders of pictures, /dev/video0 or 0.",
            show_default=False,
        ),
    ] = None,
    cameras: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Cameras as TOML, a `camera` table for each; passwords are safer there."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The server.", show_default="one of its own")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings of a server of its own, as `foveate serve` takes them."),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where a server of its own shows the live pictures.", show_default="no"),
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which pipeline answers.", show_default="the server's first")
    ] = None,
    budget_ms: Annotated[
        int | None, typer.Option(metavar="MS", help="Capture to answer.", show_default="the server's")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Most pictures per second to send.", show_default="as the server advises")
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="Send this region: shares of the picture up to 1, or pixels."),
    ] = None,
    rotate: Annotated[int | None, typer.Option(metavar="DEGREES", help="Turn pictures by 90, 180 or 270.")] = None,
    motion: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Send only what differs in this share of the picture, such as 0.002."),
    ] = None,
    transport: Annotated[
        Literal["tcp", "udp"] | None, typer.Option(help="How RTSP brings its packets.", show_default="tcp")
    ] = None,
    passthrough: Annotated[
        bool, typer.Option("--passthrough", help="Send the camera's own H.264 or H.265 without decoding it here.")
    ] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Start files and folders again when they end.")] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append one JSON line per picture; - is standard output.")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="POST what was detected; settings may follow: 'URL when=ok'.")
    ] = None,
    mqtt: Annotated[
        str | None, typer.Option(metavar="URL", help="Publish results, as in mqtt://HOST/cameras/{camera}.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write annotated videos, a folder for each camera.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write how the cameras are doing as JSON, every two seconds.")
    ] = None,
) -> None:
    """Feed cameras to a server until they end, or Ctrl-C does: each on its own, reconnected for as long as it takes.

    What is said here holds for all cameras of the command line; in a file each camera says it for itself, and
    its `output` tables say where results go. Without --server, a server is started for as long as they are watched.
    """
    from foveate.engines.errors import ConfigError
    from foveate.tools.outputs import spec_from_text
    from foveate.tools.outputs.specs import JsonLinesSpec, VideoSpec
    from foveate.tools.watch.address import Redaction
    from foveate.tools.watch.secrecy import secrets_kept
    from foveate.tools.watch.settings import cameras_from_urls, load_cameras
    from foveate.tools.watch.watching import watch_cameras

    common = {
        "pipeline": pipeline,
        "budget_ms": budget_ms,
        "fps": fps,
        "roi": None if roi is None else _numbers(roi),
        "rotate": rotate,
        "motion": None if motion is None else {"threshold": motion},
        "transport": transport,
        "passthrough": passthrough or None,
        "loop": loop or None,
    }
    addresses = [*(urls or ()), *(text for text in (webhook, mqtt) if text)]
    with secrets_kept(Redaction(addresses)):
        if bool(urls) == bool(cameras):
            raise ConfigError("name cameras by their URLs, or a file by --cameras: one of the two")
        if cameras and (said := [name for name, value in common.items() if value is not None]):
            raise ConfigError(f"with --cameras, say {', '.join(said)} of each camera in {cameras}")
        wanted, tables = load_cameras(cameras) if cameras else (cameras_from_urls(urls or (), **common), ())
        outputs = [*tables, *(spec_from_text(text) for text in (webhook, mqtt) if text)]
        outputs += [JsonLinesSpec(path=json)] if json else []
        outputs += [VideoSpec(folder=output_dir)] if output_dir else []
    addresses += [camera.url.get_secret_value() for camera in wanted]
    with secrets_kept(Redaction(addresses)):
        watch_cameras(wanted, server=server, config=config, http=http, outputs=outputs, state_file=state)


def _numbers(text: str) -> list[float | str]:
    """The parts of X,Y,W,H; what is no number is left for the settings to refuse."""
    return [float(part) if part.strip().replace(".", "", 1).isdecimal() else part for part in text.split(",")]
