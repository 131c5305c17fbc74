"""A server of one's own, in a child process, for as long as a `with` block lasts."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection

from foveate.engines.errors import EngineError, FoveateError
from foveate.service.config import ServiceConfig, load_config, only_pipelines

__all__ = ["embedded_server"]

_STOP_WITHIN_S = 15.0


@contextmanager
def embedded_server(pipelines: Sequence[str] = (), config: ServiceConfig | None = None) -> Iterator[str]:
    """Serve on a free loopback port in a process of its own, and give its address as HOST:PORT.

    `pipelines` names those to serve, out of the configured ones, the first as the default; none: all of them.
    Raises: FoveateError with the server's own message if it cannot start.
    """
    settings = config or load_config()
    if pipelines:
        settings = only_pipelines(settings, pipelines)
    settings = settings.model_copy(update={"listen": "127.0.0.1:0", "drain_grace_ms": 1000})
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(settings, theirs), name="foveate-server", daemon=True)
    process.start()
    theirs.close()
    try:
        yield _address(ours)
    finally:
        process.terminate()
        process.join(_STOP_WITHIN_S)
        if process.is_alive():
            process.kill()
            process.join()
        ours.close()


def _address(ready: Connection) -> str:
    try:
        outcome = ready.recv()
    except EOFError as error:
        raise EngineError("the embedded server died while it started: see its messages above") from error
    if isinstance(outcome, FoveateError):
        raise outcome
    return str(outcome)


def _serve(config: ServiceConfig, ready: Connection) -> None:
    # The terminal's Ctrl-C reaches the whole process group; the parent decides when this server stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_run(config, ready))
    except FoveateError as error:
        ready.send(error)


async def _run(config: ServiceConfig, ready: Connection) -> None:
    from foveate.service.server import serve  # here, so that importing this module stays light

    await serve(config, lambda address, _: ready.send(address))
