"""HTTP beside gRPC: the live page, metrics, and whether the service is alive and ready.

Whoever reaches the port sees the pictures, so two things are asked of a browser: that the page which opens the live
connection is ours (Origin), and that it was reached by a name which is this machine's (Host). Without the second a
foreign page could have its own name resolve to this address, and read the cameras as if they were its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from aiohttp import WSMsgType, web

from foveate.engines.errors import ConfigError, FoveateError
from foveate.service.live.source import LiveService
from foveate.service.live.viewers import Viewer, Viewers, wishes_from
from foveate.service.metrics_text import metrics_text

__all__ = ["HttpServer", "http_url"]

_log = logging.getLogger(__name__)

_ASSETS = Path(__file__).with_name("live") / "assets"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MOST_VIEWERS = 16
_MOST_SAID_BYTES = 32_768
_HEARTBEAT_S = 15.0
_STOP_WITHIN_S = 2.0
_LISTEN = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]*):(?P<port>\d{1,5})")
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """The HTTP side of a service. Make it and use it within the service's event loop.

    It may be started before the service, to say that this one is alive and not ready yet, and be stopped after it.
    """

    def __init__(self, listen: str, service: LiveService, names: Collection[str] = ()) -> None:
        """`listen` is HOST:PORT; without a host it is all of this machine's addresses.

        `names` are those by which browsers may reach it, beside addresses and this machine's own name.
        Raises: ConfigError if `listen` makes no sense or cannot be had.
        """
        self._service = service
        self._viewers = Viewers(service, {"version": version("foveate"), "server": socket.gethostname()})
        self._names = frozenset(name.lower() for name in (*names, "localhost", *_own_names()))
        self._sockets: set[web.WebSocketResponse] = set()
        self._collecting = asyncio.Lock()
        """One scrape at a time: however many ask, their texts take no more than one thread's share from the frames."""
        self._socket = _bound(listen)
        self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=_STOP_WITHIN_S)
        self.url = http_url(listen, self._socket.getsockname()[1])
        """Where a browser on this machine finds it."""

    async def start(self) -> None:
        """Answer from now on."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def stop(self) -> None:
        """Answer nothing more, and tell those who look."""
        self._viewers.close()
        closing = [looking.close(code=1001, message=b"the server has stopped") for looking in self._sockets]
        with suppress(TimeoutError):  # one that does not even take its farewell, or is gone already, is cut off next
            await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), 2 * _STOP_WITHIN_S)
        await self._runner.cleanup()
        self._socket.close()

    def _app(self) -> web.Application:
        app = web.Application()
        app.on_response_prepare.append(self._secure)
        routes = {
            "/": self._page,
            "/live": self._live,
            "/metrics": self._metrics,
            "/healthz": self._alive,
            "/readyz": self._ready,
        }
        for path, handler in routes.items():
            app.router.add_get(path, handler)
        for file in sorted(_ASSETS.iterdir()):
            if file.suffix != ".html":
                app.router.add_get(f"/{file.name}", _asset(file))
        return app

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if not self._is_own_name(request.host):
            return web.Response(status=421, text=self._foreign_name(request.host))
        return await _asset(_ASSETS / "index.html")(request)

    async def _alive(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _ready(self, request: web.Request) -> web.Response:
        if reason := self._service.unready:
            return web.Response(status=503, text=f"not ready: {reason}\n")
        return web.Response(text="ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            async with self._collecting:
                metrics = await self._service.metrics()
                body, kind = await asyncio.to_thread(metrics_text, metrics, request.headers.get("Accept", ""))
        except FoveateError as error:
            return web.Response(status=503, text=f"no metrics now: {error}\n")
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if refusal := self._refusal(request):
            return refusal
        answer = web.WebSocketResponse(
            timeout=_STOP_WITHIN_S,
            compress=False,  # a JPEG gets no smaller
            heartbeat=_HEARTBEAT_S,
            max_msg_size=_MOST_SAID_BYTES,
        )
        viewer = self._viewers.enter()  # before anything is waited for, so that the limit holds
        self._sockets.add(answer)
        try:
            await answer.prepare(request)
            sending = asyncio.create_task(_send(answer, viewer))
            try:
                await self._listen(answer, viewer)
            finally:
                sending.cancel()
        finally:
            self._sockets.discard(answer)
            self._viewers.leave(viewer)
        return answer

    async def _listen(self, connection: web.WebSocketResponse, viewer: Viewer) -> None:
        """Take what a page says, until it goes."""
        async for message in connection:
            if message.type is not WSMsgType.TEXT:
                continue
            try:
                said = json.loads(message.data)
            except (ValueError, RecursionError):  # no JSON, or nested without an end
                said = None
            if not isinstance(said, dict):
                await connection.close(code=1007, message=b"expected a JSON object")
                return
            if "watch" in said:
                self._viewers.wants(viewer, wishes_from(said["watch"]))
            if isinstance(drawn := said.get("drawn"), int):
                viewer.drew(drawn)

    def _refusal(self, request: web.Request) -> web.Response | None:
        origin = request.headers.get("Origin")
        if not self._is_own_name(request.host):
            return web.Response(status=421, text=self._foreign_name(request.host))
        if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
            return web.Response(
                status=403, text=f"a page of {origin!r} may not look: only this server's own page may\n"
            )
        if len(self._viewers) >= _MOST_VIEWERS:
            return web.Response(status=503, text=f"{_MOST_VIEWERS} pages are open, which is the limit: close one\n")
        return None

    def _is_own_name(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts["name"].strip("[]").lower()
        with suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return name in self._names

    async def _secure(self, request: web.Request, answer: web.StreamResponse) -> None:
        """Have a browser load nothing from elsewhere, show it nowhere else, and keep nothing; errors included."""
        live = ""
        if self._is_own_name(request.host):  # spelt out for browsers that do not count sockets as the page's own
            live = f" ws://{request.host} wss://{request.host}"
        answer.headers.update(
            {
                "Content-Security-Policy": f"default-src 'self'; connect-src 'self'{live}; img-src 'self' blob:; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Opener-Policy": "same-origin",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Server": "foveate",
            }
        )

    def _foreign_name(self, host: str) -> str:
        return (
            f"the live view is not reached by the name {host!r}: expected an IP address or one of "
            f"{', '.join(sorted(self._names))}; the setting `http_names` allows others\n"
        )


def http_url(listen: str, port: int) -> str:
    """Where a browser on this machine finds what listens on HOST:PORT."""
    host = listen.rpartition(":")[0]
    return f"http://{'localhost' if host in ('', '0.0.0.0', '[::]') else host}:{port}/"


async def _send(connection: web.WebSocketResponse, viewer: Viewer) -> None:
    with suppress(ConnectionError):
        while True:
            message = await viewer.next_message()
            if isinstance(message, str):
                await connection.send_str(message)
            else:
                await connection.send_bytes(message)


def _asset(path: Path) -> _Handler:
    body, kind = path.read_bytes(), _TYPES[path.suffix]

    async def give(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return give


def _own_names() -> tuple[str, ...]:
    name = socket.gethostname()
    short = name.partition(".")[0]
    return name, short, f"{short}.local"


def _bound(listen: str) -> socket.socket:
    """A listening socket; without a host, one for all addresses of both families."""
    parts = _LISTEN.fullmatch(listen)
    if parts is None or int(parts["port"]) > 65_535:
        raise ConfigError(f"cannot serve HTTP on {listen!r}: expected HOST:PORT, or :PORT for all addresses")
    host, port = parts["host"].strip("[]"), int(parts["port"])
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot serve HTTP on {listen}: {error.strerror}; expected HOST:PORT that is free here, "
            "port 0 takes any free one"
        ) from error
