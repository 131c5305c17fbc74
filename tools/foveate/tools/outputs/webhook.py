"""Batches of results to a web server."""

from __future__ import annotations

import base64
import http
import logging
import math
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.engines.errors import ConfigError
from foveate.tools.outputs.address import Address
from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.destination import Unavailable, Undeliverable
from foveate.tools.outputs.record import iso_time, json_bytes, record_from_camera_result
from foveate.tools.outputs.trust import tls_context

try:
    import urllib3
    from urllib3 import exceptions as failures
except ImportError as error:
    raise ConfigError("webhooks need urllib3: install foveate[camera]") from error

__all__ = ["Webhook"]

_COME_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Answers after which the same request may be accepted later; 409: it is being worked on since an earlier attempt."""
_LONGEST_WAIT_S = 60.0
"""As long as a server's `Retry-After` is obeyed."""
_LARGEST_ANSWER = 64 * 1024
"""Bytes of an answer that are read so that its connection can be used again."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\xa0-\xff\t]*")


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent for a batch, to the byte the same at each attempt, so that a server can tell a repetition."""

    results: Sequence[CameraResult]
    key: str
    body: bytes


class Webhook:
    """Posts ``{"id": ..., "sent_at": ..., "results": [...]}``.

    The id is also the header `Idempotency-Key`, and stays the same when a batch is sent again: a server that has seen
    it accepts it without a second look.
    """

    def __init__(
        self, address: Address, headers: Mapping[str, str], timeout_s: float, ca_file: Path | None = None
    ) -> None:
        """Raises: ConfigError for a header that cannot be sent, or certificates that cannot be read."""
        _hush_urllib3()
        self._address = address
        self._target = address.path if address.path.startswith("/") else f"/{address.path}"
        self._headers = {"User-Agent": "foveate", **_authorisation(address), **_checked(headers)}
        self._timeout_s = timeout_s
        self._pool = _pool(address, timeout_s, ca_file)
        self._request: _Request | None = None

    def deliver(self, results: Sequence[CameraResult]) -> None:
        if self._request is None or self._request.results is not results:
            self._request = _request(results)
        status, retry_after = self._posted(self._request)
        if not 200 <= status < 300:
            words = f"{self._address} answered {status}{_phrase(status)}"
            if status in _COME_AGAIN:
                raise Unavailable(words, _seconds(retry_after))
            raise Undeliverable(words)

    def close(self) -> None:
        self._pool.close()

    def _posted(self, request: _Request) -> tuple[int, str | None]:
        """The answer's status, and when it says to come again."""
        headers = {**self._headers, "Content-Type": "application/json", "Idempotency-Key": request.key}
        try:
            response = self._pool.urlopen(
                "POST",
                self._target,
                body=request.body,
                headers=headers,
                retries=False,  # what to do about a failure is decided where the queue is
                redirect=False,  # a redirected POST would carry our credentials to who knows whom
                assert_same_host=False,
                preload_content=False,
            )
        except (failures.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise Unavailable(f"{self._address}: {_words(error, self._timeout_s)}") from None
        self._finish(response)
        return response.status, response.headers.get("Retry-After")

    def _finish(self, response: urllib3.BaseHTTPResponse) -> None:
        """The status has said it all; the rest is read to keep the connection, unless it is long or slow."""
        ends_at = time.monotonic() + self._timeout_s
        size = 0
        try:
            while chunk := response.read1(_LARGEST_ANSWER):
                size += len(chunk)
                if size > _LARGEST_ANSWER or time.monotonic() > ends_at:
                    response.close()
                    return
            response.release_conn()
        except (failures.HTTPError, http.client.HTTPException, OSError, ValueError):
            response.close()


def _request(results: Sequence[CameraResult]) -> _Request:
    key = str(uuid.uuid4())
    records = [record_from_camera_result(result) for result in results]
    return _Request(results, key, json_bytes({"id": key, "sent_at": iso_time(time.time()), "results": records}))


def _pool(address: Address, timeout_s: float, ca_file: Path | None) -> urllib3.HTTPConnectionPool:
    timeout = urllib3.Timeout(connect=timeout_s, read=timeout_s)
    if address.scheme == "http":
        return urllib3.HTTPConnectionPool(address.host, address.port, timeout=timeout, maxsize=1)
    trusted = tls_context(ca_file)
    return urllib3.HTTPSConnectionPool(address.host, address.port, timeout=timeout, maxsize=1, ssl_context=trusted)


def _authorisation(address: Address) -> dict[str, str]:
    if not address.user and not address.password:
        return {}
    joined = f"{address.user}:{address.password}".encode()
    return {"Authorization": f"Basic {base64.b64encode(joined).decode()}"}


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigError("a webhook's header has characters in its name or its value that HTTP does not allow")
    return headers


def _words(error: Exception, timeout_s: float) -> str:
    """Our own words for what urllib3 says, as its own quote URLs."""
    if isinstance(error, failures.NameResolutionError):
        return "no such host"
    if isinstance(error, failures.NewConnectionError):
        cause = error.__cause__
        return f"no connection: {cause.strerror if isinstance(cause, OSError) else 'the system refused it'}"
    if isinstance(error, failures.ConnectTimeoutError):
        return f"no connection within {timeout_s:g} s"
    if isinstance(error, failures.ReadTimeoutError | failures.TimeoutError | TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, failures.SSLError):
        cause = error.args[0] if error.args else None
        return f"no secure connection: {getattr(cause, 'verify_message', '') or getattr(cause, 'reason', '') or 'TLS'}"
    if isinstance(error, failures.ProtocolError | OSError):
        return "the connection was cut"
    return f"the request failed ({type(error).__name__})"


def _phrase(status: int) -> str:
    """HTTP's own word for the status, as the server's could be anything."""
    try:
        return f" {http.HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _seconds(retry_after: str | None) -> float | None:
    """A `Retry-After` of a second or more. All else is left to the back-off; the form with a date, as clocks differ."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return min(seconds, _LONGEST_WAIT_S) if math.isfinite(seconds) and seconds >= 1.0 else None


def _hush_urllib3() -> None:
    """It logs whole URLs, tokens and all: each request at level DEBUG, and any answer whose header is odd."""
    for name in ("urllib3.connection", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
