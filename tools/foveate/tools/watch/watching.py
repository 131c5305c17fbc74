"""A whole run of `foveate watch`: the server, the outputs, the cameras, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from foveate.engines.errors import ConfigError, FoveateError
from foveate.tools.outputs import OutputSpec, open_outputs
from foveate.tools.watch.display import Display
from foveate.tools.watch.health import State
from foveate.tools.watch.session import WatchSession
from foveate.tools.watch.settings import CameraSettings
from foveate.tools.watch.source import require_av

__all__ = ["watch_cameras"]

_OWN_SERVER_GONE_S = 10.0
"""A server of one's own that is gone does not come back by itself."""


def watch_cameras(
    cameras: Sequence[CameraSettings],
    *,
    server: str | None = None,
    config: Path | None = None,
    http: str | None = None,
    outputs: Sequence[OutputSpec] = (),
    state_file: Path | None = None,
) -> None:
    """Watch until all cameras have ended or Ctrl-C comes. Progress goes to stderr.

    Raises: FoveateError if the server cannot be started or reached, and in the end if a camera has failed.
    """
    require_av()
    display = Display(Console(stderr=True, highlight=False))
    with open_outputs(outputs) as opened, _server(server, cameras, config, http, display) as address:
        session = WatchSession(
            cameras,
            address,
            display,
            outputs=opened,
            state_file=state_file,
            gives_up_after_s=math.inf if server else _OWN_SERVER_GONE_S,
        )
        with display:
            statuses = session.run()
    failed = [camera for camera in statuses if camera.state is State.FAILED]
    if failed:
        raise FoveateError("; ".join(f"camera {camera.name}: {camera.error}" for camera in failed))


@contextmanager
def _server(
    server: str | None, cameras: Sequence[CameraSettings], config: Path | None, http: str | None, display: Display
) -> Iterator[str]:
    """The address of the server that was named; else of one that serves these cameras' pipelines meanwhile."""
    if server is not None:
        for option, value in (("config", config), ("http", http)):
            if value is not None:
                raise ConfigError(f"--{option} is for a server of its own, and {server} has its own: leave it out")
        yield server
        return
    # Here and not above, because it loads the whole service.
    from foveate.service.config import load_config
    from foveate.service.embedded import embedded_child

    settings = load_config(config, http=http)
    names = dict.fromkeys(camera.pipeline or settings.default_pipeline_name for camera in cameras)
    with embedded_child(list(names), settings) as child:
        if child.page:
            display.say(f"live pictures at {child.page}")
        yield child.address
