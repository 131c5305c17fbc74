"""Webhooks against a real web server that answers, fails, hangs, redirects and vanishes."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from foveate.tools.outputs import Outputs, open_outputs
from foveate.tools.outputs.output import OutputCounts
from foveate.tools.outputs.specs import WebhookSpec
from support.camera_results import camera_result
from support.certificates import own_certificate
from support.waiting import until
from support.web_server import Posted, ScriptedWebServer, web_server

SECRET = "hunter2"


@contextmanager
def posting(url: str, **settings: Any) -> Iterator[Outputs]:
    spec = WebhookSpec(url=SecretStr(url), **{"batch_wait_ms": 0, "name": "hook", **settings})
    outputs = open_outputs([spec])
    try:
        yield outputs
    finally:
        outputs.close(0.0)


def sequences(request: Posted) -> list[int]:
    return [record["sequence"] for record in json.loads(request.body)["results"]]


def once_each(requests: list[Posted]) -> list[int]:
    """The results in the order that a server sees who knows a repetition by its key."""
    seen = dict[str, Posted]()
    for request in requests:
        first = seen.setdefault(request.headers["Idempotency-Key"], request)
        assert first.body == request.body, "a repetition is the same to the byte"
    return [sequence for request in seen.values() for sequence in sequences(request)]


def test_results_arrive_in_batches_over_one_connection() -> None:
    with web_server(ScriptedWebServer()) as server, posting(server.url, batch=8, batch_wait_ms=20_000) as outputs:
        for sequence in range(20):
            outputs.put(camera_result(sequence))
        outputs.put(camera_result(20, seen=False))
        outputs.close(40.0)
        assert [len(sequences(request)) for request in server.requests] == [8, 8, 4]
        assert once_each(server.requests) == list(range(20))
        assert outputs.counts == {"hook": OutputCounts(sent=20, filtered=1)}
        assert server.connections == 1
    posted = json.loads(server.requests[0].body)
    assert posted["id"] == server.requests[0].headers["Idempotency-Key"]
    assert posted["sent_at"].endswith("Z")
    assert posted["results"][0]["camera"] == "door"
    assert server.requests[0].headers["Content-Type"] == "application/json"
    assert server.requests[0].path == "/"


def test_the_address_its_credentials_and_headers_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "a b+c")
    with web_server(ScriptedWebServer()) as server:
        url = server.url.replace("http://", "http://me:p%40ss@") + "/in/box?x=1"
        with posting(url, headers={"X-Key": SecretStr("k ${HOOK_TOKEN}")}) as outputs:
            outputs.put(camera_result())
            outputs.close(40.0)
    (request,) = server.requests
    assert request.path == "/in/box?x=1"
    assert request.headers["Authorization"] == "Basic bWU6cEBzcw=="
    assert request.headers["X-Key"] == "k a b+c"


@pytest.mark.parametrize(("written", "sent"), [("?x=1", "/?x=1"), ("/ü", "/%C3%BC"), ("/a/./b", "/a/./b")])
def test_odd_paths_are_sent_as_they_are_meant(written: str, sent: str) -> None:
    with web_server(ScriptedWebServer()) as server, posting(server.url + written) as outputs:
        outputs.put(camera_result())
        outputs.close(40.0)
        assert [request.path for request in server.requests] == [sent]


@pytest.mark.parametrize("status", [500, 429, 409])
def test_a_server_in_trouble_gets_the_same_batch_again_and_order_is_kept(status: int) -> None:
    answers = iter([status, status, 200, status, 200])
    server = ScriptedWebServer(lambda _request, _handler: next(answers, 200))
    with web_server(server), posting(server.url, batch=4) as outputs:
        for sequence in range(12):
            outputs.put(camera_result(sequence))
        until(lambda: outputs.counts["hook"].sent == 12)
        assert once_each(server.requests) == list(range(12))
        assert outputs.counts == {"hook": OutputCounts(sent=12)}
        keys = [request.headers["Idempotency-Key"] for request in server.requests]
        assert keys[0] == keys[1] == keys[2]
        assert keys[3] == keys[4] != keys[0]
        assert not outputs.troubles


@pytest.mark.parametrize("status", [400, 401, 404, 413, 302])
def test_a_server_that_refuses_is_not_asked_again(status: int) -> None:
    answers = iter([status])
    server = ScriptedWebServer(lambda _request, _handler: next(answers, 204))
    with web_server(server), posting(server.url, batch=1) as outputs:
        outputs.put(camera_result(1))
        until(lambda: outputs.troubles)
        assert f"answered {status}" in outputs.troubles["hook"]
        outputs.put(camera_result(2))
        outputs.close(40.0)
        assert outputs.counts == {"hook": OutputCounts(sent=1, failed=1)}
        assert [sequences(request) for request in server.requests] == [[1], [2]]


def test_a_server_is_given_the_time_that_it_asks_for() -> None:
    def busy(_request: Posted, handler: BaseHTTPRequestHandler) -> int | None:
        if len(server.requests) > 1:
            return 400
        handler.send_response(429)
        handler.send_header("Retry-After", "3600")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return None

    server = ScriptedWebServer(busy)
    with web_server(server), posting(server.url) as outputs:
        outputs.put(camera_result())
        until(lambda: outputs.troubles)
        assert len(server.requests) == 1
        outputs.close(40.0)
        assert len(server.requests) == 2, "once more at the end, as there is no later"
        assert outputs.counts == {"hook": OutputCounts(failed=1)}


def cut(_request: Posted, handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def half_an_answer(_request: Posted, handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    handler.connection.shutdown(socket.SHUT_RDWR)


def nonsense(_request: Posted, handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xffnonsense\r\n\r\n")
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("fail", [cut, half_an_answer, nonsense])
def test_connections_that_are_cut_before_the_answer(fail: Callable[[Posted, BaseHTTPRequestHandler], None]) -> None:
    failing = iter([True, True])
    server = ScriptedWebServer(lambda request, handler: fail(request, handler) if next(failing, False) else 200)
    with web_server(server), posting(server.url, batch=3) as outputs:
        for sequence in range(9):
            outputs.put(camera_result(sequence))
        until(lambda: outputs.counts["hook"].sent == 9)
        assert once_each(server.requests) == list(range(9))
        assert outputs.counts["hook"].failed == 0


def test_an_answer_whose_body_never_ends_was_an_answer() -> None:
    server = ScriptedWebServer()

    def endless(_request: Posted, handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 200_000)
        server.released.wait(30.0)

    server.answer = endless
    with web_server(server), posting(server.url, batch=1, timeout_s=20.0) as outputs:
        outputs.put(camera_result(1))
        outputs.put(camera_result(2))
        until(lambda: outputs.counts["hook"].sent == 2)
        assert once_each(server.requests) == [1, 2]
        assert len(server.requests) == 2


def test_a_server_that_hangs_is_left_after_the_time_out_and_only_the_newest_wait_meanwhile() -> None:
    server = ScriptedWebServer()

    def hang(_request: Posted, _handler: BaseHTTPRequestHandler) -> None:
        server.released.wait(30.0)

    server.answer = hang
    with web_server(server), posting(server.url, batch=1, queue=5, timeout_s=1.0) as outputs:
        outputs.put(camera_result(0))
        until(lambda: server.requests)
        for sequence in range(1, 101):
            outputs.put(camera_result(sequence))
        assert outputs.counts["hook"].given == 101
        assert outputs.counts["hook"].dropped == 95
        until(lambda: outputs.troubles)
        assert "no answer within 1 s" in outputs.troubles["hook"]
        server.answer = lambda _request, _handler: 200
        until(lambda: outputs.counts["hook"].sent == 6)
        assert once_each(server.requests) == [0, 96, 97, 98, 99, 100]
        assert outputs.counts == {"hook": OutputCounts(sent=6, dropped=95)}


def test_a_server_that_hangs_does_not_hold_up_the_end() -> None:
    server = ScriptedWebServer()
    server.answer = lambda _request, _handler: None if server.released.wait(30.0) else None  # noqa: RUF034
    with web_server(server), posting(server.url, batch=1) as outputs:
        for sequence in range(3):
            outputs.put(camera_result(sequence))
        until(lambda: server.requests)
        outputs.close(0.05)
        assert outputs.counts == {"hook": OutputCounts(failed=1, dropped=2)}


def test_a_server_that_is_not_there_yet_and_one_that_is_restarted() -> None:
    with web_server(ScriptedWebServer()) as gone:
        pass
    with posting(gone.url, batch=2) as outputs:
        outputs.put(camera_result(1))
        until(lambda: "no connection: Connection refused" in outputs.troubles.get("hook", ""))
        with web_server(ScriptedWebServer(), gone.port) as first:
            outputs.put(camera_result(2))
            until(lambda: outputs.counts["hook"].sent == 2)
        outputs.put(camera_result(3))
        with web_server(ScriptedWebServer(), gone.port) as second:
            until(lambda: outputs.counts["hook"].sent == 3)
        assert once_each([*first.requests, *second.requests]) == [1, 2, 3]


def test_a_name_that_nobody_has() -> None:
    with posting("http://no-such-host.invalid/") as outputs:
        outputs.put(camera_result())
        until(lambda: "no such host" in outputs.troubles.get("hook", ""))


def test_tls_to_a_server_that_is_trusted_and_to_one_that_is_not(tmp_path: Path) -> None:
    path, key = own_certificate(tmp_path)
    with web_server(ScriptedWebServer(), certificate=(path, key)) as server:
        with posting(server.url, ca_file=path) as outputs:
            outputs.put(camera_result(1))
            until(lambda: outputs.counts["hook"].sent == 1)
        with posting(server.url) as outputs:
            outputs.put(camera_result(2))
            until(lambda: "no secure connection: self-signed" in outputs.troubles.get("hook", "").replace("f s", "f-s"))
        assert once_each(server.requests) == [1]


def test_no_secret_is_ever_said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    def odd_header(_request: Posted, handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 0\r\n\r\n")

    answers: list[Any] = [200, 500, 401, 302, odd_header, cut, half_an_answer, nonsense, 200]
    script = iter(answers)

    def answer(request: Posted, handler: BaseHTTPRequestHandler) -> int | None:
        act = next(script, 200)
        status: int | None = act(request, handler) if callable(act) else act
        return status

    said: list[str] = []
    with caplog.at_level(logging.DEBUG), web_server(ScriptedWebServer(answer)) as server:
        url = server.url.replace("http://", f"http://{SECRET}:{SECRET}@") + f"/{SECRET}?token={SECRET}"
        spec = WebhookSpec(url=SecretStr(url), headers={"X-Key": SecretStr(SECRET)}, batch=1, batch_wait_ms=0)
        said.append(repr(spec) + str(spec.model_dump()) + spec.model_dump_json())
        with open_outputs([spec]) as outputs:
            for sequence in range(len(answers)):
                outputs.put(camera_result(sequence))
                until(lambda: outputs.counts["webhook"].waiting == 0)
                said.append(f"{outputs.counts} {outputs.troubles}")
        assert any(SECRET in request.path for request in server.requests)
    with posting(url, timeout_s=0.2, retry_s=0.0) as outputs:  # nobody is there any more
        outputs.put(camera_result())
        until(lambda: outputs.counts["hook"].failed == 1)
        said.append(f"{outputs.counts} {outputs.troubles}")
    names = [thread.name for thread in threading.enumerate()]
    assert caplog.records, "something was said"
    assert SECRET not in "".join([caplog.text, *capfd.readouterr(), *said, *names])
