"""`foveate stream`: send a video, pictures or a camera to a server and show what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.tools.console import failing_softly

__all__ = ["stream"]


@failing_softly()
def stream(
    source: Annotated[str, typer.Argument(help="A video, a picture, a folder of pictures, or a camera's index.")],
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The server.", show_default="one of its own")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings of a server of its own, as `foveate serve` takes them."),
    ] = None,
    pipeline: Annotated[
        str, typer.Option(metavar="NAME", help="Which pipeline answers.", show_default="the server's first")
    ] = "",
    budget_ms: Annotated[
        int | None,
        typer.Option(min=1, metavar="MS", help="Capture to answer.", show_default="the server's; pictures: 10000"),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.01, help="Frames per second to send.", show_default="the source's own")
    ] = None,
    delivery: Annotated[
        Literal["latest", "queue"] | None,
        typer.Option(
            help="latest: a newer frame replaces the one that waits; queue: every frame waits its turn.",
            show_default="latest; pictures: queue",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Leave out what scores less.", show_default="the model's"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="VIDEO", help="Write an annotated .mp4, .webm or .avi.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one JSON line per frame; - is standard output.")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start the source again when it ends.")] = False,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality of what is sent.")] = 90,
) -> None:
    """Stream a source to a server, show what becomes of its frames, and sum up.

    Videos are sent at their own frame rate, as a camera would send them; pictures one after the other. Without
    --server, one is started for as long as the stream lasts.
    """
    from contextlib import ExitStack

    from foveate.client import Delivery
    from foveate.tools.stream_session import Sink, json_lines, run_session, video_file
    from foveate.tools.streaming import StreamPlan
    from foveate.tools.video_source import open_source
    from foveate.tools.written_output import STANDARD_OUTPUT

    opened = open_source(source)
    plan = StreamPlan(
        pipeline=pipeline,
        budget_ms=budget_ms,
        fps=fps,
        delivery=Delivery(delivery) if delivery else None,
        min_score=min_score,
        quality=quality,
        loop=loop,
        max_frames=max_frames,
    )
    with ExitStack() as stack:
        sinks: list[Sink] = [stack.enter_context(json_lines(json))] if json else []
        if output:
            sinks.append(stack.enter_context(video_file(output, plan.fps or opened.fps)))
        run_session(opened, plan, server, sinks, config=config, stdout_taken=json == STANDARD_OUTPUT)
