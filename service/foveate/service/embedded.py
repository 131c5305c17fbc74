"""A server of one's own, in a child process, for as long as a `with` block lasts.

The child is a module run as a program, this one unless another is named: it takes its settings from its standard
input, says in one line of JSON where it listens, and stops when its standard input ends, so that it never outlives a
parent that died.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foveate.engines import errors
from foveate.engines.errors import EngineError, FoveateError
from foveate.service.config import ServiceConfig, config_from_json, load_config, only_pipelines

if TYPE_CHECKING:
    from foveate.service.serve import RunningService

    NewService = Callable[[ServiceConfig], RunningService]

__all__ = ["ChildServer", "child_server", "embedded_child", "embedded_server", "main", "serve_parent"]

_THIS_MODULE = "foveate.service.embedded"

_STOP_WITHIN_S = 15.0


@contextmanager
def embedded_server(pipelines: Sequence[str] = (), config: ServiceConfig | None = None) -> Iterator[str]:
    """Serve on a free loopback port in a process of its own, and give its address as HOST:PORT.

    `pipelines` names those to serve, out of the configured ones, the first as the default; none: all of them.
    Raises: FoveateError with the server's own message if it cannot start.
    """
    with embedded_child(pipelines, config) as child:
        yield child.address


@contextmanager
def embedded_child(pipelines: Sequence[str] = (), config: ServiceConfig | None = None) -> Iterator[ChildServer]:
    """As `embedded_server`, and give all that is known of it."""
    settings = config or load_config()
    if pipelines:
        settings = only_pipelines(settings, pipelines)
    settings = settings.model_copy(update={"listen": "127.0.0.1:0", "drain_grace_ms": 1000})
    with child_server(_THIS_MODULE, settings.model_dump_json()) as child:
        yield child


@dataclass(frozen=True, slots=True)
class ChildServer:
    """A server in a process of its own."""

    address: str
    """HOST:PORT."""
    pid: int
    page: str = ""
    """The URL of its live page; "": it has none."""


@contextmanager
def child_server(module: str, settings: str) -> Iterator[ChildServer]:
    """Run a module that serves as one line of settings on its standard input says, until the block ends.

    Raises: FoveateError with the server's own message if it cannot start.
    """
    # A session of its own, so that Ctrl-C in the terminal reaches the parent alone, which decides when to stop.
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # it died at once; its end of output says so
                process.stdin.write(settings + "\n")
                process.stdin.flush()
            said = _said(process)
            yield ChildServer(said["address"], process.pid, said.get("page", ""))
        finally:
            process.terminate()
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _said(process: subprocess.Popen[str]) -> dict[str, str]:
    """Where it listens. Raises: FoveateError with its own message if it cannot start."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EngineError("the embedded server died while it started: see its messages above")
    outcome: dict[str, str] = json.loads(line)
    if "error" in outcome:
        raise getattr(errors, outcome["kind"], FoveateError)(outcome["error"])
    return outcome


def main() -> None:
    """Serve as the settings on standard input say, until it ends or SIGTERM comes."""
    from foveate.service.serve import new_service  # here, so that importing this module stays light

    serve_parent(lambda line: (config_from_json(line), new_service))


def serve_parent(read: Callable[[str], tuple[ServiceConfig, NewService]]) -> None:
    """Be the child of `child_server`: `read` its line of settings, and serve what that makes."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    config, new = read(sys.stdin.readline())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        asyncio.run(_run(config, new))
    except FoveateError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}), flush=True)


def _stop_with_parent() -> None:
    try:
        while os.read(sys.stdin.fileno(), 4096):  # past `sys.stdin`, whose lock the interpreter's end would wait for
            pass
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


async def _run(config: ServiceConfig, new: NewService) -> None:
    from foveate.service.serve import serve

    said: dict[str, str] = {}

    def say(**more: str) -> None:
        said.update(more)
        if "page" in said or not config.http:  # all in one line: the parent reads no more
            print(json.dumps(said), flush=True)

    await serve(config, lambda address, _: say(address=address), new, on_page=lambda page: say(page=page))


if __name__ == "__main__":
    main()
