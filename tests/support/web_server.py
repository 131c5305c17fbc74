"""A web server on loopback that answers, fails, hangs and cuts connections as a test says."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["Posted", "ScriptedWebServer", "web_server"]


@dataclass(frozen=True)
class Posted:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ScriptedWebServer:
    """Answers each POST by `answer`, which gets the request and its connection's handler."""

    answer: Callable[[Posted, BaseHTTPRequestHandler], int | None] = lambda _request, _handler: 200
    """The status to send; None: the handler has been answered through, or is to be cut."""
    requests: list[Posted] = field(default_factory=list)
    connections: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    """Set at the end: whoever hangs waits for it."""
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


@contextmanager
def web_server(
    script: ScriptedWebServer, port: int = 0, certificate: tuple[Path, Path] | None = None
) -> Iterator[ScriptedWebServer]:
    """Serve until the block ends; by TLS with a certificate and its key."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # it sends headers and body apart

        def setup(self) -> None:
            script.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Posted(self.path, dict(self.headers.items()), body)
            script.requests.append(request)
            status = script.answer(request, self)
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            """A client that has gone is what some tests are about."""

    with Server(("127.0.0.1", port), Handler) as server:
        script.port = server.server_address[1]
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            script.scheme = "https"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield script
        finally:
            script.released.set()
            server.shutdown()
            thread.join()
