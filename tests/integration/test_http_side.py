"""The HTTP side of a service: whether it lives and is ready, its metrics, and who may look at the cameras."""

from __future__ import annotations

import asyncio
import contextlib
import http.client as http_client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from foveate.engines.errors import ConfigError
from foveate.proto import vision_pb2 as pb
from foveate.service.http_server import HttpServer, http_url
from foveate.service.server import Server
from support.live import Camera, Run, http_side, live_cameras, moving_pictures
from support.processes import service_of_processes
from support.service import RunningService, running_service
from support.waiting import until

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service() as service:
        yield service


@pytest.fixture
def http(service: RunningService) -> Iterator[HttpServer]:
    with http_side(in_loop(service), service.server) as http:
        yield http


def in_loop(service: RunningService) -> Run:
    return lambda work: service.start(work).result(20)


def asked(url: str, path: str = "", **headers: str) -> tuple[int, str, Any]:
    """Status, text and headers of an answer."""

    async def ask() -> tuple[int, str, Any]:
        async with aiohttp.ClientSession() as session, session.get(url + path, headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers

    return asyncio.run(ask())


def looking(url: str, work: Callable[[aiohttp.ClientWebSocketResponse], Awaitable[Any]], **headers: str) -> Any:
    async def look() -> Any:
        async with aiohttp.ClientSession() as session, session.ws_connect(url + "live", headers=headers) as live:
            return await work(live)

    return asyncio.run(look())


async def first_status(live: aiohttp.ClientWebSocketResponse) -> Any:
    await live.send_str('{"watch": {}}')
    return json.loads((await live.receive(timeout=20)).data)


def test_it_is_alive_and_ready_and_gives_metrics(service: RunningService, http: HttpServer) -> None:
    assert asked(http.url, "healthz")[:2] == (200, "alive\n")
    assert asked(http.url, "readyz")[:2] == (200, "ready\n")
    with live_cameras([Camera(service.stub, "dock", moving_pictures())]):
        service.settled(lambda status: status.ledger.ok > 0)
    status, text, headers = asked(http.url, "metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert re.search(r'^foveate_frames_total\{.*verdict="ok"\} [1-9]', text, re.MULTILINE)
    openmetrics = asked(http.url, "metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics[2]["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics[1].endswith("# EOF\n")


def test_a_browser_loads_nothing_from_elsewhere_and_keeps_nothing(http: HttpServer) -> None:
    for path in ("", "page.js", "tiles.js", "style.css", "favicon.svg"):
        status, text, headers = asked(http.url, path)
        assert status == 200
        assert text
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
    page = asked(http.url)[1]
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|https?://(?!www\.w3\.org)", page)
    assert asked(http.url, "live/assets/index.html")[0] == 404
    assert asked(http.url, "../http_server.py")[0] == 404


def test_pages_of_others_may_not_look(http: HttpServer) -> None:
    own = http.url.removesuffix("/")
    assert looking(http.url, first_status, Origin=own)["state"] == "ready"
    for origin in (
        "http://evil.example",
        own + "0",
        "null",
        "http://[bad",
        "http://localhost:1",
        own.replace("127.0.0.1", "127.0.0.2"),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            looking(http.url, first_status, Origin=origin)
        assert refused.value.status == 403


def test_a_foreign_name_that_leads_here_shows_nothing(service: RunningService, http: HttpServer) -> None:
    """As where a page of evil.example has that name resolve to this machine."""
    port = http.url.rsplit(":", 1)[1].strip("/")
    foreign = f"evil.example:{port}"
    status, text, _ = asked(http.url, Host=foreign)
    assert status == 421
    assert "http_names" in text
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        looking(http.url, first_status, Host=foreign, Origin=f"http://{foreign}")
    assert refused.value.status == 421
    assert asked(http.url, "healthz", Host=foreign)[0] == 200, "whoever watches over it may name it as they like"
    for own in (f"localhost:{port}", f"[::1]:{port}", f"{socket.gethostname()}:{port}", "192.168.1.5"):
        assert asked(http.url, Host=own)[0] == 200
    with http_side(in_loop(service), service.server, names=["Cameras.Example"]) as named:
        assert asked(named.url, Host="cameras.example")[0] == 200


@pytest.mark.parametrize("host", [b"\xff\xfe", b"[bad", b"localhost:1;script-src *", b""])
@pytest.mark.parametrize("path", ["/", "/live", "/healthz", "/absent"])
def test_a_name_that_is_none_is_refused_and_repeated_to_nobody(http: HttpServer, path: str, host: bytes) -> None:
    connection = http_client.HTTPConnection(http.url.removeprefix("http://").strip("/"), timeout=20)
    with contextlib.closing(connection):
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
    assert answer.status == {"/healthz": 200, "/absent": 404}.get(path, 421)
    assert answer.headers["Server"] == "foveate"
    assert "connect-src 'self';" in answer.headers["Content-Security-Policy"]
    assert "script-src" not in answer.headers["Content-Security-Policy"]


def test_scrapers_take_turns(service: RunningService, http: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    collecting, at_once, real = 0, [], service.server.metrics

    async def metrics() -> Any:
        nonlocal collecting
        collecting += 1
        at_once.append(collecting)
        try:
            await asyncio.sleep(0.01)  # long enough for the others to come in
            return await real()
        finally:
            collecting -= 1

    async def scrape() -> list[int]:
        async with aiohttp.ClientSession() as session:

            async def one() -> int:
                async with session.get(http.url + "metrics") as answer:
                    return answer.status

            return await asyncio.gather(*(one() for _ in range(8)))

    monkeypatch.setattr(service.server, "metrics", metrics)
    assert asyncio.run(scrape()) == [200] * 8
    assert at_once == [1] * 8


def test_so_many_may_look_and_no_more(http: HttpServer) -> None:
    async def run() -> tuple[int, int]:
        async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as opened:
            for _ in range(16):
                live = await opened.enter_async_context(session.ws_connect(http.url + "live"))
                await first_status(live)
            async with session.get(http.url + "live") as refused:
                full = refused.status
            await live.close()
            while True:  # the server learns of it a moment later
                async with session.get(http.url + "live") as refused:
                    if refused.status != 503:
                        return full, refused.status

    assert asyncio.run(run()) == (503, 400), "no WebSocket, but there is room"


@pytest.mark.parametrize(
    "said",
    [
        "no JSON",
        "[1]",
        '{"watch": [1], "drawn": "x"}',
        '{"watch": {"a": 1e999}}',
        "{}",
        pytest.param("[" * 30_000, id="nested"),
    ],
)
def test_a_page_that_talks_nonsense_harms_nobody(http: HttpServer, said: str) -> None:
    async def talk(live: aiohttp.ClientWebSocketResponse) -> None:
        await live.send_str(said)
        await live.send_bytes(b"\0\1")
        with contextlib.suppress(ConnectionError):
            await live.send_str('{"watch": {}}')
        await live.receive(timeout=20)

    looking(http.url, talk)
    assert looking(http.url, first_status)["state"] == "ready"


def test_a_message_of_any_length_is_not_taken(http: HttpServer) -> None:
    async def talk(live: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMsgType:
        await live.send_str('{"watch": "' + "x" * 100_000 + '"}')
        return (await live.receive(timeout=20)).type

    assert looking(http.url, talk) in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


def test_pictures_come_with_what_was_said_of_them_only_to_who_draws_them(
    service: RunningService, http: HttpServer
) -> None:
    pictures = moving_pictures()

    async def look(live: aiohttp.ClientWebSocketResponse) -> list[bytes]:
        await live.send_str('{"watch": {"dock": 640}}')
        came: list[bytes] = []
        statuses = 0
        while statuses < 4:  # after three pictures without a word about drawing two seconds without a picture
            message = await live.receive(timeout=20)
            if message.type is aiohttp.WSMsgType.BINARY:
                came.append(message.data)
            else:
                statuses += len(came) >= 3
                await live.send_str('{"watch": {"dock": 640}}')
        return came

    queued = {"delivery": pb.DELIVERY_QUEUE, "queue_depth": 64}  # each picture shown was inferred
    with live_cameras([Camera(service.stub, "dock", pictures, **queued)]):
        service.settled(lambda status: len(status.streams) == 1)
        came = looking(http.url, look)
    assert len(came) == 3
    for message in came:
        length = int.from_bytes(message[:4], "big")
        caption = json.loads(message[4 : 4 + length])
        assert caption["stream"] == "dock"
        assert (caption["width"], caption["height"]) == (160, 120)
        (box,) = caption["boxes"]
        assert box["box"] == [0.0, 0.0, 80.0, 120.0]
        assert message[4 + length :] in pictures


def test_a_service_is_not_ready_before_it_serves_nor_when_it_goes(service: RunningService) -> None:
    with running_service() as other, http_side(in_loop(other), other.server) as http:
        assert asked(http.url, "readyz")[0] == 200
        other.start(other.server.stop(0)).result(20)
        status, text, _ = asked(http.url, "readyz")
        assert (status, text.startswith("not ready: ")) == (503, True)
        assert asked(http.url, "healthz")[0] == 200
    with http_side(in_loop(service), Server(service.server._config)) as http:
        assert asked(http.url, "readyz")[0] == 503
        assert asked(http.url, "metrics")[0] == 503
        assert looking(http.url, first_status)["state"] == "unready"


def test_a_service_whose_default_pipeline_is_not_served_is_not_ready() -> None:
    with running_service() as service, http_side(in_loop(service), service.server) as http:
        service.server.pipelines.withdraw("grey", "its device is lost")
        status, text, _ = asked(http.url, "readyz")
        assert status == 503
        assert "its device is lost" in text


def test_a_service_of_processes_is_ready_while_an_engine_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    with service_of_processes(ingests=1) as service, http_side(service.run, service.supervisor) as http:
        assert asked(http.url, "readyz")[0] == 200
        assert "foveate_frames_total" in asked(http.url, "metrics")[1]
        monkeypatch.setenv("FAKE_WRONG", "1")  # so that it does not come back at once
        service.kill("engine cpu")
        until(lambda: asked(http.url, "readyz")[:2] == (503, "not ready: no engine serves now\n"))
        monkeypatch.delenv("FAKE_WRONG")
        until(lambda: asked(http.url, "readyz")[0] == 200)


@pytest.mark.parametrize("listen", ["8080", "host", "127.0.0.1:99999", "127.0.0.1:", "::1:80", "http://x:1", ""])
def test_an_address_that_makes_no_sense_is_refused(listen: str, service: RunningService) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        HttpServer(listen, service.server)


def test_a_port_that_somebody_has_is_refused(http: HttpServer, service: RunningService) -> None:
    with pytest.raises(ConfigError, match="cannot serve HTTP on"):
        HttpServer(http.url.removeprefix("http://").removesuffix("/"), service.server)


def test_without_a_host_all_addresses_are_served(service: RunningService) -> None:
    with http_side(in_loop(service), service.server, listen=":0") as http:
        port = http.url.rsplit(":", 1)[1]
        assert http.url == f"http://localhost:{port}"
        for host in ("127.0.0.1", *(["[::1]"] if socket.has_dualstack_ipv6() else [])):
            assert asked(f"http://{host}:{port}", "healthz")[0] == 200
    assert http_url("[::1]:80", 80) == "http://[::1]:80/"


def test_the_command_without_the_extra_names_it() -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from foveate.tools.cli import main\n"
        "sys.argv = ['foveate', 'serve', '--http', '127.0.0.1:0', '--listen', '127.0.0.1:0']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode != 0
    assert "pip install 'foveate[http]'" in re.sub(r"\s+", " ", done.stderr + done.stdout)


def test_the_server_of_the_command_has_it_and_ends_with_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import asyncio; from support.live import serve_until_signal; asyncio.run(serve_until_signal())"
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            url = process.stdout.readline().strip()
            assert asked(url, "readyz")[0] == 200
            assert looking(url, first_status)["state"] == "ready"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
