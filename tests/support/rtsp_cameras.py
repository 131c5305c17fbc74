"""Cameras for tests: real RTSP servers that can be killed, frozen and garbled, and one that sends JPEGs by HTTP."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.system_programs import require_gstreamer

__all__ = ["Garbler", "RtspCamera", "garbled", "mjpeg_over_http", "rtsp_camera", "silent_server"]

_SCRIPT = Path(__file__).with_name("rtsp_server.py")


class RtspCamera:
    """One camera, on a port that it keeps."""

    def __init__(self, **options: str | int) -> None:
        """`options` are those of the script: codec, size, fps, pattern, user."""
        self._options = options
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/camera"

    def url_of(self, user: str) -> str:
        """With credentials, as USER:PASSWORD."""
        return f"rtsp://{user}@127.0.0.1:{self.port}/camera"

    def start(self, **changed: str | int) -> None:
        """Begin, with other options where some are named, and return when it can be connected."""
        options = [f"--{name}={value}" for name, value in (self._options | changed).items()]
        arguments = [require_gstreamer(), str(_SCRIPT), f"--port={self.port}", *options]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the RTSP server died while it started"
        self.port = int(line)

    def kill(self) -> None:
        """Pull the plug."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None

    def freeze(self) -> None:
        """Send nothing any more; connections stay, and the kernel even accepts new ones."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def rtsp_camera(**options: str | int) -> Iterator[RtspCamera]:
    """A camera until the block ends; skips the test where GStreamer is missing."""
    camera = RtspCamera(**options)
    try:
        yield camera
    finally:
        camera.kill()


class Garbler:
    """Stands between a client and a server and passes everything on; once told, it damages what the server says."""

    def __init__(self, port: int, share: float) -> None:
        """`share`: of the server's bytes that are replaced by random ones."""
        self._target = port
        self._share = share
        self._chance = random.Random(1)
        self.is_on = False
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/camera"

    def close(self) -> None:
        for each in (self._server, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                with suppress(OSError):
                    server = socket.create_connection(("127.0.0.1", self._target))
                    self._sockets += [client, server]
                    for source, sink, garbles in ((client, server, False), (server, client, True)):
                        threading.Thread(target=self._pump, args=(source, sink, garbles), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, garbles: bool) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(self._damaged(data) if garbles and self.is_on else data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _damaged(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        for _ in range(max(1, int(len(data) * self._share))):
            damaged[self._chance.randrange(len(data))] = self._chance.randrange(256)
        return bytes(damaged)


@contextmanager
def garbled(camera: RtspCamera, share: float = 0.01) -> Iterator[Garbler]:
    """The camera behind a `Garbler`."""
    garbler = Garbler(camera.port, share)
    try:
        yield garbler
    finally:
        garbler.close()


@contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@contextmanager
def mjpeg_over_http(pictures: Sequence[bytes], fps: float = 20.0) -> Iterator[str]:
    """The URL of a camera that sends these JPEGs over and over."""
    stop = threading.Event()

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            with suppress(OSError):
                while not stop.wait(1 / fps):
                    data = pictures[number % len(pictures)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")
                    number += 1

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/video?token=s3cretToken"
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
